"""A write that attaches keys to leases, in a keyspace of several shards.

    start --> the leases' home is the shard of its keys --> as any other write
          '-> another one --> look at home: do they live, in which epoch (lease_queries.py)
                          --> UnderLease(epoch, command) to the shard of the keys
    fenced (a lease has ended since) --> look again

Which shard is home, the map says; where a replica here that has the keys is another shard's, it is
that one: the map may not know of a split yet.

A lease that ends after the look takes the key with it, or fences the write (raftgroups/lease.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kv.model import ReadOptions
from kv.router import lease_ids
from kv.strong.lease_queries import LeaseLook, Looked
from kv.strong.routed import RoutedRead, RoutedWrite
from raftgroups.commands import BatchWrite, Cas, Put, Txn, UnderLease, encode
from raftgroups.lease import lease_missing
from raftgroups.levels import LINEAGE_LEVEL
from raftgroups.meta.records import ShardRecord
from raftgroups.refusals import LeaseFencedError
from raftgroups.results import Failure
from storage.errors import JanusError, WrongShardError

if TYPE_CHECKING:
    from kv.strong.shard import StrongShard

OLD_VERSION = (
    "not every node of this shard runs a version that attaches keys to the leases of another "
    "shard; upgrade them all"
)


class AttachedWrite(RoutedWrite):
    __slots__ = ("_has_looked",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._has_looked = False

    def start(self) -> None:
        """Each try looks anew: a lease may have ended since."""
        self._has_looked = False
        super().start()

    def found(self, record: ShardRecord) -> None:
        if self._has_looked or self._keyspace.is_home(record):
            super().found(record)
        else:
            self._look()

    def _look(self) -> None:
        left_s = max(0.001, self.deadline_s - self._keyspace.now_s())
        query = LeaseLook(lease_ids(self._command))
        options = ReadOptions(deadline_s=min(left_s, 300.0))
        RoutedRead(self._keyspace, self._looked, self.deadline_s, query, options).start()

    def _looked(self, answer: Looked | JanusError) -> None:
        if isinstance(answer, JanusError):
            self.give_up(answer)
        elif answer.missing:
            self.give_up(lease_missing(answer.missing))
        else:
            command = self._command
            assert isinstance(command, Put | Txn | Cas | BatchWrite)
            under = UnderLease(answer.epoch, command)
            self._payload = encode(under, self._options.token)
            self._has_looked = True
            super().start()

    def hand_over(self, shard: StrongShard) -> None:
        if not self._has_looked:
            if shard.machine.is_home:
                super().hand_over(shard)
            else:
                self._look()
        elif shard.group.leads and shard.group.feature_level < LINEAGE_LEVEL:
            self.try_again(OLD_VERSION)
        else:
            self.take_here(shard, self._answered_here, stays=True)

    def _answered_here(self, answer: Any) -> None:
        if isinstance(answer, LeaseFencedError | WrongShardError):
            self.unsure = self.unsure or self.repeatable
            self.try_again(str(answer), look=isinstance(answer, WrongShardError))
        else:
            self.answer(answer)

    def _applied(self, applied: object) -> None:
        if isinstance(applied, Failure) and applied.code == LeaseFencedError.code:
            self.try_again(applied.message)
        else:
            super()._applied(applied)
