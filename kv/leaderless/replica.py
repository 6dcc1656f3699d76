"""One node's leaderless store: what it holds of each key, and every change of it. A participant.

    mint, store, remove_hint --> inbox --(a turn of the committer)--> one Turn --> ONE synced batch
                                                                                     |
    done <----------------------------------- after_commit <-------------------------'

All changes of a turn, whoever asked for them, share one batch and one sync: objects, token index,
hints, epochs and the incarnation (storage/versions.py). They are worked off one
after the other, so many writes of one key in one turn see each other.

Invariants
- nothing of a turn is told to anybody before its batch is on the disk;
- reads see a snapshot that was taken while no write was under way, so nothing that is not synced;
- a stand-in stores copy and hint together or neither: a hint that does not fit refuses both;
- `done` is called exactly once, from the loop, never from inside the call; what waits is bounded.

A record that fails its checksum is answered as a failure when read, and replaced by what comes in
when written: repair sends it to this node, since its answer counts as none. Trouble that nobody may
overlook (dots of our own that we do not know, reused dots, damaged records) is counted in `alarms`
and logged once a kind. This file knows no network and no ring.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from struct import Struct
from typing import Any, Final

from kv.cluster.said_once import SaidOnce
from kv.errors import KeyspaceNotFoundError, OverloadedError, StoppingError
from kv.leaderless import get_core
from kv.leaderless.changes import (
    Change,
    DiscardHint,
    KeepRow,
    Mint,
    Minted,
    RemoveHint,
    StoreAll,
    StoreSet,
)
from kv.leaderless.dvv import Minter, StaleIncarnationError, merge, receive
from kv.leaderless.feed import Feed
from kv.leaderless.hlc import HybridClock
from kv.leaderless.incarnation import draw_incarnation, read_incarnation, write_incarnation
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.put_core import Answer, Failed
from kv.leaderless.rules import Increment, Write, apply_write
from kv.leaderless.upkeep import EraseKeyspace, MendIndex
from kv.regime import Done
from raftgroups.transport import NodeId
from storage.clock import Clock, Rng, Scheduler
from storage.committer import Committer, Need
from storage.engine import Batch, Engine, Reader, Snapshot
from storage.errors import CorruptRecordError, JanusError, StorageError
from storage.hints import HintLimits, HintPage, HintUsage, hint_usages, read_hints
from storage.latest import Latest
from storage.objects import (
    Page,
    Record,
    keyspace_rows,
    read_encoded,
    read_record,
    scan_objects,
)
from storage.plain import minted_by, plain_of, replaces
from storage.rows import read_row
from storage.siblings import MalformedSetError, SiblingSet, decode_set
from storage.space import Purpose, SpaceGuard
from storage.versions import KEY_EPOCH, LeafChange, Turn

_log = logging.getLogger(__name__)

_U64: Final = Struct(">Q")
CHANGES_A_TURN: Final = 4096


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    pending_max: int = 16_384
    """Changes that wait for their turn; the next one is refused."""
    pending_max_bytes: int = 64 * 1024 * 1024
    hints: HintLimits = field(default_factory=HintLimits)


class Replica:
    """A storage.committer.Participant; it adds itself to the committer."""

    def __init__(
        self,
        engine: Engine,
        committer: Committer,
        *,
        node: NodeId,
        directory_incarnation: int,
        clock: Clock,
        scheduler: Scheduler,
        rng: Rng,
        guard: SpaceGuard | None = None,
        limits: ReplicaLimits | None = None,
    ) -> None:
        self.node = node
        self._engine = engine
        self._committer = committer
        self._clock = clock
        self._scheduler = scheduler
        self._rng = rng
        self._guard = guard
        self._limits = limits or ReplicaLimits()
        self._latest = Latest(engine, clock)
        self._said = SaidOnce(_log)
        self._hybrid = HybridClock()
        self._directory = directory_incarnation
        reader = self._latest()
        found = read_incarnation(reader, directory_incarnation)
        self.incarnation = draw_incarnation(rng) if found is None else found
        self._own_sets = minted_by(node, self.incarnation)
        """What a plain set begins with if it was minted here: what others know of our own dots is
        looked at closely."""
        self._incarnation_kept = found is not None
        epoch = read_row(reader, KEY_EPOCH)
        self._last_epoch = 0 if epoch is None else int(_U64.unpack(epoch)[0])
        self._inbox: deque[Change] = deque()
        self._lazy: deque[Change] = deque()
        self._inbox_bytes = self._inbox_keys = 0
        self._answers: list[tuple[Change, Any]] = []
        self._leaf_changes: list[LeafChange] = []
        self._unsummed: set[int] = set()
        self._changed: list[tuple[int, bytes, bytes]] = []
        self.feed: Feed | None = None
        """Told of what each commit changed, for watches."""
        self._stopped = False
        self.on_leaves: Callable[[list[LeafChange], set[int]], None] | None = None
        """Told of what each commit did to the leaves, for sums that are kept in memory, and of
        which keyspaces these have to be added up anew."""
        self.took: Callable[[int, Sequence[bytes], bool], None] = lambda *_: None
        """(keyspace, keys, with a hint): sets are stored; for the ledger of reap.py."""
        self.told: Callable[[], None] = lambda: None
        """Everybody whose change was in a commit has been told."""
        self.dropped: set[int] = set()
        """Keyspaces that are gone: nothing of them is taken any more."""
        self._erase: list[int] = []
        self.alarms: Counter[str] = Counter()
        self.sibling_refusals = 0
        """Writes that would have left more concurrent versions than there may be."""
        self.minted = self.stored = self.turns = self.reaped = 0
        committer.add(self)

    # --- reading --------------------------------------------------------------------------

    def read(self, keyspace: int, key: bytes) -> get_core.Answer:
        """What is committed here, at once."""
        try:
            record = read_record(self._latest(), keyspace, key)
        except StorageError as error:
            self.alarm("unreadable_record", str(error))
            return get_core.Failed(f"its record of this key cannot be read ({error.code})")
        return get_core.Nothing() if record is None else get_core.Found(record.siblings)

    def read_encoded(self, keyspace: int, key: bytes) -> bytes | get_core.Failed | None:
        """The set as its bytes, for another node: None if there is nothing."""
        try:
            return read_encoded(self._latest(), keyspace, key)
        except StorageError as error:
            self.alarm("unreadable_record", str(error))
            return get_core.Failed(f"its record of this key cannot be read ({error.code})")

    def scan(
        self, keyspace: int, start: bytes, end: bytes | None, *, limit: int, max_bytes: int
    ) -> Page[tuple[bytes, Record]]:
        """What is committed here of start <= key < end, in the order of keys."""
        return scan_objects(self._latest(), keyspace, start, end, limit=limit, max_bytes=max_bytes)

    def hints(self, target: NodeId, *, after: int, limit: int, max_bytes: int) -> HintPage:
        """A page of what is held for this node, in the order of sequence."""
        return read_hints(self._latest(), target, after=after, limit=limit, max_bytes=max_bytes)

    def hint_usages(self) -> dict[str, HintUsage]:
        return hint_usages(self._latest())

    def reader(self) -> Reader:
        """What is committed, for one call; not to be kept."""
        return self._latest()

    def open_snapshot(self) -> Snapshot:
        """What is committed now, for a long scan; whoever opens it closes it."""
        self._latest()
        return self._engine.snapshot()

    def kept(self, row_key: bytes) -> bytes | None:
        """A row of the node itself. Raises CorruptRecordError."""
        return read_row(self._latest(), row_key)

    @property
    def pending(self) -> int:
        return self._inbox_keys

    # --- changing -------------------------------------------------------------------------

    def mint(
        self,
        keyspace: Keyspace,
        key: bytes,
        change: Write | Increment,
        done: Done[Minted],
        *,
        hint_for: NodeId | None = None,
    ) -> None:
        """A new version, named by this node. With `hint_for` this node stands in for that owner."""
        value = change.value if isinstance(change, Write) else b"0"
        size_bytes = len(key) + len(value or b"")
        purpose = Purpose.FREE if value is None else Purpose.GROW
        refused = self._refusal(keyspace.number, size_bytes, purpose)
        if refused is not None:
            self._scheduler.call_soon(done, refused)
            return
        self._submit(Mint(self, keyspace, key, change, hint_for, done, size_bytes))

    def store(
        self,
        keyspace: int,
        key: bytes,
        siblings: SiblingSet,
        encoded: bytes,
        done: Callable[[Answer], None],
        *,
        hint_for: NodeId | None = None,
    ) -> None:
        """A set that another node has, or the own one with a hint for somebody. `encoded` are its
        canonical bytes."""
        dead = all(version.value is None for version in siblings.versions)
        size_bytes = len(key) + len(encoded)
        purpose = Purpose.FREE if dead else Purpose.GROW
        refused = self._refusal(keyspace, size_bytes, purpose)
        if refused is not None:
            self._scheduler.call_soon(done, Failed(str(refused)))
            return
        self._submit(StoreSet(self, keyspace, key, siblings, encoded, hint_for, done))

    def store_all(
        self,
        keyspace: int,
        keys: Sequence[bytes],
        sets: Sequence[bytes],
        done: Callable[[list[str | None] | str], None],
    ) -> None:
        """Owners' copies as another node sent them, unread. `done`: for each why it was not stored,
        None if it was; or why none was."""
        size_bytes = sum(map(len, keys)) + sum(map(len, sets))
        refused = self._refusal(keyspace, size_bytes, Purpose.GROW)
        if refused is not None:
            self._scheduler.call_soon(done, str(refused))
            return
        self._submit(StoreAll(self, keyspace, keys, sets, size_bytes, done))

    def remove_hint(self, target: NodeId, sequence: int, *, owners: tuple[NodeId, ...]) -> None:
        """`target` has this hint, synced. A node that is not among the key's owners gives up its
        copy too once it holds no hint of the key. Rides on the next write, or waits a little."""
        self._lazy.append(RemoveHint(self, target, sequence, owners))
        self._committer.kick()

    def keep(self, row_key: bytes, body: bytes, done: Callable[[], None]) -> None:
        """Write a row of the node itself; it is small, so it is never refused."""
        self._submit(KeepRow(row_key, body, done))

    def discard_hint(self, target: NodeId, sequence: int) -> None:
        """A hint that cannot be read: it counts as overflow from now on."""
        self.alarm("damaged_hint", f"a hint for {target} cannot be read; repair replaces it")
        self._lazy.append(DiscardHint(target, sequence))
        self._committer.kick()

    def submit(self, change: Change) -> None:
        """Maintenance of any kind (upkeep.py); whoever asks bounds how much."""
        self._submit(change)

    def erase(self, keyspace: int) -> None:
        """All keys of a keyspace that was dropped, behind whatever was asked for before. Hints go
        one by one, as their targets are looked at (handoff.py)."""
        self.dropped.add(keyspace)
        self._submit(EraseKeyspace(self, keyspace))

    def erase_after_turn(self, keyspace: int) -> None:
        """For EraseKeyspace: the rows go with this turn's batch, those it puts itself included."""
        self._erase.append(keyspace)

    def mend_index(self, keyspace: int, keys: Sequence[bytes]) -> None:
        self.alarm("damaged_index", f"{len(keys)} rows cannot be read; they are written again")
        self._submit(MendIndex(keyspace, keys))

    def _refusal(self, keyspace: int, size_bytes: int, purpose: Purpose) -> JanusError | None:
        if self._stopped:
            return StoppingError("this node is stopping; ask another one")
        if keyspace in self.dropped:
            return KeyspaceNotFoundError(f"keyspace {keyspace} was dropped")
        full = self._inbox_bytes + size_bytes > self._limits.pending_max_bytes
        if self._inbox and (full or self._inbox_keys >= self._limits.pending_max):
            return OverloadedError(
                f"nothing was done: {self._inbox_keys} changes of {self._inbox_bytes} bytes wait "
                "for the disk of this node; ask again in a second, or write less",
            )
        if self._guard is not None:
            try:
                self._guard.admit(purpose, size_bytes)
            except JanusError as error:
                return error
        return None

    def _submit(self, change: Change) -> None:
        self._inbox.append(change)
        self._inbox_bytes += change.size_bytes
        self._inbox_keys += change.keys
        self._committer.kick()

    def stop(self) -> None:
        """Nothing new is taken. What waits is not answered here: whoever asked has a deadline."""
        self._stopped = True
        self._latest.renew()

    # --- the turn -------------------------------------------------------------------------

    def begin_turn(self) -> Need:
        if self._inbox:
            return Need.NOW
        return Need.LAZY if self._lazy else Need.NOTHING

    def prepare(self, batch: Batch) -> None:
        assert not self._answers, "the last turn was not finished"
        # What is read until the write has returned must not see that write: a fresh snapshot,
        # which does not grow old meanwhile.
        self._latest.renew()
        turn = Turn(self._latest(), merge, hint_limits=self._limits.hints)
        keys = 0
        while self._inbox and keys < CHANGES_A_TURN:
            change = self._inbox.popleft()
            self._inbox_bytes -= change.size_bytes
            keys += change.keys
            self._answers.append((change, self._run(change, turn)))
        self._inbox_keys -= keys
        for _ in range(min(len(self._lazy), CHANGES_A_TURN)):
            self._run(self._lazy.popleft(), turn)
        turn.collect(batch)
        for keyspace in self._erase:
            for start, end in keyspace_rows(keyspace):
                batch.delete_range(start, end)
        self._erase.clear()
        self._leaf_changes, self._unsummed = turn.leaf_changes, turn.unsummed
        self._changed = turn.changed
        if not self._incarnation_kept:
            write_incarnation(batch, self.incarnation, self._directory)
            self._incarnation_kept = True

    def _run(self, change: Change, turn: Turn) -> Any:
        try:
            return change.run(turn)
        except CorruptRecordError as error:
            # A row of the hints or a counter: the change raised before it changed anything.
            self.alarm("damaged_row", str(error))
            return change.failed(error)

    def after_commit(self) -> None:
        self.turns += 1
        self._latest.renew()
        answers, self._answers = self._answers, []
        if self.on_leaves is not None and (self._leaf_changes or self._unsummed):
            self.on_leaves(self._leaf_changes, self._unsummed)
        self._leaf_changes, self._unsummed = [], set()
        if self.feed is not None:
            self.feed.add(self._changed)
        self._changed = []
        for change, answer in answers:
            change.finish(answer)
        self.told()
        if self._inbox or self._lazy:
            self._committer.kick()

    def stalled(self, seconds: float) -> None:
        """Nothing rests on how long a write took: who waited too long was told so by others."""

    # --- for the changes ------------------------------------------------------------------

    def now_ms(self) -> int:
        return int(self._clock.wall() * 1000)

    def record(self, turn: Turn, keyspace: int, key: bytes) -> Record | None:
        try:
            return turn.get(keyspace, key)
        except CorruptRecordError as error:
            self._discard(turn, keyspace, key, error)
            return None

    def _discard(self, turn: Turn, keyspace: int, key: bytes, error: CorruptRecordError) -> None:
        self.alarm("damaged_record", str(error))
        turn.discard_damaged(keyspace, key)

    def apply(
        self, turn: Turn, keyspace: Keyspace, key: bytes, change: Write | Increment
    ) -> Record:
        """Raises what the rules refuse."""
        record = self.record(turn, keyspace.number, key)
        try:
            return self._apply(turn, keyspace, record, change)
        except StaleIncarnationError as error:
            self.renew_incarnation(str(error))
            return self._apply(turn, keyspace, record, change)

    def _apply(
        self, turn: Turn, keyspace: Keyspace, record: Record | None, change: Write | Increment
    ) -> Record:
        return apply_write(
            keyspace.rule,
            record,
            change,
            minter=Minter(self.node, self.incarnation, partial(self._next_epoch, turn)),
            clock=self._hybrid,
            now_ms=self.now_ms(),
            limits=keyspace.limits,
        )

    def take_encoded(
        self,
        turn: Turn,
        keyspace: int,
        key: bytes,
        encoded: bytes,
        siblings: SiblingSet | None = None,
    ) -> None:
        """Hold what came from elsewhere, too; its bytes as they are if they replace what is held,
        which they nearly always do. `siblings`: the same, if somebody has decoded it. Raises
        MalformedSetError, InvalidRequestError."""
        held = self._held(turn, keyspace, key)
        if held == encoded:
            return
        plain = plain_of(encoded)
        if plain is not None and not encoded.startswith(self._own_sets):
            held_plain = None if held is None else plain_of(held)
            if held is None or (
                held_plain is not None and replaces(encoded, plain, held, held_plain)
            ):
                self._hybrid.observe(plain.timestamp, self.now_ms())
                turn.put_encoded(keyspace, key, encoded)
                return
        if siblings is None:
            siblings = decode_set(encoded)
            if not siblings.clock:
                raise MalformedSetError("a set without a clock says nothing")
        record = self.take_in(turn, keyspace, key, siblings)
        if record is not None:
            same = record.siblings == siblings
            turn.put(keyspace, key, record, encoded if same else None)

    def _held(self, turn: Turn, keyspace: int, key: bytes) -> bytes | None:
        try:
            return turn.get_encoded(keyspace, key)
        except CorruptRecordError as error:
            self._discard(turn, keyspace, key, error)
            return None

    def take_in(self, turn: Turn, keyspace: int, key: bytes, incoming: SiblingSet) -> Record | None:
        """The record with what came from elsewhere; None if there is nothing new in it."""
        received = receive(
            self.record(turn, keyspace, key),
            incoming,
            node=self.node,
            incarnation=self.incarnation,
            last_epoch=self._last_epoch,
        )
        if received.regressed:
            self.renew_incarnation(f"a replica knows dots of {self.node} that it does not know")
        if received.reused:
            self.alarm("reused_dots", f"dots that name two changes each: {received.reused[:3]}")
        latest = max((version.timestamp for version in incoming.versions), default=0)
        self._hybrid.observe(latest, self.now_ms())
        return received.record if received.changed else None

    def renew_incarnation(self, why: str) -> None:
        self.alarm("new_incarnation", f"{why}; it goes on as a new incarnation")
        self.incarnation = draw_incarnation(self._rng)
        self._own_sets = minted_by(self.node, self.incarnation)
        self._incarnation_kept = False

    def _next_epoch(self, turn: Turn) -> int:
        self._last_epoch = turn.next_epoch()
        return self._last_epoch

    def alarm(self, kind: str, sentence: str) -> None:
        self.alarms[kind] += 1
        self._said.warn(f"the leaderless data of node {self.node}", kind, sentence)
