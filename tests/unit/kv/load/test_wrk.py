"""wrk's part: its script, and its outcome read back. wrk itself runs only where it is installed."""

from __future__ import annotations

import asyncio
import json
import random
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kv.load import wrk
from kv.load.plan import Load, Operation, Outcome, Speech
from kv.load.requests import make_head, make_tails
from kv.load.worker import GeneratorFailedError

LOAD = Load(Operation.PUT, (("127.0.0.1", 1), ("127.0.0.1", 2)), 8, 1.0, 0.0, 10, 20)
ERRORS = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}


def said(**other: Any) -> str:
    document = {
        "requests": 1_000,
        "us": 2_000_000,
        "bytes": 300_000,
        "errors": ERRORS,
        "percentiles": [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100],
        **other,
    }
    return f"Running 1s test\n{wrk.MARK}{json.dumps(document)}\n"


def test_its_outcome() -> None:
    outcome = wrk.outcome_of(said(), LOAD)
    assert (outcome.answered, outcome.seconds, outcome.per_second) == (1_000, 2.0, 500.0)
    assert outcome.acknowledged == 1_000
    assert outcome.unsettled == LOAD.connections, "it leaves what is under way"
    assert outcome.histogram.total == 1_000
    assert outcome.histogram.percentile_us(50) == 50
    assert outcome.histogram.percentile_us(99) == 90


def test_its_errors_are_errors() -> None:
    outcome = wrk.outcome_of(said(errors={**ERRORS, "status": 4, "timeout": 1}), LOAD)
    assert outcome.errors == {"wrk: status": 4, "wrk: timeout": 1}
    assert outcome.acknowledged == 996
    assert outcome.unsettled == LOAD.connections + 5


def test_answers_of_another_size_than_those_looked_at_are_an_error() -> None:
    looked_at = Outcome(answered=10, answer_bytes=303.0)
    same, other = wrk.outcome_of(said(), LOAD), wrk.outcome_of(said(bytes=290_000), LOAD)
    assert same.answer_bytes == 300.0
    wrk.check_size(same, looked_at)
    wrk.check_size(other, looked_at)
    assert same.errors == {}
    assert other.errors == {"wrk: answers of 290 bytes, those looked at had 303": 1}


def test_without_an_outcome_its_words_are_handed_on() -> None:
    with pytest.raises(GeneratorFailedError, match="unable to connect"):
        wrk.outcome_of("unable to connect to 127.0.0.1:1", LOAD)


def test_it_cannot_spread_fewer_connections_than_nodes() -> None:
    assert wrk.can_play(LOAD)
    assert not wrk.can_play(Load(Operation.PUT, LOAD.endpoints, 1, 1.0, 0.0, 10, 20))


@pytest.mark.skipif(wrk.wrk_binary() is None, reason="wrk is not installed")
async def test_wrk_plays_the_same_requests(peer: Callable[..., Any]) -> None:
    servers = [await peer(), await peer()]
    binary = wrk.wrk_binary()
    assert binary is not None
    load = Load(Operation.PUT, tuple(server.address for server in servers), 4, 1.0, 0.2, 10, 20)
    outcome = await asyncio.to_thread(wrk.run, binary, load, lambda _: None)
    assert outcome.errors == {}
    assert outcome.cpu_s > 0
    asked = sum(len(server.requests) for server in servers)
    assert outcome.acknowledged <= asked <= outcome.acknowledged + outcome.unsettled
    for server in servers:
        assert len(server.by_connection) in (4, 5), "wrk may try a connection first"
        host = b"Host: 127.0.0.1:%d\r\n" % server.address[1]
        assert all(host in request for request in server.requests), (
            "each thread reads its node's file"
        )
        put = json.loads(server.requests[-1].partition(b"\r\n\r\n")[2])
        assert b64decode(put["key"], validate=True).startswith(b"bench/00000000")
        assert len(b64decode(put["value"], validate=True)) == 20


def test_its_requests_are_those_of_the_own_generator(tmp_path: Path) -> None:
    load = replace(LOAD, seed=5)
    tails = make_tails(load, random.Random(5))
    for (host, port), found in zip(load.endpoints, written(load, tmp_path), strict=True):
        assert len(found) == load.keys
        assert {make_head(load.operation, host, port) + tail for tail in tails} == {*found}


def test_of_very_many_keys_a_thread_plays_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wrk, "PLAYED_MAX", 4)
    one, other = written(LOAD, tmp_path)
    assert len({*one}) == len({*other}) == 4
    bodies = [{request.partition(b"\r\n\r\n")[2] for request in file} for file in (one, other)]
    assert bodies[0] != bodies[1]


def written(load: Load, directory: Path) -> list[list[bytes]]:
    """The requests of each thread's file."""
    wrk.write_requests(load, directory / "requests")
    files = []
    for number in range(1, len(load.endpoints) + 1):
        data = (directory / f"requests.{number}").read_bytes()
        found = []
        while data:
            behind = wrk.DIGITS + int(data[: wrk.DIGITS])
            found.append(data[wrk.DIGITS : behind])
            data = data[behind:]
        files.append(found)
    return files


@pytest.mark.parametrize("operation", list(Operation))
@pytest.mark.parametrize("speech", [Speech.REST, Speech.QUORUM])
def test_the_rest_script_says_all_that_is_read(operation: Operation, speech: Speech) -> None:
    load = replace(LOAD, operation=operation, speech=speech, fresh=True, pause_ms=2.5)
    script = wrk.script_of(load, Path("requests"))
    assert "function delay() return 2.500 end" in script
    for name in ('"requests":', '"bytes":', '"us":', '"errors":', '"percentiles":'):
        assert name in script
    assert ("replicas" in script) is (speech is Speech.QUORUM)
