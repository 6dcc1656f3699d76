"""Random sequences of operations against a dict: whatever the engine, the answers are the same.

One engine serves all examples of a test and is emptied before each, because opening one costs more
than an example. Keys come from few bytes at few lengths, so that they collide and nest.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.engine import Batch, Engine, Snapshot, iterate

Pairs = dict[bytes, bytes]

keys = st.one_of(
    st.binary(min_size=1, max_size=3).map(lambda key: bytes(byte % 4 for byte in key)),
    st.sampled_from([b"\x00" * 511, b"\xff" * 511, b"\xff" * 510, b"\x03" * 511]),
)
values = st.one_of(st.binary(max_size=3), st.sampled_from([b"v" * 300, b"w" * 5_000]))
bounds = st.one_of(keys, st.just(b""), st.just(b"\xff" * 512))
ends = st.one_of(st.none(), bounds)

operations = st.one_of(
    st.tuples(st.just("put"), keys, values),
    st.tuples(st.just("put"), keys, values),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("delete_range"), bounds, ends),
)
batches = st.lists(operations, max_size=8)
scans = st.tuples(
    bounds, ends, st.booleans(), st.integers(1, 6), st.sampled_from([0, 4, 10, 400, 10**6])
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), batches, st.booleans()),
        st.tuples(st.just("write"), batches, st.booleans()),
        st.tuples(st.just("scan"), st.integers(0, 5), scans),
        st.tuples(st.just("get"), st.integers(0, 5), st.lists(keys, min_size=1, max_size=5)),
        st.tuples(st.just("snapshot")),
        st.tuples(st.just("close"), st.integers(0, 5)),
    ),
    max_size=25,
)


def apply(batch: list[Any], model: Pairs) -> Batch:
    """Builds the batch and does the same to the dict."""
    built = Batch()
    for name, *arguments in batch:
        getattr(built, name)(*arguments)
        if name == "put":
            model[arguments[0]] = arguments[1]
        elif name == "delete":
            model.pop(arguments[0], None)
        else:
            for key in inside(model, *arguments):
                del model[key]
    return built


def inside(model: Pairs, start: bytes, end: bytes | None) -> list[bytes]:
    return sorted(key for key in model if key >= start and (end is None or key < end))


def expected_page(
    model: Pairs, start: bytes, end: bytes | None, reverse: bool, limit: int, max_bytes: int
) -> tuple[list[tuple[bytes, bytes]], bool]:
    found = inside(model, start, end)
    if reverse:
        found.reverse()
    items: list[tuple[bytes, bytes]] = []
    size = 0
    for key in found:
        size += len(key) + len(model[key])
        if items and (len(items) >= limit or size > max_bytes):
            return items, True
        items.append((key, model[key]))
    return items, False


def empty(engine: Engine) -> None:
    batch = Batch()
    batch.delete_range(b"", None)
    engine.write(batch, sync=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=steps)
def test_random_sequences_give_what_a_dict_gives(engine: Engine, steps: list[Any]) -> None:
    empty(engine)
    model: Pairs = {}
    views: list[tuple[Snapshot, Pairs]] = [(engine.snapshot(), {})]
    try:
        for name, *arguments in steps:
            if name == "write":
                engine.write(apply(arguments[0], model), sync=arguments[1])
            elif name == "snapshot":
                views.append((engine.snapshot(), dict(model)))
            elif name == "close" and len(views) > 1:
                views.pop(arguments[0] % len(views))[0].close()
            elif name == "get":
                snapshot, seen = views[arguments[0] % len(views)]
                for key in arguments[1]:
                    assert snapshot.get(key) == seen.get(key)
            elif name == "scan":
                snapshot, seen = views[arguments[0] % len(views)]
                start, end, reverse, limit, max_bytes = arguments[1]
                page = snapshot.scan(start, end, reverse=reverse, limit=limit, max_bytes=max_bytes)
                assert page == expected_page(seen, *arguments[1])
        with engine.snapshot() as now:
            views.append((now, model))
            for snapshot, seen in views:
                assert list(iterate(snapshot, page_limit=3)) == sorted(seen.items())
                assert list(iterate(snapshot, reverse=True, page_limit=3)) == (
                    sorted(seen.items(), reverse=True)
                )
        found = engine.statistics()
        if found.keys_exact:
            assert found.keys == len(model)
    finally:
        for snapshot, _ in views:
            snapshot.close()


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=15,
)
@given(lives=st.lists(st.lists(batches, max_size=4), min_size=1, max_size=3))
def test_random_sequences_survive_reopening(engines: Any, lives: list[Any]) -> None:
    if not engines.kind.keeps:
        return
    engine = engines.open()
    empty(engine)
    model: Pairs = {}
    for life in lives:
        for batch in life:
            engine.write(apply(batch, model), sync=False)
        engine.close()
        engine = engines.open()
        with engine.snapshot() as snapshot:
            assert list(iterate(snapshot)) == sorted(model.items())
    engine.close()
