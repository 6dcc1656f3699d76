"""The checkers of watches and feeds against judges that try every past that could have been.

A past says at which revision (of a feed: at which version of its key) each write of unknown outcome
was done, or that it never was. A history is good if there is one past of which every watcher was
told exactly what it has to be told. The histories are told from a past, and then most of them are
spoiled; the checker has to say of each what the judge says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from hypothesis import event, given
from hypothesis import strategies as st

from chaos.checkers.feeds import Change, Wrote, check_feeds
from chaos.checkers.watch import Batch, Event, Gap, Mark, Written, check_watches
from chaos.history import Result

DONE, FAILED, UNKNOWN = Result.DONE, Result.FAILED, Result.UNKNOWN
KEYS = "ab"

# --- watches -------------------------------------------------------------------------------------

Past = Mapping[int, frozenset[Event]]
NOBODY = frozenset({Event("a", "stranger")})
STRANGE = (NOBODY, frozenset({Event("a", None)}), frozenset({Event("b", None)}), frozenset[Event]())


@dataclass
class Watched:
    told: dict[str, list[Batch]]
    written: list[Written]
    upto: int
    since: int | None
    final: dict[str, str]
    marks: dict[str, list[Mark]] = field(default_factory=dict)
    gaps: dict[str, list[Gap]] = field(default_factory=dict)
    compacted: int = 0

    def is_good(self) -> bool:
        """By force."""
        return (
            all(last <= self.compacted for gaps in self.gaps.values() for _, last in gaps)
            and all(self._keeps_marks(name) for name in self.marks)
            and any(self._explains(past) for past in self._pasts())
        )

    def _keeps_marks(self, name: str) -> bool:
        return all(
            batch.revision > mark.revision
            for mark in self.marks[name]
            for batch in self.told[name][mark.batches :]
        )

    def _pasts(self) -> Iterator[Past]:
        """Every placing of the writes of unknown outcome; None: never, or later than `upto`."""
        places = [None, *range(1, self.upto + 1)]
        choices = [
            [write.revision] if write.result is DONE else places if write.result is UNKNOWN else []
            for write in self.written
            if write.result is not FAILED
        ]
        writes = [write for write in self.written if write.result is not FAILED]
        for placing in product(*choices):
            taken = [each for each in placing if each is not None and each <= self.upto]
            if len(set(taken)) == len(taken):
                yield {
                    revision: frozenset(write.events)
                    for write, revision in zip(writes, placing, strict=True)
                    if revision is not None and revision <= self.upto
                }

    def _explains(self, past: Past) -> bool:
        if self.since is not None and any(
            revision not in past for revision in range(self.since, self.upto + 1)
        ):
            return False
        told_all = all(self._was_told(name, past) for name in self.told)
        return told_all and _state(past) == self.final

    def _was_told(self, name: str, past: Past) -> bool:
        told = [batch for batch in self.told[name] if batch.revision <= self.upto]
        having = {batch.revision for batch in told}
        due = [
            (revision, past[revision])
            for revision in sorted(past)
            if revision in having or not self.is_in_gap(name, revision)
        ]
        whole = all(len(set(batch.events)) == len(batch.events) for batch in told)
        return whole and [(batch.revision, frozenset(batch.events)) for batch in told] == due

    def is_in_gap(self, name: str, revision: int) -> bool:
        return any(first <= revision <= last for first, last in self.gaps.get(name, ()))

    def checked(self) -> list[str]:
        found = check_watches(
            self.told, self.written, upto=self.upto, since=self.since, marks=self.marks,
            gaps=self.gaps, final=self.final, compacted=self.compacted,
        )  # fmt: skip
        return [each.message.split(":")[0] for each in found]


@st.composite
def watched(draw: st.DrawFn, *, lying: bool = False) -> Watched:
    """What an honest cluster tells; or one that tells everybody alike of what never was."""
    past: dict[int, frozenset[Event]] = {}
    written = []
    for number in range(draw(st.integers(1, 4))):
        keys = draw(st.sampled_from(["a", "b", "ab"]))
        deleted = draw(st.sampled_from([False, False, True]))
        events = tuple(Event(key, None if deleted else f"w{number}.{key}") for key in keys)
        result = draw(st.sampled_from([DONE, DONE, UNKNOWN, FAILED]))
        happened = result is DONE or (result is UNKNOWN and draw(st.booleans()))
        revision = len(past) + 1
        if happened:
            past[revision] = frozenset(events)
        written.append(Written(f"w{number}", events, result, revision if result is DONE else None))
    if lying:
        revision = draw(st.integers(1, len(past) + 1))
        events_of = [frozenset(each.events) for each in written]
        past[revision] = draw(st.sampled_from([*STRANGE[:-1], *events_of]))
    past = {revision: past[revision] for revision in sorted(past)}
    told = {
        name: [Batch(revision, tuple(sorted(events, key=str))) for revision, events in past.items()]
        for name in ("one", "two")
    }
    since = draw(st.sampled_from([1, None]))
    made = Watched(told, written, len(past), since, _state(past))
    if draw(st.booleans()) and past:
        at = draw(st.integers(1, len(past)))
        made.compacted = at
        made.gaps = {"one": [(draw(st.integers(1, at)), at)]}
        kept = [each for each in told["one"] if not made.is_in_gap("one", each.revision)]
        made.told["one"] = kept
    if draw(st.booleans()):
        at = draw(st.integers(0, len(made.told["two"])))
        made.marks = {"two": [Mark(at, made.told["two"][at - 1].revision if at else 0)]}
    return made


def _state(past: Past) -> dict[str, str]:
    state: dict[str, str] = {}
    for revision in sorted(past):
        for each in past[revision]:
            state.pop(each.key, None)
            if each.value is not None:
                state[each.key] = each.value
    return state


ANSWERS = {"refuse": FAILED, "forget": UNKNOWN, "acknowledge": DONE}
LINES = ("drop", "double", "swap", "split", "other", "move", "more")
REST = ("mark", "gap", "final", *ANSWERS)


def spoil(draw: st.DrawFn, made: Watched) -> None:
    """One wrong step, of one watcher or of all."""
    names = draw(st.sampled_from([["one"], ["two"], ["one", "two"]]))
    what, place = draw(st.sampled_from([*LINES, *REST])), draw(st.integers(0, 3))
    other = draw(st.sampled_from([*STRANGE, *(frozenset(each.events) for each in made.written)]))
    at = place % len(made.written)
    if what in LINES:
        for name in names:
            made.told[name] = spoiled(made.told[name], what, place, other)
    elif what == "mark":
        made.marks = {name: [Mark(at, place)] for name in names}
    elif what == "gap":
        made.gaps = {name: [(1, place)] for name in names}
    elif what == "final":
        made.final["a"] = f"w{place}.a"
    else:
        revision = place + 1 if what == "acknowledge" else None
        made.written[at] = replace(made.written[at], result=ANSWERS[what], revision=revision)


def spoiled(told: Sequence[Batch], what: str, place: int, other: frozenset[Event]) -> list[Batch]:
    if what == "more":
        return [*told, Batch(place + 1, tuple(other))]
    if not told:
        return []
    at = place % len(told)
    before, batch, after = told[:at], told[at], told[at + 1 :]
    instead = {
        "drop": [],
        "double": [batch, batch],
        "swap": [],
        "split": [Batch(batch.revision, (each,)) for each in batch.events],
        "other": [Batch(batch.revision, tuple(other))],
        "move": [replace(batch, revision=place + 1)],
    }
    return [*([batch] if what == "swap" else []), *before, *instead[what], *after]


@given(watched())
def test_honest_watches_are_not_accused(made: Watched) -> None:
    assert made.is_good()
    assert made.checked() == []


@given(st.booleans().flatmap(lambda lying: watched(lying=lying)), st.data())
def test_spoiled_watches_are_judged_as_by_force(made: Watched, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 2))):
        spoil(data.draw, made)
    good, found = made.is_good(), made.checked()
    event(f"good: {good}")
    if good:
        assert found == []
    elif not all(made.gaps.get(name) for name in made.told):  # somebody had to be told everything
        assert found


# --- feeds ---------------------------------------------------------------------------------------


@dataclass
class Fed:
    told: dict[str, list[Change]]
    written: list[Wrote]
    final: dict[str, str | None]

    def is_good(self) -> bool:
        """By force. Keys know nothing of each other, but each watcher's order is one."""
        others = {each.key for changes in self.told.values() for each in changes}
        others |= {each.key for each in self.written if each.result is DONE}
        return others <= self.final.keys() and all(map(self._is_good_of, self.final))

    def _is_good_of(self, key: str) -> bool:
        told = [[each for each in changes if each.key == key] for changes in self.told.values()]
        versions = sorted({each.version for changes in told for each in changes})
        writes = [each for each in self.written if each.key == key and each.result is not FAILED]
        choices = [[each.version] if each.result is DONE else [None, *versions] for each in writes]
        return any(self._explains(key, told, writes, placing) for placing in product(*choices))

    def _explains(
        self,
        key: str,
        told: Sequence[list[Change]],
        writes: Sequence[Wrote],
        placing: Sequence[int | None],
    ) -> bool:
        placed = [
            Change(key, version, write.value)
            for write, version in zip(writes, placing, strict=True)
            if version is not None
        ]
        past = sorted(placed, key=lambda each: each.version)
        last = past[-1].value if past else None
        return (
            len({each.version for each in past}) == len(past)
            and last == self.final[key]
            and all(changes == past for changes in told)
        )

    def checked(self) -> list[str]:
        return [
            each.message.split(":")[0] for each in check_feeds(self.told, self.written, self.final)
        ]


