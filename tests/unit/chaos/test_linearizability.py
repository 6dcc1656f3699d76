"""The checker against hand-made histories, brute force, and a simulated store, honest and lying."""

from __future__ import annotations

import random
import time
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.checkers.linearizability import check_history, explain, is_linearizable
from chaos.history import History, Kind, Operation, Result


def op(
    text: str,
    start: float,
    end: float | None,
    *,
    failed: bool = False,
    name: str = "",
) -> Operation:
    """`r=1` read saw 1; `w1` write; `c1>2=2` CAS that changed; `c1>2!3` CAS that found 3 instead;
    `a1,=1,` append with its answer. No end: unknown."""
    kind = {"r": Kind.READ, "w": Kind.WRITE, "c": Kind.CAS, "a": Kind.APPEND}[text[0]]
    result = Result.FAILED if failed else Result.UNKNOWN if end is None else Result.DONE
    operation = Operation(name or text, "c", "n", "k", kind, start, completed=end, result=result)
    body, changed = text[1:], "!" not in text
    left, _, seen = body.partition("=" if changed else "!")
    operation.changed = changed
    operation.observed = None if seen in ("", "-") else seen
    if kind is Kind.CAS:
        expected, operation.value = left.split(">")
        operation.expected = None if expected == "-" else expected
    elif kind is not Kind.READ:
        operation.value = left
    return operation


GOOD = {
    "empty": [],
    "read of nothing": [op("r=-", 0, 1)],
    "write then read": [op("w1", 0, 1), op("r=1", 2, 3)],
    "read during write, old": [op("w1", 0, 5), op("r=-", 1, 2)],
    "read during write, new": [op("w1", 0, 5), op("r=1", 1, 2)],
    "two writes at once, either order": [
        op("w1", 0, 5),
        op("w2", 0, 5),
        op("r=2", 6, 7),
        op("r=2", 8, 9),
    ],
    "unknown write seen late": [op("w1", 0, None), op("r=-", 1, 2), op("r=1", 9, 10)],
    "unknown write never seen": [op("w1", 0, None), op("r=-", 5, 6)],
    "unknown cas that happened": [
        op("w1", 0, 1),
        op("c1>2", 2, None),
        op("r=1", 3, 4),
        op("r=2", 5, 6),
    ],
    "failed write not seen": [op("w1", 0, 1, failed=True), op("r=-", 2, 3)],
    "cas chain": [op("c->1=1", 0, 1), op("c1>2=2", 2, 3), op("c1>3!2", 4, 5)],
    "appends": [op("aa,=a,", 0, 1), op("ab,=a,b,", 2, 3), op("r=a,b,", 4, 5)],
    "unknown append seen": [op("aa,", 0, None), op("ab,=b,", 1, 2), op("r=b,a,", 3, 4)],
    "equal times are concurrent": [op("w1", 0, 1), op("r=-", 1, 2)],
    "two unknown cas in a chain": [
        op("c->1", 0, None),
        op("c1>2", 0, None),
        op("r=2", 5, 6),
    ],
}

