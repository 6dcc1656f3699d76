"""One event, one line: how a record of the logging module is written, as text or as JSON. Pure.

    2026-11-20T21:04:05.678Z INFO n1 kv.app: serving clients url=http://127.0.0.1:7400
    {"time": "2026-...", "level": "info", "node": "n1", "logger": "kv.app", "message": "...", ...}

Fields come from `extra` of the call: `log.info("serving clients", extra={"url": url})`. A field
that is called like one of the line's own parts gets an underscore behind it. An exception is one
field, `exception`, with its whole traceback.

Invariants: a line holds no line break and no character that a terminal would obey, whatever was
logged; its size is bounded (texts beyond TEXT_MAX lose their middle, fields beyond FIELDS_MAX are
left out and counted); and formatting never raises, since an event worth knowing must not be lost
because one of its values cannot be shown.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

TEXT_MAX: Final = 8 * 1024
FIELDS_MAX: Final = 64
ITEMS_MAX: Final = 100
DEPTH_MAX: Final = 4

OWN: Final = ("time", "level", "node", "logger", "message", "exception", "stack")
_STANDARD: Final = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "exc_info"}
)


class LineFormatter(logging.Formatter):
    """What both forms share: from a record to the parts of a line."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        parts: dict[str, Any] = {
            "time": time_text(record.created),
            "level": record.levelname.lower(),
            "node": self._node,
            "logger": record.name,
            "message": cut(_message(record)),
        }
        parts.update(_fields(record))
        if record.exc_info and record.exc_info[0] is not None:
            info = record.exc_info
            parts["exception"] = cut(shielded(lambda: self.formatException(info)))
        elif record.exc_text:
            parts["exception"] = cut(record.exc_text)
        if record.stack_info:
            parts["stack"] = cut(record.stack_info)
        return self.line(parts)

    def line(self, parts: Mapping[str, Any]) -> str:
        raise NotImplementedError


class JsonFormatter(LineFormatter):
    def line(self, parts: Mapping[str, Any]) -> str:
        return json.dumps(parts)  # ASCII: everything else is escaped


class TextFormatter(LineFormatter):
    def line(self, parts: Mapping[str, Any]) -> str:
        head = (
            f"{parts['time']} {parts['level'].upper()} {_clean(parts['node'])} "
            f"{_clean(parts['logger'])}: {_clean(parts['message'])}"
        )
        rest = [f"{_clean(k)}={_quoted(v)}" for k, v in parts.items() if k not in OWN[:5]]
        return " ".join([head, *rest])


FORMATTERS: Final[Mapping[str, Callable[[str], LineFormatter]]] = {
    "text": TextFormatter,
    "json": JsonFormatter,
}


def time_text(created_s: float) -> str:
    """UTC, to the millisecond."""
    moment = datetime.fromtimestamp(created_s, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def cut(text: str) -> str:
    if len(text) <= TEXT_MAX:
        return text
    half = TEXT_MAX // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"


def shielded(make: Callable[[], str]) -> str:
    try:
        return make()
    except Exception as error:  # noqa: BLE001  a value's own __str__ may raise anything; the event is told all the same
        return f"(cannot be shown: {type(error).__name__})"


def _message(record: logging.LogRecord) -> str:
    text = shielded(record.getMessage)
    if text.startswith("(cannot be shown"):
        return f"{shielded(lambda: str(record.msg))} {text}"
    return text


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    names = [name for name in record.__dict__ if name not in _STANDARD]
    found = {
        f"{name}_" if name in OWN else str(name): plain(record.__dict__[name])
        for name in names[:FIELDS_MAX]
    }
    if len(names) > FIELDS_MAX:
        found["fields_left_out"] = len(names) - FIELDS_MAX
    return found


def plain(value: object, depth: int = 0) -> Any:
    """As JSON can say it, bounded."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        number = int(value)
        return number if number.bit_length() <= 64 else shielded(lambda: hex(number)[:TEXT_MAX])
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    if depth < DEPTH_MAX and isinstance(value, dict):
        items = list(value.items())[:ITEMS_MAX]
        return {cut(shielded(partial(str, key))): plain(item, depth + 1) for key, item in items}
    if depth < DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in list(value)[:ITEMS_MAX]]
    if isinstance(value, bytes):
        return cut(repr(value[: 2 * TEXT_MAX])[2:-1])
    return cut(shielded(lambda: str(value)))


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    simple = isinstance(value, str) and text and not set(text) & set(' "=\\')
    if not isinstance(value, str) or (simple and text.isprintable()):
        return text
    return '"' + _clean(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _clean(text: str) -> str:
    """Printable: line breaks and control characters are written as in Python."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
