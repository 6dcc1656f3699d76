"""What the kernel counted (/proc): processor time and anonymous memory of other processes, and how
busy the whole machine was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_UTIME: Final = 11
"""Of the fields after the name, which may hold blanks itself."""
_IDLE, _IOWAIT = 3, 4


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time of all of them so far; one that has ended counts nothing."""
    return sum(_cpu_ticks(pid) for pid in pids) / TICKS_PER_S


def _cpu_ticks(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return int(fields[_UTIME]) + int(fields[_UTIME + 1])


def machine_busy_s() -> float:
    """Processor time that the whole machine has spent so far on anything, all cores together."""
    try:
        fields = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    except OSError:
        return 0.0
    # user nice system idle iowait irq softirq steal; guests are in user already.
    ticks = [int(field) for field in fields[:8]]
    return (sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT]) / TICKS_PER_S


def anonymous_bytes(pids: Sequence[int]) -> int:
    """RssAnon of the largest of them."""
    return max((_rss_anon(pid) for pid in pids), default=0)


def _rss_anon(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)
