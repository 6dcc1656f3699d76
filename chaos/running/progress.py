"""The line that shows a run while it runs: operations a second by outcome, what is in force, how
the nodes are. On a terminal it stays one line; elsewhere a line is written now and then."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from typing import Final

from chaos.history import Result
from chaos.running.runner import State

SPARSE_S: Final = 10.0


class ProgressLine:
    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._before: Counter[Result] = Counter()
        self._shown_s = -SPARSE_S
        self._seen_s = 0.0

    def show(self, state: State) -> None:
        since_s = max(0.5, state.elapsed_s - self._seen_s)
        if not self._terminal and state.elapsed_s - self._shown_s < SPARSE_S:
            return
        counts = state.books.counts
        rates = {result: (counts[result] - self._before[result]) / since_s for result in Result}
        self._before, self._seen_s = Counter(counts), state.elapsed_s
        self._shown_s = state.elapsed_s
        line = (
            f"{state.plan.name} {_clock(state.elapsed_s)}/{_clock(state.plan.minutes * 60)} "
            f"{state.phase}: {rates[Result.DONE]:.0f} done {rates[Result.FAILED]:.0f} refused "
            f"{rates[Result.UNKNOWN]:.0f} unknown /s | {'; '.join(state.in_force) or 'no fault'} | "
            f"{state.nodes}"
        )
        self._write(line)

    def clear(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _write(self, line: str) -> None:
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{line[:width]}")
        else:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
