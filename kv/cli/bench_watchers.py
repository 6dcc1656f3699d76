"""`januskv bench watchers`: what a crowd of watchers costs the writers, beside the real etcd.

The measurement is kv/peers/watchers.py; this file reads the call and writes down what was found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from kv.cli import chart
from kv.cli.bench_shared import about, duration
from kv.cli.command import whole_number
from kv.cli.peers_shared import add_surroundings, outputs, seconds, systems_of
from kv.cli.progress import Progress
from kv.load.watching import Face
from kv.peers.summary import ETCD, JANUSKV
from kv.peers.watchers import Plan, Round, measure
from storage.errors import InvalidOptionError

HELP: Final = "what 1,000 watchers of one prefix cost the writers, beside the real etcd"
DESCRIPTION: Final = (
    "Three nodes, writers at full speed; then the same with watchers of one prefix on all nodes "
    "and events put under it. Prints what the writers keep of their rate, how late events arrive "
    "and the most deliveries a second. Ends with code 1 if a run had errors or a watcher missed "
    "an event."
)
OUT: Final = Path("bench-results/watchers.json")
PER_SECOND: Final = "a second, more is better"
WISHED_KEPT: Final = 0.5
EXIT_NO_RESULT: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Plan()
    for name, most, value, text in (
        ("watchers", 20_000, default.watchers, "watchers, one connection each"),
        ("events", 100_000, default.events_per_second, "events put a second"),
        ("rounds", 100, default.rounds, "each system so often, in turn; figures are medians"),
    ):
        parser.add_argument(
            f"--{name}",
            type=whole_number(1, most),
            default=value,
            metavar="N",
            help=f"{text} (default {value:,})",
        )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=default.seconds,
        help=f"measured time of each of the two loads (default {default.seconds:g})",
    )
    parser.add_argument(
        "--patience",
        type=seconds,
        default=default.patience_s,
        metavar="SECONDS",
        help=f"how late an event may be before it is missing (default {default.patience_s:g})",
    )
    parser.add_argument(
        "--face",
        choices=list(Face),
        default=Face.ETCD,
        help="watch over /v3/watch, or over JanusKV's own /api/v1/watch: then without etcd "
        "(default etcd)",
    )
    parser.add_argument(
        "--idle",
        action="store_true",
        help="all watchers on the first node, and no events while the writers are measured",
    )
    parser.add_argument(
        "--only",
        choices=(JANUSKV, ETCD),
        help="one of the two alone",
    )
    add_surroundings(parser, OUT)


def run(args: argparse.Namespace) -> int:
    plan = Plan(
        watchers=args.watchers,
        events_per_second=args.events,
        seconds=args.seconds,
        rounds=args.rounds,
        patience_s=args.patience,
        face=args.face,
        idle=args.idle,
    )
    if args.face == Face.REST and args.only == ETCD:
        raise InvalidOptionError("etcd has no /api/v1/watch; leave out --only, or --face")
    only = JANUSKV if args.face == Face.REST else args.only
    systems = systems_of([only], args.januskv)
    out, picture = outputs(args, OUT)
    progress = Progress(round(plan.estimate_s(len(systems)) * 1_000))
    try:
        with tempfile.TemporaryDirectory(prefix="januskv-bench-", dir=args.dir) as scratch:
            rounds = measure(
                systems, plan, Path(scratch), lambda s, what: progress.advance(round(s * 1e3), what)
            )
    finally:
        progress.finish()
    document = {
        **about(),
        "systems": {system.name: system.about for system in systems},
        "face": plan.face,
        "watchers": plan.watchers,
        "events_per_second": plan.events_per_second,
        "seconds": plan.seconds,
        "rounds": [one.as_json() for one in rounds],
    }
    out.write_text(json.dumps(document, indent=2) + "\n")
    picture.write_text(draw(rounds, plan))
    if args.json:
        print(json.dumps(document, indent=2))
    else:
        print("\n".join([*(system.about for system in systems), *table(rounds, plan)]))
        print(f"\nwritten: {out}, {picture}")
    return EXIT_NO_RESULT if any(one.problem for one in rounds) else 0


def table(rounds: Sequence[Round], plan: Plan) -> Iterator[str]:
    what = (
        f"{plan.watchers:,} idle watchers on the first of three nodes ({plan.face})"
        if plan.idle
        else f"{plan.watchers:,} watchers of one prefix on three nodes ({plan.face}), "
        f"{plan.events_per_second:,} events/s asked for"
    )
    yield f"{what}; {plan.writers} writers elsewhere; medians of {plan.rounds} rounds"
    yield ""
    yield (
        f"{'':<10}{'writers alone':>15}{'with watchers':>15}{'kept':>7}{'events/s':>10}"
        f"{'deliveries/s':>14}{'late p50':>11}{'p99':>11}{'ceiling':>14}"
    )
    for system in dict.fromkeys(one.system for one in rounds):
        of_it = [one for one in rounds if one.system == system]
        good = [one for one in of_it if one.problem is None]
        if good:
            yield _line(system, good)
        for one in of_it:
            more = one.anonymous_after_bytes - one.anonymous_before_bytes
            yield (
                f"{'':<10}anonymous memory of the first node: "
                f"{one.anonymous_before_bytes / 1e6:.1f} MB without watchers, "
                f"{one.anonymous_after_bytes / 1e6:.1f} MB with "
                f"({more / plan.watchers:,.0f} bytes a watcher, writers' work included)"
            )
            if one.problem:
                yield f"{'':<10}no result in round {one.number}: {one.problem}"
        if good and system == JANUSKV:
            holds = median(one.kept for one in good) >= WISHED_KEPT
            yield f"{'':<10}{'holds' if holds else 'MISSED'}: writers keep {WISHED_KEPT:.0%}"


def _line(system: str, good: Sequence[Round]) -> str:
    def of(name: str) -> float:
        return float(median(getattr(one, name) for one in good))

    return (
        f"{system:<10}{of('alone_per_second'):>13,.0f}/s{of('watched_per_second'):>13,.0f}/s"
        f"{of('kept'):>7.0%}{of('events_per_second'):>10,.0f}{of('delivered_per_second'):>14,.0f}"
        f"{duration(of('p50_us')):>11}{duration(of('p99_us')):>11}{of('ceiling_per_second'):>12,.0f}/s"
    )


def draw(rounds: Sequence[Round], plan: Plan) -> str:
    good = [one for one in rounds if one.problem is None]
    figures = (
        ("writers keep of their rate", "kept", "share, more is better", "{:.0%}"),
        (
            "deliveries, beside writers",
            "delivered_per_second",
            "a second, more is better",
            "{:,.0f}",
        ),
        ("deliveries, ceiling", "ceiling_per_second", PER_SECOND, "{:,.0f}"),
    )
    panels = []
    for title, name, note, form in figures:
        of_each = {
            system: median(getattr(one, name) for one in good if one.system == system)
            for system in dict.fromkeys(one.system for one in good)
        }
        bars = [(system, value, form.format(value)) for system, value in of_each.items()]
        panels.append(chart.Panel(title, note, bars))
    return chart.bars(
        "Watchers, JanusKV beside etcd",
        f"{plan.watchers:,} watchers of one prefix on three nodes, "
        f"{plan.events_per_second:,} events a second",
        panels,
    )
