"""Hot shards and hot keys, and what to do about them, in words. Pure.

A shard is hot if it is busier than HOT_OPERATIONS and carries twice its fair part of its keyspace,
or is its keyspace's only one. A key is hot if it has KEY_SHARE of a shard that does at least
BUSY_OPERATIONS: no split helps against it, since one key is never in two shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

HOT_OPERATIONS: Final = 2_000.0
BUSY_OPERATIONS: Final = 200.0
KEY_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Carried:
    """`cut`: a key at which a split would halve the load, as text; None if there is none."""

    shard: int
    keyspace: str
    operations_a_second: float
    cut: str | None = None
    hot: tuple[tuple[str, float], ...] = ()
    """(key as text, operations a second)"""


def advice(shards: Sequence[Carried]) -> list[str]:
    """A sentence each, the busiest first."""
    found: list[tuple[float, str]] = []
    for each in shards:
        rate = each.operations_a_second
        keys = [] if rate < BUSY_OPERATIONS else [k for k in each.hot if k[1] >= KEY_SHARE * rate]
        found += [(n, _of_key(each, key, n)) for key, n in keys]
        if not keys and _is_hot(each, shards):
            found.append((rate, _of_shard(each)))
    return [sentence for _, sentence in sorted(found, key=lambda pair: (-pair[0], pair[1]))]


def _is_hot(shard: Carried, shards: Iterable[Carried]) -> bool:
    same = [e.operations_a_second for e in shards if e.keyspace == shard.keyspace]
    fair = sum(same) / len(same)
    rate = shard.operations_a_second
    return rate >= HOT_OPERATIONS and (len(same) == 1 or rate >= 2 * fair)


def _of_key(shard: Carried, key: str, rate: float) -> str:
    share = 100 * rate / shard.operations_a_second
    return (
        f"key {key!r} gets {rate:.0f} operations a second, {share:.0f} % of shard {shard.shard} "
        f"({shard.keyspace}): no split helps against that; read it at level SESSION or EVENTUAL, "
        "keep it in the client and watch it, or spread it over several keys"
    )


def _of_shard(shard: Carried) -> str:
    what = (
        f"shard {shard.shard} ({shard.keyspace}) is hot: {shard.operations_a_second:.0f} "
        "operations a second; "
    )
    if shard.cut is None:
        return what + (
            "set split_operations_a_second of its keyspace, and it is split once it is known where"
        )
    return what + (
        f"halve it with januskv shard split {shard.shard} {shard.cut!r}, or set "
        "split_operations_a_second of its keyspace"
    )
