"""A place in a lock's queue as a key, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.lock_keys import DIGITS_MAX, Place, place_at, place_key, queue_of

LEASES = st.integers(1, 2**63 - 1)


@given(st.binary(max_size=20), LEASES)
def test_what_was_made_is_recognised(name: bytes, lease: int) -> None:
    queue = queue_of(name)
    key = place_key(queue, lease)
    assert place_at(key) == Place(queue, lease)
    assert len(key) <= len(queue) + DIGITS_MAX


def test_the_last_slash_ends_the_name() -> None:
    assert place_at(b"a/b\n/1f") == Place(b"a/b\n/", 0x1F)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"1f",
        b"locks/nightly/",
        b"locks/nightly/0",
        b"locks/nightly/01f",
        b"locks/nightly/1F",
        b"locks/nightly/1f ",
        b"locks/nightly/1g",
        b"locks/nightly/-1f",
        b"locks/nightly/10123456789abcdef",
        b"order/000000000576",
    ],
)
def test_other_keys_are_no_places(key: bytes) -> None:
    assert place_at(key) is None
