"""Somebody who lists all keys of a keyspace, page by page, while its shards split, merge and move.

Pages are those of the product (kv/api/listing.py), put together of parts as its route does, and a
listing goes on from page to page by the cursor, as the text that callers are given. What it said is
judged by checkers/listings.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from chaos.checkers.listings import Listed, check_order, reads_of
from kv.api.cursor import unpack
from kv.api.listing import LISTING, SCAN, Page, Part, cursor_of, last_key_before, part_of, resumed
from kv.strong.reader import ReplicaReader
from raftgroups.outcomes import ReadReady, ReadResult
from storage.errors import CompactedError, WrongShardError

if TYPE_CHECKING:
    from chaos.sim.shard_clients import ShardWorkload
    from chaos.sim.shard_node import ShardNode

WIRE_S: Final = (0.0001, 0.003)
PAUSE_S: Final = 1.0
BETWEEN_S: Final = (0.01, 0.05, 0.3)
"""Pages, at most."""
PATIENCE_S: Final = 8.0
IMPATIENT_S: Final = 0.4


class Lister:
    def __init__(self, workload: ShardWorkload, name: str, keys: tuple[bytes, ...]) -> None:
        """`keys`: those that the history tells of."""
        self.workload = workload
        self.world = workload.world
        self.name = name
        self.keys = keys
        self.rng = workload.world.rng(f"lister/{name}")
        self.listing = False
        self._count = 0
        self._attempt = 0
        self._keyspace = 0
        self._kind = LISTING
        self._page = Page(b"", None, 1)
        self._rest = self._page
        self._listed: list[Listed] = []
        self._began = 0.0
        self._between_s = 0.0

    def pause(self) -> None:
        self.world.after(self.rng.expovariate(1.0 / PAUSE_S), self._begin)

    def _begin(self) -> None:
        if self.workload.stopped:
            return
        rng = self.rng
        self._count += 1
        self.listing = True
        self._keyspace = rng.choice(self.workload.cluster.keyspaces)
        self._kind = rng.choice((LISTING, SCAN))
        reverse = self._kind == LISTING and rng.random() < 0.4
        self._page = self._rest = Page(
            b"", None, rng.choice((1, 2, 5)), reverse=reverse, values=True
        )
        self._listed = []
        self._began = self.world.now
        self._between_s = rng.choice(BETWEEN_S)
        self._ask()

    def _end(self, how: str) -> None:
        self.listing = False
        self._attempt += 1
        self.workload.results[f"listing {how}"] += 1
        self.pause()

    # --- a part --------------------------------------------------------------------------------

    def _ask(self) -> None:
        if self.world.now > self._began + PATIENCE_S:
            self._end("not done in time")
            return
        self._attempt += 1
        rest, cluster = self._rest, self.workload.cluster
        first = last_key_before(rest.end) if rest.reverse else rest.start
        places = cluster.places(self._keyspace, first)
        self.world.after(IMPATIENT_S, self._impatient, self._attempt)
        if not places:
            return
        _, group_id = places[-1] if self.rng.random() < 0.9 else self.rng.choice(places)
        nodes = [node for node in cluster.shard_nodes if node.shard(group_id) is not None]
        if nodes:
            node, attempt = self.rng.choice(nodes), self._attempt
            self.world.after(
                self.rng.uniform(*WIRE_S), self._ask_node, node, group_id, attempt,
                owner=node.process, frame=True,
            )  # fmt: skip

    def _impatient(self, attempt: int) -> None:
        if self.listing and attempt == self._attempt:
            self._ask()

    def _ask_node(self, node: ShardNode, group_id: int, attempt: int) -> None:
        assert node.host is not None, "a dead node is asked"
        group = node.host.groups.get(group_id)
        if group is None:
            return

        def ready(result: ReadResult) -> None:
            shard = node.shard(group_id)
            if not isinstance(result, ReadReady) or shard is None or attempt != self._attempt:
                return  # asked again when it has taken too long
            reader = ReplicaReader(shard, group_id, lambda: 0)
            try:
                part = part_of(reader, self._rest)
            except WrongShardError:
                return
            except CompactedError:
                self._later(self._end, "compacted")
                return
            self._later(self._take, part)

        group.read(ready)

    def _later(self, step: Any, *args: object) -> None:
        self._attempt += 1
        self.world.after(self.rng.uniform(*WIRE_S), step, *args)

    def _take(self, part: Part) -> None:
        for each in part.keys:
            assert isinstance(each.value, str), "values were asked for"
            self._listed.append((each.key.encode(), each.value))
        if part.rest is None:
            self._judge()
            return
        left = self._rest.limit - len(part.keys)
        if part.bounded or left <= 0:
            self._page = resumed(self._page, unpack(cursor_of(self._kind, part.rest), self._kind))
            self._rest = self._page
            self.world.after(self.rng.uniform(0.0, self._between_s), self._ask)
        else:
            self._rest = part.rest._replace(limit=left)
            self._ask()

    def _judge(self) -> None:
        name = f"{self.name}.{self._count}"
        what = f"{name} ({'reverse' if self._page.reverse else self._kind})"
        found = check_order(what, self._listed, reverse=self._page.reverse)
        self.workload.cluster.observer.report(found)
        times = (self._began, self.world.now)
        for read in reads_of(name, self._keyspace, self._listed, self.keys, times):
            self.workload.history.invoke(read)
        self._end("done")
