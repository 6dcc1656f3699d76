"""The kinds of values that a setting may have: how each is written, read and checked. Pure.

A kind takes a value as TOML gives it (`read`) or as one text, from the environment or an option of
the command line (`read_text`), and gives what the program uses, or raises BadValue with the second
half of a sentence: what is wrong with it and what to write instead. `render` is the way back: a
TOML literal that reads as the same value.

Units stand in the value, never in the key: times are written "500 ms", "2 s", "1 h" and become
seconds; sizes are written "1.5 MiB" or as plain numbers of bytes. A plain number for a time is
refused, because nobody can tell which unit was meant.

No kind ever raises anything but BadValue, whatever it is given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple, Protocol

from storage.rocks_options import GIB, KIB, MIB

TIB: Final = 1024 * GIB
TEXT_MAX: Final = 4096
DURATION_UNITS: Final = {
    "us": Decimal("0.000001"),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
SIZE_UNITS: Final = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": TIB,
}
_QUANTITY: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*([A-Za-z]+)")
_INTEGER: Final = re.compile(r"[+-]?[0-9][0-9_]{0,30}")
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


def _complain(value: object, kind: Kind) -> BadValue:
    return BadValue(f"is {shown(value)}; write {kind.says}")


@dataclass(frozen=True, slots=True)
class Text:
    """Printable text without line breaks."""

    says: str = 'text, as "name"'
    max_length: int = TEXT_MAX
    optional: bool = True

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise _complain(value, self)
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
            raise _complain(value, self)
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
            raise _complain(value, self)
        return value

    def read_text(self, text: str) -> bool:
        word = text.strip().lower()
        if word not in TRUE_WORDS | FALSE_WORDS:
            raise _complain(text, self)
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
            raise _complain(value, self)
        if not self.least <= value <= self.most:
            raise _complain(value, self)
        return value

    def read_text(self, text: str) -> int:
        stripped = text.strip()
        if not _INTEGER.fullmatch(stripped):
            raise _complain(text, self)
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
            raise _complain(value, self)
        # Compared before it is converted: an integer may be larger than any float.
        if not self.least <= value <= self.most:
            raise _complain(value, self)
        return float(value)

    def read_text(self, text: str) -> float:
        try:
            return self.read(float(text))
        except ValueError:
            raise _complain(text, self) from None

    def render(self, value: float) -> str:
        return repr(value)


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds. Written with a unit."""

    least_s: float
    most_s: float
    zero_means: str = ""
    """Zero is allowed besides the range and means this."""

    @property
    def says(self) -> str:
        zero = f', or "0 s" for {self.zero_means}' if self.zero_means else ""
        least, most = duration_text(self.least_s), duration_text(self.most_s)
        return f'a time with its unit, "{least}" to "{most}"{zero}'

    def read(self, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise BadValue(
                f"is {shown(value)} without a unit; write {toml_string(f'{shown(value)} ms')} or "
                f"{toml_string(f'{shown(value)} s')}, whichever is meant"
            )
        if not isinstance(value, str):
            raise _complain(value, self)
        return self.read_text(value)

    def read_text(self, text: str) -> float:
        total = _sum_of(text, DURATION_UNITS)
        if total is None:
            raise BadValue(f"is {shown(text)}, which is no time; write {self.says}")
        seconds = float(total)
        if self.zero_means and seconds == 0:
            return 0.0
        if not self.least_s <= seconds <= self.most_s:
            raise _complain(text, self)
        return seconds

    def render(self, value: float) -> str:
        return toml_string(duration_text(value))


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes. Written with a unit or as a plain number of bytes."""

    least: int
    most: int
    auto: str = ""
    """The word "auto" is allowed, gives None, and means this."""
    zero_means: str = ""

    @property
    def says(self) -> str:
        auto = f', or "auto" for {self.auto}' if self.auto else ""
        zero = f", or 0 for {self.zero_means}" if self.zero_means else ""
        return f'a size, "{size_text(self.least)}" to "{size_text(self.most)}"{auto}{zero}'

    def read(self, value: object) -> int | None:
        if isinstance(value, str):
            return self.read_text(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _complain(value, self)
        return self._checked(value, value)

    def read_text(self, text: str) -> int | None:
        stripped = text.strip()
        if self.auto and stripped == "auto":
            return None
        if _INTEGER.fullmatch(stripped):
            return self._checked(int(stripped.replace("_", "")), text)
        total = _sum_of(text, SIZE_UNITS)
        if total is None:
            raise BadValue(f"is {shown(text)}, which is no size; write {self.says}")
        if total != int(total):
            raise BadValue(
                f"is {shown(text)}, which is no whole number of bytes; write {self.says}"
            )
        return self._checked(int(total), text)

    def _checked(self, size_bytes: int, written: object) -> int:
        if self.zero_means and size_bytes == 0:
            return 0
        if not self.least <= size_bytes <= self.most:
            raise _complain(written, self)
        return size_bytes

    def render(self, value: int | None) -> str:
        return toml_string("auto" if value is None else size_text(value)) if value != 0 else "0"


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
            raise _complain(value, self)
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
            raise _complain(written, self)
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
            raise _complain(value, self)
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


def _sum_of(text: str, units: dict[str, Any]) -> Decimal | None:
    """The quantities of a text added up ("1 h 30 min"), or None if it is anything else."""
    rest, total = text.strip(), None
    if len(rest) > 64:
        return None
    while rest:
        found = _QUANTITY.match(rest)
        if found is None or found[2] not in units:
            return None
        total = (total or Decimal(0)) + Decimal(found[1]) * units[found[2]]
        rest = rest[found.end() :].lstrip()
    return total


def duration_text(seconds: float) -> str:
    """The shortest exact way to write it."""
    assert math.isfinite(seconds)
    assert seconds >= 0
    exact = Decimal(repr(seconds))
    if exact == 0:
        return "0 s"
    for unit in ("d", "h", "min", "s", "ms", "us"):
        count = exact / DURATION_UNITS[unit]
        if count == int(count) and (unit != "min" or count < 1000):
            return f"{int(count)} {unit}"
    return f"{exact:f} s"


def size_text(size_bytes: int) -> str:
    """The shortest exact way to write it; quarters of a unit may show, as in 1.5 MiB."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        quarters, left = divmod(4 * size_bytes, SIZE_UNITS[unit])
        if quarters >= 4 and left == 0:
            return f"{quarters // 4}{('', '.25', '.5', '.75')[quarters % 4]} {unit}"
    return f"{size_bytes} B"
