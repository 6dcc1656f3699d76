"""The table of runs: the newest of each kind, whatever came of it, and what is missing."""

from __future__ import annotations

from chaos.report.table import markdown_table, missing, newest, totals_line
from chaos.running.results import HELD, VIOLATED, FaultSpan, Outcome
from chaos.scenarios.catalogue import all_scenarios


def outcome(
    started: str, verdict: str = HELD, scenario: str = "kill-all", nodes: int = 3
) -> Outcome:
    return Outcome(
        scenario, "All | of them.", "strong", nodes, 1, 2.0, "0", verdict, started, 120.0,
        {"done": 1990, "failed": 4, "unknown": 6},
        faults=[FaultSpan("kill", "kill -9 n1", 5.0, 3.0, 0.25)], machine_load=2.5,
    )  # fmt: skip


def test_of_several_runs_the_newest_counts_even_if_it_did_not_hold() -> None:
    held, violated = outcome("2031-01-01T10:00:00"), outcome("2031-01-01T11:00:00", VIOLATED)
    assert newest([violated, held]) == [violated]
    other = outcome("2031-01-01T09:00:00", nodes=5)
    assert newest([other, violated, held]) == [violated, other]


def test_a_row_has_everything() -> None:
    found = [outcome("a"), outcome("b", VIOLATED, "split")]
    titles, line, row, other = markdown_table(found).splitlines()
    assert titles.count("|") == line.count("|") == other.count("|") - 1 == 7
    assert row == (
        "| kill-all, 2 min: All \\| of them | strong, 3 | 2,000 (6) | 1 | 0.25 s, 0.25 s | held |"
    )
    assert totals_line(found) == (
        "1 of 2 runs held: 4,000 operations, 2 faults. Processes that wanted a core, in the median "
        "run and in the busiest: 2.5, 2.5."
    )


def test_what_was_not_run_is_named() -> None:
    scenarios = all_scenarios()
    everything = missing([], scenarios)
    assert len(everything) == sum(len(n) for s in scenarios.values() for n in s.sizes.values())
    assert set(everything) - set(missing([outcome("a")], scenarios)) == {"kill-all-strong-3"}
