"""Protocol messages in JSON exactly as etcd 3.5 reads them: the slow, tolerant decoder. Pure.

A schema says what fields a message has; `decode` turns a body into a dict of the fields given, by
their protocol names. What it takes, as recorded from the real one:

- the first value of the body counts, whatever follows; an empty body and `null` are no fields;
- names as in the protocol or in camelCase (camelCase wins if both are there); of a name given
  twice the last; unknown names are passed over; `null` is absent;
- 64-bit integers as numbers or in strings, decimal, with blanks around it but no fraction and no
  exponent; booleans as literals only; enums by exact name or by number;
- bytes as padded standard base64 (line breaks and stray low bits are taken) or a list of numbers;
- of the members of a union the one that the protocol declares last.

`Splitter` cuts a stream of such bodies into its documents as the bytes arrive.

The fast path (translate.py) decodes what clients really send and leaves everything else to this;
a test compares the two. Numbers never pass through a float: the parser hands over their text.
"""

from __future__ import annotations

import json
import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, NoReturn

from storage.errors import InvalidRequestError

Schema = Mapping[str, "Field"]
Message = dict[str, Any]
DEPTH_MAX: Final = 500
"""More than the deepest transaction that is allowed, and far from the interpreter's own limit."""

INT64_MAX: Final = 2**63 - 1
INT64_MIN: Final = -(2**63)
UINT64_MAX: Final = 2**64 - 1


class MalformedBodyError(InvalidRequestError):
    """Not JSON, or not the JSON of this call."""

    code: ClassVar[str] = "malformed_body"


class _Number(str):
    """A number as it stands in the body."""

    __slots__ = ()


def malformed(what: str) -> MalformedBodyError:
    return MalformedBodyError(f"invalid JSON for this call: {what}")


# --- kinds of fields --------------------------------------------------------------------------

Field = Callable[[Any], Any]
"""The value of a field from what the parser made of it, which is never None. Raises
MalformedBodyError."""

_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)")
_BLANKS: Final = " \t\r\n"
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def _integer(low: int, high: int) -> Field:
    def read(given: Any) -> int:
        if not isinstance(given, str):
            raise malformed(f"{_shown(given)} is not a number")
        text = given.strip(_BLANKS)
        if text == "null" and not isinstance(given, _Number):
            return 0
        if not _INTEGER.fullmatch(text) or len(text) > 20:
            raise malformed(f"{_shown(given)} is not a whole number of 64 bits")
        number = int(text)
        if not low <= number <= high:
            raise malformed(f"{number} is not between {low} and {high}")
        return number

    return read


int64: Final = _integer(INT64_MIN, INT64_MAX)
uint64: Final = _integer(0, UINT64_MAX)
_int32: Final = _integer(-(2**31), 2**31 - 1)
_byte: Final = _integer(0, 255)


def boolean(given: Any) -> bool:
    if given is True or given is False:
        return bool(given)
    raise malformed(f"{_shown(given)} is neither true nor false")


def text(given: Any) -> str:
    if isinstance(given, str) and not isinstance(given, _Number):
        return given.encode("utf-8", "replace").decode()  # a lone surrogate is no character
    raise malformed(f"{_shown(given)} is not a string")


def binary(given: Any) -> bytes:
    if isinstance(given, list):
        if any(isinstance(each, str) and not isinstance(each, _Number) for each in given):
            raise malformed("bytes are a base64 string or a list of numbers")
        return bytes([0 if each is None else _byte(each) for each in given])
    if not isinstance(given, str) or isinstance(given, _Number):
        raise malformed(f"{_shown(given)} is not a base64 string")
    compact = given.replace("\n", "").replace("\r", "")
    if not _BASE64.fullmatch(compact):
        raise malformed(f"{_shown(given)} is not padded standard base64")
    try:
        return a2b_base64(compact)
    except Base64Error as error:
        raise malformed(f"{_shown(given)} is not padded standard base64") from error


def enum(**names: int) -> Field:
    def read(given: Any) -> int:
        if isinstance(given, _Number):
            return int(_int32(given))
        if isinstance(given, str) and given in names:
            return names[given]
        raise malformed(f"{_shown(given)} is none of {', '.join(names)}")

    return read


def message(schema: Schema) -> Field:
    def read(given: Any) -> Message:
        return _fields(schema, given)

    return read


