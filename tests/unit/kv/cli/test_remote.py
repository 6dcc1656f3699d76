"""The commands that talk to a cluster, through the entry point, against a served REST face."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kv.cli.main import main
from kv.client import Client
from storage.errors import JanusError


class Printed(NamedTuple):
    code: int
    out: str
    err: str
    raw: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Awaitable[Printed]]


@pytest.fixture
def run(
    rest: Any, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """A command as typed; its endpoint comes from the environment. `stdin`: what it reads."""
    monkeypatch.setenv("JANUSKV_ENDPOINTS", f"127.0.0.1:{rest.port}")

    async def call(*words: str, stdin: bytes = b"") -> Printed:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        code = await asyncio.to_thread(main, words)
        out, err = capfdbinary.readouterr()
        return Printed(code, out.decode(), err.decode(), out)

    return call


# --- keys ------------------------------------------------------------------------------------


async def test_put_get_del(run: Run) -> None:
    assert (await run("put", "a/b", "hello")).out == "created, version 2\n"
    assert (await run("put", "a/b", "hello", "--if-version", "2")).out == "updated, version 3\n"
    assert (await run("get", "a/b"))[:3] == (0, "hello\n", "")
    assert (await run("get", "a/b", "--revision", "2", "--level", "eventual")).code == 0
    found = (await run("get", "a/b", "--json")).json
    assert (found["key"], found["value"], found["version"]) == ("a/b", "hello", 3)
    assert (await run("del", "a/b"))[:3] == (0, "deleted, revision 4\n", "")
    missing = await run("get", "a/b")
    assert missing[:3] == (1, "", "januskv: a/b does not exist\n")
    assert (await run("get", "a/b", "--json")).json == {"key": "a/b", "found": False}
    assert (await run("del", "a/b")).code == 1


async def test_what_a_condition_refuses_is_exit_code_1(run: Run) -> None:
    await run("put", "k", "1")
    for words in (
        ("put", "k", "2", "--if-absent"),
        ("put", "k", "2", "--if-version", "77"),
        ("del", "k", "--if-version", "77"),
        ("put", "k", "2", "--lease", "77"),
        ("cas", "k", "2", "--expect-version", "0"),
    ):
        lost = await run(*words)
        assert (lost.code, lost.out) == (1, ""), words
        assert lost.err.startswith("januskv: ")
        assert lost.err.count("\n") == 1
    assert (await run("get", "k")).out == "1\n"
    assert (await run("cas", "k", "2", "--expect-value", "1")).code == 0
    lost = await run("cas", "k", "--delete", "--expect-version", "1", "--json")
    assert lost.json == {"key": "k", "success": False, "version": 3}
    assert (await run("cas", "k", "--delete", "--expect-version", "3")).out == "deleted\n"


async def test_values_come_from_input_and_files_and_go_out_as_they_are(
    run: Run, tmp_path: Path
) -> None:
    value = b"\xff\x00\x1b[2J\r\n"
    file = tmp_path / "value"
    file.write_bytes(value)
    assert (await run("put", "k", "--file", str(file))).code == 0
    assert (await run("get", "k")).out == "\\xff\\x00\\x1b[2J\\r\\n\n"
    assert (await run("get", "k", "--json")).json["encoding"] == "base64"
    await run("put", "k", "-", stdin=b"piped\n")
    assert (await run("get", "k", "--raw")).raw == b"piped\n"


async def test_many_keys(run: Run) -> None:
    for key in ("p/a", "p/long", "q"):
        await run("put", key, f"value of {key}")
    assert (await run("get", "p/", "--prefix")).out == (
        "p/a     value of p/a\np/long  value of p/long\n"
    )
    assert (await run("get", "p/", "--prefix", "--keys-only")).out == "p/a\np/long\n"
    rows = (await run("get", "", "--prefix", "--json", "--limit", "2")).lines
    assert [row["key"] for row in rows] == ["p/a", "p/long"]
    assert (await run("del", "p/", "--prefix")).out == "2 keys deleted\n"
    assert (await run("del", "p/", "--prefix")).code == 1


async def test_incr(run: Run) -> None:
    assert (await run("incr", "n")).out == "1\n"
    assert (await run("incr", "n", "-3")).out == "-2\n"
    assert (await run("incr", "n", "--json")).json["value"] == -1
    await run("put", "text", "x")
    wrong = await run("incr", "text")
    assert wrong.code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("get", "k", "--raw", "--json"),
        ("get", "k", "--limit", "3"),
        ("get", "", "--prefix", "--limit", "0"),
        ("put", "k"),
        ("put", "k", "v", "--file", "f"),
        ("put", "k", "--file", "/does/not/exist"),
        ("cas", "k", "v"),
        ("cas", "k", "--expect-version", "1"),
        ("del", "k", "--prefix", "--if-version", "3"),
        ("watch", "k", "--max", "0"),
        ("get", "k", "--endpoints", "ftp://x"),
        ("get", "x" * 500),
        ("txn", "/does/not/exist"),
        ("lock", "l", "--json", "--", "true"),
    ],
    ids=lambda words: " ".join(words)[:30],
)
async def test_a_wrong_call_is_one_line_and_exit_code_2(run: Run, words: tuple[str, ...]) -> None:
    wrong = await run(*words)
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.startswith("januskv: ")
    assert wrong.err.count("\n") == 1


async def test_an_unknown_outcome_has_an_exit_code_of_its_own(run: Run, rest: Any) -> None:
    class LostError(JanusError):
        code = "outcome_unknown"
        outcome = JanusError.outcome.__class__("unknown")

    rest.strong.fail_writes = lambda command: LostError("the leader went away")
    unknown = await run("put", "k", "v", "--timeout", "0.2")
    assert unknown.code == 3
    assert "may have taken effect" in unknown.err


async def test_nobody_there(run: Run, unused_tcp_port: int) -> None:
    nobody = await run(
        "get", "k", "--timeout", "0.2", "--endpoints", f"127.0.0.1:{unused_tcp_port}"
    )
    assert nobody.code == 2
    assert "januskv serve" in nobody.err


# --- watch -----------------------------------------------------------------------------------


async def test_watch_prints_a_line_an_event(run: Run) -> None:
    await run("put", "w/a", "1")
    await run("put", "w/b", "tab\there")
    await run("del", "w/a")
    seen = await run("watch", "w/", "--prefix", "--from", "2", "--max", "3", "--prev")
    assert seen.out.splitlines() == [
        "2  put     w/a  1  (was absent)",
        "3  put     w/b  tab\\there  (was absent)",
        "4  delete  w/a  (was 1)",
    ]
    lines = (await run("watch", "w/a", "--from", "2", "--max", "2", "--json")).lines
    assert [line["revision"] for line in lines] == [2, 4]
    assert lines[0]["events"][0]["value"] == "1"
    assert lines[1]["events"][0]["type"] == "delete"


# --- leases ----------------------------------------------------------------------------------


async def test_leases(run: Run) -> None:
    lease = (await run("lease", "grant", "60")).out.strip()
    assert (await run("lease", "grant", "60", "--id", lease)).code == 1
    await run("put", "held", "v", "--lease", lease)
    left = (await run("lease", "ttl", lease, "--keys")).out.splitlines()
    assert left[0].endswith("s of 60 s left")
    assert left[1] == "held"
    assert (await run("lease", "ttl", lease, "--keys", "--json")).json["keys"] == [{"key": "held"}]
    listed = (await run("lease", "list")).out.splitlines()
    assert listed[0].split() == ["LEASE", "TTL_S", "LEFT_S"]
    assert listed[1].split()[0] == lease
    assert (await run("lease", "list", "--json")).json["leases"][0]["id"] == lease
    assert (await run("lease", "keepalive", lease, "--once")).code == 0
    assert (await run("lease", "revoke", lease)).out == "revoked\n"
    for action in ("revoke", "ttl", "keepalive"):
        gone = await run("lease", action, lease)
        assert (gone.code, gone.out) == (1, ""), action
    assert (await run("get", "held")).code == 1


# --- locks -----------------------------------------------------------------------------------

PRINT_TOKEN = "import os, sys; print(os.environ['JANUSKV_LOCK_TOKEN']); sys.exit(7)"


async def test_a_command_runs_under_a_lock_and_gives_its_code(run: Run, rest: Any) -> None:
    tokens = []
    for _ in range(2):
        done = await run("lock", "door", "--", sys.executable, "-c", PRINT_TOKEN)
        assert done.code == 7
        tokens.append(int(done.out))
    assert tokens[1] > tokens[0]
    assert rest.strong.machine.leases.ids() == []
    missing = await run("lock", "door", "--", "/no/such/command")
    assert missing.code == 127
    killed = "import os; os.kill(os.getpid(), 15)"
    assert (await run("lock", "door", "--", sys.executable, "-c", killed)).code == 143


async def test_a_lock_that_another_one_has(run: Run) -> None:
    async with Client(os.environ["JANUSKV_ENDPOINTS"]) as client, client.lock("door"):
        held = await run("lock", "door", "--wait", "0", "--", "true")
        assert held.code == 1
        assert "held by another" in held.err


async def test_a_command_whose_lock_is_lost_is_ended(run: Run, rest: Any) -> None:
    sleeping = asyncio.ensure_future(
        run("lock", "door", "--ttl", "2", "--", sys.executable, "-c", "import time; time.sleep(60)")
    )
    async with asyncio.timeout(10):
        while not rest.strong.machine.leases.ids():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        while not any("/locks/" in template for template, *_ in rest.observed):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        rest.strong.pass_time(60)
        lost = await sleeping
    assert lost.code == 75
    assert "was lost" in lost.err


# --- transactions ----------------------------------------------------------------------------


async def test_txn_as_text_and_as_json(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "txn"
    file.write_text(
        "if stock absent   # nobody was first\nput stock 'four left'\nget stock\nelse\nget stock\n"
    )
    first = await run("txn", str(file))
    assert first.code == 0
    assert first.out.splitlines() == [
        "the conditions held, revision 2",
        "  put stock",
        "  stock = four left  (version 2)",
    ]
    second = await run("txn", str(file))
    assert second.code == 1
    assert second.out.splitlines()[0] == "a condition did not hold, revision 2"
    document = {"compare": [], "then": [{"op": "range", "prefix": ""}], "else": []}
    third = await run("txn", "--json", stdin=json.dumps(document).encode())
    assert third.json["results"][0]["keys"] == [
        {"key": "stock", "value": "four left", "version": 2}
    ]
    for wrong in (b'{"then": 3}', b'{"tehn": []}', b"{", b"fly away", b"if k is 3\nget k", b""):
        refused = await run("txn", stdin=wrong)
        assert refused.code == 2, wrong
        assert refused.err.count("\n") == 1


# --- nodes -----------------------------------------------------------------------------------


async def test_status_is_a_row_a_node(run: Run, rest: Any, unused_tcp_port: int) -> None:
    alone = await run("status")
    assert alone.code == 0
    head, row = alone.out.splitlines()
    assert head.split() == [
        "ENDPOINT", "NODE", "ROLE", "LEADER", "TERM", "LAG", "REVISION", "SIZE", "UP",
    ]  # fmt: skip
    assert row.split() == [
        f"http://127.0.0.1:{rest.port}",
        "one", "leader", "one", "5", "0", "1", "10", "B", "1.5", "s",
    ]  # fmt: skip
    both = f"127.0.0.1:{rest.port},127.0.0.1:{unused_tcp_port}"
    broken = await run("status", "--endpoints", both, "--timeout", "0.5")
    assert broken.code == 1
    assert "no answer" in broken.out
    document = (await run("status", "--endpoints", both, "--timeout", "0.5", "--json")).json
    assert sorted(node["answers"] for node in document["nodes"]) == [False, True]
    assert document["cluster"]["cluster_id"] == "c"


async def test_health_is_a_read_at_each_endpoint(run: Run, rest: Any, unused_tcp_port: int) -> None:
    well = await run("health")
    assert well.code == 0
    assert "healthy" in well.out
    both = f"127.0.0.1:{rest.port},127.0.0.1:{unused_tcp_port}"
    sick = await run("health", "--endpoints", both, "--timeout", "0.3", "--json")
    assert sick.code == 1
    assert [each["healthy"] for each in sick.json["endpoints"]] == [True, False]
