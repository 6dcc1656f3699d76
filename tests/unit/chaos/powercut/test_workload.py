"""The workload, and that the comparison sees every way to be wrong."""

from __future__ import annotations

import pytest

from chaos.powercut.workload import HISTORY_BATCHES, States, Workload, head_of
from storage.engine import Op, iterate
from storage.memory import MemoryEngine

WORKLOAD = Workload(seed=7, batches=40)


def test_a_batch_depends_on_seed_and_number_alone() -> None:
    again = Workload(seed=7, batches=99)
    other = Workload(seed=8, batches=40)
    assert WORKLOAD.batch(5).operations == again.batch(5).operations
    assert WORKLOAD.batch(5).operations != other.batch(5).operations
    assert WORKLOAD.batch(5).operations != WORKLOAD.batch(6).operations


def test_the_batches_have_what_engines_stumble_over() -> None:
    batches = [WORKLOAD.batch(number) for number in range(1, 41)]
    kinds = {op for batch in batches for op, _, _ in batch.operations}
    sizes = [len(v) for b in batches for op, _, v in b.operations if op is Op.PUT and v is not None]
    assert kinds == {Op.PUT, Op.DELETE, Op.DELETE_RANGE}
    assert min(sizes) < 50
    assert max(sizes) > 8192
    assert {WORKLOAD.is_synced(number) for number in range(1, 41)} == {True, False}


def test_the_states_are_those_of_an_engine() -> None:
    engine, states = MemoryEngine(), States(WORKLOAD)
    for number in range(1, 41):
        engine.write(WORKLOAD.batch(number), sync=True)
        with engine.snapshot() as snapshot:
            found = dict(iterate(snapshot))
        assert found == states[number]
        assert head_of(found) == number
        assert states.difference(found) is None
    assert not any(key.startswith(b"log/%08d/" % 1) for key in states[1 + HISTORY_BATCHES])


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        (b"log/00000020/00", None, "is missing"),
        (b"log/00000021/00", b"", "is there"),
        (b"log/00000020/00", b"?", "has a value"),
        (b"head", b"x", "head is -1, which was never written"),
        (b"head", b"41", "head is 41, which was never written"),
        (b"head", b"19", "head is 19"),
        (b"head", None, "head is 0"),
    ],
)
def test_every_difference_is_named(key: bytes, value: bytes | None, complaint: str) -> None:
    states = States(WORKLOAD)
    found = dict(states[20])
    if value is None:
        del found[key]
    else:
        found[key] = value
    problem = states.difference(found)
    assert problem is not None
    assert complaint in problem