BAD = {
    "stale read": [op("w1", 0, 1), op("r=-", 2, 3)],
    "lost write": [op("w1", 0, 1), op("w2", 2, 3), op("r=1", 4, 5)],
    "value from nowhere": [op("r=7", 0, 1)],
    "read goes back": [op("w1", 0, 9), op("r=1", 1, 2), op("r=-", 3, 4)],
    "failed write seen": [op("w1", 0, 1, failed=True), op("r=1", 2, 3)],
    "seen before it was asked for": [op("r=1", 0, 1), op("w1", 2, 3)],
    "unknown write seen before it was asked for": [op("r=1", 0, 1), op("w1", 2, None)],
    "both CAS won": [op("w1", 0, 1), op("c1>2=2", 2, 5), op("c1>3=3", 2, 5)],
    "CAS missed what was there": [op("w1", 0, 1), op("c1>2!1", 2, 3)],
    "CAS reports what was not there": [op("w1", 0, 1), op("c5>2!7", 2, 3)],
    "append lost": [op("aa,=a,", 0, 1), op("ab,=b,", 2, 3)],
    "append doubled": [op("aa,=a,", 0, 1), op("r=a,a,", 2, 3)],
    "appends swapped": [op("aa,=a,", 0, 1), op("ab,=a,b,", 2, 3), op("r=b,a,", 4, 5)],
    "unknown append both seen and not": [
        op("aa,", 0, None),
        op("r=a,", 1, 2),
        op("r=-", 3, 4),
    ],
    "unknown write flips back": [
        op("w1", 0, 1),
        op("w2", 0, None),
        op("r=2", 2, 3),
        op("r=1", 4, 5),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    assert check_history(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    (violation,) = check_history(BAD[name])
    assert violation.invariant == "linearizability"
    assert violation.details


def test_the_window_is_minimal() -> None:
    """A stale read in the midst of much else is shown with nothing but what it contradicts."""
    history: list[Operation] = []
    for n in range(100):
        history.append(op(f"w{n}", n, n + 0.4, name=f"w{n}"))
        history.append(op(f"r={n}", n + 0.5, n + 0.7, name=f"r{n}"))
        history.append(op(f"cnone>x{n}!{n}" if n % 3 else f"r={n}", n + 0.5, n + 0.7))
    history.append(op("r=49", 50.8, 50.9, name="stale"))
    window = explain(history)
    assert not is_linearizable(window)
    assert {o.id for o in window} == {"w49", "w50", "stale"}


# --- against brute force -------------------------------------------------------------------------


def brute_force(history: list[Operation]) -> bool:
    """Every subset of the unknown ones, in every order that respects time."""
    certain = [o for o in history if o.result is Result.DONE]
    maybe = [o for o in history if o.result is Result.UNKNOWN and o.kind is not Kind.READ]
    for mask in range(1 << len(maybe)):
        chosen = certain + [o for n, o in enumerate(maybe) if mask >> n & 1]
        if any(_explains(order) for order in permutations(chosen)):
            return True
    return False


def _explains(order: tuple[Operation, ...]) -> bool:
    for position, later in enumerate(order):
        for earlier in order[position + 1 :]:
            # `earlier` is placed after `later`: wrong if it was over before the other began.
            if earlier.completed is not None and earlier.completed < later.invoked:
                return False
    state: str | None = None
    for o in order:
        certain = o.result is Result.DONE
        if o.kind is Kind.READ:
            if o.observed != state:
                return False
        elif o.kind is Kind.WRITE:
            state = o.value
        elif o.kind is Kind.APPEND:
            state = (state or "") + (o.value or "")
            if certain and o.observed != state:
                return False
        else:
            changed = state == o.expected
            if certain and (changed != o.changed or (not changed and o.observed != state)):
                return False
            if changed:
                state = o.value
    return True


@st.composite
def small_histories(draw: st.DrawFn, unique: bool, lists: bool) -> list[Operation]:
    """Up to six operations with overlapping times. Answers come from a store that is honest in
    most places, so that good and bad histories are both common."""
    size = draw(st.integers(1, 6))
    moments = draw(st.permutations(range(2 * size)))
    history: list[Operation] = []
    state: str | None = None
    for number in range(size):
        start, end = sorted(moments[2 * number : 2 * number + 2])
        history.append(op("r=-", start, end, name=str(number)))
    for o in sorted(history, key=lambda o: (o.completed or 0) * draw(st.sampled_from([1, 1, 0]))):
        kinds = [Kind.READ, Kind.APPEND] if lists else [Kind.READ, Kind.WRITE, Kind.CAS]
        o.kind = draw(st.sampled_from(kinds))
        values = [f"v{o.id}"] if unique else ["1", "2"]
        known = [None, *(other.value for other in history if other.value)]
        if o.kind is not Kind.READ:
            o.value = draw(st.sampled_from(values)) + ("," if lists else "")
        if o.kind is Kind.CAS:
            o.expected = draw(st.sampled_from([state, state, *known]))
            o.changed = o.expected == state
        took_effect = o.kind is not Kind.READ and draw(st.sampled_from([True, True, True, False]))
        if took_effect and o.changed:
            state = (state or "") + (o.value or "") if o.kind is Kind.APPEND else o.value
        lie = draw(st.sampled_from([False] * 5 + [True]))
        o.observed = draw(st.sampled_from(known)) if lie else state
        if draw(st.sampled_from([False, False, True])):
            o.result, o.completed, o.observed, o.changed = Result.UNKNOWN, None, None, True
    return history


@pytest.mark.parametrize("lists", [False, True], ids=["registers", "lists"])
@pytest.mark.parametrize("unique", [True, False], ids=["unique", "repeating"])
def test_agrees_with_brute_force(unique: bool, lists: bool) -> None:
    verdicts: set[bool] = set()

    @given(small_histories(unique, lists))
    def compare(history: list[Operation]) -> None:
        expected = brute_force(history)
        verdicts.add(expected)
        assert is_linearizable(history) == expected, "\n".join(map(str, history))
        if not expected:
            window = explain(history)
            assert not brute_force(window), "the window shown is itself no contradiction"

    compare()
    assert verdicts == {True, False}, "the histories tried are all alike"


# --- large histories -----------------------------------------------------------------------------


def simulated_store(
    seed: int, operations: int, clients: int, *, unknown: float, lists: bool = False
) -> History:
    """A correct store: each operation takes effect at one moment between its ends; some answers
    get lost, and some of those never take effect."""
    rng = random.Random(seed)
    history = History()
    state: str | None = None
    effects: list[tuple[float, Operation]] = []
    now = [0.0] * clients
    for number in range(operations):
        client = min(range(clients), key=lambda c: now[c])
        start = now[client] + rng.expovariate(5.0)
        end = start + rng.expovariate(1.0)
        now[client] = end
        kinds = [Kind.READ, Kind.APPEND] if lists else [Kind.READ, Kind.WRITE, Kind.CAS]
        kind = rng.choice(kinds)
        operation = Operation(
            str(number), f"c{client}", "n", "k", kind, start,
            value=None if kind is Kind.READ else f"v{number}" + ("," if lists else ""),
        )  # fmt: skip
        operation.completed = end
        history.invoke(operation)
        moment = rng.uniform(start, end)
        if rng.random() < unknown:
            operation.completed = None
            moment = rng.choice((moment, start + rng.expovariate(0.02), 1e9))
        effects.append((moment, operation))
    effects.sort(key=lambda pair: pair[0])
    for moment, operation in effects:
        if moment >= 1e9:
            continue
        if operation.kind is Kind.WRITE:
            state = operation.value
        elif operation.kind is Kind.APPEND:
            state = (state or "") + (operation.value or "")
        elif operation.kind is Kind.CAS:
            operation.expected = state if rng.random() < 0.6 else f"v{rng.randrange(operations)}"
            operation.changed = operation.expected == state
            if operation.changed:
                state = operation.value
        if operation.completed is None:
            operation.changed = True
        else:
            operation.result, operation.observed = Result.DONE, state
    return history


@pytest.mark.parametrize(("clients", "unknown"), [(5, 0.0), (5, 0.1), (12, 0.05)])
def test_five_thousand_operations_on_a_key_in_seconds(clients: int, unknown: float) -> None:
    history = simulated_store(7, 5_000, clients, unknown=unknown).operations
    started = time.process_time()
    assert check_history(history) == []
    took = time.process_time() - started
    assert took < 10.0, f"{took:.1f} s"


def test_lists_with_lost_answers() -> None:
    history = simulated_store(3, 400, 8, unknown=0.1, lists=True).operations
    assert check_history(history) == []


def test_one_lie_among_thousands_is_found_and_shown() -> None:
    history = simulated_store(11, 2_000, 5, unknown=0.02).operations
    reads = [o for o in history if o.kind is Kind.READ and o.result is Result.DONE]
    liar = reads[len(reads) // 2]
    liar.observed = reads[len(reads) // 4].observed
    (violation,) = check_history(history)
    assert 2 <= len(violation.details) <= 6
    assert any(f"[{liar.invoked:.6f}" in line for line in violation.details)
