"""What a client says is settled, is: no sequence at or above it was answered to be asked again."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from kv.api.headers import idempotency_token
from kv.client.tokens import Token, Tokens, new_client_id


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 1_000)), max_size=60))
def test_settled_is_the_lowest_sequence_that_is_out(
    steps: list[tuple[int, int]],
) -> None:
    """Each step takes a token of 1 to 4 sequences, or settles one of those that are out."""
    tokens = Tokens("c")
    out: list[Token] = []
    taken: set[int] = set()
    for place, (count, choice) in enumerate(steps):
        if place % 2 and out:
            tokens.settle(out.pop(choice % len(out)))
        else:
            token = tokens.take(count)
            sequences = set(range(token.sequence, token.sequence + token.sequences))
            assert not sequences & taken
            taken |= sequences
            out.append(token)
        waiting = {each.sequence + step for each in out for step in range(each.sequences)}
        assert tokens.settled == min(waiting, default=max(taken, default=0) + 1)
        for each in out:
            parsed = idempotency_token(tokens.header(each))
            assert parsed.sequence == each.sequence
            assert parsed.settled <= min(waiting)


def test_tokens_of_a_former_client_id_settle_nothing() -> None:
    old = Tokens("old").take()
    new = Tokens("new")
    mine = new.take()
    new.settle(old)
    assert new.settled == mine.sequence
    assert new.header(old) == "old:1:0"


def test_ids_rise_with_time_and_are_what_servers_take() -> None:
    dice = Random(1)
    ids = [new_client_id(wall_s, dice) for wall_s in (1.0, 1_700_000_000.0, 1_700_000_000.001)]
    assert ids == sorted(ids)
    assert idempotency_token(f"{ids[0]}:1").client == ids[0].encode()
    assert len({new_client_id(5.0, dice) for _ in range(100)}) == 100
