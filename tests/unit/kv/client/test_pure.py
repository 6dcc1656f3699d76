"""Errors, lines, bytes, renewals and watch positions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.api.failures import VersionMismatchError, error_reply
from kv.api.live_bodies import WatchLine
from kv.api.target import decode_path, split_query
from kv.api.text import given as given_text
from kv.client.failures import (
    KNOWN,
    MalformedReplyError,
    UnknownServerError,
    WatchEndedError,
    error_of,
    refusal_of,
)
from kv.client.forms import alike, bytes_of, in_path, query, text_of
from kv.client.lines import LineSplitter
from kv.client.renewal import Renewal
from kv.client.replies import Reply
from kv.client.watch_position import WatchPosition
from kv.errors import OverloadedError
from raftgroups.refusals import AnswerNotKeptError
from storage.errors import CompactedError, JanusError, Outcome

# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", sorted(KNOWN))
def test_every_known_code_comes_back_as_its_class(code: str) -> None:
    body = {"error": code, "message": "why", "outcome": "none", "retryable": True, "version": 7}
    error = error_of(refusal_of(Reply(400, {}, json.dumps(body).encode())))
    assert isinstance(error, KNOWN[code])
    assert (str(error), error.outcome, error.retryable) == ("why", Outcome.NONE, True)
    unknown = error_of(
        refusal_of(Reply(504, {}, json.dumps({**body, "outcome": "unknown"}).encode()))
    )
    assert isinstance(unknown, KNOWN[code])
    assert unknown.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    "error",
    [
        VersionMismatchError("no", 12),
        CompactedError("gone", 9),
        OverloadedError("full", 4.0),
        AnswerNotKeptError("it was large"),
    ],
)
def test_what_a_server_raises_is_what_a_client_raises(error: JanusError) -> None:
    sent = error_reply(error)
    back = error_of(refusal_of(Reply(sent.status, dict(sent.headers), sent.body)))
    assert isinstance(back, type(error))
    assert str(back) == str(error)
    for name in ("version", "compact_revision", "retry_after_s"):
        assert getattr(back, name, None) == getattr(error, name, None)


def test_an_executed_write_whose_answer_is_gone_is_never_called_not_done() -> None:
    sent = error_reply(AnswerNotKeptError("it was large"))
    assert error_of(refusal_of(Reply(sent.status, {}, sent.body))).outcome is Outcome.UNKNOWN


def test_a_code_of_the_future_and_a_stranger_are_unknown_server_errors() -> None:
    body = b'{"error":"flux","message":"m","outcome":"unknown","retryable":false,"new":1}'
    error = error_of(refusal_of(Reply(400, {}, body)))
    assert isinstance(error, UnknownServerError)
    assert (error.server_code, error.status, error.outcome) == ("flux", 400, Outcome.UNKNOWN)
    stranger = error_of(refusal_of(Reply(502, {}, b"<html>bad gateway")))
    assert isinstance(stranger, UnknownServerError)
    assert stranger.outcome is Outcome.UNKNOWN
    assert "bad gateway" in str(stranger)
    assert error_of(refusal_of(Reply(404, {}, b"\xff"))).outcome is Outcome.NONE


# --- bytes -----------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=40))
def test_any_key_survives_a_path_and_a_query(key: bytes) -> None:
    segment = in_path(key)
    assert "/" not in segment
    assert segment not in (".", "..")
    assert decode_path(segment.encode()) == key
    assert split_query(query([("prefix", key), ("none", None)])[1:].encode()) == {"prefix": key}


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_value_survives_json(one: bytes, other: bytes) -> None:
    text, mark = text_of(one)
    json.dumps(text).encode()
    assert bytes_of(text, mark) == one
    assert given_text(text, "base64" if mark else None, "value") == one
    fields = alike({"a": one, "b": other, "c": None}, "encoding")
    coded = "base64" if "encoding" in fields else None
    assert given_text(fields["a"], coded, "a") == one
    assert given_text(fields["b"], coded, "b") == other
    assert "c" not in fields


def test_bad_base64_of_a_server_is_a_typed_error() -> None:
    with pytest.raises(MalformedReplyError):
        bytes_of("=", "base64")


@given(
    st.lists(st.binary(min_size=1, max_size=9).filter(lambda line: not set(line) & {10, 13})),
    st.data(),
)
def test_lines_come_whole_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    splitter = LineSplitter()
    found: list[bytes] = []
    at = 0
    while at < len(stream):
        upto = data.draw(st.integers(at + 1, len(stream)))
        found += splitter.feed(stream[at:upto])
        at = upto
    assert found == lines
    assert splitter.feed(b"\r\n\n") == [b"rest"]


def test_a_line_without_end_is_bounded() -> None:
    splitter = LineSplitter(limit=10)
    splitter.feed(b"0123456789")
    with pytest.raises(MalformedReplyError, match="10 bytes"):
        splitter.feed(b"x")


# --- renewals --------------------------------------------------------------------------------


def test_a_lease_is_renewed_after_a_third_and_lost_after_the_whole() -> None:
    renewal = Renewal(9.0, 100.0)
    assert renewal.due_at == 103.0
    assert not renewal.is_lost(108.9)
    renewal.failed(104.0)
    assert 104.0 < renewal.due_at <= 105.0
    renewal.renewed(9.0, 105.0)
    assert not renewal.is_lost(113.0)
    assert renewal.is_lost(114.0)
    assert renewal.try_s * 2 <= 9.0 - 9.0 / 3


# --- positions -------------------------------------------------------------------------------


def line(kind: Any, **fields: Any) -> WatchLine:
    return WatchLine(kind, **fields)


def test_a_watch_goes_on_behind_what_it_was_told() -> None:
    position = WatchPosition()
    assert position.accept(line("created", revision=5)) is None
    assert position.next == 6
    change = position.accept(line("events", revision=8, events=[]))
    assert change is not None
    assert change.revision == 8
    assert position.next == 9
    position.accept(line("progress", revision=20))
    assert position.next == 21
    position.connected()
    position.accept(line("created", revision=7))  # a node that is behind
    assert position.next == 21
    assert position.accept(line("events", revision=20, events=[])) is None
    assert position.accept(line("events", revision=21, events=[])) is not None


def test_a_watch_from_a_revision_begins_there() -> None:
    position = WatchPosition(3)
    position.accept(line("created", revision=50))
    assert position.next == 3
    assert position.created


def test_what_ends_a_watch_and_what_only_ends_a_connection() -> None:
    for reason in ("closed", "limit"):
        position = WatchPosition(3)
        position.accept(line("cancelled", reason=reason, message="m"))
        assert position.over
    with pytest.raises(CompactedError) as compacted:
        WatchPosition(3).accept(
            line("cancelled", reason="compacted", message="m", compact_revision=9)
        )
    assert compacted.value.compact_revision == 9
    with pytest.raises(WatchEndedError):
        WatchPosition(3).accept(line("cancelled", reason="invalid", message="m"))
    with pytest.raises(MalformedReplyError):
        WatchPosition(3).accept(line("events"))
