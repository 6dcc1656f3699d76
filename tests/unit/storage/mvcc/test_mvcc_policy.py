"""When compaction is due, by age and by count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.mvcc_policy import OFF, AutoCompaction, CompactionPolicy


def test_off_is_never_due() -> None:
    auto = AutoCompaction(OFF)
    for second in range(0, 100_000, 100):
        auto.sample(float(second), second * 1_000)
        assert auto.target(float(second), second * 1_000, -1) is None


def test_by_count_it_waits_for_a_twentieth() -> None:
    auto = AutoCompaction(CompactionPolicy(max_age_s=None, max_revisions=1_000))
    assert auto.target(0.0, 1_000, -1) is None
    assert auto.target(0.0, 1_048, -1) is None
    assert auto.target(0.0, 1_049, -1) == 49
    assert auto.target(0.0, 2_000, 951) is None
    assert auto.target(0.0, 2_001, 951) == 1_001


def test_by_age_it_names_the_newest_revision_that_is_old_enough() -> None:
    auto = AutoCompaction(CompactionPolicy(max_age_s=60.0, max_revisions=None))
    for second in range(200):
        auto.sample(float(second), 10 * second + 1)
        if second < 60:
            assert auto.target(float(second), 10 * second + 1, -1) is None or second >= 60
    assert auto.target(199.0, 1_991, -1) == 10 * 139 + 1
    assert auto.target(199.0, 1_991, 1_391) is None
    assert auto.target(200.0, 1_991, 1_391) == 1_401


def test_an_idle_shard_is_compacted_once() -> None:
    auto = AutoCompaction(CompactionPolicy(max_age_s=60.0, max_revisions=None))
    auto.sample(0.0, 5)
    assert auto.target(60.0, 5, -1) == 5
    auto.sample(70.0, 5)
    assert auto.target(1_000.0, 5, 5) is None


def test_the_nearer_bound_counts() -> None:
    auto = AutoCompaction(CompactionPolicy(max_age_s=60.0, max_revisions=100))
    auto.sample(0.0, 50)
    assert auto.target(10.0, 1_000, -1) == 900
    auto.sample(20.0, 950)
    assert auto.target(80.0, 1_001, 900) == 950


@given(
    st.lists(st.tuples(st.floats(0, 500), st.integers(0, 300)), max_size=400),
    st.floats(1, 600),
    st.integers(1, 500),
)
def test_never_younger_than_both_bounds_allow(
    steps: list[tuple[float, int]], max_age_s: float, max_revisions: int
) -> None:
    auto = AutoCompaction(CompactionPolicy(max_age_s, max_revisions))
    now_s, revision, compacted = 0.0, 1, -1
    seen: list[tuple[float, int]] = []
    for seconds, more in steps:
        now_s += seconds
        revision += more
        auto.sample(now_s, revision)
        seen.append((now_s, revision))
        target = auto.target(now_s, revision, compacted)
        if target is not None:
            assert compacted < target <= revision
            old = max([r for at, r in seen if now_s - at >= max_age_s], default=0)
            assert target <= max(old, revision - max_revisions)
            compacted = target
        assert revision - compacted <= max_revisions + max(max_revisions // 20, 1) + 1
