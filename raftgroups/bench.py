"""What Raft groups cost: writes, reads and idleness of 1, 4 and 64 groups, in one process.

For each number of groups, on a cluster of its own (raftgroups/bench_cluster.py):

    form, wait for leaders
    writes at each concurrency     so many operations are in flight, spread over the groups; each
                                   one that is answered is followed by the next of its group
    reads, asked of the leaders    linearizable read points: no disk, one round to a majority
    reads, asked of followers      the same and a question to the leader
and last: many groups, nothing to do: what they cost once they have settled

Every phase runs unmeasured for a moment, then for the planned time. CPU is that of the process, so
of all three nodes together. Operations that were not applied are counted and never hidden.

There is no asyncio here: the run is a generator that yields seconds to sleep, and `drive` steps it
on a Scheduler.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, TypeVar

from raftgroups.bench_cluster import NODES, BenchCluster, Parts
from raftgroups.group import Group
from raftgroups.outcomes import Applied, ProposeResult, ReadReady, ReadResult
from storage.clock import Scheduler
from storage.errors import JanusError

T = TypeVar("T")
Script = Generator[float, None, T]
Report = Callable[[int, str], None]
"""Told how many milliseconds of the plan have just passed, and with what."""

READS: Final = ("read-leader", "read-follower")
IDLE_GROUPS: Final = 64
IDLE_WISHED_CPU_SHARE: Final = 0.03
STEP_S: Final = 0.25
POLL_S: Final = 0.02
RETRY_S: Final = 0.01
LEADERS_WITHIN_S: Final = 20.0
DRAINED_WITHIN_S: Final = 15.0
SETTLE_MARGIN_S: Final = 2.0


class BenchStuckError(JanusError):
    """The cluster did not do in time what every cluster does."""

    code = "bench_stuck"


@dataclass(frozen=True, slots=True)
class Plan:
    groups: Sequence[int] = (1, 4, 64)
    seconds: float = 2.0
    """Of each measured phase."""
    payload_bytes: int = 100
    in_flight: Sequence[int] = (1, 64, 256)
    reads_in_flight: int = 64
    idle_groups: int = IDLE_GROUPS
    idle_seconds: float = 4.0

    @property
    def warm_up_s(self) -> float:
        return min(0.3, self.seconds / 4)

    @property
    def loads(self) -> list[tuple[str, int]]:
        """What each cluster does, and how many at a time."""
        writes = [("write", in_flight) for in_flight in self.in_flight]
        return [*writes, *((what, self.reads_in_flight) for what in READS)]

    @property
    def milliseconds(self) -> int:
        """What `Report` adds up to."""
        measured = len(self.groups) * len(self.loads) * (self.seconds + self.warm_up_s)
        return round((measured + self.idle_seconds) * 1000)


@dataclass(frozen=True, slots=True)
class Phase:
    what: str
    """write, read-leader or read-follower"""
    groups: int
    in_flight: int
    seconds: float
    operations: int
    """Applied, or read points given, within the measured time."""
    failed: int
    """Refused or unknown within that time."""
    entries: int
    syncs: int
    """Commits of all nodes."""
    frames: int
    cpu_s: float
    p50_us: float
    p99_us: float

    @property
    def per_second(self) -> float:
        return self.operations / self.seconds

    @property
    def entries_per_second(self) -> float:
        return self.entries / self.seconds

    @property
    def cpu_us(self) -> float:
        """Of the whole cluster, an operation."""
        return self.cpu_s * 1e6 / self.operations if self.operations else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "per_second": self.per_second,
            "entries_per_second": self.entries_per_second,
            "cpu_us": self.cpu_us,
        }


@dataclass(frozen=True, slots=True)
class Idle:
    groups: int
    hibernating: int
    seconds: float
    cpu_s: float
    syncs: int
    frames: int

    @property
    def cpu_share(self) -> float:
        """Of one core, a node."""
        return self.cpu_s / self.seconds / len(NODES)

    @property
    def holds(self) -> bool:
        return self.cpu_share < IDLE_WISHED_CPU_SHARE

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "cpu_share": self.cpu_share, "holds": self.holds}


@dataclass(frozen=True, slots=True)
class Result:
    phases: list[Phase]
    idle: Idle


# --- load ------------------------------------------------------------------------------------


class Load:
    """Keeps `in_flight` operations of one kind going until it is stopped.

    Invariant: `waiting` operations are asked for and not answered; each will be, exactly once.
    """

    def __init__(self, cluster: BenchCluster, what: str, in_flight: int, payload: bytes) -> None:
        self._cluster = cluster
        self._clock = cluster.parts.clock
        self._later = cluster.parts.scheduler.call_later
        self._ask = self._propose if what == "write" else self._read
        self._find = cluster.follower if what == "read-follower" else cluster.leader
        self._members: dict[int, Group] = {}
        self._payload = payload
        self._stopped = False
        self.waiting = 0
        self.latencies_s = array("d")
        self.failed = 0
        for number in range(in_flight):
            self._next(number % cluster.groups + 1)

    def reset(self) -> None:
        self.latencies_s = array("d")
        self.failed = 0

    def stop(self) -> None:
        self._stopped = True

    def _next(self, group_id: int) -> None:
        if self._stopped:
            return
        member = self._members.get(group_id) or self._find(group_id)
        if member is None:
            self._retry(group_id)
            return
        self._members[group_id] = member
        self.waiting += 1
        self._ask(member, self._clock.monotonic())

    def _retry(self, group_id: int) -> None:
        """Somebody else may lead by then."""
        self._members.pop(group_id, None)
        self._later(RETRY_S, self._next, group_id)

    def _propose(self, member: Group, started: float) -> None:
        member.propose(self._payload, partial(self._answered, member.group_id, started))

    def _read(self, member: Group, started: float) -> None:
        member.read(partial(self._answered, member.group_id, started))

    def _answered(self, group_id: int, started: float, result: ProposeResult | ReadResult) -> None:
        self.waiting -= 1
        if isinstance(result, Applied | ReadReady):
            self.latencies_s.append(self._clock.monotonic() - started)
            self._next(group_id)
        else:
            self.failed += 1
            self._retry(group_id)


# --- the run ---------------------------------------------------------------------------------


def run(parts: Parts, plan: Plan, report: Report) -> Script[Result]:
    """The whole measurement, about `plan.milliseconds` long and some seconds of elections."""
    phases: list[Phase] = []
    for groups in plan.groups:
        cluster = BenchCluster(parts, f"groups-{groups}")
        try:
            yield from _ready(cluster, groups)
            for what, in_flight in plan.loads:
                phase = yield from _measure(cluster, what, in_flight, plan, report)
                phases.append(phase)
        finally:
            cluster.close()
    cluster = BenchCluster(parts, "idle")
    try:
        yield from _ready(cluster, plan.idle_groups)
        idle = yield from _idle(cluster, plan, report)
    finally:
        cluster.close()
    return Result(phases, idle)


def _ready(cluster: BenchCluster, groups: int) -> Script[None]:
    cluster.form(groups)
    missing = yield from _until(cluster, cluster.leaderless, LEADERS_WITHIN_S)
    if missing:
        raise BenchStuckError(
            f"{missing} of {groups} groups have no leader after {LEADERS_WITHIN_S:g} s; the "
            "machine may be too busy to measure anything: try again when it is idle"
        )


def _until(cluster: BenchCluster, left: Callable[[], int], limit_s: float) -> Script[int]:
    """Wait until nothing is left, for so long at most; what is left then."""
    clock = cluster.parts.clock
    deadline = clock.monotonic() + limit_s
    while left() and clock.monotonic() < deadline:
        yield POLL_S
        cluster.check()
    return left()


def _pass(cluster: BenchCluster, seconds: float, report: Report, text: str) -> Script[None]:
    """Let time go by."""
    clock = cluster.parts.clock
    start = clock.monotonic()
    reported_ms = 0
    while (left := start + seconds - clock.monotonic()) > 0:
        yield min(STEP_S, left)
        cluster.check()
        passed_ms = round(min(clock.monotonic() - start, seconds) * 1000)
        report(passed_ms - reported_ms, text)
        reported_ms = passed_ms


def _measure(
    cluster: BenchCluster, what: str, in_flight: int, plan: Plan, report: Report
) -> Script[Phase]:
    text = f"{_groups(cluster.groups)}: {what}, {in_flight} in flight"
    clock = cluster.parts.clock
    payload = (b"janus" * (plan.payload_bytes // 5 + 1))[: plan.payload_bytes]
    load = Load(cluster, what, in_flight, payload)
    yield from _pass(cluster, plan.warm_up_s, report, text)
    load.reset()
    before, started = cluster.counts(), clock.monotonic()
    yield from _pass(cluster, plan.seconds, report, text)
    after, ended = cluster.counts(), clock.monotonic()
    ordered = sorted(load.latencies_s)
    failed = load.failed
    load.stop()
    left = yield from _until(cluster, lambda: load.waiting, DRAINED_WITHIN_S)
    if left:
        raise BenchStuckError(
            f"{left} operations ({text}) were not answered within {DRAINED_WITHIN_S:g} s, though "
            "each has a shorter deadline; this is a defect, please report it"
        )
    return Phase(
        what=what,
        groups=cluster.groups,
        in_flight=in_flight,
        seconds=ended - started,
        operations=len(ordered),
        failed=failed,
        entries=after.entries - before.entries,
        syncs=after.syncs - before.syncs,
        frames=after.frames - before.frames,
        cpu_s=after.cpu_s - before.cpu_s,
        p50_us=_percentile(ordered, 0.50) * 1e6,
        p99_us=_percentile(ordered, 0.99) * 1e6,
    )


def _idle(cluster: BenchCluster, plan: Plan, report: Report) -> Script[Idle]:
    clock = cluster.parts.clock
    settle_s = cluster.config.hibernate_after_s + SETTLE_MARGIN_S
    yield from _until(cluster, lambda: cluster.groups - cluster.hibernating(), settle_s)
    before, started = cluster.counts(), clock.monotonic()
    yield from _pass(cluster, plan.idle_seconds, report, f"{_groups(cluster.groups)}: idle")
    after, ended = cluster.counts(), clock.monotonic()
    return Idle(
        groups=cluster.groups,
        hibernating=cluster.hibernating(),
        seconds=ended - started,
        cpu_s=after.cpu_s - before.cpu_s,
        syncs=after.syncs - before.syncs,
        frames=after.frames - before.frames,
    )


def _groups(count: int) -> str:
    return "1 group" if count == 1 else f"{count} groups"


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def drive(
    scheduler: Scheduler, script: Script[T], done: Callable[[T | None, BaseException | None], None]
) -> None:
    """Step the script to its end; `done` gets what it returned or raised, once."""
    try:
        seconds = next(script)
    except StopIteration as end:
        done(end.value, None)
    except BaseException as error:  # noqa: BLE001 - whatever it is, who waits must be told
        done(None, error)
    else:
        scheduler.call_later(seconds, drive, scheduler, script, done)
