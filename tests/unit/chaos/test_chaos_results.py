"""Results: bins, gaps, the file and the pages."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from chaos.history import Result
from chaos.report.charts import Axis, nice_ceiling
from chaos.report.page import CHECKED, index, page
from chaos.running.results import (
    HELD,
    VIOLATED,
    FaultSpan,
    Outcome,
    gaps,
    percentiles,
    summary_line,
    timeline,
)
from chaos.scenarios.menu import LOADS


def outcome() -> Outcome:
    calls = [(100.2, 0.01, Result.DONE), (100.9, 0.03, Result.DONE), (102.5, 1.0, Result.UNKNOWN)]
    return Outcome(
        "kill-leader", "About <it>.", "strong", 3, 1, 2.0, "0.1.0", HELD, "now", 2.0,
        {"done": 2, "failed": 0, "unknown": 1}, {"200": 2, "lost": 1},
        {"register": {"operations": 3}},
        [FaultSpan("kill", "kill -9 n1", 0.5, 1.0, 0.25), FaultSpan("compact", "c", 1.0, 0.1)],
        0, [(0.0, "n1"), (0.8, "n2")], {"n1": 0.1, "n2": None}, "digest", [],
        timeline(calls, 100.0), 10.0, 30.0, {"python": "3"}, "history.jsonl.gz",
    )  # fmt: skip


def test_a_timeline_has_every_second() -> None:
    seconds = outcome().seconds
    assert [each.done for each in seconds] == [2, 0, 0]
    assert [each.unknown for each in seconds] == [0, 0, 1]
    assert (seconds[0].p50_ms, seconds[0].p99_ms) == (30.0, 30.0)
    assert seconds[1].p50_ms is None
    assert timeline([], 0.0) == []
    assert percentiles([n / 1000 for n in range(1, 101)]) == (51.0, 100.0)


@given(
    st.lists(st.floats(0, 10), max_size=4),
    st.lists(st.tuples(st.floats(0, 10), st.floats(0, 3)), max_size=8),
)
def test_gaps_agree_with_the_definition(
    moments: list[float], calls: list[tuple[float, float]]
) -> None:
    acknowledged = [(asked, asked + took) for asked, took in calls]
    expected = [
        min((end - moment for asked, end in acknowledged if asked > moment), default=None)
        for moment in moments
    ]
    assert gaps(moments, acknowledged) == expected


def test_an_outcome_is_read_as_it_was_written() -> None:
    assert Outcome.from_json(outcome().to_json()) == outcome()


def test_only_faults_that_take_a_leader_away_count_as_failovers() -> None:
    assert outcome().failovers_s == [0.25]
    assert outcome().failover_text() == "0.25 s, 0.25 s"
    assert "all held; 3 operations (1 a second done), 2 faults" in summary_line(outcome())


def test_pages_are_whole_and_need_no_network() -> None:
    bad = outcome()
    bad.verdict, bad.violations = VIOLATED, ["linearizability: <no order>"]
    for text in (page(outcome()), page(bad), index([outcome(), bad])):
        assert not re.findall(r"https?://|src=|@import|url\(", text)
        assert text.count("<svg") == text.count("</svg>")
        assert "<it>" not in text
        assert "<no order>" not in text
    assert "kill -9 n1" in page(outcome())
    assert "What did not hold" in page(bad)


def test_the_page_says_of_every_load_what_was_checked() -> None:
    assert {name for name, _ in CHECKED} == set(LOADS)


def test_the_page_shows_how_shards_divided() -> None:
    divided = outcome()
    divided.shards, divided.splits = [(-0.1, 1), (1.5, 2)], 1
    assert "2, shards from 1.5 s on" in page(divided)
    assert "1 splits, 0 merges" in page(divided)
    assert "shards from" not in page(outcome())


def test_axes() -> None:
    assert [nice_ceiling(value) for value in (0, 0.3, 1, 7, 120, 501)] == [1, 0.5, 1, 10, 200, 1000]
    assert Axis(120.0).ticks()[:3] == [0, 10, 20]
    assert len(Axis(7200.0).ticks()) <= 13
