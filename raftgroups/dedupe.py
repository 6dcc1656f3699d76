"""Idempotency tokens: a retry gets the answer of the first try and is never executed again.

A token is (client, sequence). Clients pipeline and send to many shards, so a shard sees a client's
sequences with gaps and out of order: what is remembered is a set per client, and a floor under it.

    sequence in the set               the answer is given again
    else at or below the floor        TokenTooOldError: executed or not, nobody knows
    client unknown, id <= forgotten   TokenTooOldError
    else                              new: execute, remember

Every way of forgetting raises a floor, so nothing forgotten can look new:

    an answer older than RETENTION_MS of shard clock         its client's floor rises to it
    an answer beyond MAX_ANSWERS or MAX_ANSWER_BYTES in all  the same, oldest first, counted in
                                                             `forgotten_early`
    the client says that it has settled all below s          its floor rises to s - 1
    a client beyond MAX_CLIENTS                              the smallest id goes, and `forgotten`
                                                             rises to it

So the bounds win over the ten minutes, and what they cost is a refusal, never a second execution.
Clients that settle stay far from them. Ids should rise with time (UUIDv7, or a time in front), so
that the smallest is the one that began first; random ids are safe too, but once MAX_CLIENTS of them
have come, later small ones are refused.

All of it is in memory; changes wait in `_pending` for the batch of the entries that made them.
Everything happens at an entry of the log and by its clock, so replicas agree.

    DEDUPE   shard u64, grouped client, sequence u64 -> order u64, clock u64, answer
             shard u64, grouped client               -> floor u64
"""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict
from struct import Struct
from typing import Final, NamedTuple

from raftgroups.commands import Token
from raftgroups.refusals import TokenTooOldError
from storage.codec import Table, group_bytes, key_u64, prefix_end, seal, ungroup_bytes, unseal
from storage.engine import Batch, Reader, iterate

RETENTION_MS: Final = 600_000
MAX_ANSWERS: Final = 65_536
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_CLIENTS: Final = 65_536
ANSWER_MAX_BYTES: Final = 16 * 1024
"""Of one answer; the machine remembers a note in place of a larger one."""
PRUNE_STEP: Final = 1_000
"""Answers that one entry forgets at most because of their age, so that no entry takes long."""

_ROW: Final = Struct(">QQ")
_U64: Final = Struct(">Q")
_ID_AT: Final = 1 + 8


class Limits(NamedTuple):
    """Part of the machine's rules: all replicas of all versions must have the same."""

    retention_ms: int = RETENTION_MS
    answers: int = MAX_ANSWERS
    answer_bytes: int = MAX_ANSWER_BYTES
    clients: int = MAX_CLIENTS


class _Answer(NamedTuple):
    order: int
    clock_ms: int
    data: bytes


