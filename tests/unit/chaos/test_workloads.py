"""What is judged of a run that got stuck before its last looks."""

from __future__ import annotations

import pytest

from chaos.calling import Books
from chaos.checkers.sets import Add, SetLook
from chaos.history import Result
from chaos.scenarios.menu import LOADS
from chaos.scenarios.scenario import Load
from chaos.workloads.growing import SetWork
from chaos.workloads.table import TABLE
from chaos.workloads.work import Setting

EARLY = sorted(kind for kind, work in TABLE.items() if work.judges_early)


def setting(kind: str) -> Setting:
    options = {name: option.default for name, option in LOADS[kind].options.items()}
    return Setting(Load(kind, 1, options), [], Books(), "seed")


@pytest.mark.parametrize("kind", EARLY)
def test_nobody_is_accused_without_last_looks(kind: str) -> None:
    assert TABLE[kind](setting(kind)).judge() == []


def test_what_clients_were_told_is_judged_without_last_looks() -> None:
    assert {"register", "set", "list", "bank", "lock", "lease"} == set(EARLY)
    work = SetWork(setting("set"))
    work._adds[0].append(Add("a", 0.0, 1.0, Result.DONE))
    work._looks[0].append(SetLook("n1", 2.0, 3.0, frozenset()))
    (violation,) = work.judge()
    assert violation.message == "complete: 1 times"
