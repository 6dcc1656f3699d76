"""A progress bar on standard error for work that takes longer than a breath.

On a terminal it redraws one line; elsewhere it writes a plain line now and then, so that a log of
a long run shows where it stood. It never writes to standard output, which belongs to results.
"""

from __future__ import annotations

import sys
from typing import Final, TextIO

from storage.clock import Clock
from storage.system_clock import SystemClock

BAR_WIDTH: Final = 28
REDRAW_S: Final = 0.1
PLAIN_LINE_S: Final = 10.0


class Progress:
    def __init__(
        self, total: int, *, stream: TextIO | None = None, clock: Clock | None = None
    ) -> None:
        self._total = max(total, 1)
        self._stream = stream or sys.stderr
        self._clock = clock or SystemClock()
        self._tty = self._stream.isatty()
        self._started = self._shown_at = self._clock.monotonic()
        self._width = 0
        self.done = 0

    def advance(self, amount: int, text: str) -> None:
        self.done = min(self.done + amount, self._total)
        now = self._clock.monotonic()
        if now - self._shown_at >= (REDRAW_S if self._tty else PLAIN_LINE_S):
            self._shown_at = now
            self._show(text, now)

    def finish(self) -> None:
        """Leave the line clean for what follows."""
        if self._tty and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0

    def _show(self, text: str, now: float) -> None:
        share = self.done / self._total
        left = (now - self._started) * (1 - share) / share if share > 0 else 0.0
        if self._tty:
            filled = round(share * BAR_WIDTH)
            bar = "█" * filled + "░" * (BAR_WIDTH - filled)
            line = f"{bar} {share:4.0%}  {left:4.0f} s left  {text}"
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(f"{share:4.0%} {text}\n")
        self._stream.flush()
