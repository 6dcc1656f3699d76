"""The text of `januskv bench peers`: figures in, lines out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from kv.cli.bench_shared import duration, size
from kv.peers import endurance
from kv.peers.cells import Result
from kv.peers.endurance import Endurance
from kv.peers.etcd import Native
from kv.peers.measuring import LEADER, Plan
from kv.peers.summary import Figures, Row

CEILING_SHARE: Final = 0.7
"""From this share of the generator's ceiling on, a figure is marked."""
UNEVEN: Final = 1.25
"""From this ratio of core speeds on a run says that they differed."""


def text(result: Result, found: Sequence[Row], plan: Plan, native: Native | None) -> str:
    lines = [
        *result.about.values(),
        f"JSON gateway, {plan.keys:,} keys, values of {plan.value_bytes} bytes; medians of "
        f"{plan.rounds} rounds of {plan.seconds:g} s in turn, {plan.warm_up_s:g} s of warm-up",
        "CPU is that of all three nodes together, an operation",
    ]
    for target in plan.targets:
        for operation in dict.fromkeys(row.operation for row in found):
            of_it = [row for row in found if (row.operation, row.target) == (operation, target)]
            where = "the leader only" if target == LEADER else "all nodes in turn"
            lines += ["", *_table(f"{operation}, to {where}", of_it, result)]
    lines += ["", *_memory(result), *_quiet(found), *_even(result)]
    if native is not None:
        lines += ["", *_native(native)]
    return "\n".join(lines)


def _table(title: str, found: Sequence[Row], result: Result) -> Iterator[str]:
    yield (
        f"{title:<26}{'':<10}{'ops/s':>10}{'p50':>11}{'p99':>11}{'CPU':>11}{'ratio':>8}"
        f"{'ceiling':>10}"
    )
    for row in found:
        ceiling = result.ceilings.get((row.operation, row.connections), 0.0)
        for at, (system, figures) in enumerate(row.figures.items()):
            head = connections(row.connections) if at == 0 else ""
            yield f"{head:<26}{system:<10}" + _figures(figures) + _beside(row, ceiling, at == 0)
            for problem in figures.problems:
                yield f"{'':<36}no result in {figures.rounds - figures.good_rounds} of " + (
                    f"{figures.rounds} rounds: {problem}"
                )
            if figures.busy_rounds:
                yield f"{'':<36}not quiet in {figures.busy_rounds} of {figures.rounds} rounds: " + (
                    f"something else kept up to {figures.other_cores:.1f} cores busy"
                )
            if ceiling and figures.per_second > CEILING_SHARE * ceiling:
                yield f"{'':<36}near the generator's own ceiling: it may be more"
        for holds, wished in row.wishes():
            yield f"{'':<36}{'holds' if holds else 'MISSED'}: {wished}"


def _figures(figures: Figures) -> str:
    if not figures.good_rounds:
        return f"{'no result':>10}{'':>33}"
    return (
        f"{figures.per_second:>10,.0f}{duration(figures.p50_us):>11}{duration(figures.p99_us):>11}"
        f"{duration(figures.node_cpu_us):>11}"
    )


def _beside(row: Row, ceiling: float, first: bool) -> str:
    if not first:
        return ""
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
    return f"{ratio:>8}{ceiling:>10,.0f}   {row.generator}"


def connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count} connections"


def _memory(result: Result) -> Iterator[str]:
    for system in result.about:
        most = max(m.largest_anonymous_bytes for m in result.memory if m.system == system)
        yield f"anonymous memory of the largest {system} node: {size(most)}"


def _quiet(found: Sequence[Row]) -> Iterator[str]:
    figures = [each for row in found for each in row.figures.values()]
    if any(2 * each.busy_rounds > each.rounds for each in figures):
        most = max(each.other_cores for each in figures)
        yield (
            f"NOT QUIET: something else kept up to {most:.1f} cores busy in most rounds of a load; "
            "ratios may still mean something, absolute figures do not"
        )


def _even(result: Result) -> Iterator[str]:
    took = [cell.core_ms for cell in result.cells]
    if took and max(took) > UNEVEN * min(took):
        yield (
            f"UNEVEN: the same piece of work took a core {min(took):.1f} to {max(took):.1f} ms, "
            f"so this machine was up to {max(took) / min(took):.1f} times slower at times; compare "
            "what was measured in turn, and other runs with care"
        )


def _native(native: Native) -> Iterator[str]:
    yield (
        f"etcd natively: {native.writes_per_second:,.0f} puts/s over gRPC; not the same load, but "
        "what its own tool finds:"
    )
    yield (
        f"  etcdctl check perf --load={native.load}: 256-byte keys, 1 KiB values, "
        f"{native.clients:,} clients, {native.offered_per_second:,} puts/s offered for a minute"
    )
    for line in native.said:
        yield f"  {line}"


def memory(found: Endurance, plan: endurance.Plan) -> Iterator[str]:
    yield found.about
    yield (
        f"{plan.keys:,} keys, values of {plan.value_bytes} bytes; {plan.connections} connections "
        f"of puts and as many of gets for {plan.seconds:g} s: {found.puts_per_second:,.0f} puts/s, "
        f"{found.gets_per_second:,.0f} gets/s"
    )
    yield ""
    yield "anonymous memory (RssAnon) of each node"
    step = max(1, len(found.samples) // 12)
    shown = [*found.samples[::step], *found.samples[-1:]]
    for sample in dict.fromkeys(shown):
        yield f"{sample.at_s:>6.0f} s" + "".join(f"{size(b):>12}" for b in sample.anonymous_bytes)
    yield ""
    if found.problem:
        yield f"no result: {found.problem}"
    below = found.largest_bytes < endurance.WISHED_BYTES
    yield (
        f"{'holds' if below else 'MISSED'}: the largest had {found.largest_bytes / 1e6:.1f} MB, "
        f"wished for under {endurance.WISHED_BYTES / 1e6:g} MB"
    )
    still = found.growth <= endurance.GROWTH_MAX
    yield (
        f"{'holds' if still else 'MISSED'}: the last quarter's largest is {found.growth:.3f} times "
        f"that of the second, wished for at most {endurance.GROWTH_MAX:g}"
    )
