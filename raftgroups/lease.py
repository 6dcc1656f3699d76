"""The leases of a shard, in the shard's own clock.

A lease is a TTL in seconds and a deadline in milliseconds of the replicated clock. Granting and
keeping alive go through the log, so the remaining time survives a change of leader and a restart,
and no time passes for a lease while the shard cannot commit. Which keys hang on a lease is kept by
the storage (storage/mvcc_scope.py); here is only the lease.

A lease whose deadline has passed is not gone: the leader sees it in `due` and proposes its expiry,
and until that entry is applied its keys are there. It cannot be kept alive any more, since whoever
held it may have been told that its time was over.

All leases are in memory; changes wait in `_pending` for the next batch.

    LEASE         keyspace u32, lease u64 -> ttl in seconds u64, deadline in milliseconds u64
    LEASE_ENDED   keyspace u32, lease u64 -> epoch u64

A keyspace of several shards has its leases in the first, their home; keys of every shard may hang
on them. What ends at home is not over elsewhere by that:

    home    a lease ends: its keys here go, `epoch` rises, and it stands in `ended` with that epoch
    whoever drives    LeaseEnd(leases, epoch) to every shard until the whole keyspace has answered
    shard   its keys go; its own `epoch` rises to that one
    home    LeaseForget: it does not stand in `ended` any more, and its id may be granted again

A write elsewhere that attaches a key carries the home's epoch at which its lease was seen to live
(UnderLease). If the lease ended later, that epoch is lower than that of its LeaseEnd: a write that
comes after it is refused, and the key of one that comes before goes with the others.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from struct import Struct
from typing import Final, NamedTuple

from raftgroups.refusals import LeaseExistsError, LeaseNotFoundError, TtlTooLargeError
from storage.codec import Table, key_u32, key_u32_u64, prefix_end, seal, unseal
from storage.engine import Batch, Reader, iterate
from storage.errors import InvalidOptionError

MINIMUM_TTL_S: Final = 2
"""etcd's at its defaults; a setting of the proposer."""
MAXIMUM_TTL_S: Final = 9_000_000_000
LEASE_MAX: Final = 2**63 - 1
DUE_LIMIT: Final = 64

_ROW: Final = Struct(">QQ")


def ttl_to_grant(ttl_s: int, minimum_s: int = MINIMUM_TTL_S) -> int:
    """The TTL for the command, as etcd grants it: raised to the minimum, refused over the maximum.
    The proposer calls this; the machine checks the bounds again."""
    check_ttl(ttl_s)
    return max(ttl_s, minimum_s, 1)


def check_ttl(ttl_s: int) -> None:
    if ttl_s > MAXIMUM_TTL_S:
        raise TtlTooLargeError(
            f"a TTL of {ttl_s} s is over the limit of {MAXIMUM_TTL_S} s; give a shorter one"
        )


def lease_missing(lease: int) -> LeaseNotFoundError:
    return LeaseNotFoundError(f"lease {lease} does not exist: it was revoked, or it is over")


class Lease(NamedTuple):
    ttl_s: int
    deadline_ms: int


