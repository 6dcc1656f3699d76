"""One pysyncobj object, with names and types: the Raft core of one replica of one group.

Together with seams.py this is all that knows pysyncobj. It holds no rules: what may be delivered to
the core, and in which form, is decided before it is called (filters.py, replica.py).

Every call that can reach pysyncobj's own code names the active environment first, so that its clock
and dice are this node's. Nothing here is called from inside another node's call.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Any, Final, Protocol, cast

from pysyncobj.config import SyncObjConf
from pysyncobj.node import Node

from raftgroups.messages import Ack, Append
from raftgroups.records import Entry
from raftgroups.seams import (
    FOLLOWER,
    LEADER,
    Core,
    Environment,
    Hooks,
    NoTransport,
    PeerNode,
    activate,
)
from raftgroups.transport import NodeId


class Timing(Protocol):
    @property
    def election_timeout_s(self) -> tuple[float, float]: ...

    @property
    def heartbeat_s(self) -> float: ...

    @property
    def leader_silence_s(self) -> float: ...


class Raft:
    """One pysyncobj object, with names and types."""

    def __init__(
        self, node: NodeId, journal: Any, environment: Environment, timing: Timing, hooks: Hooks
    ) -> None:
        self._environment = environment
        self._nodes: dict[NodeId, PeerNode] = {}
        self._hooks = hooks
        self._silence_s = timing.leader_silence_s
        self.leads = False
        """Follows the core's state (`_role_changed`): a turn asks thirty times."""
        self._stirred = True
        """Something came that the core's next tick may draw a conclusion from."""
        activate(self._environment)
        low, high = timing.election_timeout_s
        conf = SyncObjConf(
            autoTick=False,
            commandsWaitLeader=False,
            dynamicMembershipChange=False,
            appendEntriesUseBatch=True,
            raftMinTimeout=low,
            raftMaxTimeout=high,
            connectionTimeout=high,
            appendEntriesPeriod=timing.heartbeat_s,
            leaderFallbackTimeout=timing.leader_silence_s,
            journalFile=journal,
            onStateChanged=self._role_changed,
        )
        core = self._core = Core(self.node(node), [], conf=conf, transport=NoTransport(self._sent))
        core._hooks = hooks
        core._SyncObj__needLoadDumpFile = False
        core._SyncObj__raftLastApplied = journal.applied_index
        self.following: Final[dict[int, int]] = core._SyncObj__raftNextIndex
        """The first entry to send to each node. The core's own dictionary, as is the next one."""
        self.matched: Final[dict[int, int]] = core._SyncObj__raftMatchIndex
        """The last entry that each node is known to have. Who writes here raises it to nothing that
        is not committed: a tick draws no conclusion from that (else: `has`)."""

    def node(self, node: NodeId) -> PeerNode:
        """What the core calls it: as a number, its key in the two above."""
        found = self._nodes.get(node)
        if found is None:
            found = self._nodes[node] = PeerNode(node)
        return found

    def _role_changed(self, old: int, new: int) -> None:
        self._stirred = True
        self.leads = new == LEADER
        self._hooks.role_changed(old, new)

    def _sent(self, node: Node, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "request_vote":
            self._hooks.request_votes(
                node.id, message["term"], message["last_log_index"], message["last_log_term"]
            )
        elif kind == "response_vote":
            self._hooks.grant_vote(node.id, message["term"])
        else:
            raise AssertionError(f"pysyncobj sent {kind}, which has no way out here")

    # --- state ---------------------------------------------------------------------------

    @property
    def role(self) -> int:
        return int(self._core._SyncObj__raftState)

    term = cast(int, property(attrgetter("_core._SyncObj__raftCurrentTerm")))
    """Not a method: a turn reads these numbers eighty times."""

    @property
    def leader(self) -> NodeId | None:
        leader: PeerNode | None = self._core._SyncObj__raftLeader
        return None if leader is None else leader.node

    def forget_leader(self) -> None:
        self._core._SyncObj__raftLeader = None

    def _set_commit_index(self, index: int) -> None:
        self._stirred = True
        self._core._SyncObj__raftCommitIndex = index
        self._core._SyncObj__raftLog.setRaftCommitIndex(index)

    commit_index = cast(
        int, property(attrgetter("_core._SyncObj__raftCommitIndex"), _set_commit_index)
    )

    def _set_applied_index(self, index: int) -> None:
        self._core._SyncObj__raftLastApplied = index

    applied_index = cast(
        int, property(attrgetter("_core._SyncObj__raftLastApplied"), _set_applied_index)
    )

    @property
    def noop_index(self) -> int | None:
        """The first entry of this leader's term."""
        index: int | None = self._core._SyncObj__noopIDx
        return index if self.leads else None

    def _set_election_deadline(self, deadline: float) -> None:
        self._core._SyncObj__raftElectionDeadline = deadline

    election_deadline = cast(
        float,
        property(attrgetter("_core._SyncObj__raftElectionDeadline"), _set_election_deadline),
    )

    def _set_heartbeat_deadline(self, deadline: float) -> None:
        self._core._SyncObj__newAppendEntriesTime = deadline

    heartbeat_deadline = cast(
        float,
        property(attrgetter("_core._SyncObj__newAppendEntriesTime"), _set_heartbeat_deadline),
    )

    def timeout_s(self) -> float:
        """A new random election timeout."""
        activate(self._environment)
        return float(self._core._SyncObj__generateRaftTimeout())

    # --- peers ---------------------------------------------------------------------------

    def adopt(self, voters: Iterable[NodeId], learners: Iterable[NodeId]) -> None:
        """Other voters and other learners, from now on."""
        core, now = self._core, self._environment.clock.monotonic()
        self._stirred = True
        others = {self.node(node) for node in voters}
        learning = {self.node(node) for node in learners}
        following, matched = core._SyncObj__raftNextIndex, core._SyncObj__raftMatchIndex
        for node in sorted(others | learning):
            if node not in following:
                following[node] = core._SyncObj__raftLog.last_index + 1
                matched[node] = 0
            core._SyncObj__lastResponseTime.setdefault(node, now)
        for node in [node for node in following if node not in others | learning]:
            del following[node]
            matched.pop(node, None)
            core._SyncObj__lastResponseTime.pop(node, None)
        core._SyncObj__otherNodes = others
        core._SyncObj__readonlyNodes = learning

    def match_index(self, node: NodeId) -> int:
        return self.matched.get(self.node(node), 0)

    def has(self, node: int, index: int) -> None:
        """It has everything up to this entry, which was sent to it once."""
        self._stirred = True
        self.matched[node] = index
        if self.following[node] <= index:
            self.following[node] = index + 1

    def heard(self, node: int, now: float) -> None:
        if node in self.matched:
            self._core._SyncObj__lastResponseTime[node] = now

    def follows(self, node: NodeId, term: int) -> bool:
        """A heartbeat of this node in this term would tell the core only that it is there."""
        core = self._core
        return (
            core._SyncObj__raftState == FOLLOWER
            and core._SyncObj__raftCurrentTerm == term
            and core._SyncObj__raftLeader is not None
            and core._SyncObj__raftLeader.id == node
            and not core._SyncObj__transferInProgress
        )

    # --- events --------------------------------------------------------------------------

    def tick(self) -> None:
        """What is committed is applied. The core is spared a tick that could do nothing else: no
        time has come, and nothing that was heard since its last one lets it draw a conclusion."""
        core, now = self._core, self._environment.clock.monotonic()
        if self.leads:
            heard = core._SyncObj__lastResponseTime.values()
            idle = (
                not self._stirred
                and now <= core._SyncObj__newAppendEntriesTime
                and min(heard, default=now) > now - self._silence_s
            )
        else:
            idle = now <= core._SyncObj__raftElectionDeadline
        if idle:
            self._hooks.apply_committed()
        else:
            self._stirred = False  # the tick itself may have it looked at once more
            activate(self._environment)
            core._onTick(0)

    def append(self, command: bytes) -> int:
        """Add an entry to the log of the leader; returns its index."""
        assert self.leads, "only a leader appends"
        core = self._core
        log = core._SyncObj__raftLog
        index = int(log.last_index) + 1
        log.add(command, index, core._SyncObj__raftCurrentTerm)
        if not core._SyncObj__otherNodes:
            self._stirred = True  # whoever is alone commits by being there
        return index

    def lead_from_birth(self) -> None:
        """Every member's vote of this term is ours from the beginning (journal.py: form_born)."""
        activate(self._environment)
        self._core._SyncObj__onBecomeLeader()

    def step_down(self) -> None:
        activate(self._environment)
        core = self._core
        core._SyncObj__setState(FOLLOWER)
        core._SyncObj__raftLeader = None
        self.election_deadline = self._environment.clock.monotonic() + self.timeout_s()

    def receive_append(self, node: NodeId, append: Append) -> None:
        message: dict[str, Any] = {
            "type": "append_entries",
            "term": append.term,
            "commit_index": append.commit,
        }
        if append.prev_index is not None:
            first = append.prev_index + 1
            entries: list[Entry] = [
                (command, first + at, term) for at, (term, command) in enumerate(append.entries)
            ]
            message["entries"] = entries
            message["prevLogIdx"] = append.prev_index
            message["prevLogTerm"] = append.prev_term
        self._receive(node, message)

    def receive_ack(self, node: NodeId, ack: Ack) -> None:
        self._receive(
            node,
            {
                "type": "next_node_idx",
                "next_node_idx": ack.next_index,
                "success": ack.success,
                "reset": ack.reset,
            },
        )

    def receive_vote_request(
        self, node: NodeId, term: int, last_index: int, last_term: int
    ) -> None:
        self._receive(
            node,
            {
                "type": "request_vote",
                "term": term,
                "last_log_index": last_index,
                "last_log_term": last_term,
            },
        )

    def receive_vote(self, node: NodeId, term: int) -> None:
        self._receive(node, {"type": "response_vote", "term": term})

    def receive_timeout_now(self, node: NodeId, term: int) -> None:
        self._receive(node, {"type": "timeout_now", "term": term})

    def raise_term(self, node: NodeId, term: int) -> None:
        """Move to a higher term without a vote: a request whose log is older than any (rule e)."""
        self.receive_vote_request(node, term, 0, -1)

    def _receive(self, node: NodeId, message: dict[str, Any]) -> None:
        activate(self._environment)
        self._stirred = True
        self._core._SyncObj__onMessageReceived(self.node(node), message)
