"""Plain sets read off their bytes mean what decoding them says."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from storage.plain import CLOCK_AT, minted_by, plain_of, replaces
from storage.siblings import (
    Actor,
    Clock,
    Dot,
    MalformedSetError,
    SiblingSet,
    Version,
    decode_set,
    encode_set,
    write_clock,
)

NODES = st.sampled_from(["a", "n1", "x" * 64, "\u00e4"])
NUMBERS = st.integers(1, 5) | st.integers(120, 140) | st.integers(1, (1 << 64) - 1)


def plain_set(node: str, incarnation: int, epoch: int, n: int, value: bytes) -> SiblingSet:
    actor = Actor(node, incarnation, epoch)
    return SiblingSet((Version(Dot(*actor, n), value, 7 << 16),), Clock({actor: n}))


@given(NODES, NUMBERS, NUMBERS, NUMBERS, st.binary(max_size=300))
@example("a", 7, 1, 1, b"")
def test_what_it_reads_is_what_decoding_gives(
    node: str, incarnation: int, epoch: int, n: int, value: bytes
) -> None:
    siblings = plain_set(node, incarnation, epoch, n, value)
    encoded = encode_set(siblings)
    plain = plain_of(encoded)
    if max(epoch, n) >= 1 << 56 or not node.isascii():
        assert plain is None
        return
    assert plain is not None
    clock = bytearray()
    write_clock(clock, siblings.clock)
    assert encoded[CLOCK_AT : plain.clock_end] == bytes(clock)
    assert (plain.n, plain.timestamp) == (n, 7 << 16)
    assert encoded[plain.value_at :] == value
    assert encoded.startswith(minted_by(node, incarnation))


def test_other_sets_are_not_plain() -> None:
    actor, other = Actor("a", 1, 1), Actor("b", 1, 1)
    dot = Dot(*actor, 1)
    for siblings in (
        SiblingSet((), Clock({actor: 1})),
        SiblingSet((Version(dot, None, 1),), Clock({actor: 1})),
        SiblingSet((Version(dot, b"v", 1, 5),), Clock({actor: 1})),
        SiblingSet((Version(dot, b"1", 1, part=True),), Clock({actor: 1})),
        SiblingSet((Version(dot, b"v", 1),), Clock({actor: 2})),
        SiblingSet((Version(dot, b"v", 1),), Clock({actor: 1, other: 1})),
        SiblingSet((Version(dot, b"v", 1),), Clock({actor: 1}, {actor: (3,)})),
    ):
        assert plain_of(encode_set(siblings)) is None


@given(st.data())
def test_what_decoding_refuses_is_not_plain(data: st.DataObject) -> None:
    encoded = bytearray(encode_set(plain_set("n1", 9, 130, 2, b"value")))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        encoded[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
        if not encoded:
            break
    plain = plain_of(bytes(encoded))
    try:
        siblings = decode_set(bytes(encoded))
    except MalformedSetError:
        assert plain is None
        return
    if plain is not None:
        assert siblings.versions[0].value == bytes(encoded[plain.value_at :])
        assert siblings.versions[0].dot.n == plain.n


def test_a_later_change_of_the_only_actor_replaces() -> None:
    def encoded(node: str, epoch: int, n: int) -> bytes:
        return encode_set(plain_set(node, 1, epoch, n, b"v"))

    def later(data: bytes, held: bytes) -> bool:
        plain, held_plain = plain_of(data), plain_of(held)
        assert plain is not None
        assert held_plain is not None
        return replaces(data, plain, held, held_plain)

    assert later(encoded("a", 1, 200), encoded("a", 1, 2))
    assert not later(encoded("a", 1, 2), encoded("a", 1, 200))
    assert not later(encoded("a", 1, 2), encoded("a", 1, 2))
    assert not later(encoded("b", 1, 2), encoded("a", 1, 1))
    assert not later(encoded("a", 200, 2), encoded("a", 1, 1))
