from __future__ import annotations

import pytest

from raftgroups.commands import Token
from raftgroups.dedupe import PRUNE_STEP, RETENTION_MS, Dedupe, Limits
from raftgroups.refusals import TokenTooOldError
from storage.engine import Batch
from storage.errors import Outcome
from storage.memory import MemoryEngine


def stored(dedupe: Dedupe, engine: MemoryEngine, limits: Limits | None = None) -> Dedupe:
    batch = Batch()
    dedupe.write(batch)
    engine.write(batch, sync=True)
    again = Dedupe(1, limits)
    again.load(engine.snapshot())
    again.next_order, again.forgotten = dedupe.next_order, dedupe.forgotten
    return again


def state_of(dedupe: Dedupe) -> tuple[object, ...]:
    return (
        list(dedupe._answers.items()),
        dedupe._sequences,
        dedupe._floors,
        dedupe._ids,
        len(dedupe),
    )


def test_a_set_per_client_not_a_counter() -> None:
    dedupe = Dedupe(1)
    for sequence in (7, 3, 5):
        assert dedupe.answer(Token(b"c", sequence)) is None
        dedupe.remember(Token(b"c", sequence), 0, b"%d" % sequence)
    assert [dedupe.answer(Token(b"c", s)) for s in range(3, 9)] == [
        b"3", None, b"5", None, b"7", None,
    ]  # fmt: skip
    assert dedupe.answer(Token(b"d", 3)) is None


def test_ten_minutes_of_shard_clock_and_then_refused() -> None:
    dedupe = Dedupe(1)
    dedupe.remember(Token(b"c", 5), 0, b"five")
    dedupe.remember(Token(b"c", 2), 1, b"two")
    dedupe.prune(RETENTION_MS - 1)
    assert dedupe.answer(Token(b"c", 5)) == b"five"
    dedupe.prune(RETENTION_MS)
    with pytest.raises(TokenTooOldError, match="outcome unknown") as refused:
        dedupe.answer(Token(b"c", 5))
    assert refused.value.outcome is Outcome.UNKNOWN
    with pytest.raises(TokenTooOldError):
        dedupe.answer(Token(b"c", 4))  # never seen, but who knows
    assert dedupe.answer(Token(b"c", 2)) == b"two"
    assert dedupe.answer(Token(b"c", 6)) is None


def test_one_entry_does_not_forget_everything_at_once() -> None:
    dedupe = Dedupe(1)
    for sequence in range(PRUNE_STEP + 5):
        dedupe.remember(Token(b"c", sequence), 0, b"")
    dedupe.prune(RETENTION_MS)
    assert len(dedupe) == 5
    dedupe.prune(RETENTION_MS)
    assert len(dedupe) == 0


def test_a_client_that_settles_costs_little() -> None:
    dedupe = Dedupe(1)
    for sequence in range(1000):
        dedupe.remember(Token(b"c", sequence, max(0, sequence - 10)), 0, b"x")
    assert len(dedupe) == 11
    assert dedupe.answer(Token(b"c", 989)) == b"x"
    with pytest.raises(TokenTooOldError):
        dedupe.answer(Token(b"c", 988))


@pytest.mark.parametrize(
    "limits", [Limits(answers=3), Limits(answer_bytes=30)], ids=["answers", "bytes"]
)
def test_over_a_bound_the_oldest_go_and_are_refused(limits: Limits) -> None:
    dedupe = Dedupe(1, limits)
    for sequence in (10, 20, 5, 30):
        dedupe.remember(Token(b"c", sequence), 0, b"x" * 10)
    dedupe.remember(Token(b"d", 1), 0, b"y" * 10)
    assert len(dedupe) == 3
    assert dedupe.forgotten_early == 2
    with pytest.raises(TokenTooOldError):
        dedupe.answer(Token(b"c", 20))
    assert dedupe.answer(Token(b"c", 5)) == b"x" * 10


def test_a_client_beyond_the_bound_drives_the_smallest_id_out_for_good() -> None:
    dedupe = Dedupe(1, Limits(clients=2))
    for client in (b"2", b"3", b"4"):
        dedupe.remember(Token(client, 1), 0, client)
    assert dedupe.clients == 2
    with pytest.raises(TokenTooOldError, match="larger one"):
        dedupe.answer(Token(b"2", 1))
    with pytest.raises(TokenTooOldError):
        dedupe.answer(Token(b"1", 9))
    assert dedupe.answer(Token(b"3", 1)) == b"3"
    assert dedupe.answer(Token(b"3", 2)) is None
    assert dedupe.answer(Token(b"5", 1)) is None


@pytest.mark.parametrize("reload_every", [1, 3])
def test_a_restart_changes_nothing(reload_every: int) -> None:
    """The same tokens through one that is written and read back over and over."""
    limits = Limits(retention_ms=40, answers=12, answer_bytes=200, clients=3)
    engine = MemoryEngine()
    steady, restarted = Dedupe(1, limits), Dedupe(1, limits)
    for step in range(300):
        client = b"%02d" % (step * 7 % 5 + step // 40)
        token = Token(client, step * 13 % 50, step * 13 % 50 if step % 11 == 0 else 0)
        outcomes = []
        for dedupe in (steady, restarted):
            dedupe.prune(step)
            try:
                outcome: object = dedupe.answer(token)
            except TokenTooOldError as refused:
                outcome = str(refused)
            if outcome is None:
                dedupe.remember(token, step, b"v" * (step % 40))
            outcomes.append(outcome)
        assert outcomes[0] == outcomes[1]
        if step % reload_every == 0:
            restarted = stored(restarted, engine, limits)
            assert state_of(restarted) == state_of(steady)
    assert steady.forgotten_early > 20
