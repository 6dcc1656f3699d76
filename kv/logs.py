"""Where the log goes. Installed by the composition root, and by nobody else.

    logging calls -> LineFormatter (kv/log_format.py) -> bounded queue -> writer thread -> stderr

A call never waits for the stream: a terminal that was stopped or a full pipe would otherwise hold
up heartbeats and cost the node its leadership. When LINES_MAX lines wait, newer ones are dropped,
counted, and told by a line of their own as soon as the stream takes lines again.

Whoever ends the process without unwinding calls `flush` before, or the last lines are lost.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from typing import Final, TextIO

from kv.config.sections import LogSection
from kv.log_format import FORMATTERS, LineFormatter, shielded

LINES_MAX: Final = 10_000
CLOSE_TIMEOUT_S: Final = 2.0
QUIET: Final = ("asyncio", "aiohttp.access")
"""They tell every connection at level info or below; their warnings are wanted."""


class _Writer:
    """Invariant: `_lines` never has more than `_lines_max`; one thread writes."""

    def __init__(self, stream: TextIO, formatter: LineFormatter, lines_max: int) -> None:
        self._stream = stream
        self._formatter = formatter
        self._lines_max = lines_max
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._writing = False
        self._closing = False
        self._untold = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def offer(self, line: str) -> None:
        with self._changed:
            if self._closing or len(self._lines) >= self._lines_max:
                self.dropped += 1
                self._untold += 1
                return
            self._lines.append(line)
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Whether everything is out."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._lines and not self._writing and not self._untold, timeout_s
            )

    def close(self, timeout_s: float) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._untold or self._closing)
                lines, untold = list(self._lines), self._untold
                if not lines and not untold:
                    return
                self._lines.clear()
                self._untold = 0
                self._writing = True
            if untold:
                lines.append(self._notice(untold))
            self._write("".join(f"{line}\n" for line in lines))
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _write(self, text: str) -> None:
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", "backslashreplace").decode())
            self._stream.flush()
        except (OSError, ValueError):
            # The stream is gone, or closed: there is nowhere left to say so.
            with self._changed:
                self.dropped += text.count("\n")

    def _notice(self, count: int) -> str:
        record = logging.LogRecord(
            __name__,
            logging.WARNING,
            __file__,
            0,
            "log lines were dropped: the stream that takes them was too slow",
            None,
            None,
        )
        record.__dict__["lines"] = count
        return self._formatter.format(record)


class _Handler(logging.Handler):
    def __init__(self, writer: _Writer, formatter: LineFormatter) -> None:
        super().__init__()
        self._writer = writer
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.offer(shielded(lambda: self.format(record)))


class Logs:
    """The installed log. `close` puts back what was there before."""

    def __init__(
        self, settings: LogSection, node: str, stream: TextIO | None, lines_max: int
    ) -> None:
        formatter = FORMATTERS[settings.format](node)
        self._writer = _Writer(stream or sys.stderr, formatter, lines_max)
        self._handler = _Handler(self._writer, formatter)
        root = logging.getLogger()
        self._before = (root.level, list(root.handlers))
        self._quiet_before = {name: logging.getLogger(name).level for name in QUIET}
        level = logging.getLevelNamesMapping()[settings.level.upper()]
        root.handlers[:] = [self._handler]
        root.setLevel(level)
        for name in QUIET:
            logging.getLogger(name).setLevel(max(level, logging.WARNING))
        logging.captureWarnings(True)

    @property
    def dropped(self) -> int:
        """Lines that nobody will read, since the start."""
        return self._writer.dropped

    def flush(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        return self._writer.flush(timeout_s)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """What waits is written first, for as long as `timeout_s`."""
        logging.captureWarnings(False)
        root = logging.getLogger()
        root.setLevel(self._before[0])
        root.handlers[:] = self._before[1]
        for name, level in self._quiet_before.items():
            logging.getLogger(name).setLevel(level)
        self._handler.close()
        self._writer.close(timeout_s)


def install(
    settings: LogSection, node: str, stream: TextIO | None = None, *, lines_max: int = LINES_MAX
) -> Logs:
    """From now on everything that is logged goes to `stream` (standard error)."""
    return Logs(settings, node, stream, lines_max)
