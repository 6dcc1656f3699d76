"""What the kernel counted for other processes (/proc): processor time and anonymous memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_UTIME: Final = 11
"""Of the fields after the name, which may hold blanks itself."""


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


def anonymous_bytes(pids: Sequence[int]) -> int:
    """RssAnon of the largest of them."""
    return max((_rss_anon(pid) for pid in pids), default=0)


def _rss_anon(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)
