"""A layer of changes: one revision at a time, undone or kept; its keys in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.mvcc_overlay import Layer
from storage.mvcc_records import event_key_of, put_record

KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])


def change(layer: Layer, key: bytes, value: bytes = b"v", lease: int = 0) -> None:
    previous = layer.current.get(key)
    sub = len(layer.events) - layer.starts[-1]
    new = put_record(previous, value, lease, layer.last_revision, sub, -1)
    layer.change(key, new, previous)
    layer.attach(lease, key, True)


def revision(layer: Layer, keys: list[bytes], *, lease: int = 0) -> None:
    layer.open_revision()
    for key in keys:
        change(layer, key, lease=lease)
    layer.close_revision()


def contents(layer: Layer) -> tuple[object, ...]:
    leases = {(n, key): held for n, keys in layer.leases.items() for key, held in keys.items()}
    return dict(layer.current), list(layer.events), list(layer.starts), leases, list(layer.keys())


def test_events_stand_at_their_places() -> None:
    layer = Layer(7, 3)
    revision(layer, [b"a", b"b"])
    revision(layer, [b"c"])
    assert layer.last_revision == 9
    events = [(r, s, event_key_of(body)) for r, s, body in layer.numbered_events(8)]
    assert events == [(8, 0, b"a"), (8, 1, b"b"), (9, 0, b"c")]
    assert [r for r, _, _ in layer.numbered_events(9)] == [9]
    assert [r for r, _, _ in layer.numbered_events(0)] == [8, 8, 9]
    assert list(layer.numbered_events(10)) == []
    assert layer.event(8, 1) == layer.events[1]
    assert layer.event(9, 0) == layer.events[2]
    assert layer.event(8, 2) is None
    assert layer.event(9, 1) is None


def test_a_revision_without_changes_does_not_exist() -> None:
    layer = Layer(7, 3)
    layer.open_revision()
    assert layer.close_revision() is False
    assert layer.last_revision == 7
    layer.open_revision()
    change(layer, b"a")
    assert layer.close_revision() is True
    assert layer.last_revision == 8


@given(st.lists(KEYS, max_size=5), st.lists(st.tuples(KEYS, st.integers(0, 2)), max_size=6))
def test_rolling_back_leaves_no_trace(before: list[bytes], undone: list[tuple[bytes, int]]) -> None:
    layer = Layer(7, 3)
    if before:
        revision(layer, before, lease=1)
    layer.keys()
    earlier = contents(layer)
    layer.open_revision()
    for key, lease in undone:
        change(layer, key, lease=lease)
        layer.attach(1, key, False)
        layer.keys()
    layer.roll_back()
    assert contents(layer) == earlier
    revision(layer, [b"z", b"a"])
    assert layer.keys() == sorted({*before, b"z", b"a"})


@given(st.sets(st.binary(min_size=1, max_size=3)), st.data())
def test_a_window_is_the_next_keys_of_a_range(keys: set[bytes], data: st.DataObject) -> None:
    layer = Layer(1, 3)
    if keys:
        revision(layer, sorted(keys, key=lambda key: key[::-1]))
    bound = st.binary(max_size=3)
    start, end, edge = data.draw(bound), data.draw(st.none() | bound), data.draw(st.none() | bound)
    reverse, limit = data.draw(st.booleans()), data.draw(st.integers(1, 6))
    inside = [k for k in sorted(keys, reverse=reverse) if k >= start and (end is None or k < end)]
    if edge is not None:
        inside = [k for k in inside if (k >= edge if reverse else k <= edge)]
    assert layer.window(start, end, edge, reverse, limit) == inside[:limit]
