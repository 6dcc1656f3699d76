"""The process as metrics. Pure; process.py asks the operating system.

The names without prefix are those that every Prometheus client library uses, so that dashboards of
processes work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kv.metrics.instruments import Reading, counter, gauge

CPU: Final = counter("process_cpu_seconds_total", "CPU time used, user and system.", "seconds")
RESIDENT: Final = gauge("process_resident_memory_bytes", "Memory in RAM, files included.", "bytes")
VIRTUAL: Final = gauge("process_virtual_memory_bytes", "Address space.", "bytes")
STARTED: Final = gauge(
    "process_start_time_seconds", "Start of the process, since the Unix epoch.", "seconds"
)
OPEN_FDS: Final = gauge("process_open_fds", "Open file descriptors.", "descriptors")
MAX_FDS: Final = gauge("process_max_fds", "Limit of open file descriptors.", "descriptors")
ANONYMOUS: Final = gauge(
    "januskv_process_anonymous_memory_bytes",
    "Memory in RAM that belongs to no file: what the process itself holds.",
    "bytes",
)
THREADS: Final = gauge("januskv_process_threads", "Threads of the process.", "threads")

DEFINITIONS: Final = (
    CPU, RESIDENT, VIRTUAL, STARTED, OPEN_FDS, MAX_FDS, ANONYMOUS, THREADS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    cpu_s: float
    resident_bytes: int | None = None
    virtual_bytes: int | None = None
    anonymous_bytes: int | None = None
    started_s: float | None = None
    threads: int | None = None
    open_fds: int | None = None
    max_fds: int | None = None


def process_readings(process: ProcessFigures) -> Iterator[Reading]:
    for definition, value in (
        (CPU, process.cpu_s),
        (RESIDENT, process.resident_bytes),
        (VIRTUAL, process.virtual_bytes),
        (STARTED, process.started_s),
        (OPEN_FDS, process.open_fds),
        (MAX_FDS, process.max_fds),
        (ANONYMOUS, process.anonymous_bytes),
        (THREADS, process.threads),
    ):
        if value is not None:
            yield definition, (), value
