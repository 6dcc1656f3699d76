"""Standing for election: pre-vote at pysyncobj's election gate, and handing over (hazards e, m).

The gate (`may_stand`) is asked whenever the election deadline has passed. It says no and asks the
others first; only when a majority would vote for it, it says yes:

    deadline passed -> a pre-vote round goes out, the deadline moves on
                    -> majority of PreVotes granted -> the deadline is now -> gate again -> stand
                    -> no majority -> the next deadline -> another round

A pre-vote moves nobody's term and nobody's vote, so a node that comes back after a partition finds
out that a leader is there without deposing it. A refusal that carries a higher term moves ours, or
this node could never win against a voter whose term is ahead.

Whoever was told to stand by its leader (TimeoutNow) skips the round, and its vote requests say so.

The leader's side of a hand-over: proposals pause, everything is committed and applied, the target
has it all, it is told, and takes over. If it does not in time, proposals go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from raftgroups.filters import e2_vote_counts
from raftgroups.membership import Config
from raftgroups.outcomes import ChangeResult
from raftgroups.transport import NodeId


@dataclass(slots=True)
class Election:
    """Invariants: `granted` belongs to `round`; `ordered` is used up by one candidacy."""

    round: int
    asking: bool = False
    asked_at: float = 0.0
    won: bool = False
    ordered: bool = False
    """Our leader told us to stand."""
    stands_by_order: bool = False
    """The candidacy under way was ordered: its vote requests pass the others' stickiness."""
    granted: set[NodeId] = field(default_factory=set)
    counted: set[NodeId] = field(default_factory=set)
    """Whose votes were counted in `counted_term` (hazard e2)."""
    counted_term: int = -1
    started: int = 0

    def begin_round(self, now: float) -> int:
        self.round += 1
        self.asked_at = now
        self.asking = True
        self.won = False
        self.granted.clear()
        return self.round

    def cancel(self) -> None:
        """There is a leader, or another term."""
        self.asking = self.won = False

    def pre_vote(self, config: Config, voter: NodeId, incarnation: int, round_number: int) -> bool:
        """A granted pre-vote arrived; True if the round is won by it."""
        if not self.asking or round_number != self.round:
            return False
        if e2_vote_counts(config, voter, incarnation, self.granted) is not None:
            return False
        self.granted.add(voter)
        if len(self.granted) + 1 < config.majority():
            return False
        self.asking = False
        self.won = True
        return True

    def enter(self) -> bool:
        """Use up a won round or an order; False if there is neither."""
        if not self.won and not self.ordered:
            return False
        self.stands_by_order = self.ordered
        self.won = self.ordered = self.asking = False
        return True

    def begin_counting(self, term: int) -> None:
        self.counted_term = term
        self.counted.clear()


@dataclass(slots=True)
class Transfer:
    """A hand-over under way, on the leader."""

    target: NodeId
    done: Callable[[ChangeResult], None]
    deadline: float
    told: bool = False
