"""What a write replaces and what a reader gets, by the keyspace's rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kv.leaderless.dvv import Context, Minter, SiblingLimitError, context_of, merge
from kv.leaderless.hlc import HybridClock
from kv.leaderless.rules import (
    Increment,
    Live,
    NoCounterError,
    Rule,
    SetLimits,
    ValueRuleError,
    Write,
    apply_write,
    check_value_for_rule,
    resolve,
)
from storage.objects import Record
from storage.siblings import SiblingSet, encode_set

NOW_MS = 1_000_000


class Replica:
    """One node's record of one key."""

    def __init__(self, rule: Rule, minter: Minter, *, limits: SetLimits | None = None) -> None:
        self.rule = rule
        self.minter = minter
        self.limits = limits
        self.clock = HybridClock()
        self.record: Record | None = None
        self.now_ms = NOW_MS

    def put(
        self, value: bytes | None, context: Context | None = None, *, expiry_ms: int = 0
    ) -> None:
        self._apply(Write(value, context, expiry_ms))

    def incr(self, delta: int) -> None:
        self._apply(Increment(delta))

    def _apply(self, change: Write | Increment) -> None:
        self.record = apply_write(
            self.rule,
            self.record,
            change,
            minter=self.minter,
            clock=self.clock,
            now_ms=self.now_ms,
            limits=self.limits,
        )

    @property
    def siblings(self) -> SiblingSet:
        return self.record.siblings if self.record is not None else SiblingSet()

    @property
    def values(self) -> list[bytes]:
        return [live.value for live in resolve(self.rule, self.siblings, self.now_ms)]

    @property
    def context(self) -> Context:
        return context_of(self.siblings)

    def hear(self, other: Replica) -> None:
        epoch = self.record.epoch if self.record is not None else 0
        self.record = Record(merge(self.siblings, other.siblings), epoch)


Make = Callable[..., Replica]


@pytest.fixture
def replica(minter: Callable[..., Minter]) -> Make:
    def make(rule: Rule, node: str = "a", *, limits: SetLimits | None = None) -> Replica:
        return Replica(rule, minter(node), limits=limits)

    return make


def _exchange(*replicas: Replica) -> None:
    for _ in replicas:
        for one in replicas:
            for other in replicas:
                one.hear(other)
    assert len({encode_set(one.siblings) for one in replicas}) == 1


# --- siblings --------------------------------------------------------------------------------


def test_without_a_context_a_write_becomes_a_sibling(replica: Make) -> None:
    a = replica(Rule.SIBLINGS)
    a.put(b"1")
    a.put(b"2")
    assert sorted(a.values) == [b"1", b"2"]
    a.put(b"3", a.context)
    assert a.values == [b"3"]


def test_the_cap_refuses_with_what_to_do_and_changes_nothing(replica: Make) -> None:
    a = replica(Rule.SIBLINGS, limits=SetLimits(siblings=3))
    for number in range(3):
        a.put(b"%d" % number)
    before = a.record
    with pytest.raises(SiblingLimitError, match=r"4 concurrent versions.*limits are 3.*read the"):
        a.put(b"4")
    assert a.record is before
    a.put(b"merged", a.context)
    assert a.values == [b"merged"]


def test_the_cap_counts_bytes_and_never_refuses_a_lone_write(replica: Make) -> None:
    a = replica(Rule.SIBLINGS, limits=SetLimits(size_bytes=100))
    a.put(b"v" * 1_000)
    a.put(b"w" * 1_000, a.context)
    with pytest.raises(SiblingLimitError, match="1001 bytes"):
        a.put(b"x")


def test_merging_goes_past_the_cap_because_it_must_converge(replica: Make) -> None:
    limits = SetLimits(siblings=1)
    a, b = (replica(Rule.SIBLINGS, node, limits=limits) for node in "ab")
    a.put(b"1")
    b.put(b"2")
    _exchange(a, b)
    assert len(a.values) == 2


def test_deletes_without_a_context_do_not_pile_up(replica: Make) -> None:
    a = replica(Rule.SIBLINGS, limits=SetLimits(siblings=3))
    for _ in range(10):
        a.put(None)
    assert len(a.siblings.versions) == 1
    assert a.values == []
    a.put(b"v")
    a.put(None)
    assert a.values == [b"v"]
    assert [version.value for version in a.siblings.versions] == [b"v", None]
    a.put(b"w", a.context)
    assert [version.value for version in a.siblings.versions] == [b"w"]


