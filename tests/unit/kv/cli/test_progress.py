from __future__ import annotations

import io

from kv.cli.progress import Progress


class HandClock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_one_line_redrawn_and_left_clean() -> None:
    clock, terminal = HandClock(), Terminal()
    progress = Progress(100, stream=terminal, clock=clock)
    progress.advance(10, "fill")
    assert terminal.getvalue() == "", "not more often than the eye sees"
    clock.now = 1.0
    progress.advance(40, "fill")
    assert " 50%" in terminal.getvalue()
    assert "1 s left" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()
    progress.finish()
    assert terminal.getvalue().endswith("\r")


def test_a_log_gets_a_plain_line_now_and_then() -> None:
    clock, log = HandClock(), io.StringIO()
    progress = Progress(100, stream=log, clock=clock)
    for _ in range(100):
        clock.now += 1.0
        progress.advance(1, "fill")
    progress.finish()
    lines = log.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[-1] == "100% fill"
    assert "\r" not in log.getvalue()


def test_more_work_than_announced_stays_at_the_end() -> None:
    clock, log = HandClock(), io.StringIO()
    progress = Progress(10, stream=log, clock=clock)
    clock.now = 60.0
    progress.advance(25, "scan")
    assert log.getvalue() == "100% scan\n"
