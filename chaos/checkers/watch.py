"""Watches are complete: every watcher is told everything, once, in order, whole, and the truth.

Given what each watcher was told (batches, one a revision, over the same range of keys and from the
same revision on) and what the writers know of their writes, this must hold up to the revision
`upto`, which all of them have reached:

order      the revisions of one watcher rise; one that comes again was doubled or was split in two
complete   a revision that anybody was told, everybody was told, with the same events
truth      each revision is one write, whole: the one that was acknowledged at it, or one of unknown
           outcome, which may stand at one revision or nowhere; what was refused stands nowhere
dense      with `since`: no revision from it to `upto` is missing everywhere (for a range of keys
           beside which nothing was written)
bookmark   a revision that a watcher was promised is behind it, is: nothing at or below it follows
final      with `final`: what one watcher was told, applied in order, is what a read at `upto` shows
gap        with `compacted`: a watcher was told that history is gone only as far as it is

The values of writes must be unique, so that an event names the write that made it (deletions of one
key are told apart by their revisions alone). A watcher may have gaps where history was compacted
before it could go on and it was told so: only there it may miss something. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chaos.checkers.violation import Violation
from chaos.history import Result

SHOWN: Final = 10
"""Lines of evidence of one kind."""


@dataclass(frozen=True, slots=True)
class Event:
    key: str
    value: str | None
    """None: it was deleted."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a watcher was told at once of one revision."""

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """One write, which takes effect as a whole. `revision` is known if it was acknowledged."""

    id: str
    events: tuple[Event, ...]
    result: Result
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """After so many batches the watcher was promised that up to this revision nothing follows."""

    batches: int
    revision: int


Gap = tuple[int, int]
"""First and last revision that a watcher could not be told any more."""


def check_watches(
    told: Mapping[str, Sequence[Batch]],
    written: Sequence[Written],
    *,
    upto: int,
    since: int | None = None,
    marks: Mapping[str, Sequence[Mark]] | None = None,
    gaps: Mapping[str, Sequence[Gap]] | None = None,
    final: Mapping[str, str] | None = None,
    compacted: int | None = None,
) -> list[Violation]:
    """`compacted`: the highest revision up to which anybody has compacted."""
    lines = {name: _until(batches, upto) for name, batches in told.items()}
    truth = _Truth(lines, gaps or {})
    found = [
        ("order", truth.disorder()),
        ("complete", truth.holes()),
        ("truth", truth.lies(written, upto)),
        ("dense", [] if since is None else truth.gaps(since, upto)),
        ("bookmark", _broken_marks(told, marks or {})),
        ("final", [] if final is None else truth.differs(final)),
        ("gap", [] if compacted is None else _untrue_gaps(gaps or {}, compacted)),
    ]
    return [
        Violation("watch", f"{rule}: {len(bad)} times", tuple(bad[:SHOWN]))
        for rule, bad in found
        if bad
    ]


def _broken_marks(
    told: Mapping[str, Sequence[Batch]], marks: Mapping[str, Sequence[Mark]]
) -> list[str]:
    bad = []
    for name, promised in marks.items():
        at, highest = 0, 0
        waiting = sorted(promised, key=lambda mark: mark.batches)
        for number, batch in enumerate(told[name]):
            while at < len(waiting) and waiting[at].batches <= number:
                highest = max(highest, waiting[at].revision)
                at += 1
            if batch.revision <= highest:
                bad.append(f"{name}: revision {batch.revision} came after the mark {highest}")
    return bad


def _untrue_gaps(gaps: Mapping[str, Sequence[Gap]], compacted: int) -> list[str]:
    return [
        f"{name}: was told that {first} to {last} are gone, and nothing behind {compacted} was "
        "compacted"
        for name, found in gaps.items()
        for first, last in found
        if last > compacted
    ]


def _until(batches: Sequence[Batch], upto: int) -> list[Batch]:
    return [batch for batch in batches if batch.revision <= upto]


