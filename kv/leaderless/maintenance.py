"""What a node does by itself, beside requests: two loops of named work, never two of one kind.

    mending, a look every look_s              housekeeping (housekeeping.py), likewise
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
from kv.leaderless import frames
from kv.leaderless.answering import Answering
from kv.leaderless.exchange import ExchangeError, Exchanger, ExchangeSettings, Report
from kv.leaderless.frames import MalformedFrameError, Mend, Reply, Settled, Status
from kv.leaderless.housekeeping import Housekeeping
from kv.leaderless.keyspace import Keyspace
from kv.leaderless.members import Members
from kv.leaderless.messenger import Outcome, SendReply
from kv.leaderless.parts import Parts
from kv.leaderless.procedure import Procedures, Signal
from kv.leaderless.reaper import Reaper, ReapSettings
from kv.leaderless.roots import Roots
from kv.leaderless.scanning import Scanner
from kv.leaderless.upkeep import ClearOverflow
from raftgroups.transport import NodeId
from storage.versions import LeafChange

JOBS_MAX: Final = 64
MEND_S: Final = 600.0
"""How long one waits for a peer that mends itself; then it is asked again."""


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
        pace = self._settings.exchange
        scanner = Scanner(
            parts, procedures, self.roots, slice_rows=pace.slice, pause_s=pace.pause_s
        )
        self.exchanger = Exchanger(parts, procedures, scanner, pace)
        self.answering = Answering(
            parts, procedures, scanner, self.roots, fetch_bytes=pace.fetch_bytes
        )
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
        self.house = Housekeeping(
            parts,
            members,
            procedures,
            self.exchanger,
            self.reaper,
            look_s=self._settings.look_s,
            pause_s=pace.pause_s,
        )
        self._leaving = self.left = False
        self.repairs = 0
        """With everybody, that came to their end or were broken off."""
        self.last_repair: Report | None = None
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
        self.house.took_foreign()

    def drop_keyspace(self, number: int) -> None:
        self.roots.pop(number, None)

    def start(self) -> None:
        self._repair_at_s = self._next_repair_s()
        self._procedures.start(self._mend, "mending")
        self.house.start()

    def view_changed(self) -> None:
        for roots in self.roots.values():
            roots.load()
        self.reaper.view_changed()
        self.house.view_changed()

    def _leaves_changed(self, changes: list[LeafChange], unsummed: set[int]) -> None:
        for number, roots in self.roots.items():
            if number in unsummed:
                roots.load()
            else:
                roots.changed([change[1:] for change in changes if change.keyspace == number])

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
            if not self.house.tidy or any(usage.count for usage in usages):
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
