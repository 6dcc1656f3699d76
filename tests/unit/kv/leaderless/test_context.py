"""Contexts come back exactly, and nothing else is believed."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kv.leaderless.context import CONTEXT_MAX_CHARS, ContextCodec, InvalidContextError
from kv.leaderless.dvv import Context
from storage.siblings import Actor, Clock, SiblingSet

CODEC = ContextCodec([b"secret"])
CONTEXT = Context(Clock({Actor("a", 1, 1): 3}, {Actor("b", 2, 1): (4, 9)}), 77)
URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
quiet = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@quiet
@given(data=st.data(), keyspace=st.integers(0, (1 << 32) - 1), key=st.binary(max_size=432))
def test_a_context_comes_back(
    data: st.DataObject, keyspace: int, key: bytes, small_set: st.SearchStrategy[SiblingSet]
) -> None:
    context = Context(data.draw(small_set).clock, data.draw(st.integers(0, (1 << 64) - 1)))
    text = CODEC.encode(keyspace, key, context)
    assert CODEC.decode(keyspace, key, text) == context
    assert set(text) <= set(URL_SAFE)


@given(st.data())
def test_a_changed_context_is_refused(data: st.DataObject) -> None:
    text = CODEC.encode(1, b"k", CONTEXT)
    place = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from(URL_SAFE).filter(lambda c: c != text[place]))
    changed = text[:place] + letter + text[place + 1 :]
    for wrong in (changed, text[:place], text + letter, text + text):
        with pytest.raises(InvalidContextError):
            CODEC.decode(1, b"k", wrong)


@given(st.text(max_size=80))
def test_garbage_is_a_refusal_and_never_a_crash(text: str) -> None:
    with pytest.raises(InvalidContextError):
        CODEC.decode(1, b"k", text)


def test_a_context_belongs_to_its_key_keyspace_and_cluster() -> None:
    text = CODEC.encode(1, b"k", CONTEXT)
    for keyspace, key, codec in (
        (2, b"k", CODEC),
        (1, b"l", CODEC),
        (1, b"", CODEC),
        (1, b"k", ContextCodec([b"other"])),
    ):
        with pytest.raises(InvalidContextError, match="another key, keyspace or cluster"):
            codec.decode(keyspace, key, text)


def test_secrets_can_be_rotated() -> None:
    old = CODEC.encode(1, b"k", CONTEXT)
    both = ContextCodec([b"new", b"secret"])
    assert both.decode(1, b"k", old) == CONTEXT
    assert ContextCodec([b"new"]).decode(1, b"k", both.encode(1, b"k", CONTEXT)) == CONTEXT


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "version none"),
        ("Ag", "version 02"),
        ("A", "cut short"),
        ("AR", "not written by a node"),
        ("a b", "characters"),
        ("AQ==", "characters"),
        ("AQ\n", "characters"),
        ("A" * (CONTEXT_MAX_CHARS + 1), "none has over"),
    ],
)
def test_a_refusal_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidContextError, match=why):
        CODEC.decode(1, b"k", text)
