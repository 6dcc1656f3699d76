"""Until when two shards are held while their replicas come together for a merge."""

from __future__ import annotations

from msgspec.structs import replace

from kv.division.figures import Shown
from kv.division.gathering import AWAY_S, GATHER_S, STILL_S, Gathering
from kv.division.messages import Standing
from raftgroups.meta.records import NodeRecord, ShardRecord
from raftgroups.meta.view import MetaView
from raftgroups.transport import NodeId

LEFT, RIGHT = ("a", "b", "c"), ("a", "b", "d")
VIEW = MetaView(
    1,
    {node: NodeRecord(node, 1, f"node-{node}", ("sim", 1)) for node in "abcd"},
    shards={n: ShardRecord(n, 1, b"", None, n) for n in (1, 2)},
)


def standing(voters: tuple[str, ...], *learners: str, filled_bytes: int = 0) -> Standing:
    members = [tuple((node, 1) for node in nodes) for nodes in (voters, learners)]
    return Standing(
        1, b"", None, 1, 9, 0, 0, 0, 0, (), members[0], members[1], True, 4, filled_bytes
    )


def seen(left: Standing | None, right: Standing | None, heard: str = "abcd") -> Shown:
    standings = {n: each for n, each in ((1, left), (2, right)) if each is not None}
    return Shown({}, standings, {1: {NodeId(node): (1, 9) for node in heard}})


APART = seen(standing(LEFT), standing(RIGHT))


def reasons(*looks: tuple[float, Shown]) -> list[str]:
    gathering = Gathering(0.0)
    return [gathering.why_not((1, 2), VIEW, shown, now_s) for now_s, shown in looks]


def test_they_are_let_go_when_nothing_comes_nearer() -> None:
    told = reasons((0.0, APART), (STILL_S - 1, APART), (STILL_S, APART))
    assert told[:2] == ["", ""]
    assert "no nearer" in told[2]


def test_a_replica_or_a_part_of_a_snapshot_that_comes_gives_them_time() -> None:
    filling = standing(RIGHT, "c")
    told = reasons(
        (0.0, APART),
        (STILL_S - 1, seen(standing(LEFT), filling)),
        (2 * STILL_S - 2, seen(standing(LEFT), replace(filling, filled_bytes=5))),
        (3 * STILL_S - 3, seen(standing(LEFT), replace(filling, filled_bytes=6))),
    )
    assert told == [""] * 4


def test_but_not_for_ever() -> None:
    steps = [number * STILL_S / 2 for number in range(int(2 * GATHER_S / STILL_S) + 1)]
    looks = [
        (now_s, seen(standing(LEFT), standing(RIGHT, filled_bytes=int(now_s)))) for now_s in steps
    ]
    told = reasons(*looks)
    assert set(told[:-1]) == {""}
    assert "did not come together" in told[-1]


def test_they_are_let_go_soon_when_a_member_is_away_or_nobody_leads() -> None:
    away = seen(standing(LEFT), standing(RIGHT), heard="abc")
    told = reasons((0.0, APART), (5.0, away), (4.0 + AWAY_S, away), (5.0 + AWAY_S, away))
    assert told[:3] == [""] * 3
    assert told[3].startswith("node node-d, which has a replica of shard 2, is away")
    leaderless = seen(None, standing(RIGHT))
    told = reasons((0.0, leaderless), (AWAY_S, leaderless))
    assert told[1].startswith("shard 1 has no leader")


def test_one_that_was_away_for_a_moment_is_forgiven() -> None:
    away = seen(standing(LEFT), standing(RIGHT), heard="abc")
    told = reasons((0.0, away), (AWAY_S - 1, APART), (AWAY_S + 1, away), (AWAY_S + 20, away))
    assert told == [""] * 4
