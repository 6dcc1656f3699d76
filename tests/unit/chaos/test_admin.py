"""The simulated operator: it goes by what is committed, and asks until it is done."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from chaos.sim.admin import Admin
from raftgroups.outcomes import ChangeResult, Unknown
from raftgroups.status import Role

OLD_DISK, NEW_DISK = 11, 22


class ScriptedGroup:
    """A leader's group whose configuration the test sets; it answers every change Unknown."""

    role = Role.LEADER
    term = 3

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.voters: dict[str, int] = {"a": 1, "b": 2, "c": OLD_DISK}
        self.learners: dict[str, int] = {}
        self.committed = True

    def status(self) -> Any:
        return SimpleNamespace(
            voters=tuple(self.voters),
            learners=tuple(self.learners),
            incarnations={**self.voters, **self.learners},
            config_index=9,
            commit_index=9 if self.committed else 8,
        )

    def _take(self, kind: str) -> Callable[[str, Callable[[ChangeResult], None]], None]:
        def call(node: str, done: Callable[[ChangeResult], None]) -> None:
            self.asked.append(f"{kind} {node}")
            done(Unknown("the leader changed"))

        return call

    def __getattr__(self, name: str) -> Any:
        if name not in ("remove", "add_learner", "promote"):
            raise AttributeError(name)
        return self._take(name)


class Disk:
    """A node whose disk is replaced."""

    node_id = label = "c"
    running = True
    frozen = False

    def __init__(self) -> None:
        self.host = SimpleNamespace(incarnation=OLD_DISK, groups={})

    def groups(self) -> list[tuple[int, Any]]:
        return [(1, SimpleNamespace(role=Role.FOLLOWER))]

    def replace_disk(self, groups: list[int]) -> None:
        self.host.incarnation = NEW_DISK


def replacing() -> tuple[Admin, ScriptedGroup]:
    """An operator who has just put a new disk into node c."""
    group, disk = ScriptedGroup(), Disk()
    leader = SimpleNamespace(
        label="a", node_id="a", running=True, frozen=False, host=SimpleNamespace(groups={1: group})
    )
    world = SimpleNamespace(after=lambda *args: None, trace=lambda line: None)
    view = SimpleNamespace(voters=("a", "b", "c"), role=Role.FOLLOWER.value)
    cluster = SimpleNamespace(
        nodes=[leader, disk],
        groups=[1],
        served={1},
        world=world,
        views=lambda group_id: dict.fromkeys("abc", view),
    )
    admin = Admin(cluster)  # type: ignore[arg-type]
    admin.replace_disk(SimpleNamespace(choice=lambda nodes: disk))  # type: ignore[arg-type]
    assert admin.replaced is not None
    return admin, group


def test_a_removal_that_was_lost_with_its_leader_is_asked_for_again() -> None:
    """Seed 438 with five nodes: it saw a removal in force, which then was overwritten, and went on
    to ask for a promotion that could never be."""
    admin, group = replacing()
    admin.repair()
    del group.voters["c"]
    group.committed = False
    admin.repair()
    group.voters["c"] = OLD_DISK
    group.committed = True
    admin.repair()
    assert group.asked == ["remove c", "remove c"]


def test_a_learner_that_was_lost_with_its_leader_is_added_again() -> None:
    admin, group = replacing()
    del group.voters["c"]
    admin.repair()
    group.learners["c"] = 0
    group.committed = False
    admin.repair()
    del group.learners["c"]
    group.committed = True
    admin.repair()
    assert group.asked == ["add_learner c", "add_learner c"]


def test_it_is_done_when_the_new_disk_is_a_committed_voter() -> None:
    admin, group = replacing()
    admin.repair()
    del group.voters["c"]
    admin.repair()
    group.learners["c"] = 0
    admin.repair()
    del group.learners["c"]
    group.voters["c"] = NEW_DISK
    group.committed = False
    admin.repair()
    assert admin.replaced is not None
    group.committed = True
    admin.repair()
    assert admin.replaced is None
    assert admin.done["disk"] == 1
    assert group.asked == ["remove c", "add_learner c", "promote c"]
