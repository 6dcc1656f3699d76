"""What is committed goes into the machine, and what was applied into batches.

    entry --> machine (apply_each) --> answers to the group
                  |--> groups begin and end: with this turn's batch
                  '--> waits for company, and goes with a later batch (`must_fold`)

Rule c, the write-ahead barrier, has its last line here: a leader commits nothing beyond what its
own disk has. Beside a sync entries are applied only where `may_apply_beside_sync` says so.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from raftgroups.lineage import DividingMachine
from raftgroups.records import KIND_OPERATIONS, Operations, operations_command, read_operations
from raftgroups.services import Birth, Owner
from storage.engine import Batch

if TYPE_CHECKING:
    from raftgroups.replica import Replica

APPLY_ENTRIES: Final = 512
APPLY_BYTES: Final = 4 * 1024 * 1024
MADE_ENTRIES: Final = 8


class Applying:
    def __init__(self, replica: Replica, dividing: DividingMachine | None, owner: Owner) -> None:
        """`dividing`: the replica's machine, if it may split and merge."""
        self._replica = replica
        self._dividing = dividing
        self._owner = owner
        self.divided = False
        """Groups began or ended with what was applied: it must go with this turn's batch."""
        self._folded = False
        """The machine's data goes with the batch in flight."""
        self._unfolded_operations = self._unfolded_bytes = 0
        """Applied and not yet in any batch."""
        self._made: deque[tuple[bytes, Operations]] = deque(maxlen=MADE_ENTRIES)
        """Entries that were made of operations here and not applied yet; the last ones."""
        self.commit_floor = replica.journal.commit_index
        """What was committed when the last tick began."""

    # --- the batch -------------------------------------------------------------------------

    def must_fold(self) -> bool:
        """What was applied must go with the next batch."""
        config = self._replica.services.config
        return (
            self.divided
            or self._unfolded_operations >= config.fold_operations
            or self._unfolded_bytes >= config.fold_bytes
        )

    def prepare(self, batch: Batch) -> None:
        self._folded = True
        self._replica.machine.prepare(batch)
        self._unfolded_operations = self._unfolded_bytes = 0
        self.divided = False

    def after_commit(self) -> None:
        if self._folded and not self._replica.installing:
            self._replica.machine.after_commit()
        self._folded = False

    # --- entries ---------------------------------------------------------------------------

    def append(self, operations: Operations) -> None:
        """As one entry of the leader's log."""
        command = operations_command(*operations)
        self._replica.raft.append(command)
        self._made.append((command, operations))

    def leadership_lost(self) -> None:
        self._made.clear()

    def _operations_of(self, command: bytes) -> Operations:
        """What an entry was made of: known where it was made, if it is these very bytes."""
        made = self._made
        while made:
            known, operations = made.popleft()
            if known is command:
                return operations
        return read_operations(command)

    def may_apply_beside_sync(self, index: int) -> bool:
        """Whether everything up to this entry may be applied while a batch is in flight: the
        machine has nothing in that batch, and all of it was made here, in this leadership, of
        operations that neither make nor end groups."""
        raft, journal, made = self._replica.raft, self._replica.journal, iter(self._made)
        if self._folded or index - raft.applied_index > len(self._made):
            return False
        for at in range(raft.applied_index + 1, index + 1):
            command = journal.entry(at)[0]
            operations = next((own for known, own in made if known is command), None)
            if operations is None:
                return False
            if self._dividing is not None and self._dividing.may_divide(operations[2]):
                return False
        return True

    def apply_committed(self) -> None:
        replica = self._replica
        raft, journal, services = replica.raft, replica.journal, replica.services
        if replica.installing:
            return
        unsynced = "commit-beside-sync-unsynced" in services.config.canaries
        if raft.leads and raft.commit_index > journal.durable_index and not unsynced:
            raft.commit_index = max(self.commit_floor, journal.durable_index)
        target = min(raft.commit_index, raft.applied_index + APPLY_ENTRIES)
        size = 0
        while raft.applied_index < target and size < APPLY_BYTES:
            command, index, _ = journal.entry(raft.applied_index + 1)
            size += len(command)
            if command[0] == KIND_OPERATIONS:
                origin, first_seq, payloads = self._operations_of(command)
                results = replica.machine.apply_each(index, payloads)
                self._unfolded_operations += len(payloads)
                self._unfolded_bytes += len(command)
                if self._dividing is not None:
                    self._divide(self._dividing, index, origin)
                self._owner.applied(index, origin, first_seq, results)
            raft.applied_index = index
            journal.set_applied(index)
            services.counters.entries_applied += 1
            if index == journal.config_index:
                self._config_applied()
        if raft.applied_index < raft.commit_index:
            services.wake(replica.group_id)

    def _divide(self, machine: DividingMachine, index: int, origin: str) -> None:
        """Begin and end the groups that this entry has split off and absorbed."""
        change = machine.take_change()
        if change is None:
            return
        self.divided = True
        replica, services = self._replica, self._replica.services
        if change.born and replica.raft.leads:  # the others may apply it as soon as they know
            replica.raft.heartbeat_deadline = replica.now() - 1.0
            services.wake(replica.group_id)
        config = replica.journal.config_at(index)[1]
        founders = [node for node in config.voters if origin.startswith(f"{node}/")]
        for group in change.born:
            services.bear(Birth(group, config, founders[0] if founders else None))
        for group in change.ended:
            services.end(group, with_data=False)

    def _config_applied(self) -> None:
        journal, services = self._replica.journal, self._replica.services
        if not journal.config.is_member(services.node_id, services.incarnation):
            journal.set_removed_at(journal.config_index)
