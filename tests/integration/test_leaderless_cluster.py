"""The leaderless regime as a user has it: `januskv cluster`, REST, client, commands.

One cluster of three processes for all tests, in the order in which they stand; those that hurt a
node make it well again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kv.client import LeaderlessClient as AsyncClient
from kv.client.leaderless_records import SiblingsError
from kv.client.leaderless_watch import KeysChange
from kv.client.sync_leaderless import LeaderlessClient
from kv.client.watches import Following
from kv.errors import UnavailableError
from kv.peers.cluster import Node, free_ports
from kv.peers.janus import OFFSETS
from kv.peers.regimes import ask
from storage.errors import JanusError
from tests.polling import until as until_within

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0
pytestmark = [pytest.mark.integration]
until = partial(until_within, within_s=DEADLINE_S)


class Cluster:
    def __init__(self, home: Path, base: int) -> None:
        self.home = home
        self.base = base
        self.ready = home / "ready.json"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "kv.cli.main", "cluster", "--mode", "leaderless"),
                *("--data", str(home / "data"), "--base-port", str(base)),
                *("--ready-file", str(self.ready)),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.started: list[subprocess.Popen[bytes]] = []
        try:
            until(lambda: self.ready.exists() or self.process.poll() is not None, "it serves")
            assert self.process.poll() is None, self.process.communicate()[0].decode()
        except BaseException:
            self.stop()
            raise
        self.entries = json.loads(self.ready.read_text())

    @property
    def urls(self) -> list[str]:
        return [entry["url"] for entry in self.entries]

    def node(self, number: int) -> Node:
        entry = self.entries[number]
        host, _, port = entry["url"].removeprefix("http://").partition(":")
        return Node(entry["name"], host, int(port), entry["pid"])

    def command(self, *words: str, number: int = 0, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "kv.cli.main", *words, "--endpoints", self.urls[number]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout or done.stderr

    def kill(self, number: int) -> None:
        os.kill(self.entries[number]["pid"], signal.SIGKILL)

    def start_again(self, number: int) -> None:
        name = self.entries[number]["name"]
        config = self.home / "data" / name / "januskv.toml"
        child = subprocess.Popen(
            [sys.executable, "-m", "kv.cli.main", "serve", "--config", str(config)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.started.append(child)
        self.entries[number]["pid"] = child.pid
        until(lambda: ready(self.node(number)), f"{name} serves again")

    def stop(self) -> None:
        for child in self.started:
            child.terminate()
        self.process.terminate()
        for child in (*self.started, self.process):
            try:
                child.wait(30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def ready(node: Node) -> bool:
    try:
        return ask(node, "GET", "/readyz")[0] == 200
    except Exception:  # noqa: BLE001 - it does not listen yet
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("leaderless"), free_ports(OFFSETS))
    yield made
    made.stop()


@pytest.fixture
def client(cluster: Cluster) -> Iterator[LeaderlessClient]:
    with LeaderlessClient(cluster.urls) as made:
        yield made


def test_rest_names_two_replicas_on_every_node(cluster: Cluster) -> None:
    for number in range(3):
        node = cluster.node(number)
        status, body = ask(node, "PUT", f"/api/v1/keys/r{number}", {"value": "1"})
        assert (status, len(set(body["replicas"])) >= 2, body["fallbacks"]) == (200, True, [])
        status, body = ask(node, "GET", f"/api/v1/keys/r{number}")
        assert (body["value"], len(set(body["replicas"])) >= 2) == ("1", True)
        status, body = ask(node, "POST", "/v3/kv/range", {"key": "YQ=="})
        assert (status, body["code"]) == (501, 12)
        assert ask(node, "GET", "/health")[1] == {"health": "true", "reason": ""}


def test_commands_show_siblings_and_settle_them(cluster: Cluster) -> None:
    assert "written on" in cluster.command("put", "cart", "apples", number=0)
    cluster.command("put", "cart", "pears", number=1)
    shown = cluster.command("get", "cart", number=2)
    assert "2 siblings" in shown
    assert "apples" in shown
    assert "pears" in shown
    found = json.loads(cluster.command("get", "cart", "--json", number=2))
    assert {each["value"] for each in found["siblings"]} == {"apples", "pears"}
    cluster.command("put", "cart", "both", "--context", found["context"], number=0)
    assert cluster.command("get", "cart", "--level", "all", number=1) == "both\n"
    cluster.command("put", "cart", "new", "--overwrite", number=1)
    assert cluster.command("get", "cart", "--level", "all") == "new\n"
    assert cluster.command("incr", "visits", "5", number=0) == "5\n"
    assert cluster.command("incr", "visits", "--level", "all", number=2) == "6\n"
    assert "cart" in cluster.command("get", "", "--prefix", number=1)
    assert "deleted on" in cluster.command("del", "cart", number=1)
    assert "does not exist" in cluster.command("get", "cart", "--level", "all", code=1)
    assert "strong" in cluster.command("cas", "a", "1", "--expect-version", "0", code=2)
    assert "strong" in cluster.command("put", "a", "1", "--if-absent", code=2)
    assert "strong" in cluster.command("get", "a", "--level", "linearizable", code=2)


def test_the_ring_and_the_status_are_drawn(cluster: Cluster) -> None:
    drawn = cluster.command("ring", number=1)
    assert drawn.count("33.3 %") == 3
    state = json.loads(cluster.command("ring", "--json"))
    assert set(state["slices"]) == {"A", "B", "C"}
    shown = cluster.command("status")
    assert "HINTS FOR IT" in shown
    assert shown.count("33.3 %") == 3


def test_the_client(client: LeaderlessClient) -> None:
    client.put("k", "1")
    state = client.get("k", level="ALL")
    assert state is not None
    assert state.value == b"1"
    client.put("k", "2", context=state, level="ALL")
    client.put("k", "3", level="ALL")
    state = client.get("k")
    assert state is not None
    assert sorted(state.values) == [b"2", b"3"]
    with pytest.raises(SiblingsError, match="2 concurrent values"):
        _ = state.value
    with client.watch("k") as watch:
        client.update("k", lambda values: b"+".join(sorted(values)), level="ALL")
        while (told := watch.next(timeout_s=DEADLINE_S).states[0]).values != (b"2+3",):
            assert set(told.values) <= {b"1", b"2", b"3"}
    merged = client.get("k")
    assert merged is not None
    assert merged.value == b"2+3"
    assert client.incr("c", 3).value == 3
    client.put_many({"m/1": "1", "m/2": "2", "k": None}, contexts={"k": merged}, level="ALL")
    assert [entry.key for entry in client.list("m/")] == [b"m/1", b"m/2"]
    assert client.count("m/") == 2
    first, none = client.get_many(["m/1", "none"])
    assert not isinstance(first, Exception)
    assert first is not None
    assert first.value == b"1"
    assert none is None
    assert client.get("k", level="ALL") is None


def test_a_session_reads_what_it_wrote_at_any_node(cluster: Cluster) -> None:
    with LeaderlessClient(cluster.urls, level="ONE") as client, client.session() as session:
        for number in range(30):
            key = f"s{number % 3}"
            state = session.get(key)
            session.put(key, str(number), context=state)
            seen = session.get(key)
            assert seen is not None
            assert seen.values == (str(number).encode(),)


def test_a_killed_node_costs_nothing_and_gets_all_back(
    cluster: Cluster, client: LeaderlessClient
) -> None:
    cluster.kill(2)
    with LeaderlessClient(cluster.urls[:2]) as two:
        for number in range(100):
            written = two.put(f"d{number}", str(number))
            assert len(set(written.replicas)) >= 2
        with pytest.raises(UnavailableError, match="3 are required"):
            two.put("d", "1", level="ALL", timeout_s=5.0)
        state = until(lambda: two.get("d7"), "it is read")
        assert state.value == b"7"
        until(
            lambda: sum(
                peer["hints"]
                for number in range(2)
                for peer in status(cluster, number)["leaderless"]["peers"]
            ),
            "hints are kept for it",
        )
    assert "NO" in cluster.command("status", number=0, code=1)
    cluster.start_again(2)
    until(
        lambda: all(
            ask(cluster.node(2), "GET", f"/api/v1/keys/d{number}?r=1&strict=true")[0] == 200
            for number in range(100)
        ),
        "the node that was away has what it missed",
    )
    until(
        lambda: (
            not any(
                peer["hints"]
                for number in range(3)
                for peer in status(cluster, number)["leaderless"]["peers"]
            )
        ),
        "no hint is left",
    )


def status(cluster: Cluster, number: int) -> Any:
    return ask(cluster.node(number), "GET", "/api/v1/status")[1]


def test_a_frozen_node_is_passed_over(cluster: Cluster) -> None:
    pid = cluster.entries[1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with LeaderlessClient([cluster.urls[0], cluster.urls[2]]) as client:
            for number in range(10):
                client.put(f"f{number}", "1", timeout_s=20)
                state = client.get(f"f{number}", timeout_s=20)
                assert state is not None
                assert state.value == b"1"
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: ready(cluster.node(1)), "it goes on")
    until(
        lambda: all(
            ask(cluster.node(1), "GET", f"/api/v1/keys/f{number}")[0] == 200 for number in range(10)
        ),
        "it answers again",
    )


async def _watched_writes(cluster: Cluster) -> tuple[set[bytes], list[set[bytes]]]:
    """Write through all nodes and watch on each; kill one meanwhile, and resume elsewhere from the
    cursor that its watcher had then. What was acknowledged, and what each watcher was told until it
    had all of that, or the deadline was over."""
    acknowledged: set[bytes] = set()
    seen: list[set[bytes]] = [set() for _ in cluster.urls]
    cursors = ["", "", "", ""]
    killed, moved, go_on = asyncio.Event(), asyncio.Event(), True

    async def follow(number: int, watch: Following[str, KeysChange]) -> None:
        async for change in watch:
            seen[number].update(state.key for state in change.states)
            cursors[number] = change.cursor
            moved.set()

    async def write(number: int) -> None:
        async with AsyncClient([cluster.urls[number]], timeout_s=2.0) as client:
            count = 0
            while go_on:
                key = b"watched/%d/%d" % (number, count)
                count += 1
                try:
                    await client.put(key, b"v")
                except JanusError:
                    if killed.is_set() and number == 0:
                        return  # its node is gone; what had no answer was not acknowledged
                    continue
                acknowledged.add(key)
                moved.set()

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                moved.clear()
                await moved.wait()

    async def some_more(count: int) -> None:
        goal = len(acknowledged) + count
        await wait(lambda: len(acknowledged) >= goal)

    async with contextlib.AsyncExitStack() as stack:
        group = await stack.enter_async_context(asyncio.TaskGroup())
        followers = []
        for number in range(3):
            urls = cluster.urls[number:] + cluster.urls[:number]
            client = await stack.enter_async_context(AsyncClient(urls))
            watch = await stack.enter_async_context(client.watch(prefix="watched/"))
            followers.append(group.create_task(follow(number, watch)))
        writers = [group.create_task(write(number)) for number in range(3)]
        await some_more(200)
        cluster.kill(0)
        killed.set()
        cursor, known = cursors[0], set(seen[0])
        await some_more(200)
        late = await stack.enter_async_context(AsyncClient([cluster.urls[1]]))
        resumed = await stack.enter_async_context(late.watch(prefix="watched/", cursor=cursor))
        seen.append(known)
        followers.append(group.create_task(follow(3, resumed)))
        go_on = False
        await asyncio.gather(*writers)
        with contextlib.suppress(TimeoutError):
            await wait(lambda: all(acknowledged <= each for each in seen))
        for follower in followers:
            follower.cancel()
    return acknowledged, seen


def test_a_watch_misses_nothing_that_was_acknowledged_while_a_node_is_killed(
    cluster: Cluster,
) -> None:
    try:
        acknowledged, seen = asyncio.run(_watched_writes(cluster))
    finally:
        cluster.start_again(0)
    assert len(acknowledged) >= 400
    for each in seen:
        assert acknowledged - each == set()
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "kv.cli.main", "watch", "cli/", "--prefix", "--max", "1"),
            *("--endpoints", cluster.urls[0]),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as printed:
        count = iter(range(10_000))
        until(
            lambda: (
                cluster.command("put", f"cli/{next(count)}", "word", number=1)
                and printed.poll() is not None
            ),
            "it prints a change",
        )
        assert printed.stdout is not None
        line = printed.stdout.read()
    assert line.split()[:1] == ["put"]
    assert "word" in line


def test_all_is_there_after_a_restart_and_another_mode_is_refused(cluster: Cluster) -> None:
    cluster.command("put", "last", "word", "--level", "all")
    cluster.stop()
    again = Cluster(cluster.home, cluster.base)
    try:
        assert again.command("get", "last", number=1) == "word\n"
    finally:
        again.stop()
    done = subprocess.run(
        [sys.executable, "-m", "kv.cli.main", "cluster", "--data", str(cluster.home / "data")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "holds a leaderless cluster" in done.stderr
