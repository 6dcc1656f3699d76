"""Log a kind of trouble once, count it every time.

Whoever can make a node log can fill its disk: so a hostile or broken peer gets one line for each
(who, what), and a number in the status after that. `forget` lets a peer that was well again be
reported anew. The memory of who was reported is bounded; what falls out may be said again.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from typing import Final

REMEMBERED: Final = 1024


class SaidOnce:
    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.counts: Counter[str] = Counter()
        """By reason."""

    def warn(
        self, who: str, reason: str, sentence: str, *, error: BaseException | None = None
    ) -> None:
        self.counts[reason] += 1
        key = (who, reason)
        if key in self._said:
            return
        self._said[key] = None
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        self._logger.warning("%s: %s (said once)", who, sentence, exc_info=error)

    def forget(self, who: str) -> None:
        for key in [key for key in self._said if key[0] == who]:
            del self._said[key]
