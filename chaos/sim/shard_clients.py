"""Clients of shards: they look for who holds a key, and ask again until they know.

A write carries an idempotency token, and an attempt whose outcome is not known is repeated with it:
across splits, merges and changes of leaders it must take effect once. A client that gives up after
such an attempt says UNKNOWN. Watchers follow all changes of a keyspace with cursors, on any
replica, through every segment; what they saw is compared with what happened. And all keys are
listed page by page (lister.py).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from chaos.history import History, Kind, Operation
from chaos.sim.lister import Lister
from raftgroups.commands import Cas, Command, Put, Token, encode
from raftgroups.outcomes import Applied, ProposeResult, ReadReady, ReadResult, Refused
from raftgroups.results import CasResult, Failure, PutResult
from raftgroups.transport import NodeId
from storage.errors import CompactedError, WrongShardError
from storage.mvcc_events import read_events, segment_range

if TYPE_CHECKING:
    from chaos.sim.shard_node import ShardCluster, ShardNode

WIRE_S: Final = (0.0001, 0.003)
KEYS: Final = tuple(b"%c%d" % (letter, n) for letter in b"bfjnrvz" for n in (1, 5))
WATCH_S: Final = 0.2
LISTERS: Final = 2


class ShardWorkload:
    """Stands where Workload stands (chaos/sim/workload.py)."""

    def __init__(self, cluster: ShardCluster) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.history = History()
        self.results: Counter[str] = Counter()
        self.stopped = False
        self.served = cluster.served
        self.clients = [ShardClient(self, f"c{n}") for n in range(cluster.drawn.clients + 1)]
        self.listers = [Lister(self, f"l{n}", KEYS) for n in range(LISTERS)]
        self.watchers = [Watcher(self, keyspace) for keyspace in cluster.keyspaces]

    def start(self) -> None:
        for client in self.clients:
            client.pause()
        for lister in self.listers:
            lister.pause()
        for watcher in self.watchers:
            self.world.after(WATCH_S, watcher.poll)

    def stop(self) -> None:
        self.stopped = True

    def idle(self) -> bool:
        waiting = any(client.waiting is not None for client in self.clients)
        return not waiting and not any(lister.listing for lister in self.listers)


class ShardClient:
    def __init__(self, workload: ShardWorkload, name: str) -> None:
        self.workload = workload
        self.world = workload.world
        self.name = name
        self.rng = workload.world.rng(f"client/{name}")
        self.count = 0
        self.waiting: Operation | None = None
        self._unsure = False
        """An attempt of the operation under way may have taken effect, or still may."""
        self._attempt = 0
        self._keyspace = 0
        self._key = b""
        self._payload = b""
        self._unanswered: list[int] = []
        """Sequences whose outcome this client never learnt."""
        self._last_seen: dict[str, str | None] = {}
        self._leaders: dict[int, NodeId] = {}

    def pause(self) -> None:
        think_s = self.workload.cluster.drawn.think_s
        self.world.after(self.rng.expovariate(1.0 / think_s), self._act)

    # --- one operation -------------------------------------------------------------------------

    def _act(self) -> None:
        if self.workload.stopped:
            return
        operation = self._compose()
        self.waiting = self.workload.history.invoke(operation)
        self._unsure = False
        self.world.after(self.rng.choice((1.0, 3.0, 6.0)), self._give_up, operation)
        self._try(operation)

    def _compose(self) -> Operation:
        rng = self.rng
        self.count += 1
        self._keyspace = rng.choice(self.workload.cluster.keyspaces)
        self._key = rng.choice(KEYS)
        name = f"k{self._keyspace}/{self._key.decode()}"
        dice = rng.random()
        kind = Kind.READ if dice < 0.4 else Kind.WRITE if dice < 0.75 else Kind.CAS
        operation = Operation(
            f"{self.name}.{self.count}", self.name, "-", name, kind, self.world.now
        )
        if kind is not Kind.READ:
            operation.value = f"{self.name}.{self.count}"
            settled = min([self.count, *self._unanswered]) if rng.random() < 0.5 else 0
            token = Token(self.name.encode(), self.count, settled)
            self._payload = encode(self._command(operation, kind, name), token)
        return operation

    def _command(self, operation: Operation, kind: Kind, name: str) -> Command:
        assert operation.value is not None
        value = operation.value.encode()
        if kind is Kind.WRITE:
            return Put(self._key, value)
        operation.expected = self._last_seen.get(name)
        if operation.expected is None:
            return Cas(self._key, value, expected_revision=0)
        return Cas(self._key, value, expected_value=operation.expected.encode())

    def _try(self, operation: Operation) -> None:
        if self.waiting is not operation:
            return
        self._attempt += 1
        cluster, rng = self.workload.cluster, self.rng
        places = cluster.places(self._keyspace, self._key)
        nodes = [node for node in cluster.shard_nodes if node.running]
        if not places or not nodes:
            self._again(operation)
            return
        _, group_id = places[-1] if rng.random() < 0.8 else rng.choice(places)
        believed = self._leaders.get(group_id)
        node = next((node for node in nodes if node.node_id == believed), None)
        if node is None or rng.random() < 0.2:
            node = rng.choice(nodes)
        self.world.after(rng.choice((0.2, 0.5, 1.5)), self._impatient, operation, self._attempt)
        self.world.after(
            rng.uniform(*WIRE_S), self._ask, node, group_id, operation,
            owner=node.process, frame=True,
        )  # fmt: skip

    def _again(self, operation: Operation) -> None:
        self.world.after(self.rng.uniform(0.01, 0.1), self._try, operation)

    def _impatient(self, operation: Operation, attempt: int) -> None:
        if self.waiting is operation and attempt == self._attempt:
            self._unsure = True
            self._try(operation)

    def _ask(self, node: ShardNode, group_id: int, operation: Operation) -> None:
        assert node.host is not None, "a dead node is asked"
        if self.waiting is not operation:
            return
        group = node.host.groups.get(group_id)
        if group is None:
            self._later(self._refused, operation, group_id, None)
        elif operation.kind is Kind.READ:
            group.read(lambda result: self._read(node, group_id, operation, result))
        else:
            operation.node = node.label
            self._unsure = True  # until it is answered
            group.propose(self._payload, lambda result: self._proposed(group_id, operation, result))

    def _read(
        self, node: ShardNode, group_id: int, operation: Operation, result: ReadResult
    ) -> None:
        shard = node.shard(group_id)
        if not isinstance(result, ReadReady) or shard is None:
            leader = None if isinstance(result, ReadReady) else result.leader
            self._later(self._refused, operation, group_id, leader)
            return
        try:
            found = shard.view.get(self._key)
        except WrongShardError:
            self._later(self._refused, operation, group_id, None)
            return
        value = None if found is None else found.value.decode()
        operation.node = node.label
        self._later(self._done, operation, value, True)

    def _proposed(self, group_id: int, operation: Operation, result: ProposeResult) -> None:
        if isinstance(result, Applied):
            self._later(self._applied, operation, result.result)
        elif isinstance(result, Refused):
            self._later(self._refused, operation, group_id, result.leader)
        else:
            self._later(self._again, operation)

    def _later(self, step: Any, *args: object) -> None:
        self.world.after(self.rng.uniform(*WIRE_S), step, *args)

    # --- the answer ----------------------------------------------------------------------------

    def _applied(self, operation: Operation, result: Any) -> None:
        if isinstance(result, PutResult):
            self._done(operation, operation.value, True)
        elif isinstance(result, CasResult):
            current = None if result.current is None else result.current.value.decode()
            value = operation.value if result.succeeded else current
            self._done(operation, value, result.succeeded)
        else:
            assert isinstance(result, Failure), result
            self.workload.results[f"answer {result.code}"] += 1
            if result.unknown:
                self._lose(operation, result.code)
            else:
                self._again(operation)

    def _done(self, operation: Operation, value: str | None, changed: bool) -> None:
        if self._close(operation, "done"):
            self.workload.history.done(operation, self.world.now, value, changed=changed)
            self._last_seen[operation.key] = value
            self._end(operation)

    def _refused(self, operation: Operation, group_id: int, leader: NodeId | None) -> None:
        if leader is None:
            self._leaders.pop(group_id, None)
        else:
            self._leaders[group_id] = leader
        self._again(operation)

    def _give_up(self, operation: Operation) -> None:
        self._lose(operation, "no answer in time")

    def _lose(self, operation: Operation, why: str) -> None:
        if not self._close(operation, "unknown"):
            return
        self.workload.history.unknown(operation, why)
        if operation.kind is not Kind.READ:
            self._unanswered.append(self.count)
        self._end(operation)

    def _close(self, operation: Operation, result: str) -> bool:
        if self.waiting is not operation:
            return False
        self.waiting = None
        kind = "read" if operation.kind is Kind.READ else "write"
        self.workload.results[f"{kind} {result}"] += 1
        return True

    def _end(self, operation: Operation) -> None:
        note = f" ({operation.note})" if operation.note else ""
        self.world.trace(f"client {operation}{note}")
        self.pause()


Entry = tuple[bytes, bytes | None, int, int]
"""Of a cursor: from start to end, everything up to a revision of a segment was seen."""


class Watcher:
    """All changes of one keyspace, from the beginning. Invariant: `entries` cover all keys once."""

    def __init__(self, workload: ShardWorkload, keyspace: int) -> None:
        self.workload = workload
        self.keyspace = keyspace
        self.rng = workload.world.rng(f"watcher/{keyspace}")
        self.seen: list[tuple[bytes, int, bytes]] = []
        self.entries: list[Entry] = [
            (*piece, 1) for piece in workload.cluster.first_pieces[keyspace]
        ]
        self.hops = 0
        """How often a cursor went on in another segment."""

    def poll(self) -> None:
        for _ in range(2):
            self.advance(self.rng.choice(self.entries), self.rng.choice(self._nodes() or [None]))
        self.workload.world.after(WATCH_S, self.poll)

    def _nodes(self) -> list[Any]:
        return [node for node in self.workload.cluster.shard_nodes if node.running]

    def finish(self) -> None:
        """In the calm, when every replica has everything."""
        for _ in range(200):
            before = (len(self.seen), self.entries)
            for entry in list(self.entries):
                for node in self._nodes():
                    if entry in self.entries:
                        self.advance(entry, node)
            if before == (len(self.seen), self.entries):
                return

    def advance(self, entry: Entry, node: ShardNode | None) -> None:
        """Read on, with one node's help, for as much of the entry's keys as it can speak of."""
        start, end, segment, revision = entry
        if node is None:
            return
        for group_id, _ in node.groups():
            shard = node.shard(group_id)
            if shard is None or shard.shard.state.keyspace != self.keyspace:
                continue
            view = shard.view
            try:
                low, high = segment_range(view, segment)
            except CompactedError:
                continue
            low, high = max(low, start), _least(high, end)
            if high is not None and low >= high:
                continue
            page = read_events(
                view, revision + 1, low, high, segment=segment, max_events=self.rng.choice((2, 50))
            )
            self.seen += [(e.kv.key, e.kv.mod_revision, e.kv.value) for e in page.events]
            at = max(revision, page.next_revision - 1)
            own = view.segments.own
            now_in = own.segment if at >= own.first_revision - 1 else segment
            self.hops += now_in != segment
            rest: list[Entry] = [(low, high, now_in, at)]
            if start < low:
                rest.append((start, low, segment, revision))
            if high is not None and (end is None or high < end):
                rest.append((high, end, segment, revision))
            self.entries = [each for each in self.entries if each != entry] + rest
            return


def _least(one: bytes | None, other: bytes | None) -> bytes | None:
    return min((bound for bound in (one, other) if bound is not None), default=None)
