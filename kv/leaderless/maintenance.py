"""What a node does by itself, beside requests: two loops of named work, never two of one kind.

    mending, a look every look_s              housekeeping, a look every look_s
      fill       what it lacks (filling.py)     foreign   copies that belong elsewhere go there
      step       joining -> normal, or leave    orphaned  hints whose target is gone
      jobs       repairs that were asked for    reap      every reap_s (reaper.py)
      period     repair with everybody
      overflow   ask the target of lost hints to mend itself

Repair compares with each peer in turn, one exchange at a time (exchange.py): the throttle of a node
is that it does one thing after the other, in slices. `repair` is the same on demand, with progress.

Joining. All that it lacks was compared twice with enough owners; all members say that they hold no
hint for it; then it says that it is normal, and reads come. Leaving. Everybody who gets its buckets
says that he lacks nothing, it has handed over hints and foreign copies; then it says farewell. Both
wait as long as it takes: a member that is away must come back, or be declared dead, first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from kv.cluster.membership import Status as MemberStatus
from kv.cluster.ring import BucketRange
from kv.leaderless import frames
from kv.leaderless.exchange import ExchangeError, Exchanger, ExchangeSettings, Report
from kv.leaderless.frames import Holds, MalformedFrameError, Mend, Reply, Settled, Status, Store
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.members import Members
from kv.leaderless.messenger import Outcome, SendReply
from kv.leaderless.parts import Parts
from kv.leaderless.procedure import Procedures, Signal
from kv.leaderless.put_core import Answer, Stored
from kv.leaderless.ranges import Ranges, joined, without
from kv.leaderless.reaper import Reaper, ReapSettings
from kv.leaderless.roots import Roots
from kv.leaderless.upkeep import ClearOverflow, DropForeign, MoveHint
from raftgroups.transport import NodeId
from storage.buckets import BUCKETS, DIGEST_BYTES, bucket_of
from storage.engine import Reader
from storage.errors import CorruptRecordError
from storage.hints import Hint, key_has_hints
from storage.objects import bucket_keys, read_digest, scan_leaves
from storage.siblings import encode_set
from storage.versions import LeafChange

JOBS_MAX: Final = 64
MEND_S: Final = 600.0
"""How long one waits for a peer that mends itself; then it is asked again."""
PAGE: Final = 256
GIVEN_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class MaintenanceSettings:
    look_s: float = 1.0
    repair_s: float = 3600.0
    """How often a node compares with everybody; 0: never by itself."""
    exchange: ExchangeSettings = field(default_factory=ExchangeSettings)
    reap: ReapSettings = field(default_factory=ReapSettings)


Progress = Callable[[NodeId, int, Report], None]
"""(peer, keyspace, the report so far), after each exchange."""
Repaired = Callable[[Report], None]


@dataclass(slots=True)
class _Job:
    peers: Sequence[NodeId] | None
    keyspaces: Sequence[int] | None
    progress: Progress | None
    done: Repaired


class Maintenance:
    def __init__(
        self,
        parts: Parts,
        members: Members,
        procedures: Procedures,
        *,
        boot: int,
        settings: MaintenanceSettings | None = None,
    ) -> None:
        self._parts = parts
        self._members = members
        self._procedures = procedures
        self._settings = settings or MaintenanceSettings()
        self.on_left: Callable[[], None] = lambda: None
        """This node has left the ring, and its process may end."""
        self.roots: dict[int, Roots] = {}
        for keyspace in parts.keyspaces.values():
            self._make_roots(keyspace)
        self.exchanger = Exchanger(parts, procedures, self.roots, self._settings.exchange)
        self.reaper = Reaper(
            parts,
            procedures,
            boot=boot,
            lacks=lambda keyspace, bucket: not members.may_read(keyspace, bucket),
            settings=self._settings.reap,
        )
        self._jobs: deque[_Job] = deque()
        self._mending: set[NodeId] = set()
        """Peers that were asked to mend themselves and have not answered."""
        self._repair_at_s = 0.0
        self._tidy = False
        """Whether the last look found no foreign copy, and none can have come since."""
        self._given: dict[tuple[int, bytes], int] = {}
        """Digests of foreign copies that all holders of this ring were given, and that stay until
        their hints are delivered."""
        self._leaving = self.left = False
        self.repairs = 0
        """With everybody, that came to their end or were broken off."""
        self.last_repair: Report | None = None
        self.foreign = 0
        """Copies that this node should not have, as the last look counted them."""
        parts.replica.on_leaves = self._leaves_changed

    def _make_roots(self, keyspace: Keyspace) -> Roots:
        roots = self.roots[keyspace.number] = Roots(
            self._parts.node,
            keyspace,
            view=self._parts.view,
            replica=self._parts.replica,
            procedures=self._procedures,
        )
        return roots

    def add_keyspace(self, keyspace: Keyspace) -> None:
        self._make_roots(keyspace).load()
        self._tidy = False

    def drop_keyspace(self, number: int) -> None:
        self.roots.pop(number, None)

    def start(self) -> None:
        self._repair_at_s = self._next_repair_s()
        self._procedures.start(self._mend(), "mending")
        self._procedures.start(self._keep_house(), "housekeeping")

    def took_foreign(self) -> None:
        """This node stands in for somebody; what is left of it is to be looked for."""
        self._tidy = False

    def view_changed(self) -> None:
        for roots in self.roots.values():
            roots.load()
        self.reaper.view_changed()
        self._given.clear()
        self._tidy = False

    def _leaves_changed(self, changes: list[LeafChange]) -> None:
        for roots in self.roots.values():
            roots.changed(changes)

    def _next_repair_s(self) -> float:
        # Not all nodes at once.
        share = self._parts.rng.uniform(0.75, 1.25)
        return self._parts.clock.monotonic() + self._settings.repair_s * share

    # --- on demand ------------------------------------------------------------------------

    def repair(
        self,
        done: Repaired,
        *,
        peers: Iterable[NodeId] | None = None,
        keyspaces: Iterable[int] | None = None,
        progress: Progress | None = None,
    ) -> bool:
        """Compare with these peers, or with all. False: too many wait already."""
        if len(self._jobs) >= JOBS_MAX:
            return False
        self._jobs.append(
            _Job(
                None if peers is None else tuple(peers),
                None if keyspaces is None else tuple(keyspaces),
                progress,
                done,
            )
        )
        return True

    def mend(self, reply: SendReply) -> None:
        """A peer lost hints for this node: it repairs itself, and then answers."""

        def done(report: Report) -> None:
            whole = not report.broken_off and not report.failed
            reply(Status.STORED if whole else Status.FAILED, b"" if whole else b"not with all")

        if not self.repair(done):
            reply(Status.FAILED, b"too many repairs wait already")

    # --- mending --------------------------------------------------------------------------

    async def _mend(self) -> None:
        while True:
            await self._procedures.pause(self._settings.look_s)
            if self._members.lacking:
                await self._fill()
            await self._step()
            if self._jobs:
                await self._do_jobs()
            now_s = self._parts.clock.monotonic()
            if self._settings.repair_s and now_s >= self._repair_at_s:
                self._repair_at_s = self._next_repair_s()
                self.last_repair = await self._repair(None, None, None)
            self._look_at_overflow()

    async def _fill(self) -> None:
        view = self._parts.view()
        for number, filling in list(self._members.fillings.items()):
            if not filling.lacking:
                continue
            done: set[NodeId] = set()
            for peer in sorted(filling.sources()):
                try:
                    # The second time finds what was written during the first, and shows that the
                    # first brought what it should.
                    await self.exchanger.with_peer(peer, number)
                    report = await self.exchanger.with_peer(peer, number)
                except ExchangeError:
                    continue
                if not report.failed:
                    done.add(peer)
            if view is not self._parts.view():
                return
            before = filling.has
            filling.compared_with(done)
            if filling.has != before:
                kept: Signal[None] = Signal()
                self._members.keep(partial(kept.set, None))
                await kept

    async def _do_jobs(self) -> None:
        """Those that came while others worked are one repair, if they want the same."""
        jobs, self._jobs = list(self._jobs), deque()
        whole = [job for job in jobs if (job.peers, job.keyspaces) == (None, None)]

        def tell(peer: NodeId, keyspace: int, report: Report) -> None:
            for job in whole:
                if job.progress is not None:
                    job.progress(peer, keyspace, report)

        if whole:
            report = await self._repair(None, None, tell)
            for job in whole:
                job.done(report)
        for job in jobs:
            if job not in whole:
                job.done(await self._repair(job.peers, job.keyspaces, job.progress))

    async def _repair(
        self,
        peers: Sequence[NodeId] | None,
        keyspaces: Sequence[int] | None,
        progress: Progress | None,
    ) -> Report:
        total = Report()
        members = sorted(self._parts.view().members - {self._parts.node})
        for peer in members if peers is None else peers:
            for number in list(self._parts.keyspaces) if keyspaces is None else keyspaces:
                try:
                    if not self._parts.reachable(peer):
                        raise ExchangeError(f"{peer} is not in reach")
                    total.add(await self.exchanger.with_peer(peer, number))
                except ExchangeError as error:
                    total.broken_off[peer] = str(error)
                if progress is not None:
                    progress(peer, number, total)
        self.repairs += peers is None
        return total

    def _look_at_overflow(self) -> None:
        for target, usage in self._parts.replica.hint_usages().items():
            node = NodeId(target)
            known = node in self._parts.view().members
            if not usage.overflowed or node in self._mending:
                continue
            if not known:
                self._parts.replica.submit(ClearOverflow(target, usage.overflowed))
            elif self._parts.reachable(node):
                self._mending.add(node)
                deadline_s = self._parts.clock.monotonic() + MEND_S
                self._parts.messenger.ask(
                    node, Mend(0), deadline_s, self._mended(node, usage.overflowed)
                )

    def _mended(self, node: NodeId, overflowed: int) -> Callable[[Outcome], None]:
        def told(outcome: Outcome) -> None:
            self._mending.discard(node)
            if isinstance(outcome, Reply) and outcome.status is Status.STORED:
                self._parts.replica.submit(ClearOverflow(node, overflowed))

        return told

    # --- joining and leaving --------------------------------------------------------------

    def leave(self) -> None:
        """Hand everything over and say farewell; `left` tells when."""
        if self._leaving:
            return
        self._leaving = True
        if self._members.gossip is not None:
            self._members.gossip.change_mine(lambda: None, status=MemberStatus.LEAVING)

    def stay(self) -> bool:
        """Leave no more: it has served all the time, and got every write. False: it has left."""
        if self.left:
            return False
        self._leaving = False
        if self._members.status is MemberStatus.LEAVING:
            self._change_status(MemberStatus.NORMAL)
        return True

    async def _step(self) -> None:
        status = self._members.status
        if status is MemberStatus.JOINING and self._filled():
            if await self._all_settled(need_filled=False):
                self._members.remember()
                self._change_status(MemberStatus.NORMAL)
        elif status is MemberStatus.NORMAL and self._members.forgetful and self._filled():
            if await self._all_settled(need_filled=False):
                self._members.remember()
        elif status is MemberStatus.LEAVING and not self.left:
            arriving = self._parts.view().arriving
            if arriving is None or not arriving.members:
                return  # nobody is there to take it over
            usages = self._parts.replica.hint_usages().values()
            if not self._tidy or any(usage.count for usage in usages):
                return
            if await self._all_settled(need_filled=True):
                self.left = True
                assert self._members.gossip is not None
                self._members.gossip.say_farewell("left")
                self.on_left()

    def _filled(self) -> bool:
        return not self._members.lacking and bool(self._parts.view().ring.members)

    def _change_status(self, status: MemberStatus) -> None:
        if self._members.gossip is not None:
            self._members.gossip.change_mine(lambda: None, status=status)

    async def _all_settled(self, *, need_filled: bool) -> bool:
        """Whether all members go by this ring, know the same keyspaces and hold no hint for this
        node; `need_filled`: and lack nothing."""
        view = self._parts.view()
        for peer in sorted(view.members - {self._parts.node}):
            outcome = await self.exchanger.ask(peer, Settled(0, view.epoch))
            if not isinstance(outcome, Reply) or outcome.status is not Status.SETTLED:
                return False
            try:
                told = frames.decode_body(frames.settled_decoder, outcome.body)
            except MalformedFrameError:
                return False
            if told.hints or (need_filled and told.lacks):
                return False
            if told.keyspaces != sorted(self._parts.keyspaces):
                return False
        return view is self._parts.view() and not self._members.lacking

    def settled(self, peer: NodeId, request: Settled, reply: SendReply) -> None:
        if request.ring != self._parts.view().epoch:
            reply(Status.OTHER_RING, b"")
            return
        usage = self._parts.replica.hint_usages().get(peer)
        hints = 0 if usage is None else usage.count + usage.overflowed
        told = frames.SettledBody(self._members.lacking, hints, sorted(self._parts.keyspaces))
        reply(Status.SETTLED, frames.encode_body(told))

    # --- housekeeping ---------------------------------------------------------------------

    async def _keep_house(self) -> None:
        settings = self._settings.reap
        reap_at_s = self._parts.clock.monotonic() + settings.reap_s
        while True:
            await self._procedures.pause(self._settings.look_s)
            await self._send_orphans()
            if not self._tidy:
                await self._send_foreign()
            now_s = self._parts.clock.monotonic()
            if settings.enabled and now_s >= reap_at_s:
                reap_at_s = now_s + settings.reap_s
                if not self._members.lacking:
                    await self.reaper.round()

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
            await self._procedures.pause(self._settings.exchange.pause_s)

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
        self._tidy = not found and view is self._parts.view()

    async def _send_foreign_of(self, keyspace: int, foreign: Ranges) -> int:
        found = 0
        for part in foreign:
            first = part.first
            while first <= part.last:
                page = scan_leaves(
                    self._parts.replica.reader(), keyspace, first, part.last, limit=PAGE
                )
                for bucket, _ in page.items:
                    found += await self._send_bucket(keyspace, bucket)
                first = page.items[-1][0] + 1 if page.more and page.items else part.last + 1
        return found

    async def _send_bucket(self, keyspace: int, bucket: int) -> int:
        reader = self._parts.replica.reader()
        keys: list[tuple[bytes, int]] = []
        waiting = 0
        for key in bucket_keys(reader, keyspace, bucket, limit=PAGE).items:
            try:
                digest = read_digest(reader, keyspace, key)
                if digest is not None and self._waits(reader, keyspace, key, digest):
                    waiting += 1
                    continue
            except CorruptRecordError:
                digest = None
            if digest is not None:
                keys.append((key, digest))
        if not keys:
            return waiting
        n = self._parts.keyspaces.n_of(keyspace)
        lacking: dict[bytes, list[NodeId]] = {key: [] for key, _ in keys}
        for peer in self._parts.view().holders(bucket, n):
            if not await self._ask_holder(peer, keyspace, keys, lacking):
                return waiting + len(keys)
        for key, digest in keys:
            if all([await self._give(peer, keyspace, key) for peer in lacking[key]]):
                self._drop_foreign(keyspace, bucket, key, digest)
                self._note_given(keyspace, key, digest)
        await self._procedures.pause(self._settings.exchange.pause_s)
        return waiting + len(keys)

    def _waits(self, reader: Reader, keyspace: int, key: bytes, digest: int) -> bool:
        """Whether all holders were given it, and it stays only until its last hint is delivered:
        they know more by now, and would be sent it again with each look."""
        if self._given.get((keyspace, key)) != digest:
            return False
        if key_has_hints(reader, keyspace, key):
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
        outcome = await self.exchanger.ask(peer, request)
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
        outcome = await self.exchanger.ask(peer, Store(0, keyspace, key, encoded, "", True))
        return isinstance(outcome, Reply) and outcome.status is Status.STORED

    def _drop_foreign(self, keyspace: int, bucket: int, key: bytes, digest: int) -> None:
        n = self._parts.keyspaces.n_of(keyspace)

        def is_foreign() -> bool:
            holders = self._parts.view().holders(bucket, n)
            return bool(holders) and self._parts.node not in holders

        replica = self._parts.replica
        replica.submit(DropForeign(replica, keyspace, key, digest, is_foreign))
