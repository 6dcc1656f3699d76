"""One run of a scenario, from an empty directory to a verdict.

    proxies -> nodes -> workloads prepare -> LOAD under faults -> heal -> CALM -> looks -> checks

Everything that the verdict needs is written down while it happens; a run that gets stuck has the
verdict `stuck` and keeps its logs, one that fails a check keeps data and logs, and one that passes
keeps its logs and history.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from chaos.calling import CLOCK, Books, Caller
from chaos.checkers.gates import (
    check_division,
    check_loads,
    check_nodes,
    check_rate,
    check_recovery,
)
from chaos.checkers.violation import Violation
from chaos.faults.stage import Stage
from chaos.history import Result
from chaos.links import Links, toxics_server
from chaos.raftcluster import StuckError
from chaos.running.driver import Driver
from chaos.running.monitor import Monitor
from chaos.running.results import (
    HELD,
    STUCK,
    VIOLATED,
    Outcome,
    gaps,
    percentiles,
    timeline,
)
from chaos.scenarios.menu import LOADS
from chaos.scenarios.scenario import Scenario
from chaos.scenarios.schedule import schedule
from chaos.servers import Servers
from chaos.workloads.table import TABLE
from chaos.workloads.work import Setting, Work
from kv.config.sections import STRONG

RUN_NAME: Final = "run.json"
HISTORY_NAME: Final = "history.jsonl.gz"
LOGS_NAME: Final = "logs.txt"
NODES_NAME: Final = "nodes"
CLIENTS_END_S: Final = 30.0
SHOWN: Final = 10
PAUSE_S: Final = 0.1
MEASURED: Final = ("toxiproxy-python", "aiohttp", "lmdb", "rocksdict", "pysyncobj", "uvloop")


@dataclass(frozen=True, slots=True)
class Plan:
    scenario: Scenario
    mode: str
    nodes: int
    minutes: float
    seed: int
    directory: Path
    toxiproxy: str | None = None

    @property
    def name(self) -> str:
        return self.directory.name


@dataclass(frozen=True, slots=True)
class State:
    """What the progress line shows."""

    plan: Plan
    phase: str
    elapsed_s: float
    books: Books
    in_force: list[str]
    nodes: str
    servers: Servers


Show = Callable[[State], None]


def run(plan: Plan, show: Show) -> Outcome:
    """Blocks. The outcome stands in the directory, too."""
    outcome = Outcome(
        plan.scenario.name,
        plan.scenario.about,
        plan.mode,
        plan.nodes,
        plan.seed,
        plan.minutes,
        version("januskv"),
        started=datetime.fromtimestamp(CLOCK.wall(), UTC).isoformat(timespec="seconds"),
    )
    if plan.directory.exists():
        shutil.rmtree(plan.directory)
    plan.directory.mkdir(parents=True)
    nodes = plan.directory / NODES_NAME
    with contextlib.ExitStack() as ending:
        url = plan.toxiproxy or ending.enter_context(toxics_server(plan.seed))
        links = Links(url)
        ending.callback(links.close)
        outcome.versions = _versions(links.version)
        servers = Servers(
            nodes,
            nodes=plan.nodes,
            mode=plan.mode,
            extra=plan.scenario.settings_for(plan.mode, plan.nodes),
            links=links,
            faulty=True,
            shards=plan.scenario.shards,
            guests=plan.scenario.guests,
        )
        this = _Run(plan, servers, links, outcome, show)
        try:
            with servers:
                asyncio.run(this.run())
        except* StuckError as errors:
            outcome.verdict = STUCK
            outcome.violations += [str(error)[:4000] for error in _leaves(errors)]
            this.abandon()
        (plan.directory / LOGS_NAME).write_text(servers.logs())
    (plan.directory / RUN_NAME).write_text(outcome.to_json())
    if outcome.verdict == HELD:
        shutil.rmtree(nodes)
    return outcome


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _versions(proxies: str) -> dict[str, str]:
    found = {"python": platform.python_version(), "kernel": platform.release(), "proxies": proxies}
    for name in MEASURED:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


class _Run:
    def __init__(
        self, plan: Plan, servers: Servers, links: Links, outcome: Outcome, show: Show
    ) -> None:
        self._plan, self._servers, self._outcome, self._show = plan, servers, outcome, show
        self._books = Books()
        self._doors = servers.doors()
        drift = [float(each.options.get("drift", 0)) for each in plan.scenario.faults]
        self._works = [
            TABLE[load.kind](
                Setting(
                    load,
                    self._doors,
                    self._books,
                    str(plan.seed),
                    drift=max(drift, default=0.0),
                    divided=plan.scenario.is_sharded,
                )
            )
            for load in plan.scenario.loads
            if plan.mode in LOADS[load.kind].modes
        ]
        self._monitor: Monitor
        self._driver: Driver
        self._stage = Stage(servers, links, lambda name: self._monitor.role_of(name))
        self._monitor = Monitor(servers, self._stage.down)
        seconds = plan.minutes * 60
        self._driver = Driver(self._stage, schedule(plan.scenario, seconds, plan.seed))
        self._began = 0.0
        self._phase = "prepares"
        self._starved_s = 0.0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._monitor.run())
            showing = group.create_task(self._show_progress())
            feeling = group.create_task(self._feel_pauses())
            for work in self._works:
                await work.prepare()
            await self._load()
            self._phase = "last looks"
            for work in self._works:
                await work.finish()
            self._phase = "judges"
            await asyncio.to_thread(self._judge)
            for task in (watching, showing, feeling):
                task.cancel()

    def abandon(self) -> None:
        """It got stuck: what is known so far. That it was also wrong is the graver verdict."""
        outcome = self._outcome
        self._write_down()
        outcome.violations += [str(each) for each in check_nodes(self._monitor.ended)]
        wrong = [str(each) for work in self._works if work.judges_early for each in work.judge()]
        wrong += [f"defect: {each}" for each in self._books.defects[:SHOWN]]
        if wrong:
            outcome.verdict = VIOLATED
            outcome.violations += wrong

    async def _load(self) -> None:
        self._began = CLOCK.monotonic()
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(each) for work in self._works for each in work.clients()]
            self._phase = "load"
            driving = group.create_task(self._driver.run())
            await asyncio.sleep(self._plan.minutes * 60)
            self._driver.end()
            await driving
            self._outcome.load_s = CLOCK.monotonic() - self._began
            self._phase = "calm"
            await self._recover()
            for work in self._works:
                work.stopping = True
            _, late = await asyncio.wait(clients, timeout=CLIENTS_END_S)
            for client in late:
                client.cancel()

    async def _recover(self) -> None:
        """Everything is healed. Whoever ended is started, and each node must answer soon."""
        servers = self._servers
        gone = [name for name, server in servers.nodes.items() if not server.running]
        if gone:
            servers.start(*gone)
        healed = CLOCK.monotonic()
        within_s = self._plan.scenario.checks.answers_within_s
        took = await asyncio.gather(*(self._answers(each.name, healed) for each in self._doors))
        names = [each.name for each in self._doors]
        self._outcome.recovery_s = dict(zip(names, took, strict=True))
        if all(each is not None for each in took):
            await asyncio.sleep(max(0.0, healed + self._plan.scenario.calm_s - CLOCK.monotonic()))
        else:
            self._outcome.violations.append(f"not all nodes answered within {2 * within_s:g} s")

    async def _answers(self, name: str, since: float) -> float | None:
        """How long it took until this node answered a write and a read."""
        caller = Caller(f"probe-{name}", self._doors, self._books, str(self._plan.seed))
        end = since + 2 * self._plan.scenario.checks.answers_within_s
        path = f"/api/v1/keys/probe/{name}"
        try:
            while CLOCK.monotonic() < end:
                wrote = await caller.call("PUT", path, {"value": name}, door=name, counted=False)
                if wrote.done:
                    read = await caller.call("GET", path, door=name, counted=False)
                    if read.done:
                        return read.at - since
                await asyncio.sleep(0.1)
        finally:
            caller.close()
        return None

    # --- the verdict ------------------------------------------------------------------------

    def _judge(self) -> None:
        outcome, books, checks = self._outcome, self._books, self._plan.scenario.checks
        found: list[Violation] = []
        for work in self._works:
            found += work.judge()
            outcome.works[work.kind] = work.figures()
        found += check_rate(books.counts[Result.DONE], outcome.load_s, checks.minimum_rate)
        steps = {work.kind: work.steps for work in self._works}
        found += check_loads(steps, outcome.load_s)
        found += check_recovery(outcome.recovery_s, checks.answers_within_s)
        found += check_nodes(self._monitor.ended)
        ranges = self._monitor.ranges
        found += check_division(ranges.splits, ranges.merges, (checks.splits, checks.merges))
        outcome.violations += [str(each) for each in found]
        outcome.violations += [f"defect: {each}" for each in books.defects[:SHOWN]]
        self._compare_replicas()
        self._write_down()
        outcome.verdict = VIOLATED if outcome.violations else HELD

    def _compare_replicas(self) -> None:
        if self._plan.mode != STRONG:
            return
        servers, scenario = self._servers, self._plan.scenario
        try:
            if scenario.changes_places:
                servers.settled()
            whole = not (scenario.is_sharded or scenario.changes_places)
            self._outcome.digest = servers.equal_digests() if whole else servers.equal_listings()
        except AssertionError as error:
            self._outcome.violations.append(str(error))

    def _write_down(self) -> None:
        outcome, books, began = self._outcome, self._books, self._began
        outcome.counts = {result.value: books.counts[result] for result in Result}
        outcome.answers = dict(books.answers.most_common())
        outcome.turned_away = self._driver.turned_away
        outcome.faults = sorted(self._driver.spans, key=lambda span: span.at_s)
        for span, gap_s in zip(
            outcome.faults,
            gaps([span.in_force_s for span in outcome.faults], books.acknowledged),
            strict=True,
        ):
            span.gap_s = None if gap_s is None else round(gap_s, 4)
            span.at_s, span.lasted_s = round(span.at_s - began, 3), round(span.lasted_s, 3)
            span.in_force_s = round(span.in_force_s - began, 3)
        outcome.leaders = [(round(at - began, 3), name) for at, name in self._monitor.leaders]
        ranges = self._monitor.ranges
        outcome.shards = [(round(at - began, 3), number) for at, number in ranges.shards]
        outcome.splits, outcome.merges = ranges.splits, ranges.merges
        outcome.seconds = timeline(books.calls, began)[:-1]  # the last one is not whole
        took = [took_s for _, took_s, result in books.calls if result is Result.DONE]
        outcome.p50_ms, outcome.p99_ms = percentiles(took)
        outcome.history = HISTORY_NAME
        outcome.starved_s = round(self._starved_s, 3)
        outcome.machine_load = round(os.getloadavg()[1], 1)
        write_history(self._plan.directory / HISTORY_NAME, self._works)

    async def _feel_pauses(self) -> None:
        while True:
            due = CLOCK.monotonic() + PAUSE_S
            await asyncio.sleep(PAUSE_S)
            self._starved_s = max(self._starved_s, CLOCK.monotonic() - due)

    async def _show_progress(self) -> None:
        while True:
            elapsed_s = CLOCK.monotonic() - self._began if self._began else 0.0
            self._show(
                State(
                    self._plan, self._phase, elapsed_s, self._books,
                    list(self._driver.in_force), self._monitor.line(), self._servers,
                )
            )  # fmt: skip
            await asyncio.sleep(1.0)


def write_history(path: Path, works: list[Work]) -> None:
    def as_text(value: object) -> Any:
        if isinstance(value, Mapping | frozenset | set):
            return list(value)
        raise TypeError(f"{value!r} is no value")

    with gzip.open(path, "wt", compresslevel=3) as file:
        for work in works:
            for line in work.history():
                file.write(json.dumps({"load": work.kind, **line}, default=as_text) + "\n")
