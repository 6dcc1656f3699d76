"""Which directed links a partition cuts. Values in, values out; the dice are an argument.

The rest of the links stays. Every shape but `one-way` and `deaf` is symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from random import Random

Pair = tuple[str, str]


def cut_pairs(shape: str, names: Sequence[str], targets: Sequence[str], dice: Random) -> list[Pair]:
    """In the order in which they are cut (only a swizzle cares)."""
    everybody = list(permutations(names, 2))
    inside = set(targets)
    if shape == "apart":
        return [(a, b) for a, b in everybody if (a in inside) != (b in inside)]
    if shape == "one-way":
        return [(a, b) for a, b in everybody if a in inside and b not in inside]
    if shape == "deaf":
        return [(a, b) for a, b in everybody if a not in inside and b in inside]
    mixed = dice.sample(list(names), len(names))
    half = len(mixed) // 2
    if shape == "halves":
        left = set(mixed[:half])
        return [(a, b) for a, b in everybody if (a in left) != (b in left)]
    if shape == "bridge":
        left, right = set(mixed[:half]), set(mixed[half + 1 :])
        return [(a, b) for a, b in everybody if {a, b} & left and {a, b} & right]
    if shape == "ring":
        place = {name: number for number, name in enumerate(mixed)}
        size = len(mixed)
        return [
            (a, b) for a, b in everybody if (place[a] - place[b]) % size not in (1, size - 1)
        ] or [(mixed[0], mixed[1]), (mixed[1], mixed[0])]  # three in a ring are a line
    assert shape == "swizzle", shape
    chosen = dice.sample(list(names), dice.randrange(1, len(names)))
    order = [pair for name in chosen for pair in everybody if name in pair]
    return list(dict.fromkeys(order))
