"""A group's log and hard state in the node's engine; what pysyncobj holds as its Journal.

    base      base+1 ...           window_first ...    durable    ...last
    |---------|--------------------|-------------------|----------|
     (gone,    only in the engine,  in memory, too      only in memory, until the
     index     read back by pages                       turn's batch is written
     and term
     kept)

Nothing is written here: changes wait for `prepare`, which adds them to the batch of the turn, so
that truncation, append, term, vote and configuration reach the disk together or not at all, and
`after_commit` says that they did. Records are sealed (version, checksum, key).

Invariants:
- the window is contiguous and ends with the last entry (it is empty only if the log is); everything
  after `durable_index` is in it;
- `configs` holds the configuration in force at the base, then every one in the log, by index; the
  last one is in force;
- an entry at or below `applied_index` is never truncated (hazard n5): that would mean that a
  committed entry was overwritten, and the node stops;
- compaction goes no further than `durable_applied`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import SupportsIndex, overload

from raftgroups.membership import Config
from raftgroups.records import (
    KIND_CONFIG,
    NOOP,
    Entry,
    HardState,
    journal_entry,
    journal_key,
    journal_record,
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
from storage.codec import Table
from storage.committer import Need
from storage.engine import Batch, Engine
from storage.errors import StorageError

_PAGE_ENTRIES = 256
_PAGE_BYTES = 1024 * 1024


class BrokenLogError(StorageError):
    """The log contradicts itself or what was committed. The node must stop: going on could lose or
    change what was acknowledged."""

    code = "broken_log"


class GroupJournal:
    def __init__(
        self, engine: Engine, group_id: int, *, window_entries: int, window_bytes: int
    ) -> None:
        self.group_id = group_id
        self._engine = engine
        self._window_entries = window_entries
        self._window_bytes = window_bytes
        self._base: Entry = (NOOP, 0, 0)
        self._window: list[Entry] = []
        self._window_size = 0
        self._page: list[Entry] = []
        self.grown_bytes = 0
        """Bytes appended since the last compaction or start."""
        self.last_index = 0
        self.last_term = 0
        self.configs: list[tuple[int, Config]] = []
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

    # --- birth ---------------------------------------------------------------------------

    def form(self, config: Config | None) -> None:
        """A new replica. Without a configuration it joins: its log begins before the first entry
        of any group, so that it can only start from a snapshot (hazard l4)."""
        base_index = 0 if config is None else 1
        self._set_base(base_index, 0)
        self.configs = [(base_index, config or Config({}))]
        self.commit_index = self.applied_index = base_index
        self._unwritten = base_index + 1
        self._dirty = self._dirty_configs = self._dirty_progress = True

    def load(self) -> bool:
        """Reopen what the engine holds; False if it does not know the group."""
        group = self.group_id
        with self._engine.snapshot() as rows:
            found = {}
            for table in (
                Table.JOURNAL_META,
                Table.HARD_STATE,
                Table.GROUP_CONFIG,
                Table.APPLIED_INDEX,
            ):
                key = meta_key(table, group)
                record = rows.get(key)
                if record is None:
                    return False
                found[table] = (key, record)
            base_index, base_term = unpack_pair(*found[Table.JOURNAL_META])
            self.hard = unpack_hard_state(*found[Table.HARD_STATE])
            self.configs = unpack_configs(*found[Table.GROUP_CONFIG])
            self.applied_index, self.commit_index = unpack_pair(*found[Table.APPLIED_INDEX])
            self._set_base(base_index, base_term)
            page = rows.scan(
                journal_key(group, base_index + 1),
                journal_key(group + 1, 0),
                reverse=True,
                limit=self._window_entries,
                max_bytes=self._window_bytes,
            )
        for key, record in reversed(page.items):
            self._push(journal_entry(key, record))
        self._check_loaded()
        self._unwritten = self.last_index + 1
        self._written_last = self.durable_index = self.last_index
        self.durable_term = self.hard.term
        self.durable_applied = self.applied_index
        return True

    def _check_loaded(self) -> None:
        indexes = [entry[1] for entry in self._window]
        whole = indexes == list(range(self.window_first, self.last_index + 1))
        if not whole or not self.base_index <= self.applied_index <= self.last_index:
            raise BrokenLogError(
                f"the log of group {self.group_id} has gaps: base {self.base_index}, applied "
                f"{self.applied_index}, entries {indexes[:1]}..{indexes[-1:]}; "
                "replace this replica from another one"
            )
        self.commit_index = min(self.commit_index, self.last_index)

    def _set_base(self, index: int, term: int) -> None:
        self._base = (NOOP, index, term)
        if self.last_index <= index:
            self._window.clear()
            self._window_size = 0
            self.last_index, self.last_term = index, term

    # --- reading -------------------------------------------------------------------------

    @property
    def base_index(self) -> int:
        return self._base[1]

    @property
    def base_term(self) -> int:
        return self._base[2]

    @property
    def window_first(self) -> int:
        return self.last_index + 1 - len(self._window)

    @property
    def config(self) -> Config:
        return self.configs[-1][1]

    @property
    def config_index(self) -> int:
        return self.configs[-1][0]

    def config_at(self, index: int) -> tuple[int, Config]:
        """The configuration in force at an index that is not below the base."""
        return next(pair for pair in reversed(self.configs) if pair[0] <= index)

    def entry(self, index: int) -> Entry:
        at = index - self.last_index - 1 + len(self._window)
        if at >= 0:
            return self._window[at]
        if index == self._base[1]:
            return self._base
        assert self._base[1] < index, f"entry {index} was compacted, the base is {self._base[1]}"
        return self._read_back(index)

    def term_at(self, index: int) -> int:
        return self.entry(index)[2]

    def read(self, first: int, max_bytes: int) -> list[Entry]:
        """Entries from `first` on, at least one if there is one, about `max_bytes` at most."""
        found: list[Entry] = []
        size = 0
        for index in range(first, self.last_index + 1):
            entry = self.entry(index)
            size += len(entry[0])
            if found and size > max_bytes:
                break
            found.append(entry)
        return found

    def _read_back(self, index: int) -> Entry:
        page = self._page
        if not page or not page[0][1] <= index <= page[-1][1]:
            with self._engine.snapshot() as rows:
                scanned = rows.scan(
                    journal_key(self.group_id, index),
                    journal_key(self.group_id, self.window_first),
                    limit=_PAGE_ENTRIES,
                    max_bytes=_PAGE_BYTES,
                )
            page = self._page = [journal_entry(key, record) for key, record in scanned.items]
            if not page or page[0][1] != index or page[-1][1] != index + len(page) - 1:
                raise BrokenLogError(
                    f"entry {index} of group {self.group_id} is missing in the engine "
                    f"(base {self.base_index}, last {self.last_index})"
                )
        return page[index - page[0][1]]

    # --- pysyncobj's face: positions count from the base ----------------------------------

    def __len__(self) -> int:
        return self.last_index - self._base[1] + 1

    @overload
    def __getitem__(self, item: SupportsIndex) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: SupportsIndex | slice) -> Entry | list[Entry]:
        if isinstance(item, slice):
            base = self._base[1]
            start, stop, _ = item.indices(len(self))
            return [self.entry(index) for index in range(base + start, base + stop)]
        position = int(item)
        if position == -1:
            return self._window[-1] if self._window else self._base
        if position == 0:
            return self._base
        return self.entry(self._base[1] + position)

    def add(self, command: bytes, idx: int, term: int) -> None:
        if idx != self.last_index + 1 or term < self.last_term:
            raise BrokenLogError(
                f"group {self.group_id}: entry {idx} of term {term} cannot follow "
                f"{self.last_index} of term {self.last_term}"
            )
        self._push((command, idx, term))
        if command[0] == KIND_CONFIG:
            self.configs.append((idx, read_config(command)))
            self._dirty_configs = True
            self.on_config()

    def _push(self, entry: Entry) -> None:
        self._window.append(entry)
        self._window_size += len(entry[0])
        self.grown_bytes += len(entry[0])
        self.last_index, self.last_term = entry[1], entry[2]

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803 - pysyncobj's name
        first = self._base[1] + entryFrom
        if first > self.last_index:
            return
        if first <= max(self.applied_index, self._base[1]):
            raise BrokenLogError(
                f"group {self.group_id}: entry {first} was to be overwritten, but everything up to "
                f"{self.applied_index} is applied; the replicas have diverged"
            )
        last_kept = self.entry(first - 1)
        keep = max(0, first - self.window_first)
        self._window_size -= sum(len(entry[0]) for entry in self._window[keep:])
        del self._window[keep:]
        self._page = []
        self.last_index, self.last_term = last_kept[1], last_kept[2]
        if not self._window and self.last_index > self._base[1]:
            self._window.append(last_kept)
            self._window_size = len(last_kept[0])
        self._truncate_from = min(first, self._truncate_from or first)
        self._unwritten = min(self._unwritten, first)
        if self.configs[-1][0] >= first:
            while self.configs[-1][0] >= first:
                self.configs.pop()
            self._dirty_configs = True
            self.on_config()

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

    def tail(self, entries: int, size_bytes: int) -> int:
        """How many of the last entries to keep: fewer than asked if they are large."""
        size = 0
        for kept, entry in enumerate(reversed(self._window)):
            size += len(entry[0])
            if size > size_bytes:
                return min(kept, entries)
        return entries

    def compact(self, index: int) -> None:
        """Make `index` the base; a bound beyond what is durably applied is lowered to that."""
        index = min(index, self.durable_applied)
        if index <= self.base_index:
            return
        term = self.term_at(index)
        if self._compact_from is None:
            self._compact_from = self.base_index
        self.grown_bytes = 0
        drop = max(0, index + 1 - self.window_first)
        self._window_size -= sum(len(entry[0]) for entry in self._window[:drop])
        del self._window[:drop]
        self._page = []
        self._base = (NOOP, index, term)
        self._forget_configs()
        self._dirty_progress = True

    def _forget_configs(self) -> None:
        """Keep the one in force at the base and the later ones."""
        while len(self.configs) > 1 and self.configs[1][0] <= self.base_index:
            del self.configs[0]
            self._dirty_configs = True

    def install(self, index: int, term: int, config_index: int, config: Config) -> None:
        """The whole log gives way to a snapshot after `index`."""
        assert index > self.applied_index, "a snapshot never rewinds"
        self._window.clear()
        self._window_size = 0
        self._page = []
        self._truncate_from = min(self._truncate_from or self.base_index, self.base_index)
        self._base = (NOOP, index, term)
        self.last_index, self.last_term = index, term
        self._unwritten = index + 1
        self.configs = [(config_index, config)]
        self.commit_index = self.applied_index = index
        self._dirty = self._dirty_configs = self._dirty_progress = True
        self.on_config()

    # --- the turn ------------------------------------------------------------------------

    def need(self) -> Need:
        if self._dirty or self._dirty_configs or self._unwritten <= self.last_index:
            return Need.NOW
        if self._truncate_from is not None:
            return Need.NOW
        return Need.LAZY if self._dirty_progress else Need.NOTHING

    def prepare(self, batch: Batch) -> None:
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
            batch.put(key, pack_pair(key, self.base_index, self.base_term))
        if self._unwritten <= self.last_index:
            for command, index, term in self._window[self._unwritten - self.window_first :]:
                key = journal_key(group, index)
                batch.put(key, journal_record(key, command, term))
        if self._dirty:
            key = meta_key(Table.HARD_STATE, group)
            batch.put(key, pack_hard_state(key, self.hard))
        if self._dirty_configs:
            key = meta_key(Table.GROUP_CONFIG, group)
            batch.put(key, pack_configs(key, self.configs))
        key = meta_key(Table.APPLIED_INDEX, group)
        batch.put(key, pack_pair(key, self.applied_index, self.commit_index))
        self._prepared = (self.last_index, self.hard.term, self.applied_index)
        self._written_last = self.last_index
        self._unwritten = self.last_index + 1
        self._truncate_from = self._compact_from = None
        self._dirty = self._dirty_configs = self._dirty_progress = False

    def after_commit(self) -> None:
        if self._prepared is None:
            return
        last, self.durable_term, self.durable_applied = self._prepared
        self._prepared = None
        self.durable_index = min(last, self._unwritten - 1)
        if len(self._window) > self._window_entries or self._window_size > self._window_bytes:
            self._evict()

    def _evict(self) -> None:
        """Three quarters stay, so that this is rare; what is not on the disk always stays."""
        durable = min(self.durable_index + 1 - self.window_first, len(self._window) - 1)
        keep_entries, keep_bytes = 3 * self._window_entries // 4, 3 * self._window_bytes // 4
        drop, size = 0, self._window_size
        while drop < durable and (len(self._window) - drop > keep_entries or size > keep_bytes):
            size -= len(self._window[drop][0])
            drop += 1
        del self._window[:drop]
        self._window_size = size
