"""Shards that divide themselves, in the simulator: production divider, attendants, meta machine.

    python -m chaos.sim.division --seeds 0..50

One keyspace, its map in group 0, an attendant and a divider on every node; whoever
leads group 0 plans. Limits of the keyspace change every now and then, so that shards become too
large, too busy or too small; somebody asks for splits and merges by hand besides; and all faults
strike that leave members alone. Judged is what chaos/sim/shards.py judges (every key linearizable,
every write once, nothing lost, no gap and no overlap, replicas equal), and that in the end nothing
is under way and the map says of every shard what its group says.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from msgspec.structs import replace as with_fields

from chaos.checkers.violation import Violation
from chaos.sim.map_node import Bounds, MapCluster, MapNode, draw_with_map
from chaos.sim.placement import FAULTS
from chaos.sim.settings import DrawnSettings, SimConfig
from chaos.sim.shard_clients import KEYS
from chaos.sim.shard_node import ShardCluster, ShardNode, SimShard
from chaos.sim.shards import ShardSimulation
from chaos.sim.simulation import SeedResult
from chaos.sim.world import NodeScheduler
from kv.division.attendant import Attendant
from kv.division.divider import Divider, DividerSettings, begin
from kv.division.figures import Shown
from kv.division.limits import Due, Pace
from kv.division.words import MERGE, SPLIT
from kv.strong.forward import Forwarder
from kv.strong.frames import Question
from raftgroups.group import Group, tell_each
from raftgroups.host import GroupHost
from raftgroups.machine_parts import ShardPlace
from raftgroups.meta.commands import AlterKeyspace, MetaCommand
from raftgroups.meta.machine import META_GROUP
from raftgroups.meta.records import (
    DEFAULT_KEYSPACE_ID,
    META_SHARD,
    KeyspaceOptions,
)
from raftgroups.outcomes import DoneEach, ProposeResult, Refused
from raftgroups.transport import Link, NodeId

PACE: Final = Pace(at_once=2, apart_s=0.5, split_after_s=0.5, merge_after_s=1.0, again_after_s=1.0)
OPERATE_EVERY_S: Final = 1.5


class DividedNode(MapNode, ShardNode):
    cluster: DividedCluster

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.divider: Divider | None = None
        self._forwarder: Forwarder | None = None
        self.meters: Attendant | None = None

    def shard(self, group_id: int) -> SimShard | None:
        return None if group_id == META_GROUP else super().shard(group_id)

    def _is_over(self, group_id: int) -> bool:
        return self.view.is_over(group_id)  # as kv/meta/keeper.py has it

    def _first_place(self, group_id: int) -> ShardPlace:
        start, end = self.cluster.first_ranges()[group_id - 1]
        return ShardPlace(group_id, group_id, DEFAULT_KEYSPACE_ID, group_id, start, end)

    def _assembled(self, host: GroupHost, link: Link, scheduler: NodeScheduler) -> None:
        super()._assembled(host, link, scheduler)
        mail = self.mail
        self._forwarder = Forwarder(
            link,
            scheduler=scheduler,
            clock=self.clock,
            execute=self._lead_each,
            evaluate=self._evaluate,
        )
        host.on_answered(self._forwarder.flush)
        attendant = Attendant(
            host=host,
            notes=mail,
            scheduler=scheduler,
            clock=self.clock,
            rng=random.Random(self.rng.getrandbits(64)),
        )
        self.divider = Divider(
            node_id=self.node_id,
            meta=self,
            notes=mail,
            attendant=attendant,
            propose=self._propose_to_group,
            leader_of=self._leader_of,
            scheduler=scheduler,
            clock=self.clock,
            settings=DividerSettings(pace=PACE, idle_s=0.5),
        )
        self.meters = attendant
        attendant.start()
        self.divider.start()

    def learn(self, view: Any) -> bool:
        newer = super().learn(view)
        if newer and self.divider is not None and self.host is not None:
            self.divider.hurry()
        return newer

    def _leader_of(self, group_id: int) -> NodeId | None:
        group = None if self.host is None else self.host.groups.get(group_id)
        return None if group is None else group.leader

    def _propose_to_group(
        self,
        target: NodeId,
        group: int,
        payload: bytes,
        within_s: float,
        done: Callable[[ProposeResult], None],
    ) -> None:
        assert self._forwarder is not None
        self.world.trace(f"{self.label} asks {target} to propose to g{group}")
        if target == self.node_id:
            self._lead_each(group, (payload,), (done,), tell_each)
        else:
            until_s = self.clock.monotonic() + within_s
            self._forwarder.send(target, group, payload, until_s, done, repeatable=True)

    def _lead_each(
        self, group_id: int, payloads: Sequence[bytes], askers: Sequence[Any], done: DoneEach
    ) -> None:
        group = None if self.host is None else self.host.groups.get(group_id)
        if group is None or group.blank:
            refused = Refused("it is not here")
            self.world.at(self.world.now, done, askers, refused, owner=self.process)
        else:
            group.propose_each(payloads, askers, done)

    def _evaluate(self, question: Question, done: Callable[[ProposeResult], None]) -> None:
        """For nodes without a replica. (chaos/sim/served_node.py serves them.)"""
        done(Refused("it is not served here"))

    @property
    def shard_groups(self) -> list[Group]:
        return [group for group_id, group in self.groups() if group_id != META_GROUP]


class DividedCluster(MapCluster, ShardCluster):
    def __init__(self, config: SimConfig, drawn: DrawnSettings, **options: Any) -> None:
        super().__init__(config, drawn, **options)
        self.keyspaces = [DEFAULT_KEYSPACE_ID]
        pieces = [(*bounds, group) for group, bounds in enumerate(self.first_ranges(), 1)]
        self.first_pieces = {DEFAULT_KEYSPACE_ID: pieces}

    def _make_node(self, *args: Any) -> DividedNode:
        node = DividedNode(*args)
        node.cluster = self
        return node

    @property
    def divided(self) -> Sequence[DividedNode]:
        return cast(list[DividedNode], self.nodes)

    def planner(self) -> DividedNode | None:
        return cast(DividedNode | None, super().planner())

    def first_ranges(self) -> list[Bounds]:
        """Cut evenly between the keys that are used."""
        groups = self.config.groups
        edges = [KEYS[len(KEYS) * place // groups][:1] for place in range(1, groups)]
        return list(zip([b"", *edges], [*edges, None], strict=True))


class Restless:
    """Changes the limits of the keyspace, asks for splits and merges by hand. In the place of
    chaos/sim/shards.py Planner; but what it wants is done by the nodes."""

    def __init__(self, cluster: DividedCluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.rng: random.Random = cluster.world.rng("restless")
        self.done: Counter[str] = Counter()
        self.stopped = False

    def start(self) -> None:
        self.world.after(self.rng.expovariate(1.0 / OPERATE_EVERY_S), self._act)

    def _act(self) -> None:
        if not self.stopped:
            self.rng.choice([self.options, self.split, self.merge])()
            self.start()

    @property
    def _planner(self) -> DividedNode | None:
        planner = self.cluster.planner()
        return planner if planner is not None and planner.view.version else None

    def _propose(self, planner: DividedNode, what: str, command: MetaCommand) -> None:
        self.world.trace(f"somebody: {what}")
        self.done[what] += 1
        planner.propose(command)

    def options(self) -> None:
        planner = self._planner
        if planner is None:
            return
        rng, known = self.rng, planner.view.keyspaces[DEFAULT_KEYSPACE_ID].options
        split_bytes = rng.choice((0, 100, 400))
        options = with_fields(
            known,
            shards_max=rng.choice((0, 6, 9)) if split_bytes else 8,
            split_bytes=split_bytes,
            split_operations_a_second=rng.choice((0, 2, 50)),
            merge_bytes=rng.choice((0, 10_000)) if not split_bytes else split_bytes // 2,
        )
        if options != known:
            self._propose(planner, "options", AlterKeyspace("default", known, options))

    def split(self) -> None:
        planner = self._planner
        if planner is None:
            return
        view, key = planner.view, self.rng.choice(KEYS)
        shards = view.shards_of(DEFAULT_KEYSPACE_ID)
        shard = next((each for each in shards if each.holds(key) and key > each.start), None)
        if shard is not None and len(shards) < 12:
            due = Due(SPLIT, (shard.shard,), key, "by hand")
            self._propose(planner, "split by hand", begin(view, due, Shown()))

    def merge(self) -> None:
        planner = self._planner
        if planner is None:
            return
        shards = planner.view.shards_of(DEFAULT_KEYSPACE_ID)
        if len(shards) > 1:
            place = self.rng.randrange(len(shards) - 1)
            due = Due(MERGE, (shards[place].shard, shards[place + 1].shard), b"", "by hand")
            self._propose(planner, "merge by hand", begin(planner.view, due, Shown()))

    # --- chaos/sim/shards.py Planner ---

    def settle(self) -> None:
        """In the calm: no limits, so that it comes to rest."""
        self.stopped = True
        planner = self.cluster.planner()
        known = None
        if planner is not None and planner.view.keyspaces:
            known = planner.view.keyspaces[DEFAULT_KEYSPACE_ID].options
        if planner is not None and known is not None:
            calm = KeyspaceOptions(replication=known.replication)
            if known != calm:
                planner.propose(AlterKeyspace("default", known, calm))

    def busy(self) -> str | None:
        planner = self.cluster.planner()
        if planner is None:
            return "nobody plans"
        if planner.view.operations:
            return f"operations are under way: {sorted(planner.view.operations.values(), key=str)}"
        for node in self.cluster.divided:
            if node.running and node.view.version != planner.view.version:
                return f"{node.label} has an older map"
            for group in node.shard_groups:
                state = cast(Any, group.machine).shard.state
                if state.merging_with or state.frozen_by:
                    return f"group {group.group_id} takes part in a merge"
        return None


class DividedSimulation(ShardSimulation):
    cluster: DividedCluster

    def __init__(self, cluster: DividedCluster) -> None:
        super().__init__(cluster)
        self.restless = Restless(cluster)
        self.planner = cast(Any, self.restless)

    def _await_forming(self) -> None:
        super()._await_forming()
        self.cluster.begin()
        for node in self.cluster.divided:
            node.to_form = {}  # what was merged away is not formed again
        self._go()

    def _go(self) -> None:
        self.restless.start()

    def _judge(self) -> None:
        if not self.result.stuck:
            self.cluster.observer.report(self._compare_maps())
        super()._judge()

    def divisions(self) -> Counter[str]:
        """That were done."""
        cluster = self.cluster
        seen = (*cluster.groups, *cluster.gone)
        born = {group for group in seen if group > cluster.config.groups}
        return Counter(splits=len(born), merges=len(cluster.gone))

    def _compare_maps(self) -> list[Violation]:
        """What the map says of shards is what their groups say, wherever it says they are."""
        planner = self.cluster.planner()
        assert planner is not None, "somebody plans, or it would be stuck"
        found = []
        for node in self.cluster.divided:
            told = {
                each.shard: (each.start, each.end, each.segment)
                for each in planner.view.shards_on(node.node_id)
                if each.shard != META_SHARD
            }
            true = {}
            for group in told:
                shard = node.shard(group)
                if shard is not None:
                    own = shard.view.segments.own
                    true[group] = (own.start, own.end, own.segment)
            if true != told:
                found.append(Violation("map", f"{node.label} has {true}, the map has {told}"))
        return found


def simulate(
    seed: int,
    *,
    nodes: int = 3,
    groups: int = 1,
    seconds: float = 40.0,
    faults: frozenset[str] = FAULTS,
    sink: Callable[[str], None] | None = None,
) -> tuple[SeedResult, dict[str, int], Counter[str]]:
    """(result, what somebody asked for, operations that ended in the map, by kind)."""
    config = SimConfig(seed, nodes, groups, seconds, faults)
    drawn = draw_with_map(config)
    cluster = DividedCluster(config, drawn, sink=sink)
    simulation = DividedSimulation(cluster)
    result = simulation.run()
    return result, dict(simulation.restless.done), simulation.divisions()


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate shards that divide themselves.")
    parser.add_argument("--seeds", default="0..10", metavar="A..B")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40.0, metavar="S", help="virtual (40)")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    args = parser.parse_args()
    first, _, last = args.seeds.partition("..")
    bad = 0
    total: Counter[str] = Counter()
    for seed in range(int(first), int(last)):
        result, asked, done = simulate(
            seed,
            nodes=args.nodes,
            seconds=args.seconds,
            sink=_print if args.trace else None,
        )
        bad += not result.ok
        total += done
        word = "ok " if result.ok else "BAD"
        _print(f"seed {seed} {word} at rest after {result.recovered_s} s, {asked}, {dict(done)}")
        for violation in (*result.violations, *result.stuck):
            _print(f"  {violation}")
    _print(f"{bad} bad; {dict(total)}")
    return 1 if bad else 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
