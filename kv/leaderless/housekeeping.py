"""What a node tidies up by itself: hints and copies that lie where they should not, dead keys.

    a look every look_s
      orphaned   hints whose target is gone, or all hints of a node that leaves: their sets go to
                 the owners of today
      foreign    copies of keys that this node is not to have: their holders get them, then they go
      reap       every reap_s (reaper.py)

A foreign copy is compared with its holders by digest and sent to those that lack it. It goes once
all have exactly it and no hint of the key waits here. Until then it is sent once to each ring: the
holders know more soon, and would be sent it again with every look.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Final

from kv.cluster.membership import Status as MemberStatus
from kv.cluster.ring import BucketRange
from kv.leaderless import frames
from kv.leaderless.exchange import Exchanger
from kv.leaderless.frames import Holds, MalformedFrameError, Reply, Status, Store
from kv.leaderless.members import Members
from kv.leaderless.parts import Parts
from kv.leaderless.procedure import Procedures, Signal
from kv.leaderless.put_core import Answer, Stored
from kv.leaderless.ranges import Ranges, joined, without
from kv.leaderless.reaper import Reaper
from kv.leaderless.upkeep import DropForeign, MoveHint
from raftgroups.transport import NodeId
from storage.buckets import BUCKETS, DIGEST_BYTES, bucket_of
from storage.hints import Hint, key_has_hints
from storage.objects import Indexed, scan_index
from storage.siblings import encode_set

PAGE: Final = 256
GIVEN_MAX: Final = 65_536


class Housekeeping:
    def __init__(
        self,
        parts: Parts,
        members: Members,
        procedures: Procedures,
        exchanger: Exchanger,
        reaper: Reaper,
        *,
        look_s: float,
        pause_s: float,
    ) -> None:
        self._parts = parts
        self._members = members
        self._procedures = procedures
        self._exchanger = exchanger
        self._reaper = reaper
        self._look_s = look_s
        self._pause_s = pause_s
        self.tidy = False
        """Whether the last look found no foreign copy, and none can have come since."""
        self._given: dict[tuple[int, bytes], int] = {}
        """Digests of foreign copies that all holders of this ring were given, and that stay until
        their hints are delivered."""
        self.foreign = 0
        """Copies that this node should not have, as the last look counted them."""

    def start(self) -> None:
        self._procedures.start(self._keep_house, "housekeeping")

    def took_foreign(self) -> None:
        """This node stands in for somebody; what is left of it is to be looked for."""
        self.tidy = False

    def view_changed(self) -> None:
        self._given.clear()
        self.tidy = False

    async def _keep_house(self) -> None:
        settings = self._reaper.settings
        reap_at_s = self._parts.clock.monotonic() + settings.reap_s
        while True:
            await self._procedures.pause(self._look_s)
            await self._send_orphans()
            if not self.tidy:
                await self._send_foreign()
            now_s = self._parts.clock.monotonic()
            if settings.enabled and now_s >= reap_at_s:
                reap_at_s = now_s + settings.reap_s
                if not self._members.lacking:
                    await self._reaper.round()

    async def _send_orphans(self) -> None:
        """Hints for nodes that are gone, and all hints of a node that leaves: their sets go to the
        owners of today."""
        leaving = self._members.status is MemberStatus.LEAVING
        for target in self._parts.replica.hint_usages():
            node = NodeId(target)
            gone = node not in self._parts.view().members
            if gone or leaving:
                await self._send_hints(node)

    async def _send_hints(self, target: NodeId) -> None:
        after, more = 0, True
        while more:
            page = self._parts.replica.hints(target, after=after, limit=PAGE, max_bytes=1 << 20)
            for sequence in page.damaged:
                self._parts.replica.discard_hint(target, sequence)
            after = max([after, *page.damaged, *(hint.sequence for hint in page.hints)])
            more = page.more
            for hint in page.hints:
                if await self._with_owners(hint):
                    self._parts.replica.submit(MoveHint(target, hint.sequence))
            await self._procedures.pause(self._pause_s)

    async def _with_owners(self, hint: Hint) -> bool:
        """Whether all holders have the hint's set now, but for a target that is away."""
        keyspace = self._parts.keyspaces.get(hint.keyspace)
        if keyspace is None:
            return True
        holders = self._parts.view().holders(bucket_of(hint.key), keyspace.n)
        encoded = encode_set(hint.siblings)
        signals: list[Signal[Answer]] = []
        for node in holders:
            if node != hint.target or self._parts.reachable(node):
                signal: Signal[Answer] = Signal()
                self._parts.store(node, hint.keyspace, hint.key, hint.siblings, encoded, signal.set)
                signals.append(signal)
        answers = [await signal for signal in signals]
        return bool(answers) and all(isinstance(answer, Stored) for answer in answers)

    async def _send_foreign(self) -> None:
        """Copies of keys that this node is not to have: their holders get them, then they go."""
        view = self._parts.view()
        found = 0
        for number, keyspace in list(self._parts.keyspaces.items()):
            held = view.held(self._parts.node, keyspace.n)
            foreign = without(joined([BucketRange(0, BUCKETS - 1)]), held)
            found += await self._send_foreign_of(number, foreign)
        self.foreign = found
        self.tidy = not found and view is self._parts.view()

    async def _send_foreign_of(self, keyspace: int, foreign: Ranges) -> int:
        found = 0
        replica = self._parts.replica
        for part in foreign:
            first: int | None = part.first
            while first is not None:
                page = scan_index(replica.reader(), keyspace, first, part.last, limit=PAGE)
                if page.damaged:
                    replica.mend_index(keyspace, page.damaged)
                for bucket, keys in groupby(page.items, attrgetter("bucket")):
                    found += await self._send_bucket(keyspace, bucket, list(keys))
                first = page.next
        return found

    async def _send_bucket(self, keyspace: int, bucket: int, found: Sequence[Indexed]) -> int:
        keys = [
            (each.key, each.digest)
            for each in found
            if not self._waits(keyspace, each.key, each.digest)
        ]
        if not keys:
            return len(found)
        n = self._parts.keyspaces.n_of(keyspace)
        lacking: dict[bytes, list[NodeId]] = {key: [] for key, _ in keys}
        for peer in self._parts.view().holders(bucket, n):
            if not await self._ask_holder(peer, keyspace, keys, lacking):
                return len(found)
        for key, digest in keys:
            if all([await self._give(peer, keyspace, key) for peer in lacking[key]]):
                self._drop_foreign(keyspace, bucket, key, digest)
                self._note_given(keyspace, key, digest)
        await self._procedures.pause(self._pause_s)
        return len(found)

    def _waits(self, keyspace: int, key: bytes, digest: int) -> bool:
        """Whether all holders were given it, and it stays only until its last hint is delivered:
        they know more by now, and would be sent it again with each look."""
        if self._given.get((keyspace, key)) != digest:
            return False
        if key_has_hints(self._parts.replica.reader(), keyspace, key):
            return True
        del self._given[keyspace, key]
        return False

    def _note_given(self, keyspace: int, key: bytes, digest: int) -> None:
        if len(self._given) >= GIVEN_MAX:
            self._given.clear()
        if key_has_hints(self._parts.replica.reader(), keyspace, key):
            self._given[keyspace, key] = digest

    async def _ask_holder(
        self,
        peer: NodeId,
        keyspace: int,
        keys: Sequence[tuple[bytes, int]],
        lacking: dict[bytes, list[NodeId]],
    ) -> bool:
        digests = [digest.to_bytes(DIGEST_BYTES, "big") for _, digest in keys]
        request = Holds(0, keyspace, [key for key, _ in keys], digests)
        outcome = await self._exchanger.ask(peer, request)
        if not isinstance(outcome, Reply) or outcome.status is not Status.HOLDS:
            return False
        try:
            answers = frames.decode_body(frames.holds_decoder, outcome.body)
        except MalformedFrameError:
            return False
        for (key, _), has in zip(keys, answers, strict=False):
            if not has:
                lacking[key].append(peer)
        return len(answers) == len(keys)

    async def _give(self, peer: NodeId, keyspace: int, key: bytes) -> bool:
        """Whether the peer has, synced, what this node holds of the key."""
        encoded = self._parts.replica.read_encoded(keyspace, key)
        if not isinstance(encoded, bytes):
            return False
        outcome = await self._exchanger.ask(peer, Store(0, keyspace, key, encoded, "", True))
        return isinstance(outcome, Reply) and outcome.status is Status.STORED

    def _drop_foreign(self, keyspace: int, bucket: int, key: bytes, digest: int) -> None:
        n = self._parts.keyspaces.n_of(keyspace)

        def is_foreign() -> bool:
            holders = self._parts.view().holders(bucket, n)
            return bool(holders) and self._parts.node not in holders

        replica = self._parts.replica
        replica.submit(DropForeign(replica, keyspace, key, digest, is_foreign))
