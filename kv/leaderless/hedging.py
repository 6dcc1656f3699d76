"""How many reads may be asked a second time because the first answer is late. Pure.

A slow replica is worth asking another one; a busy cluster is not: there every read is late, and
asking twice makes it later. So hedges are paid for: each read earns a share of one, as much as
`HELD_MAX` is kept, and one that paid off (it was answered before the late replica was) is given
back. While one node hangs nearly all hedges pay off and none is missing; where all are slow few do,
and the extra work stays that share.
"""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.05
HELD_MAX: Final = 128.0


class HedgeBudget:
    def __init__(self) -> None:
        self._held = HELD_MAX
        self.refused = 0

    def earn(self, reads: int) -> None:
        self._held = min(HELD_MAX, self._held + reads * SHARE)

    def take(self) -> bool:
        if self._held < 1.0:
            self.refused += 1
            return False
        self._held -= 1.0
        return True

    def paid_off(self) -> None:
        self._held = min(HELD_MAX, self._held + 1.0)
