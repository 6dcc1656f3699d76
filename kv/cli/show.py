"""How keys and values look: escaped on a terminal, marked in JSON, aligned in tables. Pure.

Printed text never moves the cursor and never tells two different keys as one: a backslash, what is
not printable and what is not UTF-8 are escaped (`\\\\`, `\\n`, `\\t`, `\\xff`, `\\u202e`).
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable, Sequence
from typing import Any, Final

_SHORT: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LOW: Final = range(0xDC80, 0xDD00)
GAP: Final = "  "


def printable(data: bytes) -> str:
    return "".join([_shown(each) for each in data.decode("utf-8", "surrogateescape")])


def _shown(character: str) -> str:
    short = _SHORT.get(character)
    if short is not None:
        return short
    code = ord(character)
    if code in _LOW:
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def named(name: str, data: bytes | None) -> dict[str, Any]:
    """A field as REST has it: text, or base64 with a mark."""
    mark = "encoding" if name == "value" else f"{name}_encoding"
    if data is None:
        return {name: None}
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {name: b2a_base64(data, newline=False).decode(), mark: "base64"}


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: str = "") -> str:
    """Columns under their heads; `right` names the heads of those that are numbers."""
    texts = [list(head), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[place]) for row in texts) for place in range(len(head))]
    numbers = set(right.split())
    lines = []
    for row in texts:
        cells = [
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for cell, width, name in zip(row, widths, head, strict=True)
        ]
        lines.append(GAP.join(cells).rstrip())
    return "\n".join(lines)


def size(count_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count_bytes < 1024:
            return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1024
    return f"{count_bytes:.1f} TiB"


def seconds(time_s: float) -> str:
    if time_s < 1:
        return f"{time_s * 1000:.1f} ms"
    if time_s < 120:
        return f"{time_s:.1f} s"
    minutes = int(time_s // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"
