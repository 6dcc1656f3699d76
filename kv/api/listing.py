"""Listings, counts and batch reads as pure functions over a ShardReader.

A page is bounded three ways: in keys, in bytes and in records looked at (deleted keys and newer
versions count, too), because it is evaluated in one go on the node's loop. So a page may hold fewer
keys than its limit, or none, and still not be the last; `has_more` says.

    listing   all pages at the revision of the first one; a compaction in between ends it (410)
    scan      each page as the keys are then: every key that is there all the time comes once

In a keyspace that is split a page is put together of parts, each within a shard and all in order
(`part_of`, `rest_of`). Each shard counts its own revisions, so a listing is then at one revision
within each shard only; a key that is there all the time still comes exactly once, also while shards
split: the cursor names keys, and both halves of a split go on with the revision of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from kv.api.bodies import BatchGetBody, BatchGetReply, BatchGetResult, Listed, ListReply, ScanReply
from kv.api.cursor import Cursor, pack
from kv.api.failures import AnswerTooLargeError, InvalidQueryError
from kv.api.hot import AS_IS, Forms, encode
from kv.api.reply import Reply
from kv.api.text import given, shown
from kv.reading import ShardReader
from storage.codec import KEY_MAX_BYTES, check_key, prefix_end
from storage.mvcc_records import KeyValue

LISTING: Final = "k"
SCAN: Final = "s"
PAGE_MAX_KEYS: Final = 1_000
PAGE_MAX_BYTES: Final = 4 * 1024 * 1024
PAGE_MAX_EXAMINED: Final = 5_000
ANSWER_MAX_BYTES: Final = 16 * 1024 * 1024


class Page(NamedTuple):
    """What a page of a listing or scan is asked to be."""

    start: bytes
    end: bytes | None
    limit: int
    revision: int = 0
    reverse: bool = False
    values: bool = False
    forms: Forms = AS_IS
    whole: tuple[bytes, bytes | None] = (b"", None)


def bounds_of(
    prefix: bytes | None, start: bytes | None, end: bytes | None
) -> tuple[bytes, bytes | None]:
    """start <= key < end; None is unbounded. Raises InvalidQueryError."""
    if prefix is not None:
        if start is not None or end is not None:
            raise InvalidQueryError("prefix and start or end are both given; give one or the other")
        return prefix, prefix_end(prefix)
    return start or b"", end or None


def listed(record: KeyValue, values: bool, forms: Forms) -> Listed:
    key, key_mark = shown(record.key, forms.keys)
    if not values:
        return Listed(key, record.mod_revision, key_encoding=key_mark)
    value, mark = shown(record.value, forms.values)
    return Listed(key, record.mod_revision, value, mark, key_mark, record.modified_ms)


def last_key_before(end: bytes | None) -> bytes:
    """The largest key below `end`, whether or not it is there."""
    if end is None:
        return b"\xff" * KEY_MAX_BYTES
    if not end or end[-1] == 0:
        return end[:-1]
    return (end[:-1] + bytes((end[-1] - 1,))).ljust(KEY_MAX_BYTES, b"\xff")


class Part(NamedTuple):
    """What one shard has of a page. `rest`: the page that goes on behind it; None: that was all.
    `bounded`: it ended because it had done enough work, not at the edge of the shard."""

    keys: list[Listed]
    rest: Page | None
    bounded: bool
    shard: int
    revision: int
    """At which it was read."""
    now: int
    """Of the shard."""


def part_of(reader: ShardReader, page: Page) -> Part:
    """Evaluated by the regime, in the shard of its first (in reverse: last) key."""
    own = reader.view.segments.own
    reverse = page.reverse
    start, end = page.start, page.end
    # Else a part that was sent by an old map would seem empty, and the page go back to the edge.
    reader.view.check_owned(last_key_before(end) if reverse else start)
    beyond = (
        start < own.start if reverse else own.end is not None and (end is None or end > own.end)
    )
    if beyond and reverse:
        start = own.start
    elif beyond:
        end = own.end
    found = reader.view.range(
        start,
        end,
        page.revision,
        limit=page.limit,
        max_bytes=PAGE_MAX_BYTES,
        max_examined=PAGE_MAX_EXAMINED,
        reverse=reverse,
        keys_only=not page.values,
    )
    if page.revision:
        reader.view.state.check_readable(page.revision)
    keys = [listed(record, page.values, page.forms) for record in found.items]
    now = reader.revision
    revision = page.revision or now
    rest = None
    if found.more:
        assert found.resume is not None
        left = (page.start, found.resume) if reverse else (found.resume, page.end)
        rest = page._replace(start=left[0], end=left[1], revision=revision)
    elif beyond:
        left = (page.start, own.start) if reverse else (own.end or b"", page.end)
        rest = page._replace(start=left[0], end=left[1], revision=0)
    return Part(keys, rest, found.more, reader.shard, revision, now)


def resumed(page: Page, cursor: Cursor) -> Page:
    """The page of the same listing that goes on where the cursor says."""
    return page._replace(
        start=cursor.start,
        end=cursor.end,
        revision=cursor.revision,
        reverse=cursor.reverse,
        whole=(cursor.whole_start, cursor.whole_end),
    )


def cursor_of(kind: str, rest: Page) -> str:
    revision = rest.revision if kind == LISTING else 0
    return pack(Cursor(kind, revision, rest.start, rest.end, *rest.whole, rest.reverse))


def list_page(reader: ShardReader, page: Page) -> Reply:
    now = reader.revision
    found = reader.view.range(
        page.start,
        page.end,
        page.revision,
        limit=page.limit,
        max_bytes=PAGE_MAX_BYTES,
        max_examined=PAGE_MAX_EXAMINED,
        reverse=page.reverse,
        keys_only=not page.values,
    )
    revision = page.revision or now
    if page.revision:  # also where the range is empty and nothing was read
        reader.view.state.check_readable(page.revision)
    cursor = None
    if found.more:
        assert found.resume is not None
        rest = (page.start, found.resume) if page.reverse else (found.resume, page.end)
        cursor = pack(Cursor(LISTING, revision, *rest, *page.whole, page.reverse))
    keys = [listed(record, page.values, page.forms) for record in found.items]
    body = ListReply(keys, cursor, found.more, revision)
    return Reply(200, encode(body), shard=reader.shard, revision=now)


def scan_page(reader: ShardReader, page: Page) -> Reply:
    found = reader.view.range(
        page.start,
        page.end,
        limit=page.limit,
        max_bytes=PAGE_MAX_BYTES,
        max_examined=PAGE_MAX_EXAMINED,
        keys_only=not page.values,
    )
    cursor = None
    if found.more:
        assert found.resume is not None
        cursor = pack(Cursor(SCAN, 0, found.resume, page.end, *page.whole))
    keys = [listed(record, page.values, page.forms) for record in found.items]
    body = ScanReply(keys, cursor, not found.more)
    return Reply(200, encode(body), shard=reader.shard, revision=reader.revision)


class Counted(NamedTuple):
    """A part of a count, all parts at one revision; `resume` is None when it is whole."""

    total: int
    resume: bytes | None
    revision: int
    shard: int
    now: int


def count_part(reader: ShardReader, start: bytes, end: bytes | None, revision: int) -> Counted:
    now = reader.revision
    if revision:
        reader.view.state.check_readable(revision)
    edge = reader.view.segments.own.end
    reader.view.check_owned(start)
    if edge is not None and (end is None or end > edge):
        part = reader.view.count(start, edge, revision, max_examined=PAGE_MAX_EXAMINED)
        if part.resume is None:  # the next shard has revisions of its own
            return Counted(part.total, edge, 0, reader.shard, now)
    else:
        part = reader.view.count(start, end, revision, max_examined=PAGE_MAX_EXAMINED)
    return Counted(part.total, part.resume, revision or now, reader.shard, now)


def batch_keys(body: BatchGetBody) -> list[bytes]:
    keys = [given(key, body.key_encoding, f"keys[{place}]") for place, key in enumerate(body.keys)]
    for key in keys:
        check_key(key)
    return keys


def batch_reply(results: list[BatchGetResult], shard: int, revision: int) -> Reply:
    body = BatchGetReply(results, revision)
    return Reply(200, encode(body), shard=shard, revision=revision)


def batch_results(reader: ShardReader, keys: Sequence[bytes], forms: Forms) -> list[BatchGetResult]:
    """All keys as of one moment."""
    results = []
    size = 0
    for key in keys:
        text, key_mark = shown(key, forms.keys)
        record = reader.get(key)
        if record is None:
            results.append(BatchGetResult(text, False, key_encoding=key_mark))
            continue
        size += len(record.value)
        if size > ANSWER_MAX_BYTES:
            raise AnswerTooLargeError(
                f"the values of these {len(keys)} keys are over {ANSWER_MAX_BYTES} bytes in all; "
                "ask for fewer keys at once"
            )
        value, mark = shown(record.value, forms.values)
        version = record.mod_revision
        results.append(
            BatchGetResult(text, True, value, version, record.modified_ms, mark, key_mark)
        )
    return results
