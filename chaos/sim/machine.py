"""The state machine of the simulation: registers and lists, and a record of every operation.

It is small on purpose, yet it uses all that raftgroups asks of a machine: an overlay that its own
reads see, effects that reach the engine with a later batch, and ranges that a snapshot carries.

Engine keys of group g, under b"m" + g as four bytes:
    b"k" + key          the value
    b"o" + operation    the index at which this operation was applied
    b"c"                (index, position, chain): the place of the last applied operation (an entry
                        may carry several), and the hash over all that was applied

The chain covers index, payload and result of everything applied so far, so two replicas with the
same chain went through the same history. It is written with the data and travels in snapshots.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from typing import Final, NamedTuple

import cbor2

from storage.engine import Batch, Engine, iterate

OLDER_LEVEL: Final = 1
NEWER_LEVEL: Final = 2
"""The feature levels of the two programs that a rolling upgrade knows; a command is of the level of
its group. What it does is the same: only who may see it is not."""

_CHAIN: Final = struct.Struct(">QQ16s")
_INDEX: Final = struct.Struct(">Q")


class Action(IntEnum):
    WRITE = 0
    CAS = 1
    APPEND = 2


class Command(NamedTuple):
    """What a payload says. `operation` names it uniquely in the whole run."""

    operation: str
    action: Action
    key: str
    value: str
    expected: str | None = None
    level: int = OLDER_LEVEL

    def encode(self) -> bytes:
        return cbor2.dumps(list(self))

    @classmethod
    def decode(cls, payload: bytes) -> Command:
        operation, action, key, value, expected, level = cbor2.loads(payload)
        return cls(operation, Action(action), key, value, expected, level)


class Answer(NamedTuple):
    """`changed` is false only for a CAS that did not match; `value` is what the key holds now."""

    changed: bool
    value: str | None


@dataclass(frozen=True, slots=True)
class AppliedRecord:
    """What an observer learns of one application."""

    group_id: int
    index: int
    position: int
    payload: bytes
    level: int
    answer: Answer
    chain: bytes
    repeated_at: int | None
    """The index at which this operation had been applied before; None is as it should be."""


Observer = Callable[[AppliedRecord], None]


class RegisterMachine:
    """Invariant: what reads see is the engine's rows under the overlay, at `index`."""

    def __init__(self, group_id: int, engine: Engine, observer: Observer) -> None:
        self.group_id = group_id
        self._engine = engine
        self._observer = observer
        self._prefix = b"m" + group_id.to_bytes(4, "big")
        self._overlay: dict[bytes, bytes] = {}
        self.index = 0
        self.position = 0
        self.chain = bytes(16)
        self._load()

    def _load(self) -> None:
        row = self._get(self._prefix + b"c")
        fresh = (0, 0, bytes(16))
        self.index, self.position, self.chain = fresh if row is None else _CHAIN.unpack(row)

    def _get(self, key: bytes) -> bytes | None:
        value = self._overlay.get(key)
        if value is None:
            with self._engine.snapshot() as snapshot:
                value = snapshot.get(key)
        return value

    # --- raftgroups.machine_api.StateMachine --------------------------------------------------

    def apply_each(self, index: int, payloads: Sequence[bytes]) -> list[Answer]:
        return [self.apply(index, payload) for payload in payloads]

    def apply(self, index: int, payload: bytes) -> Answer:
        command = Command.decode(payload)
        row = self._prefix + b"o" + command.operation.encode()
        register = self._prefix + b"k" + command.key.encode()
        with self._engine.snapshot() as rows:
            before = self._overlay[row] if row in self._overlay else rows.get(row)
            old = self._overlay[register] if register in self._overlay else rows.get(register)
        answer = self._execute(command, register, None if old is None else old.decode())
        self._overlay[row] = _INDEX.pack(index)
        self._advance(index, payload, answer)
        repeated_at = None if before is None else int(_INDEX.unpack(before)[0])
        self._observer(
            AppliedRecord(
                self.group_id,
                index,
                self.position,
                payload,
                command.level,
                answer,
                self.chain,
                repeated_at,
            )
        )
        return answer

    def _execute(self, command: Command, register: bytes, old: str | None) -> Answer:
        if command.action is Action.CAS and old != command.expected:
            return Answer(changed=False, value=old)
        new = command.value
        if command.action is Action.APPEND:
            new = (old or "") + command.value
        self._overlay[register] = new.encode()
        return Answer(changed=True, value=new)

    def _advance(self, index: int, payload: bytes, answer: Answer) -> None:
        digest = blake2b(self.chain, digest_size=16)
        self.position = self.position + 1 if index == self.index else 0
        digest.update(_INDEX.pack(index))
        digest.update(payload)
        digest.update(repr(answer).encode())
        self.index, self.chain = index, digest.digest()
        self._overlay[self._prefix + b"c"] = _CHAIN.pack(index, self.position, self.chain)

    def prepare(self, batch: Batch) -> None:
        for key, value in self._overlay.items():
            batch.put(key, value)

    def after_commit(self) -> None:
        self._overlay.clear()

    def owned_ranges(self) -> Sequence[tuple[bytes, bytes]]:
        return [(self._prefix, self._prefix + b"\xff")]

    def reset(self) -> None:
        self._overlay.clear()

    def restored(self, index: int) -> None:
        self._load()
        assert self.index <= index, f"rows of {self.index} in a snapshot of {index}"

    # --- reads -------------------------------------------------------------------------------

    def read(self, key: str) -> str | None:
        value = self._get(self._prefix + b"k" + key.encode())
        return None if value is None else value.decode()

    def operations(self) -> Iterator[tuple[str, int]]:
        """Every operation ever applied to this state, and its index."""
        prefix = self._prefix + b"o"
        found: dict[bytes, bytes] = {}
        with self._engine.snapshot() as snapshot:
            found.update(iterate(snapshot, prefix, self._prefix + b"p"))
        found.update((key, row) for key, row in self._overlay.items() if key.startswith(prefix))
        for key in sorted(found):
            yield key[len(prefix) :].decode(), int(_INDEX.unpack(found[key])[0])
