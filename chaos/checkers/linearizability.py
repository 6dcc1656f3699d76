"""Linearizability of one key: reads, writes, compare-and-set and appends. Pure.

A history is linearizable if every operation can be given one moment between its invocation and its
answer at which it takes effect, so that each sees what the ones before it left. Keys are judged one
by one (the property is local), and the search is just in time: walk over invocations and answers in
order of time and keep the set of all CONFIGURATIONS that explain what was seen so far,

    configuration = (what the key holds, which of the open operations have taken effect already)

An operation is made to take effect only when its answer forces it, or when it is needed before one
that is forced. Equal configurations merge (the memoisation), and two rules keep the set small:

1. A read that matches takes effect at once: it changes nothing, so no later moment is better.
2. A value that nobody will look at any more is replaced by UNSEEN: which one it was is no matter.
3. An open write that nobody will look at takes effect just before any other write: it is hidden at
   once, so again no later moment is better.

An operation of unknown outcome has no answer, so it may take effect at any time or never. If the
values that writers bring are unique, two facts turn most of them into ordinary ones: one whose
value nobody ever saw can be left out, and one whose value was seen took effect before the first
answer that shows it.

When the set gets empty at some answer, the history up to there is bad. `explain` removes reads, and
writes together with all that saw them, as long as the rest stays bad (both removals are sound: they
never make a bad history of a good one); what remains is the smallest contradiction it can find.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from chaos.checkers.violation import Violation
from chaos.history import Kind, Operation, Result

NEVER: Final = float("inf")
UNSEEN: Final = "\x00unseen"

State = str | None
Configuration = tuple[State, frozenset[int]]


@dataclass(slots=True)
class _Op:
    """An operation as the search sees it; `end` is NEVER if no answer came."""

    kind: Kind
    start: float
    end: float
    value: State
    expected: State
    observed: State
    certain: bool
    """The answer is known, so it must agree."""
    changed: bool
    source: Operation


def check_history(operations: Sequence[Operation], *, initial: State = None) -> list[Violation]:
    """All operations of one key. Returns at most one violation, with a minimal bad window."""
    ops = _prepare(operations, initial)
    if _search(ops, initial) is None:
        return []
    window = explain(operations, initial=initial)
    key = operations[0].key if operations else ""
    return [
        Violation(
            "linearizability",
            f"no order of the {len(operations)} operations on key {key!r} explains what was seen; "
            f"{len(window)} of them suffice to show it",
            tuple(str(operation) for operation in window),
        )
    ]


def is_linearizable(operations: Sequence[Operation], *, initial: State = None) -> bool:
    return _search(_prepare(operations, initial), initial) is None


# --- before the search -------------------------------------------------------------------------


def _prepare(operations: Sequence[Operation], initial: State) -> list[_Op]:
    ops = [_convert(op) for op in operations if _matters(op)]
    if _unique_values(ops, initial):
        lists = any(op.kind is Kind.APPEND for op in ops)
        ops = _settle_lists(ops) if lists else _settle_registers(ops)
    ops.sort(key=lambda op: op.start)
    return ops


def _matters(operation: Operation) -> bool:
    """Failed operations had no effect; a read without an answer says nothing."""
    if operation.result is Result.FAILED:
        return False
    return operation.kind is not Kind.READ or operation.result is Result.DONE


def _convert(operation: Operation) -> _Op:
    certain = operation.result is Result.DONE
    end = operation.completed if certain and operation.completed is not None else NEVER
    return _Op(
        operation.kind,
        operation.invoked,
        end,
        operation.value,
        operation.expected,
        operation.observed,
        certain,
        operation.changed,
        operation,
    )


def _unique_values(ops: Sequence[_Op], initial: State) -> bool:
    """Each value is brought by one operation, so that seeing it names who brought it. A list must
    hold nothing but elements that end in a comma, so that one is never part of another."""
    values = Counter(op.value for op in ops if op.kind is not Kind.READ)
    if initial in values or any(count > 1 for count in values.values()):
        return False
    kinds = {op.kind for op in ops} - {Kind.READ}
    if Kind.APPEND not in kinds:
        return True
    elements = all(value and value.find(",") == len(value) - 1 for value in values)
    return kinds == {Kind.APPEND} and initial is None and elements


def _shows(op: _Op) -> list[State]:
    """The values that the answer of this operation proves to have been there."""
    if not op.certain:
        return []
    if op.kind is Kind.READ or (op.kind is Kind.CAS and not op.changed):
        return [op.observed]
    return [op.expected] if op.kind is Kind.CAS else []


def _settle_registers(ops: list[_Op]) -> list[_Op]:
    """Unknown outcomes of unique values: bound the seen, leave out the unseen. A CAS that turns
    out to have happened shows its expected value in turn, hence the loop."""
    while True:
        seen: dict[State, float] = {}
        for op in ops:
            for value in _shows(op):
                seen[value] = min(seen.get(value, NEVER), op.end)
        if not any(not op.certain and op.value in seen for op in ops):
            return [op for op in ops if op.certain]
        ops = [
            op
            if op.certain or op.value not in seen
            else replace(op, certain=True, end=seen[op.value], observed=op.value)
            for op in ops
        ]


def _settle_lists(ops: list[_Op]) -> list[_Op]:
    """The same for lists, where everything later shows an element, and what stood before it."""
    looks = sorted((op for op in ops if op.certain), key=lambda op: op.end)
    settled = [op for op in ops if op.certain]
    for op in ops:
        if op.certain or op.value is None:
            continue
        for look in looks:
            at = ("," + (look.observed or "")).find("," + op.value)
            if at >= 0:
                prefix = (look.observed or "")[: at + len(op.value)]
                settled.append(replace(op, certain=True, end=look.end, observed=prefix))
                break
    return settled


# --- the search --------------------------------------------------------------------------------


def _search(ops: Sequence[_Op], initial: State) -> int | None:
    """None if the history is good, else the number of the operation whose answer cannot be."""
    events: list[tuple[float, int, int]] = []
    for number, op in enumerate(ops):
        events.append((op.start, 0, number))
        if op.end != NEVER:
            # An answer never comes before its own call, even if both bear the same time.
            events.append((op.end, 1, number))
    events.sort()
    looks = _last_looks(ops)
    configurations: set[Configuration] = {(initial, frozenset())}
    open_ops: dict[int, _Op] = {}
    for time, is_answer, number in events:
        if not is_answer:
            open_ops[number] = ops[number]
            continue
        step = _Step(number, open_ops, looks, time)
        for configuration in configurations:
            step.explore(configuration)
        if not step.found:
            return number
        open_ops.pop(number)
        configurations = step.found
    return None


def _last_looks(ops: Sequence[_Op]) -> dict[State, float] | None:
    """When each value can last matter. None: always (lists carry their past in themselves)."""
    looks: dict[State, float] = {}
    for op in ops:
        if op.kind is Kind.APPEND:
            return None
        if op.kind is Kind.CAS:
            looks[op.expected] = max(looks.get(op.expected, 0.0), op.end)
        if op.certain and (op.kind is Kind.READ or not op.changed):
            looks[op.observed] = max(looks.get(op.observed, 0.0), op.end)
    return looks


class _Step:
    """One answer being explained: all ways to have operation `number` taken effect by now."""

    def __init__(
        self,
        number: int,
        open_ops: dict[int, _Op],
        looks: dict[State, float] | None,
        now: float,
    ) -> None:
        self.number = number
        self.looks = looks
        self.now = now
        self.found: set[Configuration] = set()
        self.explored: set[Configuration] = set()
        self.lookers = [
            (other, op)
            for other, op in open_ops.items()
            if op.certain and (op.kind is Kind.READ or not op.changed)
        ]
        lookers = {other for other, _ in self.lookers}
        self.writers = [(other, op) for other, op in open_ops.items() if other not in lookers]
        self.hidden = frozenset(
            other for other, op in self.writers if op.kind is Kind.WRITE and self.unseen(op.value)
        )

    def unseen(self, value: State) -> bool:
        return self.looks is not None and self.looks.get(value, -1.0) < self.now

    def explore(self, configuration: Configuration) -> None:
        stack = [configuration]
        while stack:
            state, effected = stack.pop()
            if self.unseen(state):
                state = UNSEEN
            effected = self.absorb(state, effected)
            if (state, effected) in self.explored:
                continue
            self.explored.add((state, effected))
            if self.number in effected:
                self.found.add((state, effected - {self.number}))
                continue
            for other, op in self.writers:
                if other in effected:
                    continue
                possible, after = _take_effect(op, state)
                if possible:
                    hidden = self.hidden if op.kind is Kind.WRITE else frozenset()
                    stack.append((after, effected | hidden | {other}))

    def absorb(self, state: State, effected: frozenset[int]) -> frozenset[int]:
        """Rule 1: what changes nothing and matches takes effect now."""
        matching = [
            other
            for other, op in self.lookers
            if other not in effected and _take_effect(op, state)[0]
        ]
        return effected.union(matching) if matching else effected


def _take_effect(op: _Op, state: State) -> tuple[bool, State]:
    """Whether the operation may take effect on this value, and what it leaves."""
    if op.kind is Kind.READ:
        return op.observed == state, state
    if op.kind is Kind.WRITE:
        return True, op.value
    if op.kind is Kind.APPEND:
        after = (state or "") + (op.value or "")
        return not op.certain or op.observed == after, after
    matches = state == op.expected
    if not op.certain:
        return True, op.value if matches else state
    if op.changed:
        return matches, op.value
    return not matches and op.observed == state, state


# --- the smallest contradiction ----------------------------------------------------------------


def explain(operations: Sequence[Operation], *, initial: State = None) -> list[Operation]:
    """A bad part of a bad history, as small as greedy removal gets it, in order of invocation."""
    ops = _prepare(operations, initial)
    failing = _search(ops, initial)
    assert failing is not None, "only a bad history can be explained"
    # What was asked after the contradiction is no part of it. Later answers are: the search uses
    # them for the operations that were open at that moment.
    kept = [op.source for op in ops if op.start <= ops[failing].end]
    size = max(1, len(kept) // 2)
    while True:
        kept, shrunk = _remove_units(kept, size, initial)
        if size > 1:
            size = max(1, size // 2)
        elif not shrunk:
            return sorted(kept, key=lambda op: op.invoked)


def _remove_units(kept: list[Operation], size: int, initial: State) -> tuple[list[Operation], bool]:
    """Try to do without each run of `size` operations (and whatever saw what they wrote)."""
    shrunk = False
    start = 0
    while start < len(kept):
        gone = kept[start : start + size]
        rest = _without(kept, gone)
        if rest and len(rest) < len(kept) and not is_linearizable(rest, initial=initial):
            kept, shrunk = rest, True
        else:
            start += size
    return kept, shrunk


def _without(kept: list[Operation], gone: list[Operation]) -> list[Operation]:
    """Remove, and remove as well everybody who depends on what is removed. Sound if and only if
    nobody left saw a removed value, so a CAS or append that changed something drags along those
    that saw it, until nothing changes."""
    removed = {id(op) for op in gone}
    values = {op.value for op in gone if op.kind is not Kind.READ}
    lists = any(op.kind is Kind.APPEND for op in kept)
    while True:
        more = [op for op in kept if id(op) not in removed and _depends(op, values, lists)]
        if not more:
            return [op for op in kept if id(op) not in removed]
        removed.update(id(op) for op in more)
        values.update(op.value for op in more if op.kind is not Kind.READ)


def _depends(op: Operation, values: set[State], lists: bool) -> bool:
    if op.kind is Kind.CAS and op.expected in values:
        return True
    if op.result is not Result.DONE or op.observed is None:
        return False
    # A list holds what was appended as parts.
    return op.observed in values or (lists and any(v and v in op.observed for v in values))
