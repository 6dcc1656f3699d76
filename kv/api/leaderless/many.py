"""Listings, scans and counts of a leaderless keyspace: eventually consistent, page by page."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from kv.api.call import Call
from kv.api.cursor import Cursor, pack, unpack
from kv.api.failures import InvalidQueryError
from kv.api.headers import LEVEL
from kv.api.hot import Forms, encode
from kv.api.leaderless import hot
from kv.api.leaderless.bodies import CountReply, ListedKey, ListReply, ScanReply
from kv.api.leaderless.face import Face
from kv.api.leaderless.options import asked
from kv.api.leaderless.routes import face_of
from kv.api.listing import bounds_of
from kv.api.reply import JSON, Reply
from kv.api.text import shown
from kv.errors import UnavailableError
from kv.leaderless.get_core import GetResult
from kv.leaderless.listing import Listed
from kv.leaderless.quorum import Level
from kv.leaderless.rules import resolve
from storage.siblings import SiblingSet

LISTING: Final = "K"
SCAN: Final = "S"
COUNT_S: Final = 30.0
COUNT_KEYS: Final = 1000
_ORDER: Final = (Level.ONE, Level.QUORUM, Level.ALL)


class _Bounds(NamedTuple):
    start: bytes
    end: bytes | None
    whole: tuple[bytes, bytes | None]


def _bounds(call: Call, kind: str) -> _Bounds:
    query = call.query
    asked(call.request.headers, writes=False)
    bounds = bounds_of(query["prefix"], query.get("start"), query.get("end"))
    if query.get("cursor") is None:
        return _Bounds(*bounds, bounds)
    cursor = unpack(query["cursor"], kind)
    whole = (cursor.whole_start, cursor.whole_end)
    if bounds not in ((b"", None), whole):
        raise InvalidQueryError(
            "the cursor is of another range than the query names; give the same one, or the "
            "cursor alone"
        )
    return _Bounds(cursor.start, cursor.end, whole)


async def _page(call: Call, kind: str, limit: int) -> tuple[list[ListedKey], str | None, Listed]:
    face, bounds = face_of(call), _bounds(call, kind)
    found = await _listed(face, bounds.start, bounds.end, limit)
    keys = [
        listed
        for key, siblings in found.page.items
        if (listed := _shown(face, key, siblings, call.query["values"], call.forms)) is not None
    ]
    resume = found.page.resume
    cursor = None
    if resume is not None:
        cursor = pack(Cursor(kind, 0, resume, bounds.end, *bounds.whole))
    return keys, cursor, found


async def _listed(face: Face, start: bytes, end: bytes | None, limit: int) -> Listed:
    if face.lister is None:
        raise UnavailableError("this node does not list keys")
    return await face.lister.page(face.space, start, end, limit)


def _shown(
    face: Face, key: bytes, siblings: SiblingSet, values: bool, forms: Forms
) -> ListedKey | None:
    now_ms = face.now_ms()
    lives = hot.distinct(resolve(face.space.rule, siblings, now_ms))
    if not lives:
        return None
    text, mark = shown(key, forms.keys)
    if not values:
        return ListedKey(key=text, key_encoding=mark)
    result = GetResult(siblings, (), (), None)
    full = hot.key_body(face.codecs, face.space, key, result, lives, now_ms, forms)
    return ListedKey(
        key=text,
        value=full.value,
        siblings=full.siblings,
        context=full.context,
        timestamp=full.timestamp,
        encoding=full.encoding,
        key_encoding=mark,
    )


async def list_keys(call: Call) -> Reply:
    keys, cursor, found = await _page(call, LISTING, call.query["limit"])
    body = ListReply(keys, cursor, cursor is not None, found.replicas, found.level)
    return Reply(200, encode(body), JSON, headers=((LEVEL, found.level.value),))


async def scan(call: Call) -> Reply:
    keys, cursor, found = await _page(call, SCAN, call.query["count"])
    body = ScanReply(keys, cursor, cursor is None)
    return Reply(200, encode(body), JSON, headers=((LEVEL, found.level.value),))


async def count(call: Call) -> Reply:
    face, bounds = face_of(call), _bounds(call, LISTING)
    total, level, start = 0, Level.ALL, bounds.start
    try:
        async with asyncio.timeout(COUNT_S):
            while True:
                found = await _listed(face, start, bounds.end, COUNT_KEYS)
                now_ms = face.now_ms()
                total += sum(
                    bool(resolve(face.space.rule, siblings, now_ms))
                    for _, siblings in found.page.items
                )
                level = min(level, found.level, key=_ORDER.index)
                if found.page.resume is None:
                    break
                start = found.page.resume
    except TimeoutError as error:
        raise UnavailableError(
            f"the count was not done within {COUNT_S:g} s; count a smaller range"
        ) from error
    return Reply(200, encode(CountReply(total, level)), JSON, headers=((LEVEL, level.value),))