class Dedupe:
    """Invariants: `_answers` is in order of execution, and `_sequences` names the same tokens by
    client; a client is in `_ids` (sorted) if and only if it has answers or a floor."""

    __slots__ = (
        "_answers",
        "_bytes",
        "_floors",
        "_ids",
        "_limits",
        "_pending",
        "_prefix",
        "_sequences",
        "forgotten",
        "forgotten_early",
        "next_order",
    )

    def __init__(self, shard: int, limits: Limits | None = None) -> None:
        self._prefix = key_u64(Table.DEDUPE, shard)
        self._limits = limits or Limits()
        self._answers: OrderedDict[tuple[bytes, int], _Answer] = OrderedDict()
        self._sequences: dict[bytes, set[int]] = {}
        self._floors: dict[bytes, int] = {}
        self._ids: list[bytes] = []
        self._bytes = 0
        self._pending: dict[bytes, bytes | None] = {}
        self.next_order = 0
        """Of the next answer. Kept, like `forgotten`, in the machine's own record."""
        self.forgotten = b""
        """No unknown client with an id up to this one is believed to be new."""
        self.forgotten_early = 0
        """Answers that a bound drove out before their time, since this process started."""

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def clients(self) -> int:
        return len(self._ids)

    # --- at an entry of the log ---

    def answer(self, token: Token) -> bytes | None:
        """The answer remembered, or None if the token is new. Raises TokenTooOldError."""
        client, sequence, _ = token
        known = self._answers.get((client, sequence))
        if known is not None:
            return known.data
        floor = self._floors.get(client)
        if floor is not None and sequence <= floor:
            raise TokenTooOldError(
                f"token too old: outcome unknown. Sequence {sequence} of client {client.hex()} is "
                f"not remembered, nor any up to {floor}; read the key to see what happened"
            )
        if floor is None and client <= self.forgotten and client not in self._sequences:
            raise TokenTooOldError(
                f"token too old: outcome unknown. Client {client.hex()} is not remembered; read "
                "the key to see what happened, and go on with a new client id, a larger one"
            )
        return None

    def kept(self, token: Token) -> bytes | None:
        """The answer remembered, if there is one."""
        known = self._answers.get((token.client, token.sequence))
        return None if known is None else known.data

    def remember(self, token: Token, clock_ms: int, data: bytes) -> None:
        """The token was executed with this answer."""
        client, sequence, settled = token
        self._know(client)
        self._add(client, sequence, clock_ms, data)
        if settled:
            self._settle(client, settled)
        self._keep_bounds()

    def remember_if_new(self, token: Token, clock_ms: int, data: bytes) -> None:
        """The same for an answer that no token asked for: it may be known, or too old, already."""
        try:
            known = self.answer(token)
        except TokenTooOldError:
            return
        if known is None:
            self.remember(token, clock_ms, data)

    def replace(self, token: Token, data: bytes) -> None:
        """A better answer to a token that is remembered."""
        client, sequence, _ = token
        old = self._answers.get((client, sequence))
        if old is None:
            return
        self._answers[client, sequence] = _Answer(old.order, old.clock_ms, data)
        self._bytes += len(data) - len(old.data)
        key = self._row(client, sequence)
        self._pending[key] = seal(key, _ROW.pack(old.order, old.clock_ms) + data)
        self._keep_bounds()

    def _add(self, client: bytes, sequence: int, clock_ms: int, data: bytes) -> None:
        self._sequences.setdefault(client, set()).add(sequence)
        self._answers[client, sequence] = _Answer(self.next_order, clock_ms, data)
        self._bytes += len(data)
        key = self._row(client, sequence)
        self._pending[key] = seal(key, _ROW.pack(self.next_order, clock_ms) + data)
        self.next_order += 1

    def _keep_bounds(self) -> None:
        limits = self._limits
        while len(self._answers) > limits.answers or self._bytes > limits.answer_bytes:
            self._forget_oldest()
            self.forgotten_early += 1

    def prune(self, clock_ms: int) -> None:
        """Forget what is older than the retention."""
        until_ms = clock_ms - self._limits.retention_ms
        for _ in range(PRUNE_STEP):
            if not self._answers or next(iter(self._answers.values())).clock_ms > until_ms:
                return
            self._forget_oldest()

    def _admit(self, client: bytes) -> None:
        if len(self._ids) >= self._limits.clients:
            smallest = self._ids.pop(0)
            for sequence in sorted(self._sequences.get(smallest, ())):
                self._drop(smallest, sequence)
                self.forgotten_early += 1
            if self._floors.pop(smallest, None) is not None:
                self._pending[self._row(smallest)] = None
            self.forgotten = max(self.forgotten, smallest)
        insort(self._ids, client)

    def _settle(self, client: bytes, settled: int) -> None:
        done = sorted(s for s in self._sequences.get(client, ()) if s < settled)
        for sequence in done:
            self._drop(client, sequence)
        self._raise_floor(client, settled - 1)

    def _forget_oldest(self) -> None:
        client, sequence = next(iter(self._answers))
        self._drop(client, sequence)
        self._raise_floor(client, sequence)

    def _drop(self, client: bytes, sequence: int) -> None:
        self._bytes -= len(self._answers.pop((client, sequence)).data)
        sequences = self._sequences[client]
        sequences.remove(sequence)
        if not sequences:
            del self._sequences[client]
        self._pending[self._row(client, sequence)] = None

    def _raise_floor(self, client: bytes, floor: int) -> None:
        if floor > self._floors.get(client, -1):
            self._floors[client] = floor
            key = self._row(client)
            self._pending[key] = seal(key, _U64.pack(floor))

    # --- splits and merges ---

    def rows_for(self, shard: int) -> list[tuple[bytes, bytes]]:
        """All of it, as the table of another shard."""
        twin = Dedupe(shard)
        rows = [
            (twin._row(client, sequence), _ROW.pack(answer.order, answer.clock_ms) + answer.data)
            for (client, sequence), answer in self._answers.items()
        ]
        rows += [(twin._row(client), _U64.pack(floor)) for client, floor in self._floors.items()]
        return [(key, seal(key, body)) for key, body in rows]

    def unite(self, other: Dedupe, shift_ms: int) -> None:
        """Take in all that another shard remembers, whose clock is behind by `shift_ms`. Where both
        know a token it is from before a split, or this one answers; floors rise to the higher."""
        self.forgotten = max(self.forgotten, other.forgotten)
        for client, floor in sorted(other._floors.items()):
            self._know(client)
            self._raise_floor(client, floor)
        for (client, sequence), answer in other._answers.items():
            if (client, sequence) not in self._answers:
                self._know(client)
                self._add(client, sequence, max(0, answer.clock_ms + shift_ms), answer.data)
        self._keep_bounds()

    def _know(self, client: bytes) -> None:
        if client not in self._sequences and client not in self._floors:
            self._admit(client)

    # --- rows ---

    def _row(self, client: bytes, sequence: int | None = None) -> bytes:
        key = self._prefix + group_bytes(client)
        return key if sequence is None else key + _U64.pack(sequence)

    def owned_range(self) -> tuple[bytes, bytes]:
        end = prefix_end(self._prefix)
        assert end is not None, "no table tag is 0xff"
        return self._prefix, end

    def write(self, batch: Batch) -> None:
        for key, record in self._pending.items():
            if record is None:
                batch.delete(key)
            else:
                batch.put(key, record)
        self._pending.clear()

    def load(self, reader: Reader) -> None:
        """What the engine holds. The owner sets next_order and forgotten."""
        self._pending.clear()
        self._floors.clear()
        self._sequences.clear()
        self._answers.clear()
        found: list[tuple[_Answer, bytes, int]] = []
        for stored, record in iterate(reader, *self.owned_range()):
            body = unseal(stored, record)
            client, at = ungroup_bytes(stored, _ID_AT)
            if at == len(stored):
                (self._floors[client],) = _U64.unpack(body)
                continue
            (sequence,) = _U64.unpack_from(stored, at)
            order, clock_ms = _ROW.unpack_from(body)
            found.append((_Answer(order, clock_ms, body[_ROW.size :]), client, sequence))
        for answer, client, sequence in sorted(found):
            self._answers[client, sequence] = answer
            self._sequences.setdefault(client, set()).add(sequence)
        self._bytes = sum(len(answer.data) for answer in self._answers.values())
        self._ids = sorted({*self._floors, *self._sequences})
