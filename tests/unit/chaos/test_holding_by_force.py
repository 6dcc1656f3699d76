"""The checkers of leases and locks against judges that try every moment at which these may end."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from hypothesis import event, given
from hypothesis import strategies as st

from chaos.checkers.fencing import Holding, check_fencing
from chaos.checkers.leases import Kept, check_leases

TTL = 4
LAST = 10
MOMENTS = [number / 2 for number in range(2 * (LAST + TTL + 2))]
"""Also between whole numbers, since equal times count as concurrent."""


@dataclass
class Life:
    """What was told of one lease, granted at 0, and of its key, written at 1."""

    renewed: list[tuple[int, int]]
    refused: list[tuple[int, int]]
    there: list[tuple[int, int]]
    gone: list[tuple[int, int]]
    ended: int | None
    over: int | None
    left: bool
    one_shard: bool

    def is_good(self) -> bool:
        """By force: the lease ends at some moment, and its key then or later."""
        leases = filter(self._lease_may_end, MOMENTS)
        keys = [*filter(self._key_may_end, MOMENTS)]
        return not self.left and any(key >= lease for lease in leases for key in keys)

    def _lease_may_end(self, at: float) -> bool:
        promises = [TTL, *(asked + TTL for asked, _ in self.renewed)]
        given_up = inf if self.ended is None else self.ended
        return (
            at >= min(given_up, max(promises))
            and all(at >= asked for asked, _ in self.renewed)
            and all(at <= answered for asked, answered in self.refused if asked > 1)
            and (self.over is None or at <= self.over)
        )

    def _key_may_end(self, at: float) -> bool:
        return (
            all(at >= asked for asked, _ in self.there)
            and all(at <= answered for asked, answered in self.gone if asked > 1)
            and (self.over is None or not self.one_shard or at <= self.over)
        )

    def checked(self) -> bool:
        kept = Kept("7", "k", 1, TTL)
        for asked, answered in self.renewed:
            kept.renewed(asked, answered, TTL)
        kept.refused_at, kept.there_at, kept.gone_at = [*self.refused], [*self.there], [*self.gone]
        kept.ended, kept.over = self.ended, self.over
        left = ["k"] if self.left else []
        return check_leases([kept], left, one_shard=self.one_shard) == []


def spans(most: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    span = st.tuples(st.integers(1, LAST), st.integers(1, 3)).map(lambda s: (s[0], s[0] + s[1]))
    return st.lists(span, max_size=most)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """Any: nobody has to be honest."""
    ended = draw(st.none() | st.integers(2, LAST))
    acknowledged = ended is not None and draw(st.booleans())
    over = ended + draw(st.integers(1, 2)) if ended is not None and acknowledged else None
    some = [draw(spans(2)) for _ in range(4)]
    return Life(*some, ended, over, draw(st.integers(0, 5)) == 0, draw(st.booleans()))


@st.composite
def honest_lives(draw: st.DrawFn) -> Life:
    """Drawn from moments at which the lease and its key really ended."""
    asked = draw(spans(3))
    ended = draw(st.none() | st.integers(2, LAST))
    promised = max([TTL, *(at + TTL for at, _ in asked if ended is None or at < ended)])
    lease = promised if ended is None else min(promised, ended + 1)
    key = lease if draw(st.booleans()) else lease + 1
    renewed = [each for each in asked if each[0] <= lease and (ended is None or each[0] < ended)]
    refused = [each for each in draw(spans(2)) if each[1] > lease + 1]
    looks = draw(spans(3))
    there = [each for each in looks if each[0] <= key]
    gone = [each for each in looks if each[0] > key]
    over = ended + 2 if ended is not None and lease == ended + 1 and draw(st.booleans()) else None
    return Life(renewed, refused, there, gone, ended, over, False, one_shard=draw(st.booleans()))


@given(honest_lives())
def test_honest_leases_are_not_accused(life: Life) -> None:
    assert life.is_good()
    assert life.checked()


@given(lives() | honest_lives())
def test_leases_are_judged_as_by_force(life: Life) -> None:
    event(f"good: {life.is_good()}")
    assert life.checked() == life.is_good()


@given(
    st.integers(1, 5),
    st.none() | st.integers(2, 12),
    st.lists(st.tuples(st.integers(1, 10), st.integers(1, 3)), max_size=3),
)
def test_who_holds_a_lock_is_not_told_that_it_is_lost(
    covered: int, ended: int | None, lost: list[tuple[int, int]]
) -> None:
    """It ends at some moment not before its promise, and every answer agrees with that moment."""
    holding = Holding("c", 1, 0, 1, 1 + covered, ended)
    holding.lost_at = [(asked, asked + took) for asked, took in lost]
    promised = 1 + covered if ended is None else min(1 + covered, ended)
    possible = any(
        end >= promised and all(end <= answered for asked, answered in holding.lost_at if asked > 1)
        for end in MOMENTS
    )
    assert (check_fencing([holding], []) == []) == possible
