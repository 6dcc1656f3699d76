"""`januskv bench engines`: the storage engines side by side, as a table, JSON and a chart."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from kv.cli import chart
from kv.cli.bench_shared import (
    DataDirectories,
    about,
    add_common_arguments,
    duration,
    hand_out,
    scratch_space,
    size,
)
from kv.cli.command import whole_number
from kv.cli.progress import Progress
from storage import bench
from storage.engine import ENGINE_VALUE_MAX_BYTES
from storage.environment import ENGINE_NAMES

PHASES: Final = ("fill", "overwrite", "read", "scan", "delete")


HELP: Final = "fill, overwrite, read, scan and delete on each storage engine"
DESCRIPTION: Final = (
    "Measure the storage engines side by side on this machine's disk. Every write batch is synced. "
    "Prints a table and writes it as JSON and as an SVG chart."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=[*ENGINE_NAMES, "all"],
        default="all",
        help="which one (default: all)",
    )
    parser.add_argument(
        "--keys",
        type=whole_number(100, 100_000_000),
        default=100_000,
        help="keys to fill (default 100,000)",
    )
    parser.add_argument(
        "--value-bytes",
        type=whole_number(1, ENGINE_VALUE_MAX_BYTES // 4),
        default=100,
        help="size of a value (default 100)",
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="also compare with the bare libraries and print the ratios",
    )
    add_common_arguments(parser, "engines")


def run(args: argparse.Namespace) -> int:
    names = list(ENGINE_NAMES) if args.engine == "all" else [args.engine]
    plan = bench.Plan(keys=args.keys, value_bytes=args.value_bytes)
    with scratch_space(args) as (scratch, directories):
        results = measure(names, plan, directories, scratch)
        ratios = compare_raw(names, plan, directories, scratch) if args.raw else []
    document = {
        **about(),
        "keys": plan.keys,
        "value_bytes": plan.value_bytes,
        "results": [result.as_json() for result in results],
        "ratios": [ratio.as_json() for ratio in ratios],
    }
    text = table(results, plan)
    if ratios:
        text += "\n\n" + ratio_table(ratios)
    hand_out(args, "engines", document, text, picture(results, plan))
    return 0


def measure(
    names: Sequence[str], plan: bench.Plan, directories: DataDirectories, scratch: Path
) -> list[bench.Result]:
    results = []
    progress = Progress(plan.operations * len(names))
    for name in names:

        def report(done: int, what: str, name: str = name) -> None:
            progress.advance(done, f"{name}: {what}")

        opened = partial(directories.engine, name, scratch / name)
        results.append(bench.run(name, opened, plan, report))
    progress.finish()
    return results


def compare_raw(
    names: Sequence[str], plan: bench.Plan, directories: DataDirectories, scratch: Path
) -> list[Any]:
    # Here and not above: bench_raw imports both libraries, whichever engine is measured.
    from storage import bench_raw

    compared = [name for name in names if name in bench_raw.BARE]
    progress = Progress(bench_raw.operations(plan) * len(compared))
    ratios = []
    for name in compared:
        opened = partial(directories.engine, name)
        ratios += bench_raw.compare(name, opened, plan, scratch, progress.advance)
    progress.finish()
    return ratios


# --- what is printed ----------------------------------------------------------------------------


def table(results: Sequence[bench.Result], plan: bench.Plan) -> str:
    lines = [
        f"{plan.keys:,} keys of {bench.KEY_BYTES} bytes, values of {plan.value_bytes} bytes, "
        "every write batch synced",
        "",
        f"{'':<11}{'':<10}{'ops/s':>12}{'p50':>11}{'p99':>11}   a sample is",
    ]
    for phase_name in PHASES:
        for result in results:
            phase = next(phase for phase in result.phases if phase.name == phase_name)
            head = phase_name if result is results[0] else ""
            lines.append(
                f"{head:<11}{result.engine:<10}{phase.per_second:>12,.0f}"
                f"{duration(phase.p50_us):>11}{duration(phase.p99_us):>11}   {phase.call}"
            )
    lines += ["", f"{'':<21}{'written/put':>12}{'disk/live':>11}{'on disk':>11}{'memory':>11}"]
    lines += [
        f"{'':<11}{result.engine:<10}{result.write_amplification:>11.1f}x"
        f"{result.space_amplification:>10.2f}x{size(result.disk_bytes):>11}"
        f"{size(result.resident_anonymous_bytes):>11}"
        for result in results
    ]
    return "\n".join(lines)


def ratio_table(ratios: Sequence[Any]) -> str:
    lines = [f"{'the interface beside the bare library':<52}{'ours':>10}{'bare':>10}{'ratio':>8}"]
    lines += [
        f"{ratio.engine:<10}{ratio.loop:<42}{duration(ratio.interface_us):>10}"
        f"{duration(ratio.bare_us):>10}{ratio.ratio:>8.2f}  "
        f"{'holds' if ratio.holds else 'MISSED'}: {ratio.wished}"
        + (f"; {ratio.note}" if ratio.note else "")
        for ratio in ratios
    ]
    return "\n".join(lines)


def picture(results: Sequence[bench.Result], plan: bench.Plan) -> str:
    panels = [
        chart.Panel(
            name,
            "operations a second, more is better",
            [
                (result.engine, phase.per_second, f"{phase.per_second:,.0f}")
                for result in results
                for phase in result.phases
                if phase.name == name
            ],
        )
        for name in PHASES
    ]
    panels.append(
        chart.Panel(
            "write amplification",
            "bytes written to disk a byte put, less is better",
            [
                (r.engine, r.write_amplification, f"{r.write_amplification:.1f}x")
                for r in results
                if r.engine != "memory"
            ],
        )
    )
    return chart.bars(
        "JanusKV storage engines",
        f"{plan.keys:,} keys, values of {plan.value_bytes} bytes, every write batch synced",
        panels,
    )
