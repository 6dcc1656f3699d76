"""Many keys: listings, counts, scans, batches, transactions."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec

from kv.api import listing, txns, writes
from kv.api.answers import check_answer
from kv.api.bodies import BatchGetBody, BatchGetResult, CountReply, Listed, ListReply, ScanReply
from kv.api.call import Call
from kv.api.cursor import unpack
from kv.api.failures import InvalidHeaderError, InvalidQueryError
from kv.api.hot import Forms, decode, encode
from kv.api.listing import last_key_before
from kv.api.queries import CountQuery, KeysQuery, PartQuery, TxnQuery
from kv.api.reply import Reply
from kv.api.text import BASE64
from kv.errors import UnavailableError
from kv.model import Level, ReadOptions, WriteOptions
from kv.router import CrossShardError, scope_of
from raftgroups.commands import SEQUENCE_MAX, BatchOperation, BatchWrite, Token
from raftgroups.results import Result, TxnResult
from raftgroups.txn import is_read_only
from storage.errors import JanusError

SHARDS_A_PAGE = 64
"""Looked at for one page; one that is not full then is not the last."""
SHARDS_DEADLINE_S = 5.0

_get_body = msgspec.json.Decoder(BatchGetBody)


# --- listings --------------------------------------------------------------------------------


def _page_of(call: Call, kind: str, limit: int) -> listing.Page:
    query = call.query
    bounds = listing.bounds_of(query["prefix"], query.get("start"), query.get("end"))
    page = listing.Page(
        *bounds,
        limit,
        revision=query.get("revision") or 0,
        reverse=bool(query.get("reverse")),
        values=query["values"],
        forms=call.forms,
        whole=bounds,
    )
    if query["cursor"] is None:
        return page
    cursor = unpack(query["cursor"], kind)
    whole = (cursor.whole_start, cursor.whole_end)
    if (bounds != (b"", None) and bounds != whole) or page.revision not in (0, cursor.revision):
        raise InvalidQueryError(
            "the cursor is of another range or revision than the query names; give the same ones, "
            "or the cursor alone"
        )
    return listing.resumed(page, cursor)


def _options_for(call: Call, page: listing.Page) -> ReadOptions:
    """A page that goes on must not be refused because this replica is behind the first one."""
    options = call.read_options
    if options.level is not Level.EVENTUAL or not page.revision:
        return options
    first = last_key_before(page.end) if page.reverse else page.start
    session = options.session.saw(call.api.shard(first), page.revision)
    return ReadOptions(Level.SESSION, session, options.deadline_s)


async def list_keys(call: Call) -> Reply:
    page = _page_of(call, listing.LISTING, call.query["limit"])
    if not call.api.strong.single:
        _refuse_revision(call.query["revision"])
        keys, rest, part = await _gather(call, page)
        cursor = None if rest is None else listing.cursor_of(listing.LISTING, rest)
        body = ListReply(keys, cursor, rest is not None, part.revision)
        return Reply(200, encode(body), shard=part.shard, revision=part.now)
    options = call.read_options if call.query["cursor"] is None else _options_for(call, page)
    return await call.read(partial(listing.list_page, page=page), options)


async def scan(call: Call) -> Reply:
    page = _page_of(call, listing.SCAN, call.query["count"])
    if not call.api.strong.single:
        keys, rest, part = await _gather(call, page)
        cursor = None if rest is None else listing.cursor_of(listing.SCAN, rest)
        body = ScanReply(keys, cursor, rest is None)
        return Reply(200, encode(body), shard=part.shard, revision=part.now)
    return await call.read(partial(listing.scan_page, page=page))


async def _gather(
    call: Call, page: listing.Page
) -> tuple[list[Listed], listing.Page | None, listing.Part]:
    """A page out of the parts of as many shards as it takes: (keys, what is left, last part)."""
    keys: list[Listed] = []
    rest, shards = page, 0
    while True:
        part = await call.read(PartQuery(rest), _options_for(call, rest))
        call.saw(part.shard, part.now)
        keys += part.keys
        shards += 1
        if part.rest is None:
            return keys, None, part
        left = page.limit - len(keys)
        if part.bounded or left <= 0 or shards >= SHARDS_A_PAGE:
            return keys, part.rest, part
        rest = part.rest._replace(limit=left)


def _refuse_revision(revision: int | None) -> None:
    if revision:
        raise InvalidQueryError(
            "this keyspace is split, and each of its shards counts its own revisions: a revision "
            "names a moment of one key (GET /api/v1/keys/{key}?revision=), not of a range"
        )


async def count(call: Call) -> Reply:
    """In parts, between which the node serves others; all at the revision of the first one."""
    query = call.query
    start, end = listing.bounds_of(query["prefix"], query["start"], query["end"])
    options = call.read_options
    total = 0
    if not call.api.strong.single:
        _refuse_revision(query["revision"])
    part = await call.read(CountQuery(start, end, query["revision"] or 0), options)
    local = ReadOptions(Level.EVENTUAL, options.session, options.deadline_s)
    level = options.level
    try:
        async with asyncio.timeout(options.deadline_s):
            total += part.total
            while part.resume is not None:
                # The first look at each shard is as fresh as was asked for.
                fresh = not part.revision
                more = CountQuery(part.resume, end, part.revision)
                call.saw(part.shard, part.now)
                part = await call.read(more, options if fresh else local)
                total += part.total
    except TimeoutError as error:
        raise UnavailableError(
            f"the count was not done within {options.deadline_s:g} s; give it more time or count a "
            "smaller range"
        ) from error
    call.met(level)
    body = CountReply(total, part.revision)
    return Reply(200, encode(body), shard=part.shard, revision=part.now)


# --- batches ---------------------------------------------------------------------------------


async def batch_get(call: Call) -> Reply:
    body = decode(_get_body, await call.body())
    forms = Forms(body.encoding == BASE64, body.key_encoding == BASE64)
    keys = listing.batch_keys(body)
    if call.api.strong.single:
        found = await call.read(KeysQuery(tuple(keys), forms))
        return listing.batch_reply(found.results, found.shard, found.revision)
    return await _get_each(call, keys, forms)


async def _get_each(call: Call, keys: list[bytes], forms: Forms) -> Reply:
    """By shard, all under way at once. Keys of a shard that is split meanwhile are asked anew."""
    results: dict[bytes, BatchGetResult] = {}
    waiting, revision = list(dict.fromkeys(keys)), 0
    async with asyncio.timeout(call.read_options.deadline_s or SHARDS_DEADLINE_S):
        while waiting:
            by_shard: dict[int, list[bytes]] = {}
            for key in waiting:
                by_shard.setdefault(call.api.shard(key), []).append(key)
            parts = list(by_shard.values())
            asked = (call.read(KeysQuery(tuple(part), forms)) for part in parts)
            answers = await asyncio.gather(*asked, return_exceptions=True)
            waiting = []
            for part, answer in zip(parts, answers, strict=True):
                if isinstance(answer, CrossShardError):
                    waiting += part
                    await asyncio.sleep(0)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    call.saw(answer.shard, answer.revision)
                    revision = max(revision, answer.revision)
                    results.update(zip(part, answer.results, strict=True))
    return listing.batch_reply([results[key] for key in keys], 0, revision)


async def batch_put(call: Call) -> Reply:
    keys, operations, atomic = writes.batch_of(await call.body())
    if atomic:
        command = BatchWrite(tuple(operations))
        result = await call.write_across(command)
        shard = 0 if call.crossed else call.api.shard(keys[0])
        return writes.atomic_reply(keys, command, result, shard)
    answers = await _write_each(call, operations)
    if call.api.strong.single:
        return writes.separate_reply(keys, operations, answers, call.api.shard())
    for key, answer in zip(keys, answers, strict=True):
        if not isinstance(answer, JanusError):
            call.saw(call.api.shard(key), answer.revision)
    return writes.separate_reply(keys, operations, answers, 0)


async def _write_each(call: Call, operations: list[BatchOperation]) -> list[Result | JanusError]:
    """Each as a write of its own, all under way at once, handed over in order."""
    call.writes()
    options = call.write_options
    token = options.token
    if token is not None and token.sequence + len(operations) - 1 > SEQUENCE_MAX:
        raise InvalidHeaderError(
            f"a batch of {len(operations)} writes takes as many sequences and {token.sequence} "
            "leaves too few; begin with a smaller one"
        )
    answers: dict[int, Result | JanusError] = {}
    all_done = asyncio.Event()

    def done(place: int, own: WriteOptions, answer: Result | JanusError) -> None:
        answers[place] = _checked(operations[place], own, answer)
        if len(answers) == len(operations):
            all_done.set()

    for place, operation in enumerate(operations):
        own = None if token is None else Token(token.client, token.sequence + place, token.settled)
        each = WriteOptions(own, options.deadline_s)
        call.api.strong.write(operation, partial(done, place, each), each)
    await all_done.wait()
    return [answers[place] for place in range(len(operations))]


def _checked(
    operation: BatchOperation, options: WriteOptions, answer: Result | JanusError
) -> Result | JanusError:
    if not isinstance(answer, JanusError):
        try:
            check_answer(operation, options, answer)
        except JanusError as error:
            return error
    return answer


# --- transactions ----------------------------------------------------------------------------


async def txn(call: Call) -> Reply:
    wanted, command = txns.txn_of(await call.body())
    if is_read_only(command):
        call.write_options  # noqa: B018 - a header that is wrong is refused either way
        try:
            result, shard, now = await call.read(TxnQuery(command))
            return txns.txn_reply(wanted, command, result, shard, now)
        except CrossShardError:
            pass  # a snapshot of several shards takes locks, like a write
    answer = await call.write_across(command)
    assert isinstance(answer, TxnResult)
    shard = 0 if call.crossed else call.api.shard(scope_of(command)[0])
    return txns.txn_reply(wanted, command, answer, shard)