def test_an_expired_sibling_is_not_told_and_does_not_come_back(replica: Make) -> None:
    a, b = replica(Rule.SIBLINGS, "a"), replica(Rule.SIBLINGS, "b")
    a.put(b"brief", expiry_ms=NOW_MS + 5)
    b.hear(a)
    a.put(b"lasting")
    assert sorted(a.values) == [b"brief", b"lasting"]
    a.now_ms = b.now_ms = NOW_MS + 5
    assert a.values == [b"lasting"]
    a.put(b"more")
    _exchange(a, b)
    assert sorted(b.values) == [b"lasting", b"more"]


# --- last write wins -------------------------------------------------------------------------


def test_the_last_write_wins_whatever_its_context(replica: Make) -> None:
    a, b = replica(Rule.LWW, "a"), replica(Rule.LWW, "b")
    a.put(b"early")
    b.now_ms += 10
    b.put(b"late")
    _exchange(a, b)
    assert a.values == b.values == [b"late"]
    a.put(b"latest")
    assert a.values == [b"latest"]
    assert len(a.siblings.versions) == 1


def test_a_write_outranks_all_that_its_node_holds_even_with_a_slow_clock(replica: Make) -> None:
    a, b = replica(Rule.LWW, "a"), replica(Rule.LWW, "b")
    a.now_ms += 3_600_000
    a.put(b"from an hour ahead")
    b.hear(a)
    b.put(b"after reading it")
    _exchange(a, b)
    assert a.values == [b"after reading it"]


def test_a_write_outranks_what_its_context_saw_elsewhere(replica: Make) -> None:
    a, b = replica(Rule.LWW, "a"), replica(Rule.LWW, "b")
    a.now_ms += 3_600_000
    a.put(b"seen by the client")
    b.put(b"his answer", a.context)
    _exchange(a, b)
    assert a.values == [b"his answer"]


def test_the_last_delete_wins_too(replica: Make) -> None:
    a, b = replica(Rule.LWW, "a"), replica(Rule.LWW, "b")
    a.put(b"early")
    b.now_ms += 10
    b.put(None)
    _exchange(a, b)
    assert a.values == []


def test_an_expired_winner_does_not_let_the_loser_back(replica: Make) -> None:
    a, b = replica(Rule.LWW, "a"), replica(Rule.LWW, "b")
    a.put(b"older")
    b.now_ms += 10
    b.put(b"newer, brief", expiry_ms=NOW_MS + 50)
    _exchange(a, b)
    a.now_ms = NOW_MS + 50
    assert a.values == []


def test_equal_timestamps_have_one_winner(replica: Make) -> None:
    a, b = replica(Rule.LWW, "a"), replica(Rule.LWW, "b")
    a.put(b"1")
    b.put(b"2")
    assert a.siblings.versions[0].timestamp == b.siblings.versions[0].timestamp
    _exchange(a, b)
    assert a.values == b.values == [b"2"]


# --- max and union ---------------------------------------------------------------------------


def test_max_keeps_the_largest_number(replica: Make) -> None:
    a, b = replica(Rule.MAX, "a"), replica(Rule.MAX, "b")
    for value in (b"9", b"10", b"-3"):
        a.put(value)
    assert a.values == [b"10"]
    assert len(a.siblings.versions) == 1
    b.put(b"10.5")
    _exchange(a, b)
    assert a.values == [b"10.5"]
    a.put(None)
    assert a.values == []
    a.put(b"1")
    assert a.values == [b"1"]


def test_union_keeps_every_element(replica: Make) -> None:
    a, b = replica(Rule.UNION, "a"), replica(Rule.UNION, "b")
    a.put(b'["pear", "fig"]')
    a.put(b'["apple"]')
    b.put('["fig","äpfel"]'.encode())
    _exchange(a, b)
    assert a.values == ['["apple","fig","pear","äpfel"]'.encode()]


# --- counters --------------------------------------------------------------------------------


def test_concurrent_increments_add_up(replica: Make) -> None:
    a, b, c = (replica(Rule.COUNTER, node) for node in "abc")
    a.incr(5)
    b.incr(-2)
    _exchange(a, b)
    a.incr(1)
    b.incr(10)
    c.incr(100)
    c.incr(100)
    _exchange(a, b, c)
    assert a.values == [b"214"]
    assert len(a.siblings.versions) == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(-(10**6), 10**6)), max_size=15
    )
)
def test_a_counter_is_the_sum_of_all_increments(
    steps: list[tuple[int, int, int]], replica: Make
) -> None:
    replicas = [replica(Rule.COUNTER, node) for node in "abc"]
    for at, source, delta in steps:
        replicas[at].incr(delta)
        replicas[at].hear(replicas[source])
    _exchange(*replicas)
    total = sum(delta for _, _, delta in steps)
    assert replicas[0].values == ([b"%d" % total] if steps else [])


