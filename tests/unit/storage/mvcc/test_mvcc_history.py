"""The way back from the newest record: the right one, and in few steps."""

from __future__ import annotations

from storage.mvcc_history import record_at
from storage.mvcc_records import head_of, pack_event, put_record, tombstone_record


class Log:
    """The events of one key by place; counts how many are loaded."""

    def __init__(self) -> None:
        self.events: dict[tuple[int, int], bytes] = {}
        self.newest: bytes | None = None
        self.loaded = 0

    def put(self, mod: int, sub: int = 0) -> None:
        self.change(put_record(self.newest, b"%d.%d" % (mod, sub), 0, mod, sub, -1))

    def delete(self, mod: int, sub: int = 0) -> None:
        assert self.newest is not None
        self.change(tombstone_record(self.newest, mod, sub, -1))

    def change(self, new: bytes) -> None:
        head = head_of(new)
        self.events[head.mod, head.sub] = pack_event(b"k", new, self.newest)
        self.newest = new

    def load(self, key: bytes, revision: int, sub: int) -> bytes:
        assert key == b"k"
        self.loaded += 1
        return self.events[revision, sub]

    def at(self, revision: int) -> bytes | None:
        assert self.newest is not None
        self.loaded = 0
        return record_at(b"k", self.newest, revision, self.load)


def test_every_revision_of_a_hot_key_is_found_in_few_steps() -> None:
    log = Log()
    for nth in range(1, 10_001):
        log.put(3 * nth)
    most = 0
    for revision in range(3, 30_003, 7):
        body = log.at(revision)
        assert body is not None
        assert head_of(body).mod == revision - revision % 3
        most = max(most, log.loaded)
    assert most <= 16 * 3 + 3
    assert log.at(2) is None
    assert log.at(40_000) == log.newest
    assert log.loaded == 0


def test_deletes_are_part_of_the_chain() -> None:
    log = Log()
    log.put(2)
    log.delete(4)
    log.put(6)
    found = [log.at(revision) for revision in range(1, 8)]
    assert [None if body is None else head_of(body).mod for body in found] == [
        None, 2, 2, 4, 4, 6, 6,
    ]  # fmt: skip


def test_the_last_change_of_a_revision_counts() -> None:
    """Also where a jump leads to an earlier change of just that revision."""
    log = Log()
    for mod in range(2, 17):
        log.put(mod)
    log.put(17, 0)  # depth 16, a jump's aim
    log.put(17, 1)
    for mod in range(18, 40):
        log.put(mod)
    body = log.at(17)
    assert body is not None
    assert head_of(body).sub == 1


def test_only_events_above_the_revision_are_loaded() -> None:
    """So compaction to R may remove the others."""
    log = Log()
    for mod in range(2, 500):
        log.put(mod)
    for revision in range(1, 500):
        for place in [place for place in log.events if place[0] <= revision]:
            del log.events[place]
        body = log.at(revision)
        assert revision == 1 if body is None else head_of(body).mod == revision
