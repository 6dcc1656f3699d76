"""One strong keyspace as this node serves it: kv/regime.py Strong over all its shards.

    one shard, and a replica of it here     `write` and `read` ARE that shard's: nothing is added
    else                                    each operation finds its shard (kv/router.py), here or
                                            on another node (routed.py)

It follows the cluster map: what changes there changes where the next operation goes. An operation
that a shard refuses, because its keys are another one's now, is taken over (`_moved`) and finds its
way by a newer map until its deadline. Quotas are checked here, where a keyspace is whole.

Invariant: `single` says whether the first form is in force; faces that have a cheaper way for it
ask that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from kv.cluster.tasks import TaskOwner, TasksClosedError
from kv.errors import (
    KeyspaceNotFoundError,
    OverloadedError,
    QuotaExceededError,
    StoppingError,
    UnavailableError,
    WrongRegimeError,
)
from kv.meta.service import MetaService
from kv.model import PLAIN_READ, PLAIN_WRITE, Level, ReadOptions, SessionToken, WriteOptions
from kv.regime import Done, Give
from kv.router import CrossShardError, Scope, lease_ids, one_shard
from kv.strong.admission import check, purpose_of
from kv.strong.allowance import Allowance
from kv.strong.attached import AttachedWrite
from kv.strong.crossings import Crossings
from kv.strong.forward import Forwarder
from kv.strong.gate import Gate
from kv.strong.ground import KeyspaceGround, Page
from kv.strong.lease_ends import LeaseEnds
from kv.strong.operations import Operation, Read, SessionRead, Write
from kv.strong.queries import Query
from kv.strong.reader import ReplicaReader
from kv.strong.routed import Routed, RoutedRead, RoutedWrite
from kv.strong.shard import ShardSettings, StrongShard
from kv.watch.index import KeyRange
from kv.watch.keyspace_watches import KeyspaceWatches
from kv.watch.merged import Ground
from kv.watch.messages import Cancelled, CancelReason, Encode
from kv.watch.watches import Watches
from raftgroups.commands import Command, decode, encode
from raftgroups.meta.records import KeyspaceState, Quotas, Regime, ShardRecord
from raftgroups.meta.view import MetaView, ShardTable
from raftgroups.results import Result
from raftgroups.transport import NodeId
from storage.clock import Clock
from storage.errors import JanusError, WrongShardError
from storage.space import Purpose

_log = logging.getLogger(__name__)

T = TypeVar("T")

NO_QUOTAS: Final = Quotas()
INSTEAD: Final = (
    "ask for parts that lie within a shard each (GET /api/v1/admin/shards shows them), or use "
    "GET /api/v1/keys, /api/v1/scan, /api/v1/count, POST /api/v1/batch/get, /api/v1/batch/put and "
    "/api/v1/txn, which work across shards"
)

INSTEAD_OF_WATCH: Final = (
    "watch with GET /api/v1/watch, which follows all of them and gives a cursor to go on from"
)


class Later(Protocol):
    """What is started again in a while, or given up if this node stops."""

    why: str

    def start(self) -> None: ...

    def give_up(self, error: JanusError) -> None: ...


class Keyspace:
    """For the node's loop only."""

    def __init__(
        self,
        keyspace: int,
        *,
        meta: MetaService,
        forwarder: Forwarder,
        scheduler: asyncio.AbstractEventLoop,
        clock: Clock,
        tasks: TaskOwner,
        gate: Gate,
        settings: ShardSettings,
    ) -> None:
        self.keyspace: Final = keyspace
        self.forwarder: Final = forwarder
        self._meta = meta
        self._scheduler = scheduler
        self._clock = clock
        self._tasks = tasks
        self._gate = gate
        self._settings = settings
        self._sizes = settings.sizes.narrowed()
        self._local: dict[int, StrongShard] = {}
        self._table: ShardTable | None = None
        self._watches: list[tuple[KeyspaceWatches, Encode]] = []
        self.single = False
        self._quotas = NO_QUOTAS
        self._allowance = Allowance(clock)
        self._first: StrongShard | None = None
        """Of those here, for what is asked with every answer."""
        self._stopped = False
        self._lost: dict[Later, None] = {}
        """Refused by a shard that does not hold their keys any more, and waiting for news."""
        self._lease_ends = LeaseEnds(self, tasks)
        self.crossings: Final = Crossings(self, clock, scheduler)
        meta.map.on_change(self._remap)

    # --- which shards -------------------------------------------------------------------------

    def _remap(self, view: MetaView) -> None:
        record = view.keyspaces.get(self.keyspace)
        alive = record is not None and record.state is KeyspaceState.ACTIVE
        self._table = view.table(self.keyspace) if alive else None
        self._quotas = record.options.quotas if record is not None else NO_QUOTAS
        nodes = max(1, len(view.nodes))
        self._allowance.set_rate(self._quotas.operations_a_second / nodes)
        self._rebind()
        self._wake_lost()

    def served(self, shard: StrongShard) -> None:
        group = shard.group.group_id
        self._local[group] = shard
        shard.on_moved = self._moved
        shard.on_session = self._with_newer_map
        shard.on_lease_ends = self._lease_ends.drive
        shard.crossings = self.crossings
        self.crossings.watch()
        for watches, encoding in self._watches:
            watches.attach(group, partial(shard.watches, encoding))
        self._rebind()
        self._wake_lost()

    def left(self, shard: StrongShard) -> None:
        self._local.pop(shard.group.group_id, None)
        for watches, _ in self._watches:
            watches.detach(shard.group.group_id)
        self._rebind()

    def _rebind(self) -> None:
        table = self._table
        only = None
        free = self._quotas == NO_QUOTAS
        if table is not None and len(table.shards) == 1 and free:
            only = self._local.get(table.shards[0].shard)
        self.single = only is not None
        self._first = self._local[min(self._local)] if self._local else None
        for name in ("write", "write_each", "read", "get", "shard_of"):
            self.__dict__.pop(name, None)
            if only is not None:
                setattr(self, name, getattr(only, name))

    @property
    def table(self) -> ShardTable:
        """Raises KeyspaceNotFoundError, UnavailableError, WrongRegimeError."""
        if self._table is not None:
            return self._table
        view = self._meta.map.view
        record = view.keyspaces.get(self.keyspace)
        if not self._meta.map.known:
            raise UnavailableError("this node does not know the cluster's shards yet; ask again")
        if record is None or record.state is not KeyspaceState.ACTIVE:
            raise KeyspaceNotFoundError("this keyspace was dropped; nothing was done")
        if record.regime is Regime.LEADERLESS:
            raise WrongRegimeError(
                f"the keyspace {record.name!r} is leaderless: it has no such call; use /api/v1/kv"
            )
        raise UnavailableError("the shards of this keyspace are not known here yet; ask again")

    def local_shard(self, shard: int) -> StrongShard | None:
        found = self._local.get(shard)
        return found if found is not None and found.group.readable else None

    def holder(self, shard: int, scope: Scope) -> StrongShard | None:
        """A replica here that serves these keys: of the shard that the map names, or of what that
        was split or merged into, of which the map may not know yet."""
        named = self.local_shard(shard)
        if named is None or not named.serves(scope):
            return next((each for each in self._local.values() if each.serves(scope)), named)
        return named

    @property
    def local_shards(self) -> list[StrongShard]:
        return [self._local[each] for each in sorted(self._local)]

    def shard_of(self, key: bytes) -> int:
        """For session tokens; 0 while this node cannot know."""
        return 0 if self._table is None else self._table.of_key(key).shard

    def record_for(self, operation: Routed) -> ShardRecord:
        return one_shard(self.table, operation.scope(), INSTEAD)

    def is_home(self, record: ShardRecord) -> bool:
        """Leases are those of the first shard."""
        return record.start == b""

    def peers_of(self, record: ShardRecord) -> list[NodeId]:
        """Other nodes with a replica, those first that are connected."""
        own, connected = self._meta.node_id, self._meta.link.connected
        peers = [NodeId(each) for each in record.replicas if each != own]
        return [each for each in peers if connected(each)] or peers

    # --- Strong -------------------------------------------------------------------------------

    def write(
        self, command: Command, done: Done[Result], options: WriteOptions = PLAIN_WRITE
    ) -> None:
        try:
            check(command)
            if self._sizes is not None:
                self._sizes.check(command)
            if self._quotas != NO_QUOTAS:
                self._check_quotas(command)
            payload = encode(command, options.token)
            self._gate.admit(command, len(payload))
        except JanusError as error:
            self.soon(done, error)
            return
        deadline_s = self._deadline(options.deadline_s)
        key = getattr(command, "key", b"")
        if key and self._table is not None and not (command_is_wide(command) or self._stopped):
            # Most writes: one key, whose shard is here. What is refused there comes to `_moved`.
            local = self.local_shard(self._table.of_key(key).shard)
            if local is not None:
                repeatable = options.token is not None
                local.take(payload, done, deadline_s, repeatable, options.deadline_s)
                return
        kind = AttachedWrite if lease_ids(command) else RoutedWrite
        kind(self, done, deadline_s, command, payload, options).start()

    def write_each(self, commands: Sequence[Command], dones: Sequence[Done[Result]]) -> None:
        for command, done in zip(commands, dones, strict=True):
            self.write(command, done)

    def read(
        self,
        evaluate: Callable[[ReplicaReader], T],
        done: Done[T],
        options: ReadOptions = PLAIN_READ,
    ) -> None:
        if not isinstance(evaluate, Query):
            self.soon(
                done,
                CrossShardError(
                    "nothing was done: this call works only in a keyspace of one shard, on a node "
                    f"that has it; {INSTEAD}"
                ),
            )
            return
        if self._quotas != NO_QUOTAS and not self._allowance.take():
            self.soon(done, self._too_busy())
            return
        if self._table is not None:
            record = self._table.of_key(evaluate.scope()[0])
            local = self.local_shard(record.shard)
            if local is not None and record.holds_all(evaluate.scope()):
                local.read(evaluate, done, options)
                return
        if options.level is Level.SESSION and self._with_newer_map(evaluate, done, options):
            return
        RoutedRead(self, done, self._deadline(options.deadline_s), evaluate, options).start()

    def get(self, key: bytes, asker: Any, give: Give) -> None:
        """Of a keyspace of one shard that is here: `_rebind` puts it in this one's place."""
        raise AssertionError("a keyspace that is not `single` is asked with queries")

    def _with_newer_map(
        self, evaluate: Callable[[ReplicaReader], Any], done: Done[Any], options: ReadOptions
    ) -> bool:
        """A token that names a shard which the map here does not have yet, of a split: by the old
        map its keys would be read of a replica that may be behind that. Numbers of shards rise."""
        newest = self._meta.map.view.next.shard
        if all(shard < newest for shard in options.session.revisions):
            return False
        try:
            self._tasks.spawn(self._look_and_read(evaluate, done, options), "map of a session")
        except TasksClosedError as error:
            self.soon(done, StoppingError(str(error)))
        return True

    async def _look_and_read(
        self, evaluate: Callable[[ReplicaReader], Any], done: Done[Any], options: ReadOptions
    ) -> None:
        await self._meta.refresh()
        newest = self._meta.map.view.next.shard
        seen = {shard: at for shard, at in options.session.revisions.items() if shard < newest}
        self.read(
            evaluate, done, ReadOptions(options.level, SessionToken(seen), options.deadline_s)
        )

    def local(self) -> ReplicaReader:
        """The only shard's, or of a split keyspace the first that is here: for headers and status.
        Raises UnavailableError."""
        for shard in self.local_shards:
            return shard.local()
        raise UnavailableError("this node has no replica of a shard of this keyspace")

    def _check_quotas(self, command: Command) -> None:
        """Raises QuotaExceededError, OverloadedError. Keys are those of the shards that have a
        replica here, so a node that has none of a shard lets through what its holders would not."""
        if not self._allowance.take():
            raise self._too_busy()
        most = self._quotas.keys
        if most and purpose_of(command) is Purpose.GROW:
            keys = sum(shard.machine.shard.state.keys for shard in self._local.values())
            if keys >= most:
                raise QuotaExceededError(
                    f"this keyspace has {keys} keys and its quota is {most}; delete keys, or raise "
                    "the quota (PATCH /api/v1/admin/keyspaces/NAME)"
                )

    def _too_busy(self) -> OverloadedError:
        rate = self._quotas.operations_a_second
        return OverloadedError(
            f"the quota of this keyspace is {rate} operations a second, of which each node lets "
            "through its part; ask again in a second, or another node"
        )

    def watches(self, encode: Encode) -> KeyspaceWatches:
        made = KeyspaceWatches(self._shard_to_watch, lambda: self._quotas.watchers)
        for group, shard in self._local.items():
            made.attach(group, partial(shard.watches, encode))
        self._watches.append((made, encode))
        return made

    def ground(self, watches: Watches, page: Page) -> Ground | None:
        """Where watches over several shards stand. `watches`: of the same face."""
        assert isinstance(watches, KeyspaceWatches)
        return KeyspaceGround(self, watches, page)

    def _shard_to_watch(self, keys: KeyRange) -> int | Cancelled:
        try:
            return one_shard(self.table, keys, INSTEAD_OF_WATCH).shard
        except CrossShardError as error:
            return Cancelled(CancelReason.SPLIT, str(error))
        except JanusError as error:
            return Cancelled(CancelReason.CLOSED, str(error))

    @property
    def term(self) -> int:
        return 0 if self._first is None else self._first.term

    # --- for operations on their way ------------------------------------------------------------

    def _deadline(self, asked_s: float | None) -> float:
        return self._clock.monotonic() + (asked_s or self._settings.deadline_s)

    async def look_anew(self) -> None:
        """At the map."""
        await self._meta.refresh()

    @property
    def stopped(self) -> bool:
        return self._stopped

    def now_s(self) -> float:
        return self._clock.monotonic()

    def soon(self, done: Callable[[Any], None], answer: object) -> None:
        self._scheduler.call_soon(done, answer)

    def later(self, delay_s: float, operation: Later, *, look: bool) -> None:
        """Start it again, by a newer map if `look`."""
        if self._stopped:
            self.soon(operation.give_up, StoppingError(f"this node is stopping: {operation.why}"))
        elif look:
            self._lost[operation] = None
            try:
                self._tasks.spawn(self._look_and_start(delay_s, operation), "routing anew")
            except TasksClosedError as error:
                del self._lost[operation]
                self.soon(operation.give_up, StoppingError(str(error)))
        else:
            self._scheduler.call_later(delay_s, operation.start)

    async def _look_and_start(self, delay_s: float, operation: Later) -> None:
        version = self._meta.map.view.version
        await self._meta.refresh()
        if self._meta.map.view.version == version:
            await asyncio.sleep(delay_s)
        if operation in self._lost:
            del self._lost[operation]
            operation.start()

    def _wake_lost(self) -> None:
        """A shard came, or a newer map: whoever did not find its keys looks at once."""
        lost, self._lost = self._lost, {}
        for operation in lost:
            self._scheduler.call_soon(operation.start)

    def answered(self, operation: Routed, answer: object) -> None:
        try:
            operation.done(answer)
        except Exception:  # noqa: BLE001 - a defect of one asker must not cost the others' answers
            _log.exception("a done callback raised; its defect, the node goes on")

    def _moved(self, operation: Operation, error: WrongShardError) -> None:
        """A shard here refused it: it holds other keys now."""
        routed: Routed
        if isinstance(operation, Write):
            command, token, *_ = decode(operation.payload)
            options = WriteOptions(token, across=operation.across)
            kind = AttachedWrite if lease_ids(command) else RoutedWrite
            routed = kind(
                self, operation.done, operation.deadline_s, command, operation.payload, options
            )
            routed.unsure = operation.unsure
        elif isinstance(operation, Read) and isinstance(operation.evaluate, Query):
            routed = RoutedRead(
                self,
                operation.done,
                operation.deadline_s,
                operation.evaluate,
                ReadOptions(_level_of(operation)),
            )
        else:
            self.soon(
                operation.done,
                UnavailableError(f"nothing was done: {error}; the shard was split, ask again"),
            )
            return
        scope = routed.scope()
        heir = next((each for each in self._local.values() if each.serves(scope)), None)
        if heir is not None and self.now_s() < routed.deadline_s:
            routed.hand_over(heir)  # nobody has to be asked where the keys are
        else:
            routed.try_again(str(error), look=True)

    # --- the end ------------------------------------------------------------------------------

    def stop(self) -> None:
        self._stopped = True
        self.crossings.stop()


def command_is_wide(command: Command) -> bool:
    """It may touch more than its key: a range, or a lease."""
    return bool(getattr(command, "range_end", b"") or getattr(command, "lease", 0))


def _level_of(read: Read) -> Level:
    """What is seen in another shard is new to the session that waited for this one."""
    if isinstance(read, SessionRead):
        return Level.LINEARIZABLE
    return Level.LINEARIZABLE if type(read) is Read else Level.EVENTUAL