def test_a_forgotten_record_goes_on_with_a_part_of_its_own(replica: Make) -> None:
    """A fallback that handed its part over counts anew in a new epoch: nothing twice, none lost."""
    a, fallback = replica(Rule.COUNTER, "a"), replica(Rule.COUNTER, "f")
    fallback.incr(3)
    a.hear(fallback)
    fallback.record = None
    fallback.incr(4)
    a.hear(fallback)
    assert a.values == [b"7"]


def test_putting_and_deleting_a_counter(replica: Make) -> None:
    a, b = replica(Rule.COUNTER, "a"), replica(Rule.COUNTER, "b")
    a.incr(5)
    b.incr(7)
    _exchange(a, b)
    a.put(b"100")
    assert a.values == [b"100"]
    seen = a.context
    b.incr(1)
    _exchange(a, b)
    # The put replaced what a held of b's part; b has moved on and brings it back, whole.
    assert a.values == [b"108"]
    a.put(None, seen)
    assert a.values == [b"8"]
    a.put(None, a.context)
    assert a.values == []
    a.incr(2)
    assert a.values == [b"2"]
    assert len(a.siblings.versions) == 1


@pytest.mark.parametrize("rule", [Rule.LWW, Rule.MAX, Rule.UNION])
def test_only_counters_and_siblings_increment(replica: Make, rule: Rule) -> None:
    with pytest.raises(ValueRuleError, match=f"merges by {rule}"):
        replica(rule).incr(1)


def test_a_key_that_was_incremented_is_a_counter_among_siblings(replica: Make) -> None:
    a, b = replica(Rule.SIBLINGS, "a"), replica(Rule.SIBLINGS, "b")
    a.incr(5)
    b.incr(-2)
    _exchange(a, b)
    a.incr(1)
    assert a.values == [b"4"]
    assert [version.part for version in a.siblings.versions] == [True, True]
    b.put(b"reset")
    _exchange(a, b)
    assert a.values == [b"reset", b"4"]
    with pytest.raises(NoCounterError, match="no increment made"):
        a.incr(1)
    a.put(None, a.context)
    a.incr(7)
    assert a.values == [b"7"]


def test_a_counter_may_have_more_parts_than_siblings_are_allowed(replica: Make) -> None:
    limits = SetLimits(siblings=2)
    replicas = [replica(Rule.SIBLINGS, node, limits=limits) for node in "abcd"]
    for each in replicas:
        each.incr(1)
    _exchange(*replicas)
    replicas[0].incr(1)
    assert replicas[0].values == [b"5"]


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Rule.COUNTER, [b"0", b"-17", b"007"], [b"", b"1.5", b"1e3", b" 1", b"1\n", b"9" * 41]),
        (Rule.MAX, [b"0", b"-1.50"], [b"", b"NaN", b"inf", b"1e9999", b"0x1", "١".encode()]),
        (
            Rule.UNION,
            [b"[]", b'["a"]'],
            [b"", b"{}", b"[1]", b'["a"', b'["\\ud800"]', b"\xff", b"[" * 100_000],
        ),
        (Rule.SIBLINGS, [b"", b"\xff"], []),
        (Rule.LWW, [b"", b"\xff"], []),
    ],
)
def test_values_that_a_rule_cannot_work_on_are_refused(
    rule: Rule, good: list[bytes], bad: list[bytes]
) -> None:
    for value in (*good, None):
        check_value_for_rule(rule, value)
    for value in bad:
        with pytest.raises(ValueRuleError, match=f"merges by {rule}"):
            check_value_for_rule(rule, value)


# --- what a reader is told -------------------------------------------------------------------


def test_a_merged_value_lasts_as_long_as_its_longest_part(replica: Make) -> None:
    a, b = replica(Rule.MAX, "a"), replica(Rule.MAX, "b")
    a.put(b"1", expiry_ms=NOW_MS + 10)
    b.put(b"2", expiry_ms=NOW_MS + 20)
    _exchange(a, b)
    (live,) = resolve(Rule.MAX, a.siblings, NOW_MS)
    assert live == Live(b"2", a.siblings.versions[0].timestamp, NOW_MS + 20)
    b.put(b"0")
    _exchange(a, b)
    (live,) = resolve(Rule.MAX, a.siblings, NOW_MS)
    assert (live.value, live.expiry_ms) == (b"2", 0)


@pytest.mark.parametrize("rule", list(Rule))
def test_an_empty_set_tells_nothing(rule: Rule) -> None:
    assert resolve(rule, SiblingSet(), NOW_MS) == ()
