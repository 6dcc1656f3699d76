"""What one shard was asked and has not answered yet: writes, and reads by their level.

One object an operation, whose methods are the callbacks that the group and the forwarder call: with
closures and partials in their place a read cost 1.5 us more. The rules are the shard's (shard.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from kv.regime import Done
from kv.strong.reader import ReplicaReader
from raftgroups.outcomes import ProposeResult, ReadReady, ReadResult
from storage.clock import Timer

if TYPE_CHECKING:
    from kv.strong.shard import StrongShard


class Operation:
    """Invariant: answered at most once."""

    __slots__ = ("answered", "deadline_s", "done", "shard", "timer", "unsure", "why")
    changes: ClassVar[bool] = False
    """A write: without an answer it may have been done."""

    def __init__(self, shard: StrongShard, done: Done[Any], deadline_s: float) -> None:
        self.shard = shard
        self.done = done
        self.deadline_s = deadline_s
        self.answered = False
        self.unsure = False
        """An earlier try may have done it: what refuses a later one proves nothing."""
        self.timer: Timer | None = None
        self.why = ""
        """Why the last try was refused."""

    def start(self) -> None:
        """Try; called again after a refusal."""
        raise NotImplementedError


class Write(Operation):
    __slots__ = ("payload", "repeatable")
    changes = True

    def __init__(
        self,
        shard: StrongShard,
        done: Done[Any],
        deadline_s: float,
        payload: bytes,
        repeatable: bool,
    ) -> None:
        super().__init__(shard, done, deadline_s)
        self.payload = payload
        self.repeatable = repeatable

    def start(self) -> None:
        self.shard.start_write(self)

    def proposed(self, result: ProposeResult) -> None:
        self.shard.proposed(self, result)


class Read(Operation):
    """LINEARIZABLE."""

    __slots__ = ("evaluate",)

    def __init__(
        self,
        shard: StrongShard,
        done: Done[Any],
        deadline_s: float,
        evaluate: Callable[[ReplicaReader], Any],
    ) -> None:
        super().__init__(shard, done, deadline_s)
        self.evaluate = evaluate

    def start(self) -> None:
        self.shard.group.read(self.ready)

    def ready(self, result: ReadResult) -> None:
        if isinstance(result, ReadReady):
            self.shard.evaluate(self)
        else:
            self.shard.refused(self, result)


class LocalRead(Read):
    """EVENTUAL, and SESSION once this replica has seen enough."""

    __slots__ = ()

    def start(self) -> None:
        self.shard.evaluate_soon(self)


class SessionRead(LocalRead):
    """`seen`: the revision that this replica must have."""

    __slots__ = ("seen",)

    def __init__(
        self,
        shard: StrongShard,
        done: Done[Any],
        deadline_s: float,
        evaluate: Callable[[ReplicaReader], Any],
        seen: int,
    ) -> None:
        super().__init__(shard, done, deadline_s, evaluate)
        self.seen = seen

    def start(self) -> None:
        if self.shard.may_read_session(self):
            super().start()
