"""Cuts that nobody named a key for keep the queue of a lock in one shard."""

from __future__ import annotations

import pytest

from kv.api.lockplan import key_of
from kv.division.cuts import before_known, before_queue, middle_of, refusal_of

LEASE = 0x6D5A_91C2_4F00_17AB
QUEUE = [key_of(b"locks/nightly", LEASE + number) for number in range(10)]


@pytest.mark.parametrize("key", QUEUE)
def test_a_cut_among_the_keys_of_a_queue_goes_before_all_of_them(key: bytes) -> None:
    assert before_queue(key, b"") == b"locks/nightly/"
    assert before_queue(key, b"locks/n") == b"locks/nightly/"


@pytest.mark.parametrize(
    "key",
    [
        b"locks/nightly",
        b"locks/nightly/",
        b"order/000576",
        b"order/000000000576",
        b"order/0123456789abcdefg",
        b"0123456789abcdef",
        b"",
    ],
)
def test_other_keys_stay_as_they_are(key: bytes) -> None:
    assert before_queue(key, b"") == key


@pytest.mark.parametrize("key", QUEUE)
def test_who_names_a_key_of_a_queue_is_told_where_to_cut_instead(key: bytes) -> None:
    assert "split at b'locks/nightly/'" in refusal_of(key, b"")
    assert refusal_of(b"locks/nightly/", b"") == ""
    assert refusal_of(key, b"locks/nightly/") == "", "there first, and then among them"
    assert refusal_of(b"order/000576", b"") == ""


def test_whoever_knows_the_lease_need_not_guess() -> None:
    short = key_of(b"locks/nightly", 7)
    assert before_queue(short, b"") == short
    assert before_known(short, 7, b"") == b"locks/nightly/"
    assert before_known(short, 8, b"") == short, "hangs on another lease"
    assert before_known(QUEUE[5], 0, b"") == QUEUE[5], "hangs on none"
    assert before_known(short, 7, b"locks/nightly/") == short


def test_a_shard_of_nothing_else_is_cut_all_the_same() -> None:
    """Sessions by hexadecimal number look like a queue, and must not be one shard for ever."""
    assert before_queue(QUEUE[5], b"locks/nightly/") == QUEUE[5]
    assert before_queue(QUEUE[5], QUEUE[2]) == QUEUE[5]


def test_a_cut_by_load_keeps_the_queue_whole_too() -> None:
    marks = [(b"a", 1.0), (b"b", 1.0), *((key, 1.0) for key in QUEUE)]
    assert middle_of(marks) == b"locks/nightly/"
