"""Transactions as text: what `januskv txn` reads if it is not JSON. Pure.

A line is a step, words are quoted as in a shell, `#` begins a comment:

    if KEY exists | absent
    if KEY version|create|lease =|!=|<|> NUMBER
    if KEY value =|!=|<|> TEXT
    then                                    (may be left out)
    put KEY VALUE [ttl=SECONDS] [lease=ID]
    get KEY
    range PREFIX [limit=N]
    del KEY
    del-prefix PREFIX
    else
    get KEY                                 (the same steps, if a condition did not hold)
"""

from __future__ import annotations

import shlex
from typing import Any, Final, NoReturn

from kv.client.txn import Txn
from storage.errors import InvalidRequestError

_TARGETS: Final = ("version", "create", "value", "lease")
_COMPARISONS: Final = ("=", "!=", "<", ">")
_STEPS: Final = {"put": 2, "get": 1, "range": 1, "del": 1, "del-prefix": 1}
_OPTIONS: Final[dict[str, dict[str, type]]] = {
    "put": {"ttl": float, "lease": int},
    "range": {"limit": int},
}


class InvalidTxnTextError(InvalidRequestError):
    code = "invalid_txn_text"


class _Line:
    def __init__(self, number: int, text: str) -> None:
        self.number = number
        try:
            self.words = shlex.split(text, comments=True)
        except ValueError as error:
            self.refuse(f"{error}; quotes come in pairs")

    def refuse(self, why: str) -> NoReturn:
        raise InvalidTxnTextError(f"line {self.number} of the transaction: {why}")

    def whole(self, text: str) -> int:
        try:
            return int(text)
        except ValueError:
            self.refuse(f"{text!r} is not a whole number")


def parse(text: str) -> Txn:
    """Raises InvalidTxnTextError."""
    txn = Txn()
    part = "if"
    steps = 0
    for number, content in enumerate(text.splitlines(), start=1):
        line = _Line(number, content)
        if not line.words:
            continue
        first = line.words[0]
        if first in ("then", "else"):
            if len(line.words) > 1 or part == "else" or (first, part) == ("then", "then"):
                line.refuse(f"`{first}` stands alone, and once; after `else` nothing else begins")
            part = first
            if first == "else":
                txn.otherwise()
        elif first == "if":
            if part != "if":
                line.refuse("conditions come before all steps")
            _condition(txn, line)
        else:
            part = "then" if part == "if" else part
            _step(txn, line)
            steps += 1
    if not steps:
        raise InvalidTxnTextError("the transaction has no step; give put, get, range or del")
    return txn


def _condition(txn: Txn, line: _Line) -> None:
    match line.words[1:]:
        case [key, "exists"]:
            txn.if_exists(_raw(key))
        case [key, "absent"]:
            txn.if_absent(_raw(key))
        case [key, target, op, operand] if target in _TARGETS and op in _COMPARISONS:
            value: Any = _raw(operand) if target == "value" else line.whole(operand)
            txn.compare(_raw(key), target, op, value)  # type: ignore[arg-type]
        case _:
            line.refuse(
                "a condition is `if KEY exists`, `if KEY absent` or `if KEY "
                f"{'|'.join(_TARGETS)} {'|'.join(_COMPARISONS)} OPERAND`"
            )


def _step(txn: Txn, line: _Line) -> None:
    name, *words = line.words
    wanted = _STEPS.get(name)
    if wanted is None:
        line.refuse(f"there is no step {name!r}; give {', '.join(_STEPS)}")
    given, options = words[:wanted], _options(line, name, words[wanted:])
    if len(given) < wanted:
        line.refuse(f"`{name}` needs {'KEY and VALUE' if wanted == 2 else 'one word'}")
    first = _raw(given[0])
    if name == "put":
        txn.put(first, _raw(given[1]), **options)
    elif name == "get":
        txn.get(first)
    elif name == "range":
        txn.range(first, **options)
    elif name == "del":
        txn.delete(first)
    else:
        txn.delete_prefix(first)


def _options(line: _Line, name: str, words: list[str]) -> dict[str, Any]:
    known = _OPTIONS.get(name, {})
    found: dict[str, Any] = {}
    for word in words:
        option, equals, text = word.partition("=")
        if option not in known or not equals:
            allowed = f"takes {' and '.join(f'{each}=' for each in known)}" if known else "does not"
            line.refuse(f"{word!r} is too much: `{name}` {allowed}; quote what has spaces")
        try:
            found[option] = known[option](text)
        except ValueError:
            line.refuse(f"{option}={text!r} is not a number")
    return found


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
