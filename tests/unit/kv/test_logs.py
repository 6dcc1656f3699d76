"""Installing the log: what goes where, what a stopped reader costs, and that all is put back."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
import warnings
from collections.abc import Iterator

import pytest

from kv.config.sections import LogSection
from kv.logs import Logs, install

LOG = logging.getLogger("kv.test_logs")


class Gate(io.StringIO):
    """A stream that can be stopped, as a terminal or a full pipe is."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.reached = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.open.wait(20)
        return super().write(text)


@pytest.fixture
def installed() -> Iterator[list[Logs]]:
    logs: list[Logs] = []
    yield logs
    for one in logs:
        one.close()


def test_events_at_the_level_and_above_are_written(installed: list[Logs]) -> None:
    stream = io.StringIO()
    installed.append(install(LogSection(format="json", level="info"), "n1", stream))
    LOG.debug("not this")
    LOG.info("this", extra={"count": 2})
    LOG.warning("and %s", "this")
    logging.getLogger("aiohttp.access").info("no request")
    assert installed[0].flush()
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["message"] for event in events] == ["this", "and this"]
    assert events[0]["count"] == 2
    assert events[0]["node"] == "n1"


def test_warnings_of_python_are_events() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs = install(LogSection(), "n1", stream)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
        logs.close()
    assert "py.warnings" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_everything_is_put_back() -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("asyncio").level)
    logs = install(LogSection(level="debug"), "n1", io.StringIO())
    assert root.level == logging.DEBUG
    logs.close()
    assert (root.level, list(root.handlers), logging.getLogger("asyncio").level) == before


def test_what_waits_is_written_at_the_end() -> None:
    stream = Gate()
    logs = install(LogSection(), "n1", stream)
    for number in range(100):
        LOG.info("event %d", number)
    stream.open.set()
    logs.close()
    assert stream.getvalue().count("\n") == 100


async def test_a_stopped_reader_holds_nobody_up_and_the_loss_is_told() -> None:
    stream = Gate()
    logs = install(LogSection(format="json"), "n1", stream, lines_max=10)
    try:
        LOG.info("first")
        assert await asyncio.to_thread(stream.reached.wait, 20)
        for number in range(50):  # would stand still here, were the stream waited for
            LOG.info("event %d", number)
        assert logs.dropped == 40
        assert not logs.flush(0.01)
    finally:
        stream.open.set()
        logs.close()
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["message"] for event in events[:11]] == ["first"] + [
        f"event {number}" for number in range(10)
    ]
    assert events[11]["lines"] == 40
    assert len(events) == 12


def test_a_reader_that_never_comes_back_does_not_keep_the_process() -> None:
    stream = Gate()
    logs = install(LogSection(), "n1", stream)
    LOG.info("first")
    logs.close(0.01)
    stream.open.set()


def test_a_closed_stream_is_counted_and_harmless() -> None:
    stream = io.StringIO()
    logs = install(LogSection(), "n1", stream)
    stream.close()
    LOG.info("nobody reads this")
    assert logs.flush()
    assert logs.dropped == 1
    logs.close()


def test_a_stream_of_another_encoding_gets_escapes() -> None:
    raw = io.BytesIO()
    logs = install(LogSection(), "n1", io.TextIOWrapper(raw, encoding="ascii"))
    LOG.info("grüße")
    assert logs.flush()
    assert b"gr\\xfc\\xdfe" in raw.getvalue()
    logs.close()
