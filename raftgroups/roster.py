"""The groups of one node: how they come to be, are found again, and end.

    create, join, start ----------------> open at once
    a split makes one (bear) ----\
    a merge ends one (end) -------+--> prepare: in the turn's batch --> complete: it is on the disk
    forget, retire: erase one ---/

Between `prepare` and `complete` a group that begins is not there yet and one that ends is not there
any more, and neither is formed or joined anew (`changes_now`). A crash finds the batch or does not:
no group is half begun or half ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from raftgroups.config import HostConfig
from raftgroups.errors import BrokenLogError, GroupExistsError, NoSuchGroupError
from raftgroups.group import Group
from raftgroups.journal import GroupJournal
from raftgroups.lineage import BIRTH_INDEX, DividingMachine, Neighbour
from raftgroups.machine_api import StateMachine
from raftgroups.membership import Config
from raftgroups.records import HardState
from raftgroups.services import Birth, Services
from raftgroups.snapshot_receive import throw_away_placed
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.codec import Table, table_range
from storage.engine import Batch, Engine, iterate
from storage.errors import InvalidRequestError
from storage.slices import Range

NOT_YET: Final = HardState(0, None, 0)


class Roster:
    def __init__(
        self,
        services: Services,
        engine: Engine,
        config: HostConfig,
        machines: Callable[[int], StateMachine],
        *,
        opened: Callable[[int], None],
        gone: Callable[[int], None],
        write: Callable[[], None],
    ) -> None:
        """`services` is what its groups ask; `machines` makes the machine of a group. Told of a
        group that was `opened`, and of one that is `gone`; `write` asks for a batch soon."""
        self._services = services
        self._engine = engine
        self._config = config
        self._machines = machines
        self._opened = opened
        self._gone = gone
        self._write = write
        self.groups: dict[int, Group] = {}
        self._births: list[GroupJournal] = []
        """Of groups that splits make with this turn's batch."""
        self._ends: list[tuple[Group, bool]] = []
        """Groups that end with this turn's batch, and whether their rows go, too."""
        self._erasing: list[tuple[Group, Callable[[], None]]] = []
        """Replicas that go with the next batch, and whom to tell."""
        self._erased: list[Callable[[], None]] = []
        self.on_birth: Callable[[Group], None] = _no_group
        """Told of each group that a split has made here, once it is on the disk and before anything
        is applied to it. It must not raise."""
        self.on_end: Callable[[int], None] = _no_number
        """Told of each group that ended here because another one has absorbed it: there is no such
        group any more, and what waited in it was answered Unknown. It must not raise."""

    def start(self) -> None:
        """Reopen every group that the engine holds. Raises NewerLevelError if one of them has
        reached a feature level that this program does not support."""
        throw_away_placed(self._engine)
        with self._engine.snapshot() as rows:
            known = [key for key, _ in iterate(rows, *table_range(Table.HARD_STATE))]
        for key in known:
            group_id = int.from_bytes(key[1:9], "big")
            journal = self._journal(group_id)
            if journal.load():
                self._open(group_id, journal)

    def create(
        self,
        group_id: int,
        voters: Sequence[NodeId],
        incarnations: Mapping[NodeId, int] | None = None,
    ) -> Group:
        """Form a new group once: the same call on each initial voter. Refused (GroupExistsError)
        if the engine knows the group, whatever became of it. Without `incarnations` of all voters
        the group takes proposals once every voter was heard (raftgroups/membership.py)."""
        if self._services.node_id not in voters:
            raise InvalidRequestError(f"this node is no initial voter of group {group_id}; join it")
        return self._form(group_id, Config.initial(voters, incarnations or {}))

    def join(self, group_id: int) -> Group:
        """An empty replica that waits to be added as a learner and to be sent a snapshot."""
        return self._form(group_id, None)

    def group(self, group_id: int) -> Group:
        found = self.groups.get(group_id)
        if found is None:
            raise NoSuchGroupError(f"this node has no replica of group {group_id}")
        return found

    def forget(self, group_id: int, done: Callable[[], None]) -> None:
        """Erase a replica that was removed from its group, with its data; it may join again. Only
        then: a member that forgot what it had acknowledged could lose it for everyone."""
        group = self.group(group_id)
        if group.role is not Role.REMOVED and not group.blank:
            raise InvalidRequestError(
                f"this node is a member of group {group_id}; remove it from the group first"
            )
        self.retire(group_id, done)

    def retire(self, group_id: int, done: Callable[[], None]) -> None:
        """Erase a replica, with its data, of a group that has ended for all its members: no id of
        such a group is used again, and nobody asks for what it had acknowledged."""
        group = self.group(group_id)
        group.stop()
        del self.groups[group_id]
        self._gone(group_id)
        self._erasing.append((group, done))
        self._write()

    def other_ranges(self, group_id: int) -> dict[int, Sequence[Range]]:
        return {
            other: group.replica.owned_ranges()
            for other, group in self.groups.items()
            if other != group_id
        }

    # --- splits and merges (raftgroups/lineage.py) -----------------------------------------

    def bear(self, birth: Birth) -> None:
        """If a replica of the group waits here for a snapshot, it is born after all."""
        before, there = NOT_YET, self.groups.get(birth.group)
        if there is not None:
            if not there.replica.waiting or there.replica.receiver.placed_ranges:
                raise BrokenLogError(
                    f"group {birth.group} is to begin with a split and is here already"
                )
            before = there.replica.journal.hard
            self.end(birth.group, with_data=False)
        journal = self._journal(birth.group)
        base_index = 0 if "birth-without-base" in self._config.canaries else BIRTH_INDEX
        journal.form_born(birth.config, birth.founder, before, base_index)
        self._births.append(journal)

    def end(self, group_id: int, *, with_data: bool) -> None:
        group = self.groups.pop(group_id)
        group.stop("its shard was merged into another one, or came to be by a split")
        self._gone(group_id)
        self._ends.append((group, with_data))

    @property
    def changes(self) -> bool:
        """Groups begin or end with the batch of this turn."""
        return bool(self._ends or self._births)

    def changes_now(self, group_id: int) -> bool:
        """It begins or ends with the batch that is being written."""
        births = (journal.group_id for journal in self._births)
        return group_id in births or any(group.group_id == group_id for group, _ in self._ends)

    def awaited(self, group_id: int) -> bool:
        """A replica here may have to absorb this one yet: its log is not so far, though the shard
        may have ended long ago elsewhere. Whoever tidies up what has ended leaves it alone; all
        else that is left of such a group may be retired."""
        right = self.group(group_id)
        if not right.replica.frozen:
            return False
        here = (
            group
            for other, group in self.groups.items()
            if other != group_id and group.role is not Role.REMOVED
        )
        return any(group.replica.may_absorb(right.machine) for group in here)

    # --- the batch -------------------------------------------------------------------------

    def prepare(self, batch: Batch) -> None:
        """After the machines: what a split makes was prepared by the parent's."""
        for group, with_data in self._ends:
            if with_data:
                group.replica.erase(batch)
            else:
                group.replica.erase_log(batch)
        for journal in self._births:
            journal.prepare(batch)
        for group, done in self._erasing:
            group.replica.erase(batch)
            self._erased.append(done)
        self._erasing.clear()

    def complete(self) -> None:
        """The batch is on the disk."""
        if not (self._erased or self._ends or self._births):
            return
        erased, self._erased = self._erased, []
        for done in erased:
            self._services.answer(done)
        ends, self._ends = self._ends, []
        births, self._births = self._births, []
        born = {journal.group_id for journal in births}
        for group, _ in ends:
            _close(group)
            if group.group_id not in born:
                self.on_end(group.group_id)
        for journal in births:
            journal.after_commit()
            group = self._open(journal.group_id, journal)
            group.replica.born()
            self.on_birth(group)

    def _form(self, group_id: int, config: Config | None) -> Group:
        journal = self._journal(group_id)
        if group_id in self.groups or self.changes_now(group_id) or journal.load():
            raise GroupExistsError(
                f"group {group_id} is here already; a group is formed or joined once"
            )
        journal.form(config)
        return self._open(group_id, journal)

    def _journal(self, group_id: int) -> GroupJournal:
        return GroupJournal(
            self._engine,
            group_id,
            window_entries=self._config.window_entries,
            window_bytes=self._config.window_bytes,
        )

    def _open(self, group_id: int, journal: GroupJournal) -> Group:
        machine = self._machines(group_id)
        if isinstance(machine, DividingMachine):
            machine.neighbours = self._neighbour
        group = self.groups[group_id] = Group(self._services, group_id, journal, machine)
        if not group.replica.installing:
            machine.restored(journal.applied_index)
        self._opened(group_id)
        return group

    def _neighbour(self, group_id: int) -> Neighbour | None:
        """For a machine that is to absorb another one."""
        group = self.groups.get(group_id)
        if group is None or group.replica.waiting or group.replica.installing:
            return None
        return Neighbour(group.machine, group.replica.journal.durable_applied)


def _close(group: Group) -> None:
    machine = group.machine
    if isinstance(machine, DividingMachine):
        machine.close()


def _no_group(group: Group) -> None:
    pass


def _no_number(group_id: int) -> None:
    pass
