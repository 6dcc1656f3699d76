"""The generator in processes of its own, and what they say when they fail."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from kv.load import ceiling, worker
from kv.load.plan import Load, Operation
from kv.load.worker import Child, GeneratorFailedError

LOAD = Load(Operation.PUT, (), 3, 0.3, 0.05, 10, 20)


async def test_two_processes_share_the_connections(peer: Callable[..., Any]) -> None:
    server = await peer()
    waited: list[float] = []
    load = Load(Operation.PUT, (server.address,), 3, 0.3, 0.05, 10, 20)
    outcome = await asyncio.to_thread(worker.run, load, 2, waited.append)
    assert len(server.by_connection) == 3
    assert outcome.errors == {}
    assert outcome.acknowledged == len(server.requests)
    assert outcome.answered <= outcome.histogram.total <= outcome.acknowledged
    assert waited, "the caller hears that time passes"


def test_the_ceiling_is_above_what_a_server_does() -> None:
    outcome = ceiling.measure(LOAD, lambda _: None)
    assert outcome.errors == {}
    assert outcome.per_second > 100


def test_a_generator_that_cannot_connect_says_why() -> None:
    load = Load(Operation.GET, (("127.0.0.1", 1),), 1, 0.1, 0.0, 1, 1)
    with pytest.raises(GeneratorFailedError, match=r"code 2: cannot connect to 127\.0\.0\.1:1"):
        worker.run(load, 1, lambda _: None)


def test_a_child_that_hangs_is_ended() -> None:
    with Child([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        child.begin("")
        with pytest.raises(GeneratorFailedError, match="not done after"):
            child.output(0.1, lambda _: None)
        process = child._process
    assert process.returncode == -9
