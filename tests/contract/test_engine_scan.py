"""Ranges in the Engine contract: scans in both directions, their bounds, and delete_range."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from storage.engine import ENGINE_KEY_MAX_BYTES, Batch, Engine, iterate

LONGEST = ENGINE_KEY_MAX_BYTES


def put(engine: Engine, *pairs: tuple[bytes, bytes]) -> None:
    batch = Batch()
    for key, value in pairs:
        batch.put(key, value)
    engine.write(batch, sync=False)


def numbered(count: int, value: bytes = b"value") -> list[tuple[bytes, bytes]]:
    return [(b"%06d" % number, value) for number in range(count)]


def everything(engine: Engine) -> list[tuple[bytes, bytes]]:
    with engine.snapshot() as snapshot:
        return list(iterate(snapshot))


@pytest.mark.parametrize(
    ("start", "end", "numbers"),
    [
        (b"", None, range(10)),
        (b"000003", None, range(3, 10)),
        (b"", b"000003", range(3)),
        (b"000003", b"000007", range(3, 7)),
        (b"0000035", b"0000065", range(4, 7)),
        (b"000003", b"000003", []),
        (b"000007", b"000003", []),
        (b"000003", b"", []),
        (b"", b"", []),
        (b"x", None, []),
        (b"", b"0", []),
        (b"0000031", b"0000039", []),
        (b"000009", b"\xff" * 600, [9]),
    ],
)
def test_scan_ranges(
    engine: Engine, start: bytes, end: bytes | None, numbers: Iterable[int]
) -> None:
    put(engine, *numbered(10))
    expected = [(b"%06d" % number, b"value") for number in numbers]
    with engine.snapshot() as snapshot:
        assert snapshot.scan(start, end) == (expected, False)
        assert snapshot.scan(start, end, reverse=True) == (expected[::-1], False)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_of_nothing(engine: Engine, reverse: bool) -> None:
    with engine.snapshot() as snapshot:
        assert snapshot.scan(reverse=reverse) == ([], False)
        assert snapshot.scan(b"a", b"b", reverse=reverse) == ([], False)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_count_bound_and_more_are_exact(engine: Engine, reverse: bool) -> None:
    """Five pairs in the range, others on both sides of it: those must not count as more."""
    put(engine, *numbered(15))
    inside = numbered(15)[5:10]
    if reverse:
        inside.reverse()
    with engine.snapshot() as snapshot:
        for limit in (1, 2, 4, 5, 6, 100):
            page = snapshot.scan(b"000005", b"000010", reverse=reverse, limit=limit)
            assert page == (inside[:limit], limit < 5)


@pytest.mark.parametrize("reverse", [False, True])
def test_more_is_exact_at_the_edges_of_the_map(engine: Engine, reverse: bool) -> None:
    put(engine, *numbered(5))
    expected = numbered(5)[::-1] if reverse else numbered(5)
    with engine.snapshot() as snapshot:
        assert snapshot.scan(reverse=reverse, limit=4) == (expected[:4], True)
        assert snapshot.scan(reverse=reverse, limit=5) == (expected, False)
        assert snapshot.scan(reverse=reverse, limit=6) == (expected, False)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_byte_bound_and_more_are_exact(engine: Engine, reverse: bool) -> None:
    """Pairs of 30 bytes: as many as fit, but at least one."""
    pairs = [(b"%06d" % number, b"v" * 24) for number in range(15)]
    put(engine, *pairs)
    inside = pairs[5:10]
    if reverse:
        inside.reverse()
    with engine.snapshot() as snapshot:
        for max_bytes in (0, 1, 29, 30, 31, 59, 60, 149, 150, 151):
            fitting = max(1, min(5, max_bytes // 30))
            page = snapshot.scan(b"000005", b"000010", reverse=reverse, max_bytes=max_bytes)
            assert page == (inside[:fitting], fitting < 5)


@pytest.mark.parametrize("reverse", [False, True])
def test_one_huge_pair_is_given_whatever_the_bound(engine: Engine, reverse: bool) -> None:
    huge = b"h" * (2 * 1024 * 1024)
    pairs = [(b"a", b"1"), (b"b", huge), (b"c", b"3")]
    put(engine, *pairs)
    with engine.snapshot() as snapshot:
        found = list(iterate(snapshot, reverse=reverse, page_bytes=10))
        assert found == (pairs[::-1] if reverse else pairs)
        page = snapshot.scan(b"b", b"c", reverse=reverse, max_bytes=10)
        assert page == ([(b"b", huge)], False)
        # Left out because of its size, and still counted as more.
        page = snapshot.scan(reverse=reverse, max_bytes=1_000)
        assert page == ([pairs[2] if reverse else pairs[0]], True)


@pytest.mark.parametrize("reverse", [False, True])
def test_pages_join_without_gap_or_overlap(engine: Engine, reverse: bool) -> None:
    put(engine, *numbered(50))
    expected = numbered(50)[::-1] if reverse else numbered(50)
    with engine.snapshot() as snapshot:
        for page_limit in (1, 3, 7, 50, 100):
            assert list(iterate(snapshot, reverse=reverse, page_limit=page_limit)) == expected
        for page_bytes in (1, 25, 1_000):
            assert list(iterate(snapshot, reverse=reverse, page_bytes=page_bytes)) == expected


def test_the_default_bounds_hold(engine: Engine) -> None:
    put(engine, *numbered(10_001))
    with engine.snapshot() as snapshot:
        page = snapshot.scan()
    assert len(page.items) == 10_000
    assert page.more


# --- keys at their limits --------------------------------------------------------------------


EDGE_KEYS = sorted(
    {
        b"\x00",
        b"\x00" * 2,
        b"\x00" * LONGEST,
        b"\x00" * (LONGEST - 1) + b"\x01",
        b"k" * LONGEST,
        b"\xfe" + b"\xff" * (LONGEST - 1),
        b"\xff",
        b"\xff" * (LONGEST - 1),
        b"\xff" * LONGEST,
    }
)


def test_keys_at_the_limits_keep_their_order(engine: Engine) -> None:
    expected = [(key, b"%d" % number) for number, key in enumerate(EDGE_KEYS)]
    put(engine, *expected[::-1])
    with engine.snapshot() as snapshot:
        assert snapshot.scan().items == expected
        assert snapshot.scan(reverse=True).items == expected[::-1]
        # A page of one pair: the resuming bound is a longest key and one byte more.
        assert list(iterate(snapshot, page_limit=1)) == expected
        assert list(iterate(snapshot, reverse=True, page_limit=1)) == expected[::-1]
        for key, value in expected:
            assert snapshot.get(key) == value


def test_bounds_may_be_longer_than_any_key(engine: Engine) -> None:
    put(engine, *[(key, b"") for key in EDGE_KEYS])
    low, high = b"\x00" * (LONGEST + 5), b"\xff" * (LONGEST + 5)
    inside = [key for key in EDGE_KEYS if low <= key < high]
    with engine.snapshot() as snapshot:
        assert [key for key, _ in snapshot.scan(low, high).items] == inside
        assert [key for key, _ in snapshot.scan(low, high, reverse=True).items] == inside[::-1]
    batch = Batch()
    batch.delete_range(low, high)
    engine.write(batch, sync=True)
    assert [key for key, _ in everything(engine)] == [key for key in EDGE_KEYS if key < low]


# --- delete_range ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "left"),
    [
        (b"000010", b"000090", [*range(10), *range(90, 100)]),
        (b"000010", None, range(10)),
        (b"", b"000090", range(90, 100)),
        (b"", None, []),
        (b"000050", b"000050", range(100)),
        (b"000060", b"000050", range(100)),
        (b"000050", b"", range(100)),
        (b"", b"", range(100)),
        (b"0000505", b"0000509", range(100)),
        (b"zzz", None, range(100)),
        (b"000099", b"zzz", range(99)),
    ],
)
def test_delete_range(engine: Engine, start: bytes, end: bytes | None, left: Iterable[int]) -> None:
    put(engine, *numbered(100))
    batch = Batch()
    batch.delete_range(start, end)
    engine.write(batch, sync=True)
    assert everything(engine) == [(b"%06d" % number, b"value") for number in left]
    put(engine, *numbered(100, b"again"))
    assert everything(engine) == numbered(100, b"again")


def test_a_large_range_is_deleted_in_one_batch(engine: Engine) -> None:
    put(engine, *numbered(20_000, b"v" * 50))
    batch = Batch()
    batch.delete_range(b"000001", b"019999")
    engine.write(batch, sync=True)
    assert [key for key, _ in everything(engine)] == [b"000000", b"019999"]
