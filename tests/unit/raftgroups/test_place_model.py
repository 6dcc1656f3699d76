"""Rule b against a plain model: whatever arrives, in whatever order, nothing matching is lost.

A leader's log is a list of terms. Messages are windows of it; a follower has any log that shares a
prefix with the leader's. The model says what the follower must hold after the message; rule b and
what pysyncobj does with its result must come to the same.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftgroups.filters import b_place
from raftgroups.messages import Append


class Log:
    """Terms after a base."""

    def __init__(self, base_index: int, terms: list[int]) -> None:
        self.base_index = base_index
        self._terms = terms

    @property
    def last_index(self) -> int:
        return self.base_index + len(self._terms) - 1

    @property
    def last_term(self) -> int:
        return self._terms[-1]

    def term_at(self, index: int) -> int:
        assert index >= self.base_index
        return self._terms[index - self.base_index]

    def deliver(self, append: Append) -> list[int] | None:
        """What pysyncobj does: check the previous entry, delete what follows it, append."""
        assert append.prev_index is not None
        if not self.base_index <= append.prev_index <= self.last_index:
            return None
        if self.term_at(append.prev_index) != append.prev_term:
            return None
        kept = self._terms[: append.prev_index - self.base_index + 1]
        return kept + [term for term, _ in append.entries]


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[int], list[int], int, int, int]:
    """(leader's terms from index 0, follower's terms, base, previous index, entries)"""
    steps = draw(st.lists(st.sampled_from((0, 2)), min_size=1, max_size=12))
    leader = [0]
    for step in steps:
        leader.append(leader[-1] + step)
    common = draw(st.integers(1, len(leader)))
    # The follower's own entries are of odd terms: one index and term is one entry everywhere.
    follower = leader[:common]
    for step in draw(st.lists(st.sampled_from((0, 2)), max_size=5)):
        follower.append((follower[-1] | 1) + step)
    base = draw(st.integers(0, common - 1))
    previous = draw(st.integers(0, len(leader) - 1))
    count = draw(st.integers(0, len(leader) - 1 - previous))
    return leader, follower, base, previous, count


def common_prefix(a: list[int], b: list[int]) -> int:
    for at, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return at
    return min(len(a), len(b))


@given(situations(), st.integers(0, 20))
def test_rule_b_and_pysyncobj_together_do_what_the_model_says(
    situation: tuple[list[int], list[int], int, int, int], commit: int
) -> None:
    leader, follower, base, previous, count = situation
    end = previous + count
    entries = [(term, b"\x01") for term in leader[previous + 1 : end + 1]]
    message = Append(1, 99, previous, leader[previous], commit, False, entries)
    log = Log(base, follower[base:])
    placed = b_place(message, log)
    delivered = log.deliver(placed.append)
    same = common_prefix(leader, follower)
    if previous >= same and previous >= base:
        assert placed.matched is None
        assert delivered is None
        return
    expected = follower if end < same else leader[: end + 1]
    assert delivered == expected[base:]
    assert placed.matched == max(end, base)
    assert placed.append.commit <= max(end, base)
    assert placed.append.commit == min(commit, max(end, base))
    truncated = delivered[: len(follower) - base] != follower[base:]
    assert truncated == (placed.truncate_from is not None)
    if placed.truncate_from is not None:
        assert placed.truncate_from == same
