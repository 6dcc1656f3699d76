"""The key-value calls from body to answer, without a loop: what both lanes of the node run.

    status, body  <--  done  <--  encode  <--  Strong  <--  decode  <--  body

`done` is called exactly once, maybe inside the call (what is refused at once), else later from the
loop. The body is complete and begins where the HTTP body does; the caller adds the HTTP head.
Whoever has many writes under way can take what they came to and have it encoded later, many at
once (WriteCall).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from kv.etcd.answers import Headers
from kv.etcd.asking import unexpected
from kv.etcd.context import GatewayContext
from kv.etcd.errors import EtcdError, Grpc, RequestTooLargeError, encode_error
from kv.etcd.queries import RangeQuery, RangeRead, TxnQuery, TxnRead
from kv.etcd.translate import (
    decode_compaction,
    decode_delete,
    decode_one_key,
    decode_puts,
    decode_range,
    decode_txn,
    message_bytes,
    or_error,
)
from kv.model import LOCAL_READ, PLAIN_READ, Level
from kv.reading import ShardReader
from kv.regime import Done, Strong
from raftgroups.commands import Command, Put
from raftgroups.results import (
    CompactResult,
    DeleteResult,
    PutResult,
    Result,
    TxnResult,
)
from raftgroups.txn import check_put, is_read_only
from storage.codec import VALUE_MAX_BYTES
from storage.errors import JanusError
from storage.mvcc_records import Fields

_log = logging.getLogger(__name__)


class Answered(Protocol):
    """`level` is that of an answer with 200."""

    def __call__(self, status: int, body: bytes, level: Level = Level.LINEARIZABLE, /) -> None: ...


HotCall = Callable[[bytes, Answered], None]
DecodeEach = Callable[[Sequence[bytes]], Sequence[Command | JanusError]]


@dataclass(frozen=True, slots=True)
class WriteCall:
    """A HotCall whose halves can be had, each for many at once: writes begun, and what they came
    to as bodies."""

    begin_each: Callable[[Sequence[bytes], Sequence[Done[Result]]], None]
    """Each `done` is called exactly once, maybe inside the call."""
    kind: type[Result]
    """Of its result, if it was done."""
    encode_each: Callable[[Sequence[Any]], list[bytes]]
    """Of results of that kind; else `refusal`."""

    def __call__(self, body: bytes, done: Answered) -> None:
        def answered(answer: Result | JanusError) -> None:
            if type(answer) is self.kind:
                done(200, self.encode_each((answer,))[0])
            else:
                done(*refusal(answer))

        self.begin_each((body,), (answered,))


@dataclass(frozen=True, slots=True)
class GetCall:
    """A HotCall whose usual form, the get of one key, can be had in its parts, for many at once:
    each begun as it comes, by `strong.get` while that is `single`, and their answers encoded
    together. Whoever does that is a Give (kv/regime.py)."""

    call: HotCall
    """Of any form."""
    other: HotCall
    """Of any form that `key_of` does not know."""
    strong: Strong
    key_of: Callable[[bytes], bytes | None]
    """Of a body; None if it is no such get."""
    encode_each: Callable[[Sequence[Fields | None], int, int], list[bytes]]
    """(found, revision, term)"""

    def __call__(self, body: bytes, done: Answered) -> None:
        self.call(body, done)


def refusal(answer: Result | JanusError) -> tuple[int, bytes]:
    """Status and body for a write that came to something else than its result."""
    return encode_error(unexpected(answer))


class HotCalls:
    """`by_path` has them by their HTTP path."""

    def __init__(self, context: GatewayContext, headers: Headers) -> None:
        self._strong: Final = context.strong
        self._headers: Final = headers
        self._alarms: Final = context.alarms
        self._limits: Final = context.limits
        self._give_each: Final = self.give_each
        self._looked_at_bytes: Final = min(VALUE_MAX_BYTES, context.limits.request_bytes)
        """A body up to this is of no message that is too large."""
        self.by_path: Final[dict[str, HotCall]] = {
            "/v3/kv/range": GetCall(
                self.range, self._range, context.strong, decode_one_key, headers.encode_each
            ),
            "/v3/kv/put": self._writes(decode_puts, PutResult, headers.encode_puts),
            "/v3/kv/deleterange": self._writes(
                partial(_decode_each, decode_delete), DeleteResult, headers.encode_deletes
            ),
            "/v3/kv/txn": self.txn,
            "/v3/kv/compaction": self._writes(
                partial(_decode_each, decode_compaction), CompactResult, headers.encode_compactions
            ),
        }

    def _writes(
        self,
        decode: DecodeEach,
        kind: type[Result],
        encode: Callable[[Iterable[Any], int], list[bytes]],
    ) -> WriteCall:
        def encode_each(results: Sequence[Any]) -> list[bytes]:
            return encode(results, self._strong.term)

        return WriteCall(partial(self._write_each, decode), kind, encode_each)

    def range(self, body: bytes, done: Answered) -> None:
        strong = self._strong
        key = decode_one_key(body) if strong.single else None
        if key is not None:
            strong.get(key, done, self._give_each)
        else:
            self._range(body, done)

    def _range(self, body: bytes, done: Answered) -> None:
        """Of any form."""
        try:
            operation, serializable = decode_range(body)
        except JanusError as error:
            done(*encode_error(error))
            return

        def evaluate(reader: ShardReader) -> bytes:
            return self._headers.encode_range(reader.range(operation), reader.term)

        options = LOCAL_READ if serializable else PLAIN_READ
        if self._strong.single:
            self._strong.read(evaluate, partial(_answer, done, level=options.level), options)
            return

        def answered(found: RangeRead | JanusError) -> None:
            if isinstance(found, JanusError):
                done(*encode_error(found))
            else:
                shown = self._headers.encode_range(found.answer, found.term)
                done(200, shown, options.level)

        self._strong.read(RangeQuery(operation), answered, options)

    def give_each(
        self,
        askers: Sequence[Answered],
        found: Sequence[Fields | None] | JanusError,
        revision: int,
        term: int,
    ) -> None:
        """kv/regime.py Give."""
        if isinstance(found, JanusError):
            status, body = encode_error(found)
            bodies = [body] * len(askers)
        else:
            status, bodies = 200, self._headers.encode_each(found, revision, term)
        for done, body in zip(askers, bodies, strict=True):
            try:
                done(status, body)
            except Exception:  # noqa: BLE001 - a defect of one asker must not cost the others' answers
                _log.exception("an answer of a get raised; its defect, the node goes on")

    def txn(self, body: bytes, done: Answered) -> None:
        try:
            txn = decode_txn(body)
            if not is_read_only(txn):
                self._alarms.check(txn)
                self._check_body(txn, body)
        except JanusError as error:
            done(*encode_error(error))
            return

        def answered(answer: Result | JanusError) -> None:
            if isinstance(answer, TxnResult):
                done(200, self._headers.encode_txn(answer, self._strong.term))
            else:
                done(*encode_error(unexpected(answer)))

        def evaluate(reader: ShardReader) -> bytes:
            return self._headers.encode_txn(reader.read_txn(txn), reader.term)

        def found(read: TxnRead | JanusError) -> None:
            answered(read if isinstance(read, JanusError) else read.answer)

        if is_read_only(txn) and not self._strong.single:
            self._strong.read(TxnQuery(txn), found)
        elif is_read_only(txn):
            self._strong.read(evaluate, partial(_answer, done))
        else:
            self._strong.write(txn, answered)

    def _write_each(
        self, decode: DecodeEach, bodies: Sequence[bytes], dones: Sequence[Done[Result]]
    ) -> None:
        commands: list[Command] = []
        askers: list[Done[Result]] = []
        looks_closer, looked_at = self._alarms.refuses, self._looked_at_bytes
        for body, done, command in zip(bodies, dones, decode(bodies), strict=True):
            if isinstance(command, JanusError):
                done(command)
                continue
            if looks_closer or len(body) > looked_at:
                try:
                    self._alarms.check(command)
                    self._check_body(command, body)
                except JanusError as error:
                    done(error)
                    continue
            commands.append(command)
            askers.append(done)
        if len(commands) == 1:
            self._strong.write(commands[0], askers[0])
        elif commands:
            self._strong.write_each(commands, askers)

    def _check_body(self, command: Command, body: bytes) -> None:
        if len(body) > self._looked_at_bytes:
            self.check_size(message_bytes(command))
            if isinstance(command, Put):
                check_put(command)

    def check_size(self, size: int) -> None:
        """Of a protocol message. Raises EtcdError, RequestTooLargeError."""
        limits = self._limits
        if size > limits.message_bytes:
            words = f"grpc: received message larger than max ({size} vs. {limits.message_bytes})"
            raise EtcdError(Grpc.RESOURCE_EXHAUSTED, words)
        if size > limits.request_bytes:
            raise RequestTooLargeError(
                f"a request of {size} bytes is over the limit of {limits.request_bytes}"
            )


def _decode_each(
    decode_one: Callable[[bytes], Command], bodies: Iterable[bytes]
) -> list[Command | JanusError]:
    return [or_error(decode_one, body) for body in bodies]


def _answer(done: Answered, answer: bytes | JanusError, level: Level = Level.LINEARIZABLE) -> None:
    """What was read, as a body."""
    if type(answer) is bytes:
        done(200, answer, level)
    else:
        assert isinstance(answer, JanusError)
        done(*encode_error(answer))
