"""What one shard was asked and has not answered yet: writes, and reads by their level.

One object an operation, whose methods are the callbacks that the group and the forwarder call: with
closures and partials in their place a read cost 1.5 us more. The rules are the shard's (shard.py,
shard_reads.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from kv.regime import Done
from kv.strong.reader import ReplicaReader
from raftgroups.outcomes import ReadReady, ReadResult
from storage.clock import Timer

if TYPE_CHECKING:
    from kv.strong.shard import StrongShard

_log = logging.getLogger(__name__)


class Operation(msgspec.Struct, eq=False):
    """Invariant: answered at most once. (A Struct: it is made in a quarter of the time.)"""

    changes: ClassVar[bool] = False
    """A write: without an answer it may have been done."""

    shard: StrongShard
    done: Done[Any]
    deadline_s: float
    answered: bool = False
    unsure: bool = False
    """An earlier try may have done it: what refuses a later one proves nothing."""
    timer: Timer | None = None
    why: str = ""
    """Why the last try was refused."""

    def start(self) -> None:
        """Try; called again after a refusal."""
        raise NotImplementedError

    def answer(self, answer: Any) -> None:
        if self.answered:
            return
        self.answered = True
        if self.timer is not None:
            self.timer.cancel()
        try:
            self.done(answer)
        except Exception:  # noqa: BLE001 - a defect of one asker must not cost the others' answers
            _log.exception("a done callback raised; its defect, the node goes on")


class Write(Operation, eq=False, kw_only=True):
    changes: ClassVar[bool] = True

    payload: bytes
    repeatable: bool
    stays: bool = False
    """Whoever asked wants to know if the keys are another shard's."""
    across: bool = False
    """If its keys turn out to be those of several shards, do it all the same."""

    def start(self) -> None:
        self.shard.start_each((self,))


class Read(Operation, eq=False, kw_only=True):
    """LINEARIZABLE."""

    evaluate: Callable[[ReplicaReader], Any]

    def start(self) -> None:
        self.shard.group.read(self.ready)

    def ready(self, result: ReadResult) -> None:
        if isinstance(result, ReadReady):
            self.shard.reads.evaluate(self)
        else:
            self.shard.waiting.refused(self, result)


class LocalRead(Read, eq=False):
    """EVENTUAL, and SESSION once this replica has seen enough."""

    def start(self) -> None:
        self.shard.reads.evaluate_soon(self)


class SessionRead(LocalRead, eq=False, kw_only=True):
    seen: int
    """The revision that this replica must have."""

    def start(self) -> None:
        if self.shard.reads.may_read_session(self):
            self.shard.reads.evaluate_soon(self)
