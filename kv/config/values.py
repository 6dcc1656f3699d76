"""The kinds of values that a setting may have: how each is written, read and checked. Pure.

A kind takes a value as TOML gives it (`read`) or as one text, from the environment or an option of
the command line (`read_text`), and gives what the program uses, or raises BadValue with the second
half of a sentence: what is wrong with it and what to write instead. `render` is the way back: a
TOML literal that reads as the same value.

No kind ever raises anything but BadValue, whatever it is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

TEXT_MAX: Final = 4096
INTEGER: Final = re.compile(r"[+-]?[0-9][0-9_]{0,30}")
_HOST: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})")
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9_.-]{1,32})?")
TRUE_WORDS: Final = frozenset({"true", "yes", "on", "1"})
FALSE_WORDS: Final = frozenset({"false", "no", "off", "0"})


class BadValue(Exception):  # noqa: N818  it never leaves the configuration: a problem is made of it
    """What is wrong with a value and what to write; the caller puts the setting's name before."""


class Kind(Protocol):
    @property
    def says(self) -> str:
        """What to write, in a few words, for samples and for complaints."""
        ...

    def read(self, value: object) -> Any: ...

    def read_text(self, text: str) -> Any: ...

    def render(self, value: Any) -> str: ...


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def shown(value: object) -> str:
    """A value as a complaint quotes it: short, and in TOML's spelling."""
    if isinstance(value, str):
        text = toml_string(value)
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, int | float):
        try:
            text = str(value)
        except ValueError:  # an integer of more digits than Python converts
            text = "a number of thousands of digits"
    elif isinstance(value, list):
        text = f"a list of {len(value)}"
    elif isinstance(value, dict):
        text = "a table"
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def toml_string(text: str) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(short.get(c, c if c.isprintable() else _escaped(c)) for c in text) + '"'


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def complaint(value: object, kind: Kind) -> BadValue:
    return BadValue(f"is {shown(value)}; write {kind.says}")


@dataclass(frozen=True, slots=True)
class Text:
    """Printable text without line breaks."""

    says: str = 'text, as "name"'
    max_length: int = TEXT_MAX
    optional: bool = True

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise complaint(value, self)
        if not value and not self.optional:
            raise BadValue(f"is empty; write {self.says}")
        if len(value) > self.max_length:
            raise BadValue(f"has {len(value)} characters; write at most {self.max_length}")
        if not value.isprintable():
            raise BadValue(f"is {shown(value)}, with a character that cannot be printed; remove it")
        return value

    def read_text(self, text: str) -> str:
        return self.read(text)

    def render(self, value: str) -> str:
        return toml_string(value)


@dataclass(frozen=True, slots=True)
class Choice:
    names: tuple[str, ...]

    @property
    def says(self) -> str:
        return " or ".join(toml_string(name) for name in self.names)

    def read(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.names:
            raise complaint(value, self)
        return value

    def read_text(self, text: str) -> str:
        return self.read(text.strip())

    def render(self, value: str) -> str:
        return toml_string(value)


@dataclass(frozen=True, slots=True)
class Flag:
    says: str = "true or false"

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise complaint(value, self)
        return value

    def read_text(self, text: str) -> bool:
        word = text.strip().lower()
        if word not in TRUE_WORDS | FALSE_WORDS:
            raise complaint(text, self)
        return word in TRUE_WORDS

    def render(self, value: bool) -> str:
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Whole:
    least: int
    most: int

    @property
    def says(self) -> str:
        return f"a whole number from {self.least} to {self.most}"

    def read(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise complaint(value, self)
        if not self.least <= value <= self.most:
            raise complaint(value, self)
        return value

    def read_text(self, text: str) -> int:
        stripped = text.strip()
        if not INTEGER.fullmatch(stripped):
            raise complaint(text, self)
        return self.read(int(stripped.replace("_", "")))

    def render(self, value: int) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Number:
    least: float
    most: float

    @property
    def says(self) -> str:
        return f"a number from {self.least:g} to {self.most:g}"

    def read(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise complaint(value, self)
        # Compared before it is converted: an integer may be larger than any float.
        if not self.least <= value <= self.most:
            raise complaint(value, self)
        return float(value)

    def read_text(self, text: str) -> float:
        try:
            return self.read(float(text))
        except ValueError:
            raise complaint(text, self) from None

    def render(self, value: float) -> str:
        return repr(value)


@dataclass(frozen=True, slots=True)
class AddressKind:
    optional: bool = False
    """Empty text is allowed and gives None: it is derived from another setting."""
    port_zero: bool = False
    """Port 0 lets the system choose: right for listening, senseless for dialing."""

    @property
    def says(self) -> str:
        return 'HOST:PORT, as "127.0.0.1:7400" or "[::1]:7400"'

    def read(self, value: object) -> Address | None:
        if not isinstance(value, str):
            raise complaint(value, self)
        if not value and self.optional:
            return None
        return self._parse(value.strip(), value)

    def _parse(self, text: str, written: str) -> Address:
        host, colon, port_text = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        name = host[1:-1] if bracketed else host
        if ":" in name and not bracketed:
            raise BadValue(f"is {shown(written)}; write an IPv6 address in brackets, as [::1]:7400")
        pattern = _IPV6 if bracketed else _HOST
        if not colon or not pattern.fullmatch(name):
            raise complaint(written, self)
        if not re.fullmatch(r"[0-9]{1,5}", port_text) or int(port_text) > 65535:
            raise BadValue(f"is {shown(written)}, whose port is not in 0..65535; write {self.says}")
        if int(port_text) == 0 and not self.port_zero:
            raise BadValue(f"is {shown(written)}; write the port that is dialed, not 0")
        return Address(name, int(port_text))

    def read_text(self, text: str) -> Address | None:
        return self.read(text)

    def render(self, value: Address | None) -> str:
        return toml_string("" if value is None else str(value))


@dataclass(frozen=True, slots=True)
class ListOf:
    """In the environment: separated by commas."""

    item: Kind
    says: str

    def read(self, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise complaint(value, self)
        return self._items(value, self.item.read)

    def _items(self, values: Sequence[Any], read: Callable[[Any], Any]) -> tuple[Any, ...]:
        items: list[Any] = []
        for number, value in enumerate(values, 1):
            try:
                item = read(value)
            except BadValue as error:
                raise BadValue(f"has an item {number} that {error}") from None
            if item in items:
                raise BadValue(f"names {shown(value)} twice; remove one")
            items.append(item)
        return tuple(items)

    def read_text(self, text: str) -> tuple[Any, ...]:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return self._items(parts, self.item.read_text)

    def render(self, value: Sequence[Any]) -> str:
        return "[" + ", ".join(self.item.render(item) for item in value) + "]"
