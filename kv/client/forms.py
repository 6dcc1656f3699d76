"""Keys and values between bytes and JSON, and keys in paths. Pure.

Text stands for its UTF-8 bytes; what is not UTF-8 goes as base64 and is marked so, both ways.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote_from_bytes, urlencode

from kv.client.failures import MalformedReplyError

Bytes = bytes | str
"""What callers may give for a key or a value: text stands for its UTF-8."""

_BASE64: Final = "base64"

_OF_CLUSTER: Final = ("/api/v1/admin/", "/api/v1/status")


def as_bytes(given: Bytes) -> bytes:
    return given.encode() if isinstance(given, str) else bytes(given)


def text_of(data: bytes) -> tuple[str, str | None]:
    """(text, encoding): the encoding is None where the text is the bytes themselves."""
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return b2a_base64(data, newline=False).decode(), _BASE64


def bytes_of(text: str, mark: object) -> bytes:
    """What a reply's text and its mark stand for. Raises MalformedReplyError."""
    if mark != _BASE64:
        return text.encode()
    try:
        return a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise MalformedReplyError(f"the server sent bad base64: {error}") from error


def named(name: str, data: bytes | None, mark: str) -> dict[str, str]:
    """A field of a body, with its mark if it needs one."""
    if data is None:
        return {}
    text, encoding = text_of(data)
    return {name: text} if encoding is None else {name: text, mark: encoding}


def alike(fields: Mapping[str, bytes | None], mark: str) -> dict[str, str]:
    """Several fields of a body that share one mark."""
    given = {name: data for name, data in fields.items() if data is not None}
    pairs = {name: text_of(data) for name, data in given.items()}
    if all(encoding is None for _, encoding in pairs.values()):
        return {name: text for name, (text, _) in pairs.items()}
    coded = {name: b2a_base64(data, newline=False).decode() for name, data in given.items()}
    return {**coded, mark: _BASE64}


def in_path(key: bytes) -> str:
    """One segment, whatever the bytes: slashes and dots are encoded, too."""
    if key in (b".", b".."):
        return "%2E" * len(key)
    return quote_from_bytes(key, safe="")


def in_keyspace(target: str, keyspace: str | None) -> str:
    """The same call in another keyspace than `default`; what concerns the cluster has none."""
    if keyspace is None or target.startswith(_OF_CLUSTER):
        return target
    return f"{target}{'&' if '?' in target else '?'}{urlencode([('keyspace', keyspace)])}"


def query(pairs: Iterable[tuple[str, Any]]) -> str:
    """`?a=b&...` of those that are not None; flags as true and false; empty if there is none."""
    given = [
        (name, ("true" if value else "false") if isinstance(value, bool) else value)
        for name, value in pairs
        if value is not None
    ]
    return "?" + urlencode(given) if given else ""
