"""Names: what a sync of a file or a directory keeps, and which orders are possible."""

from __future__ import annotations

import random

from chaos.powercut.filestate import NEVER, Mood
from chaos.powercut.namespace import Entries, Names, Namespace, paths
from chaos.powercut.recording import (
    ROOT,
    Create,
    Entry,
    InitialFile,
    Link,
    NameChange,
    Remove,
    Rename,
)

FILE, OTHER, DIRECTORY = 1, 2, 3


def at(name: str, directory: int = ROOT) -> Entry:
    return Entry(directory, name)


def after(
    *changes: NameChange, rule: Entries = Entries.FILE_SYNC, initial: tuple[InitialFile, ...] = ()
) -> Namespace:
    names = Namespace(rule, initial)
    for index, change in enumerate(changes):
        names.change(2 * index, 2 * index + 1, change)
    return names


def drawn(names: Namespace) -> set[frozenset[str]]:
    """The sets of paths that a power cut may leave."""
    return {
        frozenset(paths(names.draw(random.Random(seed), Mood(keep))))
        for keep in (0.0, 0.5, 1.0)
        for seed in range(200)
    }


def least(names: Namespace) -> Names:
    return names.draw(random.Random(0), Mood(0.0, as_of=-1))


def test_a_new_name_may_be_lost_until_a_sync() -> None:
    names = after(Create(FILE, at("a")))
    assert drawn(names) == {frozenset(), frozenset({"a"})}
    names.sync(before=2, file=FILE)
    assert drawn(names) == {frozenset({"a"})}


def test_only_the_directory_counts_under_the_strict_rule() -> None:
    names = after(Create(FILE, at("a")), rule=Entries.DIRECTORY_SYNC)
    names.sync(before=2, file=FILE)
    assert drawn(names) == {frozenset(), frozenset({"a"})}
    names.sync(before=2, file=ROOT)
    assert drawn(names) == {frozenset({"a"})}


def test_a_sync_entered_before_the_change_was_left_does_not_count() -> None:
    names = after(Create(FILE, at("a")))
    names.sync(before=1, file=ROOT)
    assert frozenset() in drawn(names)


def test_a_rename_is_whole_or_not_at_all() -> None:
    initial = (InitialFile(OTHER, at("current"), b""), InitialFile(FILE, at("new"), b""))
    names = after(Rename(FILE, at("new"), at("current"), OTHER), initial=initial)
    found = {
        tuple(sorted(names.draw(random.Random(seed), Mood(0.5)).items())) for seed in range(100)
    }
    assert found == {
        ((at("current"), OTHER), (at("new"), FILE)),
        ((at("current"), FILE),),
    }


def test_names_that_have_nothing_to_do_with_each_other_may_swap() -> None:
    names = after(Create(FILE, at("a")), Create(OTHER, at("b")))
    assert drawn(names) == {frozenset(), frozenset("a"), frozenset("b"), frozenset("ab")}


def test_under_the_strict_rule_names_reach_the_disk_in_order() -> None:
    names = after(Create(FILE, at("a")), Create(OTHER, at("b")), rule=Entries.DIRECTORY_SYNC)
    assert drawn(names) == {frozenset(), frozenset("a"), frozenset("ab")}


def test_changes_of_one_name_keep_their_order() -> None:
    names = after(
        Create(FILE, at("a")),
        Rename(FILE, at("a"), at("b"), None),
        Create(OTHER, at("a")),
    )
    assert drawn(names) == {
        frozenset(),
        frozenset({"a"}),
        frozenset({"b"}),
        frozenset({"a", "b"}),
    }
    for seed in range(200):
        found = names.draw(random.Random(seed), Mood(0.5))
        if found.get(at("a")) == OTHER:
            assert found[at("b")] == FILE, "the second file took the name that the first had left"


def test_a_journal_keeps_a_prefix_as_of_a_moment() -> None:
    names = after(Create(FILE, at("a")), Create(OTHER, at("b")))
    dice = random.Random(0)
    assert set(paths(names.draw(dice, Mood(1.0, as_of=1)))) == {"a"}
    assert set(paths(names.draw(dice, Mood(1.0, as_of=NEVER)))) == {"a", "b"}


def test_a_sync_takes_what_it_depends_on_along() -> None:
    names = after(Create(DIRECTORY, at("d"), directory=True), Create(FILE, at("a", DIRECTORY)))
    names.sync(before=4, file=FILE)
    assert set(paths(least(names))) == {"d", "d/a"}


def test_under_the_strict_rule_a_directory_itself_must_be_synced_into_its_parent() -> None:
    names = after(
        Create(DIRECTORY, at("d"), directory=True),
        Create(FILE, at("a", DIRECTORY)),
        rule=Entries.DIRECTORY_SYNC,
    )
    names.sync(before=4, file=DIRECTORY)
    assert set(paths(least(names))) == set()
    names.sync(before=4, file=ROOT)
    assert set(paths(least(names))) == {"d", "d/a"}


def test_nothing_is_in_a_directory_that_is_not_there() -> None:
    names = after(Create(DIRECTORY, at("d"), directory=True), Create(FILE, at("a", DIRECTORY)))
    for seed in range(100):
        found = names.draw(random.Random(seed), Mood(0.5))
        assert at("a", DIRECTORY) not in found or at("d") in found


def test_a_second_name_outlives_the_first() -> None:
    initial = (InitialFile(FILE, at("a"), b""),)
    names = after(Link(FILE, at("b")), Remove(FILE, at("a")), initial=initial)
    assert drawn(names) == {frozenset({"a"}), frozenset({"a", "b"}), frozenset({"b"})}
    assert names.latest() == {at("b"): FILE}


def test_a_sync_of_everything_leaves_nothing_undecided() -> None:
    names = after(Create(FILE, at("a")), Create(OTHER, at("b")), Remove(FILE, at("a")))
    names.sync_all(before=6)
    assert names.pending == []
    assert drawn(names) == {frozenset({"b"})}


def test_paths_put_parents_first() -> None:
    names: Names = {at("z"): FILE, at("d"): DIRECTORY, at("a", DIRECTORY): OTHER}
    assert list(paths(names)) == ["d", "z", "d/a"]
