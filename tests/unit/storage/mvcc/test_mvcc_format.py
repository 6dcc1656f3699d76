"""The bytes on disk are those that FORMAT-mvcc.md describes. If this fails, a format changed: old
directories must still be read, so a changed body needs a new version and a second case here."""

from __future__ import annotations

from storage.codec import group_bytes

from .conftest import Bench

ROWS = {
    # SHARD 1: keyspace 7, segment 11, revision 4, never compacted, applied index 9, one key
    "20 0000000000000001": (
        "00000007 000000000000000b 0000000000000004 ffffffffffffffff 0000000000000009"
        "0000000000000001"
    ),
    # SEGMENT 11: itself from revision 2 on, open-ended, swept (0, 0), keys from "a" to "q"
    "21 000000000000000b": (
        "000000000000000b 0000000000000002 ffffffffffffffff 0000000000000000 00000000"
        "0001 01 0001 61 71"
    ),
    # CURRENT "k": created at 2, changed at 3, sub 0, version 2, lease 5, depth 2, modified at 1001
    "22 00000007 6b": (
        "00 0000000000000002 0000000000000003 00000000 0000000000000002 0000000000000005"
        "00000002 00000000000003e9 6e6577"
    ),
    # CURRENT "l": a tombstone of revision 4, sub 0, depth 2, made at 1000, before its put
    "22 00000007 6c": (
        "80 0000000000000000 0000000000000004 00000000 0000000000000000 0000000000000000"
        "00000002 00000000000003e8"
    ),
    # EVENT 3.0: "k" with its new and its previous record
    "23 000000000000000b 0000000000000003 00000000": (
        "0001 00000034 6b"
        "00 0000000000000002 0000000000000003 00000000 0000000000000002 0000000000000005"
        "00000002 00000000000003e9 6e6577"
        "00 0000000000000002 0000000000000002 00000000 0000000000000001 0000000000000000"
        "00000001 00000197787d5cc8 6f6c64"
    ),
    # LEASE_KEY 5 "k"
    "24 00000007 0000000000000005 6b": "",
}


def test_rows_are_as_described() -> None:
    bench = Bench(start=b"a", end=b"q")
    with bench.shard.begin(0x197787D5CC8) as scope:
        scope.put(b"k", b"old")
        scope.put(b"l", b"")
    bench.wall_ms = 1_001
    bench.put(b"k", b"new", lease=5)
    bench.wall_ms = 1_000
    bench.delete(b"l")
    bench.shard.mark_applied(9)
    bench.commit()
    rows = dict(bench.engine.snapshot().scan().items)
    assert len(rows) == 9
    for key, body in ROWS.items():
        record = rows[bytes.fromhex(key)]
        assert (record[0], record[5:]) == (1, bytes.fromhex(body)), key


def test_checksums_are_as_described() -> None:
    bench = Bench()
    bench.put(b"k", b"v")
    bench.commit()
    key = bytes.fromhex("22 00000007 6b")
    record = bench.engine.snapshot().get(key)
    assert record is not None
    assert int.from_bytes(record[1:5], "big") == crc32_by_hand(record[:1] + key + record[5:])


def crc32_by_hand(data: bytes) -> int:
    """Polynomial 04C11DB7, reflected (EDB88320)."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0xEDB88320 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def test_grouped_bytes_are_as_described() -> None:
    assert group_bytes(b"abc").hex(" ") == "61 62 63 00 00 00 00 00 fa"
    assert group_bytes(b"12345678").hex() == "3132333435363738ff" + "00" * 8 + "f7"
    assert group_bytes(b"").hex() == "00" * 8 + "f7"
