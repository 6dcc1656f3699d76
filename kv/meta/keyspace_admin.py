"""What operators ask about keyspaces and shards: the map in their words, their wishes as commands.

Every wish is made from the map as it is now and says so (epochs, expected options), so two
operators at once cannot undo each other unseen: one of them is told to look again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict, replace

from kv.api.keyspace_bodies import (
    CreateKeyspaceBody,
    KeyspaceShown,
    OptionsGiven,
    OptionsShown,
    QuotasShown,
    ShardOperation,
    ShardShown,
)
from kv.api.text import shown
from kv.errors import OutcomeUnknownError
from kv.meta.beginning import new_shards
from kv.meta.service import MetaService
from raftgroups.meta.commands import (
    AlterKeyspace,
    CreateKeyspace,
    CreateLeaderless,
    DropKeyspace,
    KeyspaceMade,
)
from raftgroups.meta.records import (
    META_SHARD,
    KeyspaceOptions,
    KeyspaceRecord,
    OperationRecord,
    Regime,
    RingSeat,
    ShardRecord,
)
from raftgroups.meta.refusals import InvalidKeyspaceError, KeyspaceNotFoundError


class Dividing(Protocol):
    """kv/division/wishes.py Wishes."""

    async def split(self, shard: int, key: bytes) -> tuple[ShardRecord, ShardRecord]: ...

    async def merge(self, left: int, right: int | None = None) -> ShardRecord: ...

    async def let_go(self, shard: int) -> OperationRecord: ...


Served = Callable[[int, Collection[str], int], Awaitable[int]]
"""kv/leaderless/serving.py: how many of these nodes serve the keyspace, once that is enough."""


class KeyspaceAdmin:
    def __init__(
        self,
        meta: MetaService,
        divider: Dividing,
        leader_of: Callable[[int], str | None],
        ring: Callable[[], tuple[RingSeat, ...]],
        served: Served,
    ) -> None:
        """`ring`: on which a leaderless keyspace is made. Raises JanusErrors."""
        self._served = served
        self._meta = meta
        self._ring = ring
        self._divider = divider
        self._leader_of = leader_of

    async def look_anew(self) -> None:
        """What was done on other nodes before is known here then, or as little as before where
        the meta group cannot be reached."""
        await self._meta.refresh()

    # --- looking ------------------------------------------------------------------------------

    def all(self) -> list[KeyspaceShown]:
        found = self._meta.map.view.keyspaces.values()
        return [self._shown(each) for each in sorted(found, key=lambda each: each.keyspace)]

    def named(self, name: str) -> KeyspaceShown:
        return self._shown(self._record(name))

    def _record(self, name: str) -> KeyspaceRecord:
        found = self._meta.map.view.keyspace_named(name)
        if found is None:
            raise KeyspaceNotFoundError(f"there is no keyspace {name[:64]!a}; list or create it")
        return found

    def _shown(self, record: KeyspaceRecord) -> KeyspaceShown:
        options = record.options
        quotas = options.quotas
        return KeyspaceShown(
            record.keyspace,
            record.name,
            record.regime.value,
            record.state.value,
            len(self._meta.map.view.shards_of(record.keyspace)),
            OptionsShown(
                options.replication,
                options.read_quorum,
                options.write_quorum,
                options.shards_max,
                options.split_bytes,
                options.split_operations_a_second,
                options.merge_bytes,
                QuotasShown(quotas.bytes, quotas.keys, quotas.operations_a_second, quotas.watchers),
                options.rule,
                options.strict,
                options.siblings,
            ),
        )

    def shards(self, name: str | None) -> list[ShardShown]:
        """In order of keyspaces, then of ranges."""
        view = self._meta.map.view
        wanted = view.keyspaces.values() if name is None else [self._record(name)]
        ordered = sorted(wanted, key=lambda each: each.keyspace)
        return [self._shard(each) for one in ordered for each in view.shards_of(one.keyspace)]

    def _shard(self, record: ShardRecord) -> ShardShown:
        assert record.shard != META_SHARD
        edges = [record.start] if record.end is None else [record.start, record.end]
        force = any(shown(edge)[1] is not UNSET for edge in edges)
        mark = shown(record.start, force)[1]
        keyspace = self._meta.map.view.keyspaces.get(record.keyspace)
        operation = self._meta.map.view.operation_of(record.shard)
        return ShardShown(
            record.shard,
            "" if keyspace is None else keyspace.name,
            shown(record.start, force)[0],
            None if record.end is None else shown(record.end, force)[0],
            record.epoch,
            record.state.value,
            list(record.replicas),
            self._leader_of(record.shard),
            mark,
            UNSET if operation is None else _operation(operation),
        )

    # --- changing -----------------------------------------------------------------------------

    async def create(self, wanted: CreateKeyspaceBody, deadline_s: float | None) -> KeyspaceShown:
        _check_regime(wanted.regime, wanted.options)
        if Regime(wanted.regime) is Regime.LEADERLESS:
            return await self._create_leaderless(wanted, deadline_s)
        view = self._meta.map.view
        options = _changed(KeyspaceOptions(), wanted.options)
        nodes = sorted(view.nodes.values(), key=lambda each: each.node)
        present = [each for each in view.shards.values() if each.shard != META_SHARD]
        shards = new_shards(nodes, wanted.shards, options.replication, present)
        return await self._made(
            CreateKeyspace(wanted.name, Regime.STRONG, options, shards), deadline_s
        )

    async def _create_leaderless(
        self, wanted: CreateKeyspaceBody, deadline_s: float | None
    ) -> KeyspaceShown:
        if wanted.shards != 1:
            raise InvalidKeyspaceError(
                "a leaderless keyspace has no shards: its keys are spread over the ring"
            )
        options = _changed(KeyspaceOptions(), wanted.options)
        # R and W that were not given are majorities of N.
        given = wanted.options if isinstance(wanted.options, OptionsGiven) else OptionsGiven()
        majority = options.replication // 2 + 1
        if given.read_quorum is UNSET:
            options = replace(options, read_quorum=majority)
        if given.write_quorum is UNSET:
            options = replace(options, write_quorum=majority)
        ring = self._ring()
        made = await self._made(CreateLeaderless(wanted.name, options, ring), deadline_s)
        nodes = {seat.node for seat in ring}
        enough = min(options.write_quorum, len(nodes))
        served = await self._served(made.keyspace, nodes, enough)
        if served < enough:
            raise OutcomeUnknownError(
                f"the keyspace {wanted.name!r} is made, but only {served} of the {enough} nodes "
                "that a write waits for serve it so far; the others do once they are back and have "
                "heard of it, so do not make it again, and write when they are"
            )
        return made

    async def _made(
        self, command: CreateKeyspace | CreateLeaderless, deadline_s: float | None
    ) -> KeyspaceShown:
        made = await self._meta.propose(command, deadline_s)
        assert isinstance(made, KeyspaceMade)
        await self._meta.refresh()
        return self._shown(made.record)

    async def alter(
        self, name: str, wanted: OptionsGiven, deadline_s: float | None
    ) -> KeyspaceShown:
        known = self._record(name)
        _check_regime(known.regime, wanted)
        options = _changed(known.options, wanted)
        made = await self._meta.propose(AlterKeyspace(name, known.options, options), deadline_s)
        assert isinstance(made, KeyspaceMade)
        return self._shown(made.record)

    async def drop(self, name: str, deadline_s: float | None) -> None:
        self._record(name)
        await self._meta.propose(DropKeyspace(name), deadline_s)
        await self._meta.refresh()  # calls for its keys that come here next are refused

    async def split(self, shard: int, key: bytes) -> tuple[ShardShown, ShardShown]:
        left, right = await self._divider.split(shard, key)
        return self._shard(left), self._shard(right)

    async def merge(self, left: int, right: int | None) -> ShardShown:
        return self._shard(await self._divider.merge(left, right))

    async def end_merge(self, shard: int) -> ShardOperation:
        return _operation(await self._divider.let_go(shard))


def _operation(record: OperationRecord) -> ShardOperation:
    return ShardOperation(
        record.operation,
        record.kind,
        record.step,
        list(record.shards),
        record.began_ms,
        record.stepped_ms,
        record.note,
    )


_OF_LEADERLESS = ("read_quorum", "write_quorum", "rule", "strict", "siblings")
_OF_STRONG = (
    "shards_max",
    "split_bytes",
    "split_operations_a_second",
    "merge_bytes",
    "quotas",
)


def _check_regime(regime: str, given: OptionsGiven | UnsetType) -> None:
    """Options of the other regime are refused, not passed over."""
    if isinstance(given, UnsetType):
        return
    other = _OF_LEADERLESS if regime == Regime.STRONG else _OF_STRONG
    for name in other:
        if getattr(given, name) is not UNSET:
            raise InvalidKeyspaceError(
                f"{name} is an option of the other regime, and this keyspace is {regime}; leave it "
                "away"
            )


def _changed(options: KeyspaceOptions, given: OptionsGiven | UnsetType) -> KeyspaceOptions:
    if isinstance(given, UnsetType):
        return options
    fields = {name: value for name, value in asdict(given).items() if value is not UNSET}
    quotas = fields.pop("quotas", None)
    if quotas is not None:
        named = {name: value for name, value in asdict(quotas).items() if value is not UNSET}
        fields["quotas"] = replace(options.quotas, **named)
    return replace(options, **fields)
