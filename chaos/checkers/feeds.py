"""A watch over keys that may live in several shards: each key's changes, once, in order. Pure.

Shards count their own revisions, so nothing is said of changes to different keys; of each key:

order      the versions that a watcher is told rise; one that comes again was doubled
same       all watchers are told the same changes up to the last one
truth      each change is one write: the one that was acknowledged at its version, or one of unknown
           outcome, which was done once or never; all that was acknowledged was told
final      the last change is what a read at the end shows

The values of writes must be unique. The last write of each key must have been acknowledged, so that
everything before it has been told by the time it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from chaos.checkers.violation import Violation
from chaos.history import Result

SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Change:
    key: str
    version: int
    value: str | None
    """None: it was deleted."""


@dataclass(frozen=True, slots=True)
class Wrote:
    key: str
    value: str | None
    result: Result
    version: int = 0
    """Known if it was acknowledged."""


def check_feeds(
    told: Mapping[str, Sequence[Change]],
    written: Sequence[Wrote],
    final: Mapping[str, str | None],
) -> list[Violation]:
    """`final`: of each key what a read at the end shows; changes to other keys are lies."""
    by_key = {name: _by_key(changes) for name, changes in told.items()}
    found = {
        "order": [line for name in told for line in _disorder(name, by_key[name])],
        "same": [line for key in final for line in _differences(key, by_key)],
        "truth": _lies(by_key, written, final),
        "final": [
            f"{name}: {key} ended as {_last(keys, key)!r}, and is {value!r}"
            for name, keys in by_key.items()
            for key, value in final.items()
            if _last(keys, key) != value
        ],
    }
    return [
        Violation("feeds", f"{rule}: {len(bad)} times", tuple(bad[:SHOWN]))
        for rule, bad in found.items()
        if bad
    ]


def _by_key(changes: Sequence[Change]) -> dict[str, list[Change]]:
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(change.key, []).append(change)
    return found


def _last(keys: Mapping[str, Sequence[Change]], key: str) -> str | None:
    return keys[key][-1].value if keys.get(key) else None


def _disorder(name: str, keys: Mapping[str, Sequence[Change]]) -> list[str]:
    return [
        f"{name}: {key} at version {after.version} came after version {before.version}"
        for key, changes in keys.items()
        for before, after in pairwise(changes)
        if after.version <= before.version
    ]


def _differences(key: str, by_watcher: Mapping[str, Mapping[str, Sequence[Change]]]) -> list[str]:
    everything = {change for keys in by_watcher.values() for change in keys.get(key, ())}
    bad = []
    for name, keys in by_watcher.items():
        missing = everything.difference(keys.get(key, ()))
        bad += [f"{name}: was not told {each}" for each in sorted(missing, key=lambda c: c.version)]
    return bad


def _lies(
    by_watcher: Mapping[str, Mapping[str, Sequence[Change]]],
    written: Sequence[Wrote],
    final: Mapping[str, str | None],
) -> list[str]:
    told: dict[tuple[str, int], set[str | None]] = {}
    for keys in by_watcher.values():
        for change in (each for changes in keys.values() for each in changes):
            told.setdefault((change.key, change.version), set()).add(change.value)
    acknowledged: dict[tuple[str, int], list[Wrote]] = {}
    for write in written:
        if write.result is Result.DONE:
            acknowledged.setdefault((write.key, write.version), []).append(write)
    unknown = Counter((each.key, each.value) for each in written if each.result is Result.UNKNOWN)
    bad = [f"{key} was told, and is not among the keys" for key, _ in told if key not in final]
    for (key, version), values in sorted(told.items()):
        if (key, version) in acknowledged:
            continue
        for value in values:
            if unknown[key, value] <= 0:
                bad.append(f"{key} = {value!r} at version {version} was told, and never done there")
            unknown[key, value] -= 1
    for place, writes in sorted(acknowledged.items()):
        shown = told.get(place)
        if shown is None:
            bad += [f"{write} was acknowledged, and told to nobody" for write in writes]
        else:
            wrong = [write for write in writes if shown != {write.value}]
            bad += [f"{write} was acknowledged, and told as {shown}" for write in wrong]
        if len(writes) > 1:
            bad.append(f"one version was given to each of {writes}")
    return bad
