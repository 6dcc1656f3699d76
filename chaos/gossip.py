"""`python -m chaos.gossip`: how fast gossip spreads, and how often phi is wrong. Prints a chart.

Spreading. The rules of kv/cluster/membership.py in rounds, as kv/cluster/gossip.py plays them: each
node exchanges with `fanout` others, in an order that the dice shuffle, and each of the three
messages of an exchange is lost with `loss`. One node changes; rounds are counted until all know.
The eager messages of the shell, which only make it faster, are left out. A round is a second.

Phi. Heartbeats once a second, each lost with `loss`, and nothing else: an alarm is a living peer
that kv/cluster/phi.py calls down. Alarms need some nineteen losses in a row, so almost all of a run
is passed over: the dice say after how many arrivals the next silence of at least SILENCE_S comes,
and only the arrivals of the detector's window before it are played. The result has the same
distribution as playing every second. The interval is Clopper and Pearson's, of 95%.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kv.cluster.membership import Membership, NodeInfo, Status
from kv.cluster.phi import Health, PhiDetector, PhiOptions
from raftgroups.transport import NodeId

SIZES: Final = (10, 30, 100, 300, 1000)
SILENCE_S: Final = 7
"""Far below what could be an alarm."""
ROUNDS_MAX: Final = 200
WIDTH: Final = 48
PEER: Final = NodeId("peer")


def rounds_to_all(count: int, seed: int, *, loss: float, fanout: int = 1) -> int:
    """Rounds until all of `count` nodes know of one change."""
    rng = random.Random(f"{seed}/{count}")
    infos = [
        NodeInfo(NodeId(f"n{number}"), 1, status=Status.NORMAL, vnodes=1) for number in range(count)
    ]
    nodes = {info.node: Membership(info, infos) for info in infos}
    first = infos[0].node
    changed = nodes[first].change_mine(rack="elsewhere")
    healths: Mapping[NodeId, Health] = dict.fromkeys(nodes, Health.ALIVE)

    def lost() -> bool:
        return rng.random() < loss

    order = list(nodes)
    for round_number in range(1, ROUNDS_MAX + 1):
        rng.shuffle(order)
        for node in order:
            asker = nodes[node]
            for target in asker.targets(healths, rng, fanout=fanout):
                peer = nodes[target]
                if lost():
                    continue
                answer = peer.answer(asker.digest())
                if lost():
                    continue
                asker.apply(answer.newer)
                if answer.wanted and not lost():
                    peer.apply(asker.records(answer.wanted))
        if all(member.infos[first] == changed for member in nodes.values()):
            return round_number
    raise AssertionError(f"{count} nodes have not met in {ROUNDS_MAX} rounds")


@dataclass(frozen=True, slots=True)
class Alarms:
    hours: float
    alarms: int
    silences: int
    """Silences of at least SILENCE_S that were played."""
    longest_s: int
    upper_per_hour: float
    """With 95% confidence there are no more."""


def false_alarms(hours: float, seed: int, *, loss: float) -> Alarms:
    rng = random.Random(f"{seed}/phi")
    window = PhiOptions().window
    arrivals = int(hours * 3600 * (1 - loss))
    rare = loss ** (SILENCE_S - 1)  # a gap of at least SILENCE_S: so many losses after an arrival
    alarms = silences = longest_s = done = 0
    while True:
        done += 1 + int(math.log(1.0 - rng.random()) / math.log1p(-rare))
        if done > arrivals:
            break
        detector, now_s = PhiDetector(), 0.0
        for _ in range(window):
            detector.heard(PEER, now_s)
            now_s += _gap(rng, loss, below=SILENCE_S)
        detector.heard(PEER, now_s)
        gap_s = SILENCE_S - 1 + _gap(rng, loss)
        silences += 1
        longest_s = max(longest_s, gap_s)
        alarms += detector.health(PEER, now_s + gap_s - 1e-9) is Health.DOWN
    return Alarms(hours, alarms, silences, longest_s, _upper(alarms) / hours)


def _gap(rng: random.Random, loss: float, below: int | None = None) -> int:
    """Seconds from one arrival to the next."""
    while True:
        gap_s = 1 + int(math.log(1.0 - rng.random()) / math.log(loss))
        if below is None or gap_s < below:
            return gap_s


def _upper(events: int) -> float:
    """The largest mean of a Poisson number that is this small with at least 2.5% (5% for none)."""
    tail = 0.05 if events == 0 else 0.025
    low, high = float(events), 10.0 + 3.0 * events
    for _ in range(100):
        middle = (low + high) / 2
        chance = sum(
            math.exp(-middle + k * math.log(middle) - math.lgamma(k + 1)) for k in range(events + 1)
        )
        low, high = (middle, high) if chance > tail else (low, middle)
    return high


def chart(found: Mapping[int, list[int]]) -> str:
    most = max(max(rounds) for rounds in found.values())
    lines = ["nodes   rounds until all know (median; slowest)          rounds / log2(nodes)"]
    for count, rounds in found.items():
        median = statistics.median(rounds)
        bar = "#" * round(WIDTH * median / most)
        share = median / math.log2(count)
        lines.append(f"{count:>5}   {bar:<{WIDTH}}  {median:g}; {max(rounds)}   {share:.2f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.gossip", description=__doc__)
    parser.add_argument("--nodes", type=int, default=max(SIZES), help="the largest cluster (1000)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each size (3)")
    parser.add_argument("--loss", type=float, default=0.05, help="part of messages lost (0.05)")
    parser.add_argument("--hours", type=float, default=1e6, help="node-hours for phi (1000000)")
    args = parser.parse_args(arguments)
    sizes = sorted({*(size for size in SIZES if size < args.nodes), args.nodes})
    found = {
        size: [rounds_to_all(size, seed, loss=args.loss) for seed in range(args.seeds)]
        for size in sizes
    }
    print(chart(found))
    result = false_alarms(args.hours, 1, loss=args.loss)
    print(
        f"\nphi at {args.loss:.0%} loss, heartbeats only: {result.alarms} false alarms in "
        f"{result.hours:g} node-hours\n  95% confidence: fewer than "
        f"{result.upper_per_hour * 10_000:.3g} in 10,000 node-hours; {result.silences} silences "
        f"of {SILENCE_S} s or more, the longest {result.longest_s} s"
    )
    good = result.upper_per_hour < 1e-4
    print("  under 1 in 10,000 node-hours: " + ("yes" if good else "NOT SHOWN"))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
