"""Bytes in JSON: as text where they are UTF-8, else as base64 and marked so. Pure.

A reader of JSON gets plain strings for plain strings, and loses nothing of any other bytes: the
mark (`"encoding": "base64"`, `"key_encoding": "base64"`) stands exactly where the text is base64.
A caller that wants one form for everything asks for base64.
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import Final, Literal

from msgspec import UNSET

from kv.api.bodies import Encoding, Marked
from kv.api.failures import InvalidBodyError

BASE64: Final[Literal["base64"]] = "base64"


def shown(data: bytes, force: bool = False) -> tuple[str, Marked]:
    """The text for these bytes, and its mark."""
    if not force:
        try:
            return data.decode(), UNSET
        except UnicodeDecodeError:
            pass
    return b2a_base64(data, newline=False).decode(), "base64"


def given(text: str, encoding: Encoding | None, what: str) -> bytes:
    """The bytes that a text stands for. Raises InvalidBodyError."""
    if encoding != BASE64:
        return text.encode()
    try:
        return a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise InvalidBodyError(
            f"{what} is not base64: {error}; give it in the standard alphabet with padding, or as "
            "text without an encoding"
        ) from error
