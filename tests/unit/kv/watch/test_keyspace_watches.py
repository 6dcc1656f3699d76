"""Watchers of a keyspace go to the hub of the shard that holds their keys."""

from __future__ import annotations

from typing import Any

from kv.watch.hub import Created, WatchHub
from kv.watch.index import EVERYTHING, KeyRange, key_range, one_key
from kv.watch.keyspace_watches import HUB_BITS, KeyspaceWatches
from kv.watch.messages import Cancelled, CancelReason, Event
from kv.watch.watcher import WatchRequest


def encode(event: Event, with_prev: bool) -> bytes:
    return b""


class OneHub:
    """As much of ShardWatches as matters here."""

    def __init__(self, first_identity: int, revision: int) -> None:
        self.hub = WatchHub(encode, revision=revision, first_identity=first_identity)

    def create(self, request: WatchRequest, wake: Any) -> Created | Cancelled:
        return self.hub.create(request, 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.hub, name)


def find(keys: KeyRange) -> int | Cancelled:
    if keys.end is not None and keys.end <= b"m":
        return 1
    if keys.start >= b"m":
        return 2
    return Cancelled(CancelReason.SPLIT, "in two shards")


def two_shards() -> KeyspaceWatches:
    watches = KeyspaceWatches(find)
    watches.attach(1, lambda first: OneHub(first, 5))  # type: ignore[arg-type, return-value]
    watches.attach(2, lambda first: OneHub(first, 9))  # type: ignore[arg-type, return-value]
    return watches


def create(watches: KeyspaceWatches, keys: KeyRange) -> Created | Cancelled:
    return watches.create(WatchRequest(keys), lambda: None)


def test_identities_say_whose_they_are() -> None:
    watches = two_shards()
    left, right = create(watches, one_key(b"a")), create(watches, one_key(b"z"))
    assert isinstance(left, Created)
    assert isinstance(right, Created)
    assert (left.revision, right.revision) == (5, 9)
    assert (left.identity >> HUB_BITS, right.identity >> HUB_BITS) == (0, 1)
    assert watches.reached([left.identity, right.identity]) == 5
    assert watches.cancel(right.identity)
    assert not watches.cancel(right.identity)


def test_a_watch_over_two_shards_is_refused() -> None:
    made = create(two_shards(), EVERYTHING)
    assert isinstance(made, Cancelled)
    assert made.reason is CancelReason.SPLIT


def test_a_shard_that_is_not_here_is_refused() -> None:
    watches = two_shards()
    watches.detach(2)
    made = create(watches, one_key(b"z"))
    assert isinstance(made, Cancelled)
    assert made.reason is CancelReason.CLOSED


def test_a_hub_that_lost_keys_ends_those_who_watch_them() -> None:
    hub = WatchHub(encode, revision=5)
    inside = hub.create(WatchRequest(key_range(b"a", b"c")), 0.0)
    across = hub.create(WatchRequest(EVERYTHING), 0.0)
    assert isinstance(inside, Created)
    assert isinstance(across, Created)
    hub.narrowed(b"", b"m", "split")
    assert hub.take(inside.identity) == []
    (end,) = hub.take(across.identity)
    assert isinstance(end, Cancelled)
    assert end.reason is CancelReason.SPLIT
