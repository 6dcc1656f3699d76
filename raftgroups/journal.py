"""A group's log and hard state in the node's engine; what pysyncobj holds as its Journal.

Nothing is written here: changes wait for `prepare`, which adds them to the batch of the turn, so
that truncation, append, term, vote and configuration reach the disk together or not at all, and
`after_commit` says that they did. Records are sealed (version, checksum, key). Only a window of the
entries is in memory (logwindow.py).

Invariants:
- everything after `durable_index` is in the window and in the next batch (or the one in flight);
- `configs` holds the configuration in force at the base, then every one in the log, by index; the
  last one is in force;
- an entry at or below `applied_index` is never truncated (hazard n5): that would mean that a
  committed entry was overwritten, and the node stops;
- compaction goes no further than `durable_applied`.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Final, cast

from raftgroups.errors import BrokenLogError
from raftgroups.lineage import BIRTH_INDEX, BIRTH_TERM
from raftgroups.logwindow import LogWindow
from raftgroups.membership import Config
from raftgroups.records import (
    KIND_CONFIG,
    Entry,
    HardState,
    journal_entry,
    journal_key,
    journal_row,
    meta_key,
    pack_configs,
    pack_hard_state,
    pack_pair,
    read_config,
    unpack_configs,
    unpack_hard_state,
    unpack_pair,
)
from raftgroups.transport import NodeId
from storage.codec import Table, seal
from storage.committer import Need
from storage.engine import Batch, Engine, Reader

_PAGE_ENTRIES: Final = 256
_PAGE_BYTES: Final = 1024 * 1024
_META_TABLES: Final = (
    Table.JOURNAL_META,
    Table.HARD_STATE,
    Table.GROUP_CONFIG,
    Table.APPLIED_INDEX,
)


class GroupJournal:
    def __init__(
        self, engine: Engine, group_id: int, *, window_entries: int, window_bytes: int
    ) -> None:
        self.group_id = group_id
        self._engine = engine
        self._window_limits = (window_entries, window_bytes)
        self.window = LogWindow(self._read_back, max_entries=window_entries, max_bytes=window_bytes)
        self.grown_bytes = 0
        """Bytes appended since the last compaction or start."""
        self.configs: list[tuple[int, Config]] = []
        self.config = Config({})
        """The last one: in force."""
        self.hard = HardState(0, None, 0)
        self.commit_index = 0
        self.applied_index = 0
        self.durable_index = 0
        self.durable_term = 0
        self.durable_applied = 0
        self.on_config: Callable[[], None] = lambda: None
        """Called whenever another configuration has come into force."""
        self._unwritten = 1
        self._written_last = 0
        self._truncate_from: int | None = None
        self._compact_from: int | None = None
        self._dirty = False
        self._dirty_configs = False
        self._dirty_progress = False
        self._prepared: tuple[int, int, int] | None = None
        self.erased_before = False
        """A replica of this group was erased here once: it may have voted, and acknowledged what
        this one does not have."""

    # --- birth ---------------------------------------------------------------------------

    def form(self, config: Config | None) -> None:
        """A new replica. Without a configuration it joins: its log begins before the first entry
        of any group, so that it can only start from a snapshot (hazard l4)."""
        if config is None:
            with self._engine.snapshot() as rows:
                self._look_for_mark(rows)
            self._begin(0, Config({}))
        else:
            self._begin(BIRTH_INDEX, config)

    def _begin(self, base_index: int, config: Config) -> None:
        self.window.begin(base_index, 0)
        self.configs = [(base_index, config)]
        self.config = config
        self.commit_index = self.applied_index = base_index
        self._unwritten = base_index + 1
        self._dirty = self._dirty_configs = self._dirty_progress = True

    def form_born(
        self,
        config: Config,
        founder: NodeId | None,
        before: HardState,
        base_index: int = BIRTH_INDEX,
    ) -> None:
        """What a split makes: a log that begins behind a base, so that whoever is not born with it
        needs a snapshot; in a term in which every member has voted already. `before`: of a replica
        that had joined here and waited."""
        self._begin(base_index, config)
        if before.term <= BIRTH_TERM and before.vote is None:
            before = before._replace(term=BIRTH_TERM, vote=founder)
        self.hard = before

    def load(self) -> bool:
        """Reopen what the engine holds; False if it does not know the group."""
        group = self.group_id
        entries, size_bytes = self._window_limits
        with self._engine.snapshot() as rows:
            found = {}
            for table in _META_TABLES:
                key = meta_key(table, group)
                record = rows.get(key)
                if record is None:
                    return False
                found[table] = (key, record)
            self._look_for_mark(rows)
            base_index, base_term = unpack_pair(*found[Table.JOURNAL_META])
            page = rows.scan(
                journal_key(group, base_index + 1),
                journal_key(group + 1, 0),
                reverse=True,
                limit=entries,
                max_bytes=size_bytes,
            )
        self.hard = unpack_hard_state(*found[Table.HARD_STATE])
        self.configs = unpack_configs(*found[Table.GROUP_CONFIG])
        self.config = self.configs[-1][1]
        self.applied_index, commit_index = unpack_pair(*found[Table.APPLIED_INDEX])
        self.window.begin(base_index, base_term)
        tail = [journal_entry(key, record) for key, record in reversed(page.items)]
        self._check_loaded(tail, whole=not page.more)
        for entry in tail:
            self.window.push(entry)
        self.commit_index = min(commit_index, self.last_index)
        self._unwritten = self.last_index + 1
        self._written_last = self.durable_index = self.last_index
        self.durable_term = self.hard.term
        self.durable_applied = self.applied_index
        return True

    def _look_for_mark(self, rows: Reader) -> None:
        self.erased_before = rows.get(meta_key(Table.ERASED_REPLICA, self.group_id)) is not None

    def _check_loaded(self, tail: list[Entry], *, whole: bool) -> None:
        """The tail has no gaps, begins at the base if it is the whole log, and reaches far enough
        for what was applied."""
        indexes = [entry[1] for entry in tail]
        first = indexes[0] if indexes else self.base_index + 1
        last = first + len(indexes) - 1
        if (
            indexes != list(range(first, last + 1))
            or (whole and first != self.base_index + 1)
            or not self.base_index <= self.applied_index <= last
        ):
            raise BrokenLogError(
                f"the log of group {self.group_id} has gaps: base {self.base_index}, applied "
                f"{self.applied_index}, entries {indexes[:1]}..{indexes[-1:]}; "
                "replace this replica from another one"
            )

    # --- reading -------------------------------------------------------------------------

    base_index = cast(int, property(attrgetter("window.base_index")))
    """Not a method: a turn reads these numbers thirty times."""
    last_index = cast(int, property(attrgetter("window.last_index")))
    last_term = cast(int, property(attrgetter("window.last_term")))

    @property
    def config_index(self) -> int:
        return self.configs[-1][0]

    def config_at(self, index: int) -> tuple[int, Config]:
        """The configuration in force at an index that is not below the base."""
        return next(pair for pair in reversed(self.configs) if pair[0] <= index)

    def entry(self, index: int) -> Entry:
        return self.window.entry(index)

    def entries(self, first: int, count: int | None = None) -> list[Entry]:
        """The base or entries from `first` on; none if it is before the base or after the last."""
        window = self.window
        last = window.last_index if count is None else min(window.last_index, first + count - 1)
        if first < window.base_index:
            return []
        return [window.entry(index) for index in range(first, last + 1)]

    def term_at(self, index: int) -> int:
        return self.window.entry(index)[2]

    def _read_back(self, first: int, stop: int) -> list[Entry]:
        with self._engine.snapshot() as rows:
            scanned = rows.scan(
                journal_key(self.group_id, first),
                journal_key(self.group_id, stop),
                limit=_PAGE_ENTRIES,
                max_bytes=_PAGE_BYTES,
            )
        page = [journal_entry(key, record) for key, record in scanned.items]
        if [entry[1] for entry in page] != list(range(first, first + len(page))) or not page:
            raise BrokenLogError(
                f"entry {first} of group {self.group_id} or one after it is missing in the engine "
                f"(base {self.base_index}, last {self.last_index}); replace this replica"
            )
        return page

    # --- pysyncobj's face: positions count from the base ----------------------------------

    def __len__(self) -> int:
        return self.last_index - self.base_index + 1

    def __getitem__(self, position: int) -> Entry:
        """Only the base and what is near it is asked for in this way (seams.py)."""
        window = self.window
        return window.last if position == -1 else window.entry(window.base_index + position)

    def add(self, command: bytes, idx: int, term: int) -> None:
        if idx != self.last_index + 1 or term < self.last_term:
            raise BrokenLogError(
                f"group {self.group_id}: entry {idx} of term {term} cannot follow "
                f"{self.last_index} of term {self.last_term}"
            )
        self.window.push((command, idx, term))
        self.grown_bytes += len(command)
        if command[0] == KIND_CONFIG:
            self.configs.append((idx, read_config(command)))
            self._config_changed()

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803 - pysyncobj's name
        first = self.base_index + entryFrom
        if first > self.last_index:
            return
        if first <= max(self.applied_index, self.base_index):
            raise BrokenLogError(
                f"group {self.group_id}: entry {first} was to be overwritten, but everything up to "
                f"{self.applied_index} is applied; the replicas have diverged"
            )
        self.window.truncate(first)
        self._truncate_from = min(first, self._truncate_from or first)
        self._unwritten = min(self._unwritten, first)
        if self.configs[-1][0] >= first:
            while self.configs[-1][0] >= first:
                self.configs.pop()
            self._config_changed()

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803 - pysyncobj's name
        raise AssertionError("pysyncobj compacts nothing here: see compact()")

    def clear(self) -> None:
        raise AssertionError("pysyncobj clears nothing here: see install()")

    def _destroy(self) -> None:
        pass

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803
        if raftCommitIndex != self.commit_index:
            self.commit_index = raftCommitIndex
            self._dirty_progress = True

    def getRaftCommitIndex(self) -> int:  # noqa: N802 - pysyncobj's name
        return self.commit_index

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803
        vote = None if votedForNodeId is None else NodeId(votedForNodeId)
        self._set_hard(self.hard._replace(term=term, vote=vote))

    def getCurrentTerm(self) -> int:  # noqa: N802 - pysyncobj's name
        return self.hard.term

    def getVotedForNodeId(self) -> NodeId | None:  # noqa: N802 - pysyncobj's name
        return self.hard.vote

    def onOneSecondTimer(self) -> None:  # noqa: N802 - pysyncobj's name
        pass

    # --- ours ----------------------------------------------------------------------------

    def _set_hard(self, hard: HardState) -> None:
        if hard != self.hard:
            self.hard = hard
            self._dirty = True

    def set_removed_at(self, config_index: int) -> None:
        self._set_hard(self.hard._replace(removed_at=config_index))

    def set_applied(self, index: int) -> None:
        self.applied_index = index
        self._dirty_progress = True

    def compact(self, index: int) -> None:
        """Make `index` the base; a bound beyond what is durably applied is lowered to that."""
        index = min(index, self.durable_applied)
        if index <= self.base_index:
            return
        if self._compact_from is None:
            self._compact_from = self.base_index
        self.grown_bytes = 0
        self.window.rebase(index)
        while len(self.configs) > 1 and self.configs[1][0] <= index:
            del self.configs[0]
            self._dirty_configs = True
        self._dirty_progress = True

    def install(self, index: int, term: int, config_index: int, config: Config) -> None:
        """The whole log gives way to a snapshot after `index`."""
        assert index > self.applied_index, "a snapshot never rewinds"
        self._truncate_from = min(self._truncate_from or self.base_index, self.base_index)
        self.window.begin(index, term)
        self._unwritten = index + 1
        self.configs = [(config_index, config)]
        self.commit_index = self.applied_index = index
        self._dirty = self._dirty_progress = True
        self._config_changed()

    def _config_changed(self) -> None:
        self.config = self.configs[-1][1]
        self._dirty_configs = True
        self.on_config()

    # --- the turn ------------------------------------------------------------------------

    def need(self) -> Need:
        if self._dirty or self._dirty_configs or self._unwritten <= self.last_index:
            return Need.NOW
        if self._truncate_from is not None:
            return Need.NOW
        return Need.LAZY if self._dirty_progress else Need.NOTHING

    @property
    def must_fold(self) -> bool:
        """What waits to be written belongs together with what was applied."""
        moved = self._compact_from is not None or self._truncate_from is not None
        return moved or self._dirty or self._dirty_configs

    def prepare(self, batch: Batch, *, fold: bool = True) -> None:
        """`fold`: the machine's data goes with this batch; then the applied index must, too."""
        assert fold or not self.must_fold
        group = self.group_id
        if self._compact_from is not None:
            batch.delete_range(
                journal_key(group, self._compact_from), journal_key(group, self.base_index + 1)
            )
        if self._truncate_from is not None and self._truncate_from <= self._written_last:
            batch.delete_range(
                journal_key(group, self._truncate_from),
                journal_key(group, self._written_last + 1),
            )
        if self._dirty or self._compact_from is not None:
            key = meta_key(Table.JOURNAL_META, group)
            batch.put(key, pack_pair(key, self.base_index, self.window.base[2]))
        if self._unwritten <= self.last_index:
            for command, index, term in self.window.since(self._unwritten):
                batch.put(*journal_row(group, index, command, term))
        if self._dirty:
            key = meta_key(Table.HARD_STATE, group)
            batch.put(key, pack_hard_state(key, self.hard))
        if self._dirty_configs:
            key = meta_key(Table.GROUP_CONFIG, group)
            batch.put(key, pack_configs(key, self.configs))
        applied = self.durable_applied
        if fold:
            applied = self.applied_index
            key = meta_key(Table.APPLIED_INDEX, group)
            batch.put(key, pack_pair(key, applied, self.commit_index))
            self._dirty_progress = False
        self._prepared = (self.last_index, self.hard.term, applied)
        self._written_last = self.last_index
        self._unwritten = self.last_index + 1
        self._truncate_from = self._compact_from = None
        self._dirty = self._dirty_configs = False

    def erase(self, batch: Batch) -> None:
        """Nothing of this group stays but a mark that it was here."""
        group = self.group_id
        mark = meta_key(Table.ERASED_REPLICA, group)
        batch.put(mark, seal(mark, b""))
        batch.delete_range(journal_key(group, 0), journal_key(group + 1, 0))
        for table in _META_TABLES:
            batch.delete(meta_key(table, group))

    def after_commit(self) -> None:
        if self._prepared is None:
            return
        last, self.durable_term, self.durable_applied = self._prepared
        self._prepared = None
        self.durable_index = min(last, self._unwritten - 1)
        self.window.evict(self.durable_index)