@st.composite
def fed(draw: st.DrawFn, *, lying: bool = False) -> Fed:
    """As `watched`."""
    past: list[Change] = []
    written = []
    versions = dict.fromkeys(KEYS, 0)
    for number in range(draw(st.integers(1, 5))):
        key = draw(st.sampled_from(KEYS))
        value = None if draw(st.sampled_from([False, False, True])) else f"w{number}"
        result = draw(st.sampled_from([DONE, DONE, UNKNOWN, FAILED]))
        if result is DONE or (result is UNKNOWN and draw(st.booleans())):
            versions[key] += draw(st.integers(1, 2))
            past.append(Change(key, versions[key], value))
        written.append(Wrote(key, value, result, versions[key] if result is DONE else 0))
    if lying:
        key = draw(st.sampled_from(KEYS))
        value = draw(st.sampled_from(["stranger", None, *(each.value for each in written)]))
        past.append(Change(key, versions[key] + 1, value))
    final: dict[str, str | None] = dict.fromkeys(KEYS)
    final |= {each.key: each.value for each in past}
    by_key = [each for key in KEYS for each in past if each.key == key]
    return Fed({"one": list(past), "two": by_key}, written, final)


def spoil_feed(draw: st.DrawFn, made: Fed) -> None:
    names = draw(st.sampled_from([["one"], ["two"], ["one", "two"]]))
    what = draw(st.sampled_from([*FEED_LINES, "final", "unlisted", *ANSWERS]))
    place, key = draw(st.integers(0, 4)), draw(st.sampled_from(KEYS))
    other = draw(st.sampled_from(["stranger", None, *(each.value for each in made.written)]))
    at = place % len(made.written)
    if what in FEED_LINES:
        for name in names:
            made.told[name] = spoiled_changes(made.told[name], what, Change(key, place + 1, other))
    elif what == "final":
        made.final[key] = other
    elif what == "unlisted":
        made.final.pop(key, None)
    else:
        version = place + 1 if what == "acknowledge" else 0
        made.written[at] = replace(made.written[at], result=ANSWERS[what], version=version)


FEED_LINES = ("drop", "double", "swap", "other", "move", "more")


def spoiled_changes(told: Sequence[Change], what: str, other: Change) -> list[Change]:
    if what == "more":
        return [*told, other]
    if not told:
        return []
    at = other.version % len(told)
    before, change, after = told[:at], told[at], told[at + 1 :]
    instead = {
        "drop": [],
        "double": [change, change],
        "swap": [],
        "other": [replace(change, value=other.value)],
        "move": [replace(change, version=other.version)],
    }
    return [*([change] if what == "swap" else []), *before, *instead[what], *after]


@given(fed())
def test_honest_feeds_are_not_accused(made: Fed) -> None:
    assert made.is_good()
    assert made.checked() == []


@given(st.booleans().flatmap(lambda lying: fed(lying=lying)), st.data())
def test_spoiled_feeds_are_judged_as_by_force(made: Fed, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 2))):
        spoil_feed(data.draw, made)
    event(f"good: {made.is_good()}")
    assert (made.checked() == []) == made.is_good()
