"""The handlers of one key and of batches over a leaderless keyspace, and what refuses the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from kv.api import hot as shared
from kv.api.bodies import ErrorBody, IncrementBody, TtlBody
from kv.api.call import Call
from kv.api.failures import (
    AnswerTooLargeError,
    InvalidBodyError,
    outcome_of,
)
from kv.api.hot import Forms, encode
from kv.api.leaderless import hot
from kv.api.leaderless.bodies import (
    BatchGetBody,
    BatchGetReply,
    BatchGetResult,
    BatchPutBody,
    BatchPutOperation,
    BatchPutReply,
    BatchPutResult,
    IncrementReply,
    TtlReply,
)
from kv.api.leaderless.face import Face, KeyCalls, Replied
from kv.api.leaderless.options import Asked, asked
from kv.api.listing import ANSWER_MAX_BYTES
from kv.api.reply import JSON, Reply
from kv.api.text import BASE64, given, shown
from kv.errors import WrongRegimeError
from kv.leaderless.dvv import context_of
from kv.leaderless.get_core import GetResult
from kv.leaderless.keyspace import Wish
from kv.leaderless.put_core import Written
from kv.leaderless.rules import Increment, Live, Write, counted, resolve
from kv.leaderless.session import Seen, seen_of
from kv.regime import Done, ask
from raftgroups.refusals import KeyNotFoundError
from storage.codec import check_key
from storage.errors import InvalidRequestError, JanusError
from storage.siblings import EMPTY_CLOCK, Clock

T = TypeVar("T")

_ttl_body: Final = msgspec.json.Decoder(TtlBody)
_increment_body: Final = msgspec.json.Decoder(IncrementBody)
_get_body: Final = msgspec.json.Decoder(BatchGetBody)
_batch_body: Final = msgspec.json.Decoder(BatchPutBody)


class HasSiblingsError(InvalidRequestError):
    """The call works on one value, and there are several."""

    code = "has_siblings"


def face_of(call: Call) -> Face:
    face = call.api.leaderless
    assert face is not None, "these routes are served where there is a leaderless keyspace"
    return face


async def _reply(start: Callable[[Replied], None]) -> Reply:
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def done(reply: Reply) -> None:
        if not future.done():
            future.set_result(reply)

    start(done)
    return await future


def _reading(call: Call) -> Asked:
    return asked(call.request.headers, call.query, writes=False)


def _writing(call: Call) -> Asked:
    return asked(call.request.headers, call.query, writes=True)


# --- one key ---------------------------------------------------------------------------------


async def get(call: Call) -> Reply:
    wanted, calls = _reading(call), KeyCalls(face_of(call))
    return await _reply(lambda done: calls.get(call.argument, wanted, done, call.forms))


async def get_raw(call: Call) -> Reply:
    wanted, calls = _reading(call), KeyCalls(face_of(call))
    multipart = hot.MULTIPART in call.request.headers.get("Accept", "").lower()
    return await _reply(
        lambda done: calls.get_raw(call.argument, wanted, done, multipart=multipart)
    )


async def head(call: Call) -> Reply:
    reply = await get_raw(call)
    return reply._replace(body=b"")


async def put(call: Call) -> Reply:
    wanted, calls, body = _writing(call), KeyCalls(face_of(call)), await call.body()
    return await _reply(lambda done: calls.put(call.argument, body, wanted, done, call.forms))


async def put_raw(call: Call) -> Reply:
    wanted, calls, value = _writing(call), KeyCalls(face_of(call)), await call.body()
    ttl_s = call.query["ttl"]
    return await _reply(lambda done: calls.put_raw(call.argument, value, ttl_s, wanted, done))


async def delete(call: Call) -> Reply:
    wanted, calls, body = _writing(call), KeyCalls(face_of(call)), await call.body()
    return await _reply(lambda done: calls.delete(call.argument, body, wanted, done, call.forms))


async def increment(call: Call) -> Reply:
    """Two steps: what was added stands after the first; the second only looks."""
    face, wanted = face_of(call), _writing(call)
    check_key(call.argument)
    delta = shared.decode(_increment_body, await call.body() or b"{}").delta
    session = face.session(wanted)
    written = await _write(face, call.argument, Increment(delta), wanted.wish)
    value = None
    try:
        found = await _read(face, call.argument, Wish(nodes=1), written.context.clock)
    except JanusError:
        pass  # it was added all the same
    else:
        value = counted(face.space.rule, found.siblings, face.now_ms())
    text, mark = shown(call.argument, call.forms.keys)
    fields = hot.write_fields(face.codecs, face.space, call.argument, written)
    body = IncrementReply(text, value, *fields, mark)
    return _written_reply(face, call.argument, written, session, encode(body))


async def set_ttl(call: Call) -> Reply:
    """A read, and a write of what was read with its context: a write beside it is a sibling."""
    face, wanted = face_of(call), _writing(call)
    key = call.argument
    check_key(key)
    seconds = shared.decode(_ttl_body, await call.body()).ttl_seconds
    session = face.session(wanted)
    covered = seen_of(session or {}, face.space.number, key)
    reading = Wish(strict=wanted.wish.strict, deadline_s=wanted.wish.deadline_s)
    found = await _read(face, key, reading, covered)
    live = _only(key, hot.distinct(resolve(face.space.rule, found.siblings, face.now_ms())))
    if any(version.part for version in found.siblings.versions):
        raise InvalidRequestError(f"key {key!r} is a counter, and counters have no time to live")
    expiry_ms = face.now_ms() + shared.ttl_ms_of(seconds) if seconds else 0
    change = Write(live.value, context_of(found.siblings), expiry_ms)
    written = await _write(face, key, change, wanted.wish)
    text, mark = shown(key, call.forms.keys)
    fields = hot.write_fields(face.codecs, face.space, key, written)
    body = TtlReply(text, seconds or None, *fields, mark)
    return _written_reply(face, key, written, session, encode(body))


def _only(key: bytes, lives: tuple[Live, ...]) -> Live:
    if not lives:
        raise KeyNotFoundError(f"key {key!r} does not exist, so it has no time to live")
    if len(lives) > 1:
        raise HasSiblingsError(
            f"key {key!r} has {len(lives)} siblings; read it, and put what they amount to with "
            "the context of that answer and a ttl"
        )
    return lives[0]


def _written_reply(
    face: Face, key: bytes, written: Written, session: Seen | None, body: bytes
) -> Reply:
    headers = hot.write_headers(face.codecs, face.space, key, written, session)
    return Reply(200, body, JSON, headers=headers)


async def _write(face: Face, key: bytes, change: Write | Increment, wish: Wish) -> Written:
    def start(done: Done[Written]) -> None:
        face.regime.put(face.space.number, key, change, done, wish)

    return await ask(start)


async def _read(face: Face, key: bytes, wish: Wish, covered: Clock = EMPTY_CLOCK) -> GetResult:
    def start(done: Done[GetResult]) -> None:
        face.regime.get(face.space.number, key, done, wish, must_cover=covered)

    return await ask(start)


# --- batches ---------------------------------------------------------------------------------


async def batch_get(call: Call) -> Reply:
    """Each key as a read of its own, all under way at once."""
    face, wanted = face_of(call), _reading(call)
    body = hot.decode(_get_body, await call.body())
    forms = Forms(body.encoding == BASE64, body.key_encoding == BASE64)
    keys = [given(key, body.key_encoding, f"keys[{place}]") for place, key in enumerate(body.keys)]
    for key in keys:
        check_key(key)
    session = face.session(wanted)
    number = face.space.number
    answers = await asyncio.gather(
        *(
            _caught(_read(face, key, wanted.wish, seen_of(session or {}, number, key)))
            for key in keys
        )
    )
    results, size = [], 0
    for key, answer in zip(keys, answers, strict=True):
        if not isinstance(answer, JanusError):
            size += sum(len(version.value or b"") for version in answer.siblings.versions)
        if size > ANSWER_MAX_BYTES:
            raise AnswerTooLargeError(
                f"the values of these {len(keys)} keys are over {ANSWER_MAX_BYTES} bytes in all; "
                "ask for fewer keys at once"
            )
        results.append(_got(face, key, answer, forms))
    return Reply(200, encode(BatchGetReply(results)), JSON)


async def _caught(answer: Awaitable[T]) -> T | JanusError:
    try:
        return await answer
    except JanusError as error:
        return error


def error_body(error: JanusError) -> ErrorBody:
    return ErrorBody(error.code, str(error), outcome_of(error), error.retryable)


def _got(face: Face, key: bytes, answer: GetResult | JanusError, forms: Forms) -> BatchGetResult:
    text, key_mark = shown(key, forms.keys)
    if isinstance(answer, JanusError):
        return BatchGetResult(text, False, key_encoding=key_mark, error=error_body(answer))
    now_ms = face.now_ms()
    lives = hot.distinct(resolve(face.space.rule, answer.siblings, now_ms))
    if not lives:
        return BatchGetResult(text, False, key_encoding=key_mark)
    full = hot.key_body(face.codecs, face.space, key, answer, lives, now_ms, forms)
    return BatchGetResult(
        text, True, full.value, full.siblings, full.context, full.encoding, key_mark
    )


async def batch_put(call: Call) -> Reply:
    face, wanted = face_of(call), _writing(call)
    if wanted.context is not None:
        raise InvalidBodyError("each operation of a batch has a context of its own, in the body")
    body = hot.decode(_batch_body, await call.body())
    changes = [_change_of(face, place, each) for place, each in enumerate(body.operations)]
    answers = await asyncio.gather(
        *(_caught(_write(face, key, change, wanted.wish)) for key, change in changes)
    )
    results = [_put(face, key, answer) for (key, _), answer in zip(changes, answers, strict=True)]
    failed = [result.key for result in results if not result.success]
    return Reply(200, encode(BatchPutReply(len(results) - len(failed), failed, results)), JSON)


def _change_of(face: Face, place: int, wanted: BatchPutOperation) -> tuple[bytes, Write]:
    """Raises what is wrong with one of them: then none is done."""
    key = given(wanted.key, wanted.key_encoding, f"operations[{place}].key")
    check_key(key)
    value = None
    if wanted.op == "delete":
        if wanted.value is not None or wanted.ttl is not None:
            raise InvalidBodyError(f"operations[{place}] is a deletion and takes no value or ttl")
    elif wanted.value is None:
        raise InvalidBodyError(f"operations[{place}] is a put and needs a value")
    else:
        value = given(wanted.value, wanted.encoding, f"operations[{place}].value")
    change = hot.write_of(
        face.codecs, face.space, key, value, wanted.context, wanted.ttl, face.now_ms()
    )
    return key, change


def _put(face: Face, key: bytes, answer: Written | JanusError) -> BatchPutResult:
    text, mark = shown(key)
    if isinstance(answer, JanusError):
        return BatchPutResult(text, False, key_encoding=mark, error=error_body(answer))
    fields = hot.write_fields(face.codecs, face.space, key, answer)
    return BatchPutResult(text, True, *fields, mark)


# --- the other regime's ----------------------------------------------------------------------


async def refuse(call: Call) -> Reply:
    raise WrongRegimeError(
        f"{call.route.method} {call.route.template} ({call.route.summary.lower()}) is of the "
        "strong regime, and this keyspace is leaderless: it takes every write and keeps concurrent "
        "ones as siblings, so nothing here can be compared, leased or locked; use a strong "
        "keyspace (keyspace=NAME; januskv keyspace create NAME)"
    )
