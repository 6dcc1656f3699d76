"""One page of the event log for as many watchers as can use it.

Reading and decoding the log costs the same whoever it is for, so a step serves a cohort:

    1. The watcher that has waited longest leads: the page begins at its next revision.
    2. Whoever waits and stands at that revision or later comes along, up to a bound.
    3. The page is read for the smallest range that covers all of theirs.
    4. Each event is looked up in the index once; what a range got is cut into batches once for all
       of its watchers with the same variant and position.

Nobody is starved: after a step its cohort goes to the end of the queue, and those who stand before
the page keep their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import attrgetter
from typing import Final, NamedTuple, Protocol

from kv.watch.index import KeyRange, RangeIndex
from kv.watch.messages import EventBatch, SharedEvent
from kv.watch.watcher import FILTERS, WITH_PREV, Group, Watcher, WatchLimits, filtered
from storage.mvcc_events import EventPage

_REVISION: Final = attrgetter("revision")


class ReadEvents(Protocol):
    """storage/mvcc_events.py read_events with its view. Raises CompactedError."""

    def __call__(
        self,
        from_revision: int,
        start: bytes,
        end: bytes | None,
        *,
        max_events: int,
        max_bytes: int,
    ) -> EventPage: ...


class StepBudget(NamedTuple):
    """What one step may read and whom it may serve: about 2 ms."""

    events: int = 256
    size_bytes: int = 256 * 1024
    watchers: int = 512


DEFAULT_BUDGET: Final = StepBudget()


class Share(NamedTuple):
    """What some watchers, standing at the same revision, get of a page."""

    watchers: list[Watcher]
    batches: list[EventBatch]


def cohort_of(queue: Iterable[Watcher], size: int) -> list[Watcher]:
    """The first of a queue that is not empty, and those among the next ones that it can lead."""
    first = islice(queue, size)
    lead = next(first)
    return [lead, *(each for each in first if each.next_revision >= lead.next_revision)]


def hull(cohort: list[Watcher]) -> KeyRange:
    ranges = [watcher.group.keys for watcher in cohort]
    ends = [keys.end for keys in ranges]
    known = [end for end in ends if end is not None]
    return KeyRange(
        min(keys.start for keys in ranges), max(known) if len(known) == len(ends) else None
    )


def share_out(
    page: list[SharedEvent], cohort: list[Watcher], index: RangeIndex[Group], limits: WatchLimits
) -> list[Share]:
    """Every watcher of the cohort is in exactly one share."""
    alike: dict[tuple[KeyRange, int, int], list[Watcher]] = {}
    for watcher in cohort:
        place = watcher.group.keys, watcher.variant, watcher.next_revision
        alike.setdefault(place, []).append(watcher)
    wanted: dict[KeyRange, list[SharedEvent]] = {keys: [] for keys, _, _ in alike}
    for event in page:
        for group in index.find(event.key):
            events = wanted.get(group.keys)
            if events is not None:
                events.append(event)
    shares: list[Share] = []
    for (keys, variant, first), watchers in alike.items():
        events = [event for event in wanted[keys] if event.revision >= first]
        if variant & FILTERS:
            events = filtered(events, variant)
        shares.append(Share(watchers, list(_batches(events, bool(variant & WITH_PREV), limits))))
    return shares


def _batches(
    events: list[SharedEvent], with_prev: bool, limits: WatchLimits
) -> Iterator[EventBatch]:
    """Whole revisions, as many in a batch as the limits of a message allow, but at least one."""
    held: list[SharedEvent] = []
    held_bytes = 0
    for _, revision in groupby(events, key=_REVISION):
        group = list(revision)
        size = sum([event.sizes[with_prev] for event in group])
        if held and (
            len(held) + len(group) > limits.message_events
            or held_bytes + size > limits.message_bytes
        ):
            yield EventBatch(held, with_prev)
            held, held_bytes = [], 0
        held += group
        held_bytes += size
    if held:
        yield EventBatch(held, with_prev)
