"""What the operations of a coordinator share: the node's replica, its messenger, time and settings.

Made once by assembly.py. `view` and `reachable` are asked anew by each operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from kv.leaderless.deadlines import Deadlines
from kv.leaderless.frames import Reply, Status, Store
from kv.leaderless.keyspace import Keyspaces
from kv.leaderless.messenger import Messenger, NotSent, Outcome
from kv.leaderless.put_core import Answer, Failed, Stored
from kv.leaderless.reap import QuietLedger
from kv.leaderless.replica import Replica
from kv.leaderless.spreading import UNREADABLE, Spreader
from kv.leaderless.view import Reachable, RingView
from kv.size_limits import WIDEST, SizeLimits
from raftgroups.transport import NodeId
from storage.clock import Clock, Rng, Scheduler
from storage.siblings import SiblingSet


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    deadline_s: float = 5.0
    """Of a request that names none."""
    replica_timeout_s: float = 1.0
    """A replica that takes longer has failed: a stand-in is asked."""
    hedge_s: float = 0.1
    """A read that has not enough answers by then asks the next nodes too."""
    read_all_share: float = 0.1
    """Of reads that ask every owner at once, so that repair sees replicas that R leaves out."""
    under_way_max: int = 8192
    """Requests of clients and of other nodes together; the next one is refused."""
    sizes: SizeLimits = WIDEST
    repairs_max: int = 512
    """Read repairs under way; what is found beyond is left to the next read, or to Merkle."""


@dataclass(slots=True)
class Parts:
    node: NodeId
    replica: Replica
    messenger: Messenger
    view: Callable[[], RingView]
    reachable: Reachable
    keyspaces: Keyspaces
    scheduler: Scheduler
    clock: Clock
    rng: Rng
    settings: CoordinatorSettings
    ledger: QuietLedger
    """What is under way here, for the proofs of reap.py."""
    spreader: Spreader
    deadlines: Deadlines
    may_read: Callable[[int, bytes], bool] = lambda _, __: True
    """(keyspace, key): whether this node's "nothing" counts (filling.py)."""
    counts: Counter[str] = field(default_factory=Counter)
    """For metrics: puts, gets, forwarded, hints, repairs, ..."""

    def store(
        self,
        node: NodeId,
        keyspace: int,
        key: bytes,
        siblings: SiblingSet,
        encoded: bytes,
        done: Callable[[Answer], None],
        *,
        hint_for: NodeId | None = None,
    ) -> None:
        """A copy on this node or another one; `done` is told in replica_timeout_s, or so."""
        if node == self.node:
            self.replica.store(keyspace, key, siblings, encoded, done, hint_for=hint_for)
            return
        message = Store(0, keyspace, key, encoded, hint_for or "", False)
        deadline_s = self.clock.monotonic() + self.settings.replica_timeout_s
        self.messenger.ask(node, message, deadline_s, partial(_stored, done))


NOT_YET: Final = "it has just become an owner of this key, and has not got its data yet"


def _stored(done: Callable[[Answer], None], outcome: Outcome) -> None:
    if isinstance(outcome, Reply):
        if outcome.status is Status.STORED:
            done(Stored())
        elif outcome.status is Status.FAILED:
            done(Failed(outcome.body.decode(errors="replace")))
        else:
            done(Failed(UNREADABLE))
    elif isinstance(outcome, NotSent):
        done(Failed(outcome.reason))
    else:
        done(Failed(outcome.reason))


__all__ = ["NOT_YET", "UNREADABLE", "CoordinatorSettings", "Parts"]
