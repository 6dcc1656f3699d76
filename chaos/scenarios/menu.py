"""What a scenario may name: the faults and the loads, each with its options. Pure.

This table is what the parser checks against and what `januskv chaos list --menu` prints; what the
names do stands in chaos/faults/ and chaos/workloads/, and a test holds both sides together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from kv.config.sections import LEADERLESS, STRONG

Value = str | int | float | bool

BOTH: Final = (STRONG, LEADERLESS)
ONE_NODE: Final = ("leader", "follower", "random")
"""`leader` and `follower` need a strong cluster."""
SOME_NODES: Final = (*ONE_NODE, "minority", "majority", "all")
CHANGES_PLACES: Final = frozenset({"join", "drain", "replace", "move"})
"""Faults after which the planner must come to rest."""
NEEDS_LEADER: Final = frozenset({"leader", "follower"})


@dataclass(frozen=True, slots=True)
class Option:
    """Invariant: `default` is a value that the option allows."""

    default: Value
    help: str
    choices: tuple[str, ...] = ()
    least: float = 0.0
    most: float = 1e9


@dataclass(frozen=True, slots=True)
class FaultKind:
    help: str
    targets: tuple[str, ...] = ()
    """The first is the default; empty: it has no target."""
    options: Mapping[str, Option] = field(default_factory=dict)
    modes: tuple[str, ...] = BOTH
    least_nodes: int = 1


@dataclass(frozen=True, slots=True)
class LoadKind:
    help: str
    modes: tuple[str, ...]
    clients: int
    options: Mapping[str, Option] = field(default_factory=dict)


_WHERE: Final = Option("peers", "which links", ("peers", "clients", "both"))
_HOW: Final = Option(
    "either",
    "packets vanish in silence, or connections are refused",
    ("vanish", "refuse", "either"),
)

FAULTS: Final[Mapping[str, FaultKind]] = {
    "kill": FaultKind("kill -9, and a start at the end", SOME_NODES),
    "freeze": FaultKind("SIGSTOP, and SIGCONT at the end: it wakes with old beliefs", SOME_NODES),
    "power-cut": FaultKind(
        "what was not synced is lost with the process, then a start", SOME_NODES
    ),
    "partition": FaultKind(
        "links between nodes are cut; clients still reach every node",
        ("random", *(each for each in SOME_NODES if each != "random")),
        {
            "shape": Option(
                "apart",
                "apart: the targets from the rest; halves: at random; bridge: two sides that only "
                "one node reaches; ring: each reaches its neighbours; one-way: the targets are not "
                "heard; deaf: they hear nobody; swizzle: a random part, one by one, healed in "
                "another order",
                ("apart", "halves", "bridge", "ring", "one-way", "deaf", "swizzle"),
            ),
            "how": _HOW,
        },
        least_nodes=3,
    ),
    "latency": FaultKind(
        "every byte comes late",
        ("all", *SOME_NODES[:-1]),
        {
            "where": _WHERE,
            "latency_ms": Option(100, "on average", most=60_000),
            "jitter_ms": Option(50, "more or less than that", most=60_000),
        },
    ),
    "lost-connections": FaultKind(
        "connections are reset, again and again",
        ("all", *SOME_NODES[:-1]),
        {"where": _WHERE, "share": Option(0.5, "of the connections", most=1.0)},
    ),
    "slow-links": FaultKind(
        "little fits through, in small pieces",
        ("all", *SOME_NODES[:-1]),
        {"where": _WHERE, "rate_kb": Option(64, "KiB a second", least=1)},
    ),
    "slow-disk": FaultKind(
        "every sync takes longer",
        SOME_NODES,
        {"sync_ms": Option(50, "longer by so much", most=60_000)},
    ),
    "full-disk": FaultKind(
        "the disk has no room left, then it has again", SOME_NODES,
        {"free_kb": Option(2048, "what is left: growing writes are to be refused before the end")},
    ),
    "broken-disk": FaultKind(
        "the next sync fails with an I/O error: the node must end, and is started again", SOME_NODES
    ),
    "clock": FaultKind(
        "clocks go wrong: the date jumps, and time runs faster or slower",
        SOME_NODES,
        {
            "offset_s": Option(3600, "at most so far, either way", most=1e9),
            "drift": Option(0.1, "at most so much faster or slower", most=0.9),
        },
    ),
    "rolling-restart": FaultKind("each node in turn is stopped in good order and started again"),
    "leader-transfer": FaultKind("the leadership is handed over", modes=(STRONG,)),
    "compact": FaultKind(
        "history is compacted up to a moment ago", modes=(STRONG,),
        options={"keep": Option(200, "revisions that stay")},
    ),
    "split": FaultKind(
        "a shard is cut in two at a key that it holds", modes=(STRONG,),
        options={"shards": Option(6, "at most so many", least=2, most=100)},
    ),
    "merge": FaultKind("a shard and its right neighbour are made one", modes=(STRONG,)),
    "backup": FaultKind("a snapshot of a running node is taken", ONE_NODE[::-1], modes=(STRONG,)),
    "flood": FaultKind(
        "far more writes than a node can do",
        ("random", "leader", "follower"),
        {"connections": Option(100, "that send ahead", least=1, most=5_000)},
    ),
    "join": FaultKind(
        "a new node joins and gets replicas; at the end it is drained and removed",
        modes=(STRONG,), least_nodes=3,
    ),
    "drain": FaultKind(
        "replicas leave a node; at the end it may have some again", ONE_NODE[::-1],
        modes=(STRONG,), least_nodes=4,
    ),
    "replace": FaultKind(
        "a node loses its disk for good: it is removed, and joins anew", ONE_NODE[::-1],
        modes=(STRONG,), least_nodes=4,
    ),
    "move": FaultKind(
        "a replica is moved from node to node by hand", modes=(STRONG,), least_nodes=4,
    ),
}  # fmt: skip

_KEYS: Final = Option(5, "keys", least=1, most=10_000)

LOADS: Final[Mapping[str, LoadKind]] = {
    "register": LoadKind(
        "reads, session reads, writes, compare-and-set and pairs", (STRONG,), 6, {"keys": _KEYS}
    ),
    "set": LoadKind("unique members are added, the whole is listed", (STRONG,), 2),
    "list": LoadKind(
        "elements are appended by compare-and-set", (STRONG,), 3,
        {"keys": Option(2, "lists", least=1, most=100),
         "length": Option(100, "elements, then a new list", least=2, most=5_000)},
    ),
    "bank": LoadKind(
        "money moves between accounts in transactions", (STRONG,), 3,
        {"accounts": Option(8, "accounts", least=2, most=1_000),
         "balance": Option(100, "at the start", least=1)},
    ),
    "lock": LoadKind(
        "one lock, its fencing token guards what is written", (STRONG,), 3,
        {"ttl_s": Option(3, "of the lock's lease", least=1, most=3_600)},
    ),
    "lease": LoadKind(
        "keys on leases, kept alive or let go", (STRONG,), 2,
        {"ttl_s": Option(3, "of a lease", least=1, most=3_600)},
    ),
    "watch": LoadKind(
        "watchers of both faces at every node, which break off and go on", (STRONG,), 2,
        {"keys": _KEYS},
    ),
    "feed": LoadKind(
        "watchers of keys in several shards, which go on by revision or by cursor", (STRONG,), 2,
        {"keys": Option(12, "keys", least=1, most=1_000)},
    ),
    "unique": LoadKind(
        "values written blindly or over what was read, in sessions", (LEADERLESS,), 3,
        {"keys": _KEYS},
    ),
    "deletes": LoadKind("what was read is deleted, and written again", (LEADERLESS,), 2,
        {"keys": _KEYS},
    ),
    "carts": LoadKind(
        "siblings are merged and an item is put in", (LEADERLESS,), 3,
        {"keys": Option(3, "carts at a time", least=1, most=1_000)},
    ),
    "counters": LoadKind("increments at all nodes", (LEADERLESS,), 2,
        {"keys": Option(3, "counters", least=1, most=1_000)},
    ),
}  # fmt: skip
