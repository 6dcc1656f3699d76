"""Read points of one replica: joins the rules of reads.py with the core and the network.

Reads do not wait for turns: a probe and its echo depend on nothing that is not on the disk, so they
leave at once, even while a sync is in flight. `depart` is called once a pass of the loop, so that
all reads that wait share one probe. They also share one Reader, a Together: the first read brings
it, the others are only appended to it until it leaves, which is all that a read costs here.

A probe goes to as many voters as make a majority with us: those that were heard last. If they do
not echo in half a heartbeat, or one of them is lost, everybody is asked. So with three voters a
probe is one frame there and one back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from raftgroups.membership import Config
from raftgroups.messages import Echo, Probe, ReadIndex, ReadRequest
from raftgroups.outcomes import ReadReady, ReadResult, Refused
from raftgroups.reads import NOTHING, Flight, Reader, ReadPoints
from raftgroups.transport import NodeId

if TYPE_CHECKING:
    from raftgroups.replica import Replica


_logger = logging.getLogger(__name__)

_NEVER = float("inf")
_new: Final = tuple.__new__
"""Makes a named tuple at a third of the price."""
Told = Callable[[ReadResult], None]
Tell = Callable[[list[Any], ReadResult], None]


class Together:
    """Reads that ask for their point together. Whoever opened it appends what it likes to `reads`,
    as long as it has not `left` and holds fewer than `most`; `tell(reads, result)` is called once,
    from the loop, and nothing is appended after that."""

    __slots__ = ("left", "most", "reads", "tell")

    def __init__(self, tell: Tell, most: int) -> None:
        self.tell = tell
        self.most = most
        self.reads: list[Any] = []
        self.left = False


class ReadPath:
    """Invariant: `_joinable` are in Readers that have not been answered and have not left."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.points = ReadPoints(replica.services.rng.randrange(0, 1 << 32))
        self._resend_at = _NEVER
        """When the flight counts as lost on its way."""
        self._heard: dict[NodeId, None] = {}
        """Who echoed or asked, in order: those heard last at the end."""
        self._last_heard: NodeId | None = None
        self._own_term = -1
        """The last term of which, leading, we know that an entry is committed."""
        canaries = replica.services.config.canaries
        self._joins_flight = "read-joins-probe-in-flight" in canaries
        self._waits_for_own_term = "read-index-without-own-term" not in canaries
        self._adopt(replica.journal.config)
        self._asked: NodeId | None = None
        self._joinable: list[Together] = []
        self._single: Together | None = None
        self._local = 0
        """Reads of this node that have left and were not told yet."""

    def _adopt(self, config: Config) -> None:
        """What is asked of a configuration at every read point."""
        services = self._replica.services
        self._config = config
        self._voices: dict[NodeId, tuple[int, int]] = {}
        """Voters that were heard, with their incarnation and what the core calls them."""
        self._majority = config.majority()
        self._others = [voter for voter in config.voters if voter != services.node_id]
        self._request_is_echo = (
            self._majority <= 2
            and config.is_voter(services.node_id, services.incarnation)
            and self._waits_for_own_term
        )

    def read(self, done: Told) -> None:
        """One alone. Those of one pass are together all the same."""
        together = self._single
        if together is None or together.left:
            together = self._single = self.open(_tell_each)
        if len(together.reads) < together.most:
            together.reads.append(done)
        else:
            self._replica.services.answer(partial(done, self.too_many()))

    def open(self, tell: Tell) -> Together:
        replica = self._replica
        services = replica.services
        together = Together(tell, max(0, services.config.reads_max - self._local))
        self._joinable.append(together)
        deadline = services.clock.monotonic() + services.config.read_timeout_s
        self._arrive(_new(Reader, (partial(self._answer, together), deadline, False)))
        return together

    def too_many(self) -> Refused:
        waiting = self._local + sum(len(each.reads) for each in self._joinable)
        return Refused(f"{waiting} reads wait already; slow down", busy=True)

    def _answer(self, together: Together, index: int | None, why: str) -> None:
        replica = self._replica
        if together.left:
            self._local -= len(together.reads)
        else:
            together.left = True
            self._joinable.remove(together)
        result = Refused(why, replica.leader_hint()) if index is None else ReadReady(index)
        replica.services.answer(partial(together.tell, together.reads, result))

    def _arrive(self, reader: Reader) -> None:
        replica, points = self._replica, self.points
        if self._joins_flight:
            points.arrive(reader, join_flight=True)
        else:
            points.waiting.append(reader)
        services, group_id = replica.services, replica.group_id
        if points.flight is None or services.asleep(group_id):
            services.reads_arrived(group_id)  # else it leaves when what is in flight is done

    # --- out -----------------------------------------------------------------------------

    def depart(self) -> float:
        """Let what waits leave, if it may. Returns when something is to be done though nothing
        happens."""
        points, replica = self.points, self._replica
        raft = replica.raft
        if not points.waiting or points.flight is not None:
            return self.deadline()
        term, leader, index = raft.term, None, 0
        if raft.leads:
            if self._waits_for_own_term and term != self._own_term and not self._settle():
                return self.deadline()
            index = raft.commit_index
        else:
            leader = raft.leader
            if leader is None or not replica.services.connected(leader):
                return self.deadline()
        for together in self._joinable:
            together.left = True
            self._local += len(together.reads)
        self._joinable.clear()
        flight = points.depart(term, index)
        assert flight is not None, "there is none, and somebody waits"
        if leader is not None:
            self._send_request(leader, flight)
        else:
            if replica.journal.config is not self._config:
                self._adopt(replica.journal.config)
            if self._majority == 1:
                self._confirmed(None)
                return self.deadline()
            self._send_probe(flight)
        resend_at, deadline = self._resend_at, flight.readers[0].deadline  # others were told of
        return resend_at if resend_at < deadline else deadline

    def _settle(self) -> bool:
        """Whether an entry of our own term is committed: then it stays so."""
        if not self._replica.own_term_committed():
            return False
        self._own_term = self._replica.raft.term
        return True

    def _send_probe(self, flight: Flight, *, again: bool = False) -> None:
        replica = self._replica
        services, asked = replica.services, self._others
        enough = self._majority - 1
        wait_s = 2 * services.config.heartbeat_s
        if not again and enough < len(asked):
            last = self._last_heard
            asked = [last] if enough == 1 and last in asked else self._heard_last(enough)
            wait_s /= 4
        self._resend_at = services.clock.monotonic() + wait_s
        probe = _new(Probe, (replica.group_id, flight.term, flight.number))
        for voter in asked:
            services.send_now(voter, probe)

    def _heard_last(self, count: int) -> list[NodeId]:
        found = [voter for voter in reversed(self._heard) if voter in self._others]
        found += [voter for voter in self._others if voter not in self._heard]
        return found[:count]

    def peer_lost(self) -> None:
        """Perhaps the one whose echo is waited for."""
        if self.points.flight is not None and self._replica.raft.leads:
            self._ask_everybody(self.points.flight)

    def _ask_everybody(self, flight: Flight) -> None:
        if self._replica.journal.config is not self._config:
            self._adopt(self._replica.journal.config)
        self._send_probe(flight, again=True)

    def _send_request(self, leader: NodeId, flight: Flight) -> None:
        replica = self._replica
        services = replica.services
        self._resend_at = services.clock.monotonic() + 2 * services.config.heartbeat_s
        self._asked = leader
        request = _new(ReadRequest, (replica.group_id, flight.term, flight.number))
        services.send_now(leader, request)

    def after_tick(self) -> None:
        """The core has moved on and somebody waits: answer, leave, or say again what may have been
        lost."""
        points, replica = self.points, self._replica
        if not replica.installing:
            points.applied(replica.raft.applied_index)
        flight = points.flight
        if flight is None:
            self.depart()
            return
        raft = replica.raft
        lost = flight.term != raft.term or (not raft.leads and raft.leader != self._asked)
        if lost:
            self.leadership_changed()
            self.depart()
        elif replica.now() >= self._resend_at:
            if raft.leads:
                self._ask_everybody(flight)
            elif raft.leader is not None:
                self._send_request(raft.leader, flight)

    def leadership_changed(self) -> None:
        """The flight is worth nothing any more, and other nodes must ask elsewhere."""
        for reader in self.points.abandon(requeue=True) + self.points.drop_remote():
            reader.answer(None, "the leader changed; ask again")

    # --- back ----------------------------------------------------------------------------

    def on_probe(self, peer: NodeId, _: int, probe: Probe) -> None:
        replica = self._replica
        if probe.term != replica.raft.term or replica.raft.leader != peer:
            return replica.drop(peer, "late-probe")
        return replica.services.send_now(peer, _new(Echo, probe))

    def on_echo(self, peer: NodeId, incarnation: int, echo: Echo) -> None:
        replica = self._replica
        raft, (_, term, number) = replica.raft, echo
        if replica.journal.config is not self._config:
            self._adopt(replica.journal.config)
        if not (raft.leads and term == raft.term and self._note_voice(peer, incarnation)):
            return replica.drop(peer, "late-echo")
        count = self.points.echo(peer, term, number)
        if count is not None and count + 1 >= self._majority:
            self._confirmed(None)
        return None

    def _note_voice(self, peer: NodeId, incarnation: int) -> bool:
        """Note that a voter was heard. False: this is none."""
        replica, voice = self._replica, self._voices.get(peer)
        if voice is None or voice[0] != incarnation:
            if not self._config.is_voter(peer, incarnation):
                return False
            voice = self._voices[peer] = (incarnation, replica.raft.node(peer))
        replica.raft.heard(voice[1], replica.now())
        if peer != self._last_heard:
            self._last_heard = peer
            self._heard.pop(peer, None)
            self._heard[peer] = None
        return True

    def on_request(self, peer: NodeId, incarnation: int, request: ReadRequest) -> None:
        replica = self._replica
        raft, (_, term, number) = replica.raft, request
        if replica.journal.config is not self._config:
            self._adopt(replica.journal.config)
        # Whether the request itself says what a probe would ask. Its sender was in our term when it
        # left, after its reads had come. With us it is a majority (of two or three voters), so
        # until then no later leader can have been elected, and everything acknowledged is ours.
        if (
            raft.leads
            and term == raft.term
            and self._request_is_echo
            and (term == self._own_term or self._settle())
            and self._note_voice(peer, incarnation)
        ):
            index = raft.commit_index
            progress = replica.replication.progress.get(peer)
            if progress is not None and progress.commit_sent < index:  # else all is told
                replica.replication.tell_commit(peer)
            answer = _new(ReadIndex, (replica.group_id, term, number, index))
            replica.services.send_now(peer, answer)
            return
        give = partial(self._answer_remote, peer, number)
        if not raft.leads or len(self.points) >= replica.services.config.reads_max:
            give(None, "")
            return
        deadline = replica.now() + replica.services.config.read_timeout_s
        self._arrive(Reader(give, deadline, remote=True))

    def _answer_remote(self, peer: NodeId, number: int, index: int | None, why: str) -> None:
        replica = self._replica
        if index is not None:
            replica.replication.tell_commit(peer)
        answer = _new(ReadIndex, (replica.group_id, replica.raft.term, number, index))
        replica.services.send_now(peer, answer)

    def on_read_index(self, peer: NodeId, _: int, answer: ReadIndex) -> None:
        points, (_, _, number, index) = self.points, answer
        flight = points.flight
        if flight is None or flight.number != number or peer != self._asked:
            return
        if index is not None:
            self._confirmed(index)
            return
        for reader in points.abandon(requeue=False):
            reader.answer(None, f"{peer} leads no longer; ask again")
        if points.waiting:
            self._replica.services.reads_arrived(self._replica.group_id)

    def _confirmed(self, index: int | None) -> None:
        points, replica = self.points, self._replica
        moving = replica.receiver.incoming is not None and replica.installing
        points.confirmed(index, NOTHING if moving else replica.raft.applied_index)
        if points.waiting:
            replica.services.reads_arrived(replica.group_id)

    def deadline(self) -> float:
        """When something is to be done though nothing happens."""
        nearest = self.points.deadline()
        return nearest if self.points.flight is None else min(nearest, self._resend_at)

    def expire(self, now: float) -> None:
        points, replica = self.points, self._replica
        for reader in points.expire(now):
            reader.answer(None, "no read point in time; is there a majority?")
        if points.waiting and points.flight is None:  # it was given up, or there is no leader
            replica.services.reads_arrived(replica.group_id)


def _tell_each(reads: list[Told], result: ReadResult) -> None:
    for done in reads:
        try:
            done(result)
        except Exception:
            # A defect of whoever asked must not take the answers of all others with it.
            _logger.exception("a done callback raised; its defect, the node goes on")
