"""The target of a request line: raw path and query, percent-decoded to bytes. Pure.

A key is any bytes, so nothing here goes through text: `%FF` is one byte, `%2F` and `/` in a key are
the same one, and dots and doubled slashes mean themselves. A target comes as the server read it,
where bytes above 127 arrive as UTF-8 or as surrogates of single bytes.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from kv.api.failures import InvalidPathError, InvalidQueryError

_BAD_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ABSOLUTE: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")


class Target(NamedTuple):
    path: bytes
    """As it was sent: still percent-encoded."""
    query: bytes


def split_target(raw: str) -> Target:
    data = raw.encode("utf-8", "surrogateescape")
    if not data.startswith(b"/"):
        absolute = _ABSOLUTE.match(data)
        if absolute is not None:
            data = data[absolute.end() :]
    data = data.partition(b"#")[0]
    path, _, query = data.partition(b"?")
    return Target(path or b"/", query)


def decode_path(raw: bytes) -> bytes:
    """The bytes that a piece of a path stands for. Raises InvalidPathError."""
    if b"%" not in raw:
        return raw
    bad = _BAD_PERCENT.search(raw)
    if bad is not None:
        raise InvalidPathError(
            f"{_shown(raw[bad.start() : bad.start() + 3])} in the path is not a percent-encoded "
            "byte; write a percent sign as %25"
        )
    return unquote_to_bytes(raw)


def split_query(raw: bytes) -> dict[str, bytes]:
    """Names to values. A plus is a space, as forms have it. Raises InvalidQueryError."""
    found: dict[str, bytes] = {}
    for piece in raw.split(b"&") if raw else ():
        if not piece:
            continue
        name, _, value = piece.partition(b"=")
        try:
            parameter = _decode_query(name).decode("ascii")
        except UnicodeDecodeError:
            parameter = _shown(name)
        if parameter in found:
            raise InvalidQueryError(f"the query parameter {parameter[:40]!r} is given twice")
        found[parameter] = _decode_query(value)
    return found


def _decode_query(raw: bytes) -> bytes:
    bad = _BAD_PERCENT.search(raw)
    if bad is not None:
        raise InvalidQueryError(
            f"{_shown(raw[bad.start() : bad.start() + 3])} in the query is not a percent-encoded "
            "byte; write a percent sign as %25"
        )
    return unquote_to_bytes(raw.replace(b"+", b" "))


def _shown(raw: bytes) -> str:
    return ascii(raw[:40].decode("latin-1"))[1:-1]
