"""What a host does in the next pass of the loop: give answers, let reads leave.

Answers are never given from inside the call or the turn that made them, because a caller may do
anything in its callback. Reads leave together, so that all reads of one pass share a probe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from storage.clock import Scheduler

_logger = logging.getLogger(__name__)


class Soon:
    def __init__(self, scheduler: Scheduler, depart: Callable[[Iterable[int]], None]) -> None:
        self._scheduler = scheduler
        self._depart = depart
        self._answers: list[Callable[[], None]] = []
        self._held = False
        self.on_answered: Callable[[], None] | None = None
        """Told once all answers of a pass were given. It must not raise."""
        self._readers: dict[int, None] = {}

    def answer(self, call: Callable[[], None]) -> None:
        if not self._answers and not self._held:
            self._scheduler.call_soon(self._give_answers)
        self._answers.append(call)

    def hold(self) -> None:
        """The work under way says when it is done and answers may be given (`give`)."""
        self._held = True

    def give(self) -> bool:
        """Give the answers now rather than in the next pass. Whether there were any."""
        self._held = False
        if not self._answers:
            return False
        self._give_answers()
        return True

    def _give_answers(self) -> None:
        if not self._answers:
            return  # a turn that came before this has given them
        answers, self._answers = self._answers, []
        for call in answers:
            try:
                call()
            except Exception:
                # A defect of whoever asked must not take the answers of all others with it.
                _logger.exception("a done callback raised; its defect, the node goes on")
        if self.on_answered is not None:
            self.on_answered()

    def reads_arrived(self, group_id: int) -> None:
        if not self._readers:
            self._scheduler.call_soon(self._reads_depart)
        self._readers[group_id] = None

    def _reads_depart(self) -> None:
        readers, self._readers = self._readers, {}
        self._depart(readers)