class _Truth:
    """What was told, taken together."""

    def __init__(
        self, told: Mapping[str, Sequence[Batch]], gaps: Mapping[str, Sequence[Gap]]
    ) -> None:
        self.told = told
        self.excused = gaps
        self.by_watcher = {name: _joined(batches) for name, batches in told.items()}
        self.revisions: dict[int, frozenset[Event]] = {}
        """Of each revision the events that any watcher was told first."""
        for joined in self.by_watcher.values():
            for revision, events in joined.items():
                self.revisions.setdefault(revision, frozenset(events))

    def disorder(self) -> list[str]:
        bad = []
        for name, batches in self.told.items():
            last = 0
            for batch in batches:
                if batch.revision == last:
                    bad.append(f"{name}: revision {last} came again (doubled, or split)")
                elif batch.revision < last:
                    bad.append(f"{name}: revision {batch.revision} came after {last}")
                if len(set(batch.events)) != len(batch.events):
                    bad.append(f"{name}: revision {batch.revision} has an event twice")
                last = max(last, batch.revision)
        return bad

    def holes(self) -> list[str]:
        bad = []
        for name, joined in self.by_watcher.items():
            for revision, events in sorted(self.revisions.items()):
                own = joined.get(revision)
                if own is None and self._is_excused(name, revision):
                    continue
                if own is None:
                    bad.append(f"{name}: was not told revision {revision}: {_shown(events)}")
                elif frozenset(own) != events:
                    bad.append(
                        f"{name}: revision {revision} is {_shown(own)}; another watcher was told "
                        f"{_shown(events)}"
                    )
        return bad

    def _is_excused(self, name: str, revision: int) -> bool:
        return any(first <= revision <= last for first, last in self.excused.get(name, ()))

    def _nobody_could_be_told(self, revision: int) -> bool:
        return bool(self.told) and all(self._is_excused(name, revision) for name in self.told)

    def differs(self, final: Mapping[str, str]) -> list[str]:
        """Of the watchers without gaps."""
        bad = []
        for name, batches in self.told.items():
            if self.excused.get(name):
                continue
            state: dict[str, str] = {}
            for batch in batches:
                for event in batch.events:
                    if event.value is None:
                        state.pop(event.key, None)
                    else:
                        state[event.key] = event.value
            bad += [
                f"{name}: {key} is {state.get(key)}, a read says {final.get(key)}"
                for key in sorted(state.keys() | final.keys())
                if state.get(key) != final.get(key)
            ]
        return bad

    def lies(self, written: Sequence[Written], upto: int) -> list[str]:
        acknowledged: dict[int, list[Written]] = {}
        unknown: dict[frozenset[Event], int] = {}
        """How many writes of unknown outcome have these events: one, but for deletions."""
        for write in written:
            events = frozenset(write.events)
            if write.result is Result.UNKNOWN:
                unknown[events] = unknown.get(events, 0) + 1
            elif write.result is Result.DONE and (write.revision or 0) <= upto:
                acknowledged.setdefault(write.revision or 0, []).append(write)
        bad = self._doubled(written)
        for revision, events in sorted(self.revisions.items()):
            if revision in acknowledged:
                bad += self._misstated(revision, events, acknowledged[revision])
            elif unknown.get(events):
                unknown[events] -= 1
            else:
                bad.append(_why_not(revision, events, written))
        for revision in sorted(acknowledged.keys() - self.revisions.keys()):
            if self._nobody_could_be_told(revision):
                continue
            bad += [
                f"{write.id}: acknowledged at {write.revision}, told nowhere"
                for write in acknowledged[revision]
            ]
        return bad

    def _doubled(self, written: Sequence[Written]) -> list[str]:
        places: dict[Event, list[int]] = {}
        for revision, events in sorted(self.revisions.items()):
            for event in events:
                places.setdefault(event, []).append(revision)
        return [
            f"{write.id}: done at each of the revisions {list(found)}"
            for write in written
            if (first := _first_with_value(write)) and len(found := places.get(first, ())) > 1
        ]

    @staticmethod
    def _misstated(revision: int, told: frozenset[Event], writes: Sequence[Written]) -> list[str]:
        bad = [
            f"{write.id}: revision {revision} is {_shown(told)}, it wrote {_shown(write.events)}"
            for write in writes
            if frozenset(write.events) != told
        ]
        if len(writes) > 1:
            names = ", ".join(write.id for write in writes)
            bad.append(f"revision {revision} was given to each of {names}")
        return bad

    def gaps(self, since: int, upto: int) -> list[str]:
        return [
            f"revision {revision} was told to nobody"
            for revision in range(since, upto + 1)
            if revision not in self.revisions and not self._nobody_could_be_told(revision)
        ]


def _first_with_value(write: Written) -> Event | None:
    """It stands for the whole write: nobody else has written it."""
    return next((event for event in write.events if event.value is not None), None)


def _why_not(revision: int, told: frozenset[Event], written: Sequence[Written]) -> str:
    """Why this revision, at which nothing was acknowledged, is no write of unknown outcome."""
    owners = {
        event: write for write in written for event in write.events if event.value is not None
    }
    for write in (owners[event] for event in told if event in owners):
        if write.result is Result.FAILED:
            return f"{write.id}: was refused and stands at {revision}"
        if write.result is Result.DONE:
            return f"{write.id}: acknowledged at {write.revision}, told at {revision}"
        return f"{write.id}: revision {revision} is {_shown(told)}, it wrote {_shown(write.events)}"
    what = "wrote" if any(event.value is not None for event in told) else "deleted"
    return f"revision {revision}: nobody {what} {_shown(told)}"


def _joined(batches: Sequence[Batch]) -> dict[int, list[Event]]:
    joined: dict[int, list[Event]] = {}
    for batch in batches:
        joined.setdefault(batch.revision, []).extend(batch.events)
    return joined


def _shown(events: Sequence[Event] | frozenset[Event]) -> str:
    return ", ".join(sorted(f"{event.key}={event.value}" for event in events))