class Leases:
    """Invariant: every lease has an element with its deadline in the heap; elements that no longer
    agree with a lease are passed over, and there are at most twice as many as leases, about."""

    __slots__ = ("_heap", "_keyspace", "_leases", "_pending", "_pending_ended", "ended", "epoch")

    def __init__(self, keyspace: int) -> None:
        self._keyspace = keyspace
        self._leases: dict[int, Lease] = {}
        self._heap: list[tuple[int, int]] = []
        self._pending: dict[int, Lease | None] = {}
        self._pending_ended: dict[int, int | None] = {}
        self.ended: dict[int, int] = {}
        """Lease -> epoch of its end, of those that other shards may not know of."""
        self.epoch = 0
        """At home, how often leases ended; elsewhere, of the last end heard of. Kept by the
        machine, in a row of its own."""

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: object) -> bool:
        return lease in self._leases

    def get(self, lease: int) -> Lease | None:
        return self._leases.get(lease)

    def ids(self) -> list[int]:
        """In order."""
        return sorted(self._leases)

    def remaining_s(self, lease: int, clock_ms: int) -> int | None:
        """Whole seconds left, rounded down; None if there is no such lease."""
        found = self._leases.get(lease)
        return None if found is None else max(0, (found.deadline_ms - clock_ms) // 1000)

    # --- changes, all of them entries of the log ---

    def grant(self, lease: int, ttl_s: int, clock_ms: int) -> Lease:
        if not 0 < lease <= LEASE_MAX:
            raise InvalidOptionError(f"a lease id is 1 to {LEASE_MAX}, not {lease}")
        check_ttl(ttl_s)
        if lease in self._leases or lease in self.ended:
            raise LeaseExistsError(f"lease {lease} already exists; choose another id")
        ttl_s = max(ttl_s, 1)
        return self._set(lease, Lease(ttl_s, clock_ms + 1000 * ttl_s))

    def keep_alive(self, lease: int, clock_ms: int) -> int:
        """Its TTL, which begins anew; 0 if it is not there or its deadline has passed."""
        found = self._leases.get(lease)
        if found is None or found.deadline_ms <= clock_ms:
            return 0
        self._set(lease, Lease(found.ttl_s, clock_ms + 1000 * found.ttl_s))
        return found.ttl_s

    def remove(self, lease: int) -> None:
        """The caller has deleted its keys."""
        del self._leases[lease]
        self._pending[lease] = None

    def remove_everywhere(self, lease: int) -> None:
        """The same, where other shards may have keys of it."""
        self.remove(lease)
        self.epoch += 1
        self.ended[lease] = self._pending_ended[lease] = self.epoch

    def forget(self, lease: int) -> None:
        """No shard has keys of it."""
        if self.ended.pop(lease, None) is not None:
            self._pending_ended[lease] = None

    def is_over(self, lease: int, clock_ms: int) -> bool:
        found = self._leases.get(lease)
        return found is not None and found.deadline_ms <= clock_ms

    def _set(self, lease: int, state: Lease) -> Lease:
        self._leases[lease] = self._pending[lease] = state
        heappush(self._heap, (state.deadline_ms, lease))
        if len(self._heap) > 2 * len(self._leases) + 64:
            self._rebuild_heap()
        return state

    def _rebuild_heap(self) -> None:
        self._heap = [(state.deadline_ms, lease) for lease, state in self._leases.items()]
        heapify(self._heap)

    # --- for the leader ---

    def next_deadline_ms(self) -> int | None:
        heap = self._heap
        while heap:
            deadline_ms, lease = heap[0]
            found = self._leases.get(lease)
            if found is not None and found.deadline_ms == deadline_ms:
                return deadline_ms
            heappop(heap)
        return None

    def due(self, clock_ms: int, limit: int = DUE_LIMIT) -> list[int]:
        """The leases whose deadline has passed, the earliest first. They stay until their expiry
        is applied, so asking again names them again."""
        found: list[tuple[int, int]] = []
        while len(found) < limit:
            deadline_ms = self.next_deadline_ms()
            if deadline_ms is None or deadline_ms > clock_ms:
                break
            found.append(heappop(self._heap))
        for element in found:
            heappush(self._heap, element)
        return list(dict.fromkeys(lease for _, lease in found))

    # --- rows ---

    def owned_ranges(self) -> list[tuple[bytes, bytes]]:
        return [self._range(Table.LEASE), self._range(Table.LEASE_ENDED)]

    def _range(self, table: Table) -> tuple[bytes, bytes]:
        start = key_u32(table, self._keyspace)
        end = prefix_end(start)
        assert end is not None, "no table tag is 0xff"
        return start, end

    def write(self, batch: Batch) -> None:
        for lease, state in self._pending.items():
            stored = key_u32_u64(Table.LEASE, self._keyspace, lease)
            if state is None:
                batch.delete(stored)
            else:
                batch.put(stored, seal(stored, _ROW.pack(*state)))
        self._pending.clear()
        for lease, epoch in self._pending_ended.items():
            stored = key_u32_u64(Table.LEASE_ENDED, self._keyspace, lease)
            if epoch is None:
                batch.delete(stored)
            else:
                batch.put(stored, seal(stored, epoch.to_bytes(8, "big")))
        self._pending_ended.clear()

    def load(self, reader: Reader) -> None:
        for each in (self._leases, self._pending, self.ended, self._pending_ended):
            each.clear()
        for stored, record in iterate(reader, *self._range(Table.LEASE)):
            lease = int.from_bytes(stored[-8:], "big")
            self._leases[lease] = Lease(*_ROW.unpack(unseal(stored, record)))
        for stored, record in iterate(reader, *self._range(Table.LEASE_ENDED)):
            epoch = int.from_bytes(unseal(stored, record), "big")
            self.ended[int.from_bytes(stored[-8:], "big")] = epoch
        self._rebuild_heap()
