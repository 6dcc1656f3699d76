"""`januskv bench raft`: what Raft groups cost on this machine, as a table, JSON and a chart.

The measurement is raftgroups/bench.py; this file gives it a loop, LMDB engines and writers, and
writes down what it found.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from kv.cli import chart
from kv.cli.bench_shared import (
    DataDirectories,
    about,
    add_common_arguments,
    duration,
    hand_out,
    scratch_space,
)
from kv.cli.command import whole_number
from kv.cli.progress import Progress
from raftgroups import bench
from raftgroups.bench_cluster import NODES, Parts
from storage.environment import LMDB
from storage.system_clock import SystemClock
from storage.writers import AdaptiveWriter, kernel_syncs

HELP: Final = "writes and reads through 1, 4 and 64 Raft groups, and what idle groups cost"
DESCRIPTION: Final = (
    "Measure Raft groups: three nodes in this process, on one event loop, each with an LMDB "
    "engine whose every commit is synced to this machine's disk; frames between them are real, "
    "sockets are not there. Prints a table and writes it as JSON and as an SVG chart."
)
GROUPS_MAX: Final = 1_024
PAYLOAD_MAX_BYTES: Final = 1024 * 1024
READS: Final = {"read-leader": "at the leader", "read-follower": "at a follower"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = bench.Plan()
    parser.add_argument(
        "--groups",
        type=_numbers,
        default=default.groups,
        metavar="N,N,...",
        help="how many groups; one cluster each (default 1,4,64)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=default.seconds,
        help=f"length of each phase, of which there are five a cluster (default {default.seconds})",
    )
    parser.add_argument(
        "--payload-bytes",
        type=whole_number(1, PAYLOAD_MAX_BYTES),
        default=default.payload_bytes,
        help=f"size of an operation (default {default.payload_bytes})",
    )
    add_common_arguments(parser, "raft")


def _numbers(text: str) -> list[int]:
    return [whole_number(1, GROUPS_MAX)(word) for word in text.split(",")]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0.1 <= seconds <= 3_600:
        raise argparse.ArgumentTypeError(f"{text} is outside 0.1..3600")
    return seconds


def run(args: argparse.Namespace) -> int:
    plan = bench.Plan(
        groups=args.groups,
        seconds=args.seconds,
        payload_bytes=args.payload_bytes,
        idle_seconds=max(1.0, min(2 * args.seconds, 30.0)),
    )
    with scratch_space(args) as (scratch, directories):
        result, loop_name = measure(plan, directories, scratch)
    document = {
        **about(),
        "loop": loop_name,
        "nodes": len(NODES),
        "engine": LMDB,
        "payload_bytes": plan.payload_bytes,
        "phases": [phase.as_json() for phase in result.phases],
        "idle": result.idle.as_json(),
    }
    hand_out(args, "raft", document, table(result, plan, loop_name), picture(result, plan))
    return 0


def measure(
    plan: bench.Plan, directories: DataDirectories, scratch: Path
) -> tuple[bench.Result, str]:
    progress = Progress(plan.milliseconds)
    with asyncio.Runner(loop_factory=make_loop) as runner:
        loop = runner.get_loop()
        clock = SystemClock()
        parts = Parts(
            scheduler=loop,
            clock=clock,
            rng=random.Random(),
            cpu_s=time.process_time,
            open_engine=lambda name: directories.engine(LMDB, scratch / name),
            make_writer=lambda: AdaptiveWriter(
                clock,
                loop.call_soon_threadsafe,
                sync_apart=True,
                kernel=kernel_syncs(clock, loop, partial(print, file=sys.stderr)),
            ),
        )
        try:
            result = runner.run(_driven(bench.run(parts, plan, progress.advance)))
        finally:
            progress.finish()
        return result, type(loop).__module__.partition(".")[0]


async def _driven(script: bench.Script[bench.Result]) -> bench.Result:
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[bench.Result] = loop.create_future()

    def done(result: bench.Result | None, error: BaseException | None) -> None:
        if finished.done():
            return  # interrupted; the script was closed
        if error is not None:
            finished.set_exception(error)
        else:
            assert result is not None
            finished.set_result(result)

    bench.drive(loop, script, done)
    try:
        return await finished
    finally:
        script.close()


def make_loop() -> asyncio.AbstractEventLoop:
    """What a node would run on."""
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop()
    return uvloop.new_event_loop()


# --- what is printed ----------------------------------------------------------------------------


def table(result: bench.Result, plan: bench.Plan, loop_name: str) -> str:
    return "\n".join(
        [
            f"three nodes in one process on one {loop_name} loop, LMDB, every commit synced; "
            f"operations of {plan.payload_bytes} bytes",
            "CPU is that of all three nodes together, an operation; entries are log entries, in "
            "which operations travel",
            "",
            f"{'writes':<12}{'in flight':>10}{'ops/s':>10}{'entries/s':>11}{'syncs/s':>10}"
            f"{'p50':>11}{'p99':>11}{'CPU':>11}",
            *_write_lines(result.phases),
            "",
            f"{'reads':<12}{'':<15}{'in flight':>10}{'reads/s':>10}"
            f"{'p50':>11}{'p99':>11}{'CPU':>11}",
            *_read_lines(result.phases),
            "",
            idle_line(result.idle),
        ]
    )


def _write_lines(phases: Sequence[bench.Phase]) -> Iterator[str]:
    last = 0
    for phase in (phase for phase in phases if phase.what == "write"):
        head = _groups(phase.groups) if phase.groups != last else ""
        last = phase.groups
        yield (
            f"{head:<12}{phase.in_flight:>10}{phase.per_second:>10,.0f}"
            f"{phase.entries_per_second:>11,.0f}{phase.syncs / phase.seconds:>10,.0f}"
            f"{duration(phase.p50_us):>11}{duration(phase.p99_us):>11}{duration(phase.cpu_us):>11}"
            + _failed(phase)
        )


def _read_lines(phases: Sequence[bench.Phase]) -> Iterator[str]:
    last = 0
    for phase in (phase for phase in phases if phase.what in READS):
        head = _groups(phase.groups) if phase.groups != last else ""
        last = phase.groups
        yield (
            f"{head:<12}{READS[phase.what]:<15}{phase.in_flight:>10}{phase.per_second:>10,.0f}"
            f"{duration(phase.p50_us):>11}{duration(phase.p99_us):>11}{duration(phase.cpu_us):>11}"
            + _failed(phase)
        )


def _failed(phase: bench.Phase) -> str:
    return f"   {phase.failed} refused or unknown" if phase.failed else ""


def idle_line(idle: bench.Idle) -> str:
    return (
        f"idle        {_groups(idle.groups)} ({idle.hibernating} asleep): {idle.cpu_share:.2%} of "
        f"a core a node over {idle.seconds:.1f} s, {idle.frames / idle.seconds:.0f} frames/s, "
        f"{idle.syncs / idle.seconds:.1f} syncs/s   "
        f"{'holds' if idle.holds else 'MISSED'}: under {bench.IDLE_WISHED_CPU_SHARE:.0%}"
    )


def _groups(count: int) -> str:
    return "1 group" if count == 1 else f"{count} groups"


def picture(result: bench.Result, plan: bench.Plan) -> str:
    writes = [phase for phase in result.phases if phase.what == "write"]
    panels = []
    for in_flight in plan.in_flight:
        of_it = [phase for phase in writes if phase.in_flight == in_flight]
        panels.append(_panel(f"writes, {in_flight} in flight", of_it))
    for what, where in READS.items():
        of_it = [phase for phase in result.phases if phase.what == what]
        panels.append(_panel(f"reads {where}, {plan.reads_in_flight} in flight", of_it))
    most = [phase for phase in writes if phase.in_flight == max(plan.in_flight)]
    panels.append(
        chart.Panel(
            f"CPU a write, {max(plan.in_flight)} in flight",
            "microseconds of all three nodes, less is better",
            [(_groups(p.groups), p.cpu_us, duration(p.cpu_us)) for p in most],
        )
    )
    return chart.bars(
        "JanusKV Raft groups",
        f"three nodes in one process, LMDB, every commit synced, {plan.payload_bytes} bytes; "
        f"{_groups(result.idle.groups)} idle: {result.idle.cpu_share:.2%} of a core a node",
        panels,
    )


def _panel(title: str, phases: Sequence[bench.Phase]) -> chart.Panel:
    return chart.Panel(
        title,
        "operations a second, more is better",
        [(_groups(p.groups), p.per_second, f"{p.per_second:,.0f}") for p in phases],
    )