def repeated(kind: Field, absent: Any) -> Field:
    """`absent` stands for a null in the list."""

    def read(given: Any) -> list[Any]:
        if not isinstance(given, list):
            raise malformed(f"{_shown(given)} is not a list")
        return [absent if each is None else kind(each) for each in given]

    return read


def union(*members: str) -> Callable[[Message], str | None]:
    """Which of these fields counts: the last one that is there."""

    def chosen(fields: Message) -> str | None:
        return next((name for name in reversed(members) if name in fields), None)

    return chosen


def _shown(given: Any) -> str:
    shown = str(given) if isinstance(given, _Number) else repr(given)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


# --- messages ---------------------------------------------------------------------------------


def camel_case(name: str) -> str:
    """The JSON name of a protocol name: prev_kv -> prevKv, ID -> ID."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


def _fields(schema: Schema, given: Any) -> Message:
    if not isinstance(given, dict):
        raise malformed(f"{_shown(given)} is not an object")
    found: Message = {}
    for name, kind in schema.items():
        value = given.get(camel_case(name), _ABSENT)
        if value is _ABSENT:
            value = given.get(name)
        if value is not None:
            try:
                found[name] = kind(value)
            except MalformedBodyError as error:
                raise MalformedBodyError(f"{error} (field {name})") from None
    return found


_ABSENT: Final = object()


def _refuse_constant(name: str) -> NoReturn:
    raise malformed(f"{name} is not JSON")


_PARSE: Final = json.JSONDecoder(
    parse_int=_Number, parse_float=_Number, parse_constant=_refuse_constant
).raw_decode


def decode(schema: Schema, body: bytes) -> Message:
    """The fields of a message. Raises MalformedBodyError."""
    characters = body.decode("utf-8", "replace").lstrip(_BLANKS)
    if not characters:
        return {}
    check_depth(body)
    try:
        parsed, _ = _PARSE(characters)
    except (json.JSONDecodeError, RecursionError) as error:
        raise malformed(str(error)) from error
    return {} if parsed is None else _fields(schema, parsed)


_MARK: Final = re.compile(rb'["{}\[\]\\]')


def check_depth(body: bytes) -> None:
    """Raises MalformedBodyError. Looks closer only where there are many brackets."""
    if body.count(b"{") + body.count(b"[") <= DEPTH_MAX:
        return
    depth = 0
    for found in re.finditer(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', body, re.DOTALL):
        mark = found[0]
        if mark in (b"{", b"["):
            depth += 1
            if depth > DEPTH_MAX:
                raise malformed(f"it is nested deeper than {DEPTH_MAX} levels")
        elif mark in (b"}", b"]"):
            depth -= 1


# --- streams ----------------------------------------------------------------------------------


class Splitter:
    """Cuts bytes into JSON objects: feed it what came, take what is whole.

    Anything but an object between objects, or one that is larger than the limit, ends the stream:
    `feed` raises MalformedBodyError after what came before it was taken."""

    __slots__ = ("_depth", "_held", "_in_string", "_limit", "_scanned")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = bytearray()
        self._scanned = 0
        """Up to where `_held` was looked at; it begins with the object under way."""
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._held += data
        while (end := self._scan()) is not None:
            document = bytes(self._held[:end])
            del self._held[:end]
            self._scanned = 0
            yield document
        if len(self._held) > self._limit:
            raise malformed(f"an object of the stream is over the limit of {self._limit} bytes")

    def finish(self) -> None:
        """No more comes. Raises MalformedBodyError if something is unfinished."""
        if self._held:
            raise malformed("the body ends inside an object")

    def _scan(self) -> int | None:
        """The end of the first object, or None if it is not here yet."""
        held = self._held
        if not self._depth:
            del held[: len(held) - len(held.lstrip(b" \t\r\n"))]
            if held and held[:1] != b"{":
                raise malformed("the stream holds something that is not an object")
        at = self._scanned
        while found := _MARK.search(held, at):
            mark, at = held[found.start()], found.end()
            if mark == 0x5C:  # a backslash
                if at == len(held):
                    at -= 1  # what it escapes is not here yet
                    break
                at += 1
            elif mark == 0x22:
                self._in_string = not self._in_string
            elif self._in_string:
                continue
            elif mark in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    return at
        else:
            at = len(held)
        self._scanned = at
        return None
