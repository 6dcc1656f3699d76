"""The page of one run, and the page of many. Pure: outcomes in, HTML out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import median
from typing import Final

from chaos.report.charts import (
    Axis,
    Band,
    Mark,
    Series,
    bars_chart,
    lanes_chart,
    lines_chart,
)
from chaos.report.style import STYLE
from chaos.running.results import HELD, STUCK, VIOLATED, Outcome

VERDICTS: Final = {HELD: "all held", VIOLATED: "violated", STUCK: "stuck"}
CHECKED: Final = (
    (
        "register",
        "every register is linearizable, unknown outcomes included; sessions never go back",
    ),
    ("set", "nothing acknowledged is missing from the set, nothing comes from nowhere"),
    ("list", "the lists are linearizable, element by element"),
    ("bank", "the total never changed, every look is of one moment"),
    ("lock", "one holder at a time, tokens rise, nothing was written under an old one"),
    ("lease", "keys stayed while their lease was kept, and went when it was let go"),
    ("watch", "ordered, unique, complete, atomic, resumed, bookmarked, the same on every node"),
    (
        "feed",
        "each key's changes in order, once, none missing, the same at every node, across shards",
    ),
    ("carts", "every item that was put into a cart and not taken out is in it"),
    ("unique", "every acknowledged write survived, as the value or a sibling"),
    ("counters", "every acknowledged increment counts once"),
    ("deletes", "what was deleted stays deleted"),
)


def page(outcome: Outcome) -> str:
    body = [
        _head(outcome),
        _cards(outcome),
        _violations(outcome),
        _charts(outcome),
        '<div class="columns">',
        _checks(outcome),
        _facts(outcome),
        "</div>",
        _faults(outcome),
    ]
    return _html(outcome.title, "".join(body))


def index(outcomes: Sequence[Outcome]) -> str:
    held = sum(each.verdict == HELD for each in outcomes)
    css = HELD if held == len(outcomes) else VIOLATED
    rows = [
        [
            f'<a href="{escape(_folder(each))}/report.html">{escape(each.scenario)}</a>',
            escape(each.mode),
            str(each.nodes),
            f"{each.operations:,}",
            f"{each.counts.get('unknown', 0):,}",
            str(len(each.faults)),
            escape(each.failover_text()),
            _spark(each),
            f'<span class="badge {each.verdict}">{VERDICTS[each.verdict]}</span>',
        ]
        for each in outcomes
    ]
    titles = (
        "scenario", "mode", "nodes", "operations", "unknown", "faults",
        "failover: median, worst", "operations done a second", "verdict",
    )  # fmt: skip
    head = (
        f'<header><h1>JanusKV under faults</h1><span class="badge {css}">{held} of {len(outcomes)} '
        f"held</span></header><p>{sum(each.operations for each in outcomes):,} operations, "
        f"{sum(len(each.faults) for each in outcomes):,} faults.</p>"
    )
    return _html("JanusKV under faults", head + _table(titles, rows))


def _folder(outcome: Outcome) -> str:
    return f"{outcome.scenario}-{outcome.mode}-{outcome.nodes}"


def _html(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


# --- the parts ------------------------------------------------------------------------------------


def _head(outcome: Outcome) -> str:
    chips = [
        f"{outcome.mode}",
        f"{outcome.nodes} nodes",
        f"{outcome.minutes:g} min",
        f"seed {outcome.seed}",
        f"version {outcome.version}",
        outcome.started,
    ]
    shown = "".join(f'<span class="chip">{escape(chip)}</span>' for chip in chips)
    return (
        f'<header><h1>{escape(outcome.scenario)}</h1><span class="badge {outcome.verdict}">'
        f"{VERDICTS[outcome.verdict]}</span></header><p>{escape(outcome.about)}</p>"
        f'<p class="chips">{shown}</p>'
    )


def _cards(outcome: Outcome) -> str:
    done = outcome.counts.get("done", 0)
    rate = done / outcome.load_s if outcome.load_s else 0.0
    failovers = outcome.failovers_s
    recovery = [each for each in outcome.recovery_s.values() if each is not None]
    cards = [
        (f"{outcome.operations:,}", "operations"),
        (f"{rate:,.0f}/s", "done"),
        (f"{outcome.counts.get('unknown', 0):,}", "of unknown outcome"),
        (_ms(outcome.p50_ms), "p50"),
        (_ms(outcome.p99_ms), "p99"),
        (f"{len(outcome.faults)}", "faults"),
        (f"{median(failovers):.2f} s" if failovers else "-", "failover, median"),
        (f"{max(recovery):.2f} s" if recovery else "-", "all answer after the calm"),
    ]
    return '<section class="cards">' + "".join(
        f'<div class="card"><b>{escape(figure)}</b><span>{escape(what)}</span></div>'
        for figure, what in cards
    ) + "</section>"  # fmt: skip


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 1000:
        return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"
    return f"{value / 1000:,.2f} s"


def _violations(outcome: Outcome) -> str:
    if not outcome.violations:
        return ""
    shown = "".join(f"<pre>{escape(each)}</pre>" for each in outcome.violations)
    return f'<section class="bad"><h2>What did not hold</h2>{shown}</section>'


def _charts(outcome: Outcome) -> str:
    seconds = outcome.seconds
    if not seconds:
        return ""
    axis = Axis(float(len(seconds)))
    bands = [
        Band(each.at_s, each.at_s + each.lasted_s, f"{each.what}, {each.lasted_s:.1f} s")
        for each in outcome.faults
    ]
    bands.append(Band(outcome.load_s, axis.seconds, "calm: everything is healed", "calm"))
    marks = [Mark(at, f"{node} leads from {at:.1f} s on") for at, node in outcome.leaders[1:]]
    done = Series("done", "done", [float(each.done) for each in seconds])
    errors = [
        Series("refused", "failed", [float(each.failed) for each in seconds]),
        Series("unknown", "unknown", [float(each.unknown) for each in seconds]),
    ]
    late = [
        Series("p50", "p50", [each.p50_ms for each in seconds]),
        Series("p99", "p99", [each.p99_ms for each in seconds]),
    ]
    parts = [
        _titled(
            "Operations done a second",
            [("done", "done"), ("fault", "band"), ("calm", "calm"), ("new leader", "mark")],
        ),
        lines_chart(axis, [done], bands, marks, filled=True),
        _titled("Latency of what was done", [("p50", "p50"), ("p99", "p99")]),
        lines_chart(axis, late, bands, marks, unit=" ms", logarithmic=True),
        _titled(
            "Refused or of unknown outcome, a second",
            [("refused", "failed"), ("unknown", "unknown")],
        ),
        bars_chart(axis, errors, bands, marks),
        _titled("Who led, and what was broken", []),
        lanes_chart(axis, _lanes(outcome, axis)),
    ]
    return f'<section class="panel">{"".join(parts)}</section>'


def _titled(text: str, legend: Iterable[tuple[str, str]]) -> str:
    keys = "".join(f'<i class="key {css}"></i>{escape(name)}' for name, css in legend)
    return f'<h3>{escape(text)}<span class="legend">{keys}</span></h3>'


def _lanes(outcome: Outcome, axis: Axis) -> list[tuple[str, list[Band]]]:
    return [*_leader_lanes(outcome, axis), *_shard_lanes(outcome, axis), *_fault_lanes(outcome)]


def _shard_lanes(outcome: Outcome, axis: Axis) -> list[tuple[str, list[Band]]]:
    """Into how many shards the keys lay, where that changed."""
    if len(outcome.shards) < 2:
        return []
    ends = [at for at, _ in outcome.shards[1:]] + [axis.seconds]
    return [
        (
            "shards",
            [
                Band(at, end, f"{number}, shards from {at:.1f} s on", f"leader{number % 6}")
                for (at, number), end in zip(outcome.shards, ends, strict=True)
            ],
        )
    ]


def _leader_lanes(outcome: Outcome, axis: Axis) -> list[tuple[str, list[Band]]]:
    if not outcome.leaders:
        return []
    ends = [at for at, _ in outcome.leaders[1:]] + [axis.seconds]
    names = sorted({node for _, node in outcome.leaders})
    bands = [
        Band(at, end, f"{node}, leader from {at:.1f} s", f"leader{names.index(node) % 6}")
        for (at, node), end in zip(outcome.leaders, ends, strict=True)
    ]
    return [("leader", bands)]


def _fault_lanes(outcome: Outcome) -> list[tuple[str, list[Band]]]:
    kinds = sorted({each.kind for each in outcome.faults})
    return [
        (
            kind,
            [
                Band(
                    each.at_s,
                    each.at_s + each.lasted_s,
                    f"{each.what}, {each.lasted_s:.1f} s",
                    "fault",
                )
                for each in outcome.faults
                if each.kind == kind
            ],
        )
        for kind in kinds
    ]


def _checks(outcome: Outcome) -> str:
    bad = " ".join(outcome.violations)
    rows = [
        [escape(name), escape(text), _numbers(outcome.works[name])]
        for name, text in CHECKED
        if name in outcome.works
    ]
    rows.append(["replicas", "all replicas hold the same", escape(outcome.digest or "-")])
    recovery = ", ".join(
        f"{node} {'never' if took is None else f'{took:.2f} s'}"
        for node, took in sorted(outcome.recovery_s.items())
    )
    if outcome.splits or outcome.merges:
        division = f"{outcome.splits} splits, {outcome.merges} merges"
        rows.append(["shards", "cut and merged meanwhile", division])
    rows.append(["recovery", "every node answers after the calm", escape(recovery or "-")])
    note = "" if not bad else '<p class="note">What did not hold stands above.</p>'
    return (
        "<section><h2>What was checked</h2>"
        + note
        + _table(("", "rule", "seen"), rows)
        + "</section>"
    )


def _numbers(figures: Mapping[str, int]) -> str:
    return escape(
        ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in figures.items())
    )


def _facts(outcome: Outcome) -> str:
    command = (
        f"januskv chaos run {outcome.scenario} --mode {outcome.mode} --nodes {outcome.nodes} "
        f"--minutes {outcome.minutes:g} --seed {outcome.seed}"
    )
    answers = ", ".join(f"{what}: {count:,}" for what, count in outcome.answers.items())
    versions = ", ".join(f"{name} {number}" for name, number in outcome.versions.items())
    history = (
        f'<a href="{escape(outcome.history)}">{escape(outcome.history)}</a>'
        if outcome.history
        else "-"
    )
    rows = [
        ["again", f"<code>{escape(command)}</code>"],
        ["answers", escape(answers)],
        ["history", history],
        ["versions", escape(versions)],
        [
            "machine",
            f"load {outcome.machine_load:g}; the run itself waited {outcome.starved_s:.2f} s "
            "for its turn at most",
        ],
    ]
    if outcome.turned_away:
        rows.append(["turned away", f"{outcome.turned_away} faults whose node another one held"])
    return "<section><h2>Facts</h2>" + _table(("", ""), rows) + "</section>"


def _faults(outcome: Outcome) -> str:
    rows = [
        [
            f"{each.at_s:.1f} s",
            escape(each.kind),
            escape(each.what),
            f"{each.lasted_s:.1f} s",
            "-" if each.gap_s is None else f"{each.gap_s * 1e3:,.0f} ms",
        ]
        for each in outcome.faults
    ]
    if not rows:
        return ""
    titles = ("at", "fault", "what", "lasted", "next write after")
    return f"<section><h2>Faults</h2>{_table(titles, rows)}</section>"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    shown = f"<thead><tr>{head}</tr></thead>" if any(titles) else ""
    return f'<div class="wide"><table>{shown}<tbody>{body}</tbody></table></div>'


def _spark(outcome: Outcome) -> str:
    values = [each.done for each in outcome.seconds]
    if not values:
        return ""
    most = max(*values, 1)
    step = 160 / max(1, len(values) - 1)
    points = " ".join(
        f"{n * step:.1f},{26 - 24 * value / most:.1f}" for n, value in enumerate(values)
    )
    line = f'<polyline class="line done" points="{points}"/>'
    return f'<svg class="spark" viewBox="0 0 160 28">{line}</svg>'
