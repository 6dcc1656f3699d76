"""Tokens that never change, and leaves that add up whatever the order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from storage.buckets import BUCKETS, EMPTY_LEAF, Leaf, bucket_of, key_token, set_digest
from storage.siblings import Clock, SiblingSet, encode_set

DIGESTS = st.integers(0, (1 << 128) - 1)


@pytest.mark.parametrize(
    ("key", "token"),
    [
        (b"", 0x0000000000000000),
        (b"a", 0x85555565F6597889),
        (b"user:1", 0x54F09E266816C56E),
        (b"\x00" * 432, 0x54DA658FC81C8D11),
    ],
)
def test_golden_tokens(key: bytes, token: int) -> None:
    assert key_token(key) == token
    assert bucket_of(key) == token >> 44


@given(st.binary(max_size=432))
def test_a_bucket_is_the_top_of_the_token(key: bytes) -> None:
    assert bucket_of(key) == key_token(key) >> 44
    assert 0 <= bucket_of(key) < BUCKETS


@given(st.lists(DIGESTS, max_size=8), st.randoms(use_true_random=False))
def test_a_leaf_does_not_know_the_order(digests: list[int], rng: object) -> None:
    shuffled = digests[:]
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    forward, backward = EMPTY_LEAF, EMPTY_LEAF
    for digest in digests:
        forward = forward.plus(1, digest)
    for digest in shuffled:
        backward = backward.plus(1, digest)
    assert forward == backward
    for digest in digests:
        forward = forward.plus(-1, -digest)
    assert forward == EMPTY_LEAF


@given(DIGESTS.filter(bool))
def test_equal_hashes_and_double_changes_show(digest: int) -> None:
    """What a xor would lose."""
    twice = EMPTY_LEAF.plus(1, digest).plus(1, digest)
    assert twice != EMPTY_LEAF
    assert twice.keys == 2


@given(DIGESTS, DIGESTS, DIGESTS)
def test_leaves_add_up_to_roots(a: int, b: int, c: int) -> None:
    left, right = Leaf(1, a), Leaf(1, b)
    root = left + right
    assert root - left == right
    assert left.plus(0, c - a) + right == root - left + Leaf(1, c)
    assert 0 <= root.total < 1 << 128


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_the_digest_names_key_versions_and_expiry(
    data: st.DataObject, any_set: st.SearchStrategy[SiblingSet]
) -> None:
    siblings = data.draw(any_set.filter(lambda s: s.versions))
    digest = set_digest(b"k", siblings)
    assert digest == set_digest(b"k", siblings, encode_set(siblings))
    assert digest != set_digest(b"l", siblings)
    first, *rest = siblings.versions
    later = replace(first, expiry_ms=first.expiry_ms + 1)
    assert digest != set_digest(b"k", SiblingSet((later, *rest), siblings.clock))
    assert digest != set_digest(b"k", SiblingSet(tuple(rest), siblings.clock))
    if not first.expiry_ms:
        other = replace(first, value=None if first.value is not None else b"")
        assert digest != set_digest(b"k", SiblingSet((other, *rest), siblings.clock))


def test_the_digest_sees_the_clock(write_of: Callable[..., SiblingSet]) -> None:
    siblings = write_of("a", 2, b"v")
    (actor,) = siblings.clock.base
    wider = SiblingSet(siblings.versions, Clock({actor: 3}))
    assert set_digest(b"k", siblings) != set_digest(b"k", wider)


def test_shedding_an_expired_value_does_not_show(write_of: Callable[..., SiblingSet]) -> None:
    whole = write_of("a", 1, b"session", expiry_ms=1000)
    shed = SiblingSet((replace(whole.versions[0], value=None),), whole.clock)
    assert set_digest(b"k", whole) == set_digest(b"k", shed)
    assert encode_set(whole) != encode_set(shed)
