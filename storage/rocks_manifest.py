"""The end of a RocksDB MANIFEST that a power cut tore. Pure: bytes in, a length out.

RocksDB appends a record of each flush and compaction to the MANIFEST and syncs it before anything
depends on it. A power cut in that moment may leave the record torn: the file has its new length,
but a sector of the record was never written and reads as zeros. RocksDB forgives a record that is
cut off; this one it calls a corruption and refuses to open. Nothing needs the record, since it was
not synced, so the MANIFEST may end before it.

That is only done where the damage looks exactly so: the first bad record lacks a sector (zeros from
one sector edge to the next one, or to the end of the file), and it is the first thing wrong.
Any other damage stays an error. The format is that of RocksDB's logs:

    blocks of 32 KiB; records: checksum u32, length u16, type u8, payload; none crosses a block
    checksum = masked CRC-32C over type and payload; a block's last bytes, under 7, are padding
"""

from __future__ import annotations

import struct
from typing import Final

SECTOR_BYTES: Final = 512
BLOCK_BYTES: Final = 32 * 1024
_HEADER: Final = struct.Struct("<IHB")
_MASK_DELTA: Final = 0xA282EAD8
_POLYNOMIAL: Final = 0x82F63B78


def whole_bytes(manifest: bytes) -> int | None:
    """Where the manifest should end if a power cut tore its last records; None if it is sound, or
    damaged in another way."""
    bad = _first_bad_record(manifest)
    if bad is None:
        return None
    start, end = bad
    return start if _lacks_sector(manifest, start, end) else None


def _first_bad_record(manifest: bytes) -> tuple[int, int] | None:
    at = 0
    while at + _HEADER.size <= len(manifest):
        block_end = at // BLOCK_BYTES * BLOCK_BYTES + BLOCK_BYTES
        if at + _HEADER.size > block_end:
            at = block_end
            continue
        checksum, length, kind = _HEADER.unpack_from(manifest, at)
        end = at + _HEADER.size + length
        if end > min(block_end, len(manifest)):
            return None  # cut off, which RocksDB forgives, or a length that cannot be
        if checksum != _masked(_crc32c(manifest[at + 6 : end])) or kind == 0:
            return at, end
        at = end
    return None


def _lacks_sector(manifest: bytes, start: int, end: int) -> bool:
    at = start
    while at < end:
        edge = at // SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES
        stop = min(edge, len(manifest))
        if at % SECTOR_BYTES == 0 and not any(manifest[at:stop]):
            return True
        at = edge
    return False


def _masked(checksum: int) -> int:
    rotated = (checksum >> 15) | (checksum << 17)
    return (rotated + _MASK_DELTA) & 0xFFFFFFFF


def _table() -> tuple[int, ...]:
    values = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        values.append(value)
    return tuple(values)


_CRC: Final = _table()


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF
