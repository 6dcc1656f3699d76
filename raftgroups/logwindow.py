"""The part of a log that is in memory, and reading the rest back by pages (hazard n6).

    base      base+1 ...           first ...           last
    |---------|--------------------|-------------------|
     index     only in the engine   in memory
     and term

Knows nothing of what is written when: whoever owns it says up to where the disk has everything
(`evict`), and gives a way to read entries back.

Invariants: the window is contiguous and ends with the last entry (it is empty only if the log is);
a page read back never outlives a truncation or a new base.
"""

from __future__ import annotations

from collections.abc import Callable

from raftgroups.records import NOOP, Entry

ReadBack = Callable[[int, int], list[Entry]]
"""(first, stop) -> some entries from `first` on, before `stop`, at least one."""


class LogWindow:
    def __init__(self, read_back: ReadBack, *, max_entries: int, max_bytes: int) -> None:
        self._read_back = read_back
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: list[Entry] = []
        self._size_bytes = 0
        self._page: list[Entry] = []
        self.base: Entry = (NOOP, 0, 0)
        self.base_index = 0
        """Of `base`."""
        self.last_index = 0
        self.last_term = 0

    @property
    def first(self) -> int:
        """The first index in memory; after the last one if none is."""
        return self.last_index + 1 - len(self._entries)

    @property
    def last(self) -> Entry:
        return self._entries[-1] if self._entries else self.base

    def entry(self, index: int) -> Entry:
        at = index - self.last_index - 1 + len(self._entries)
        if at >= 0:
            return self._entries[at]
        if index == self.base[1]:
            return self.base
        assert self.base[1] < index, f"entry {index} was compacted, the base is {self.base[1]}"
        page = self._page
        if not page or not page[0][1] <= index <= page[-1][1]:
            page = self._page = self._read_back(index, self.first)
        return page[index - page[0][1]]

    def since(self, index: int) -> list[Entry]:
        """Entries from `index` on, which must be in memory."""
        assert index >= self.first, f"entry {index} is not in memory"
        return self._entries[index - self.first :]

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

    def tail(self, entries: int, size_bytes: int) -> int:
        """How many of the last entries to keep: fewer than asked if they are large."""
        size = 0
        for kept, entry in enumerate(reversed(self._entries)):
            size += len(entry[0])
            if size > size_bytes:
                return min(kept, entries)
        return entries

    # --- changes -------------------------------------------------------------------------

    def begin(self, index: int, term: int) -> None:
        """An empty log after this base."""
        self.base = (NOOP, index, term)
        self.base_index = index
        self._entries.clear()
        self._size_bytes = 0
        self._page = []
        self.last_index, self.last_term = index, term

    def push(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._size_bytes += len(entry[0])
        self.last_index, self.last_term = entry[1], entry[2]

    def truncate(self, first: int) -> None:
        """Drop the entries from `first` on, which is after the base."""
        last_kept = self.entry(first - 1)
        keep = max(0, first - self.first)
        self._size_bytes -= sum(len(entry[0]) for entry in self._entries[keep:])
        del self._entries[keep:]
        self._page = []
        self.last_index, self.last_term = last_kept[1], last_kept[2]
        if not self._entries and self.last_index > self.base[1]:
            self._entries.append(last_kept)
            self._size_bytes = len(last_kept[0])

    def rebase(self, index: int) -> None:
        """Drop the entries up to and including `index`, which becomes the base."""
        term = self.entry(index)[2]
        drop = max(0, index + 1 - self.first)
        self._size_bytes -= sum(len(entry[0]) for entry in self._entries[:drop])
        del self._entries[:drop]
        self._page = []
        self.base = (NOOP, index, term)
        self.base_index = index

    def evict(self, durable_index: int) -> None:
        """If it grew too large, forget what the disk has. Three quarters stay, so that this is
        rare; the last entry always stays."""
        entries = self._entries
        if len(entries) <= self._max_entries and self._size_bytes <= self._max_bytes:
            return
        may_go = min(durable_index + 1 - self.first, len(entries) - 1)
        keep_entries, keep_bytes = 3 * self._max_entries // 4, 3 * self._max_bytes // 4
        drop, size = 0, self._size_bytes
        while drop < may_go and (len(entries) - drop > keep_entries or size > keep_bytes):
            size -= len(entries[drop][0])
            drop += 1
        del entries[:drop]
        self._size_bytes = size
