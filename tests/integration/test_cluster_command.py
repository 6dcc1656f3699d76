"""`januskv cluster` and `januskv serve` as a user meets them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kv.cli.cluster import plan, prepare
from storage.errors import InvalidOptionError

pytestmark = pytest.mark.integration

WAIT_S = 60.0
JANUSKV = [sys.executable, "-m", "kv.cli.main"]


def free_base_port() -> int:
    """The first of a block of ports that are free now, away from the system's own choices."""
    import socket

    for base in range(20_000 + os.getpid() % 5_000, 32_000, 40):
        try:
            for offset in (0, 1, 10, 11, 20, 21):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", base + offset))
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")


class Running:
    def __init__(self, data: Path, base_port: int, nodes: int, *more: str) -> None:
        self.ready_file = data.parent / "ready.json"
        self.out_path = data.parent / "out"
        arguments = [
            "--data",
            str(data),
            "--base-port",
            str(base_port),
            "--nodes",
            str(nodes),
            *more,
        ]
        with self.out_path.open("wb") as out:
            self.process = subprocess.Popen(
                [*JANUSKV, "cluster", *arguments, "--ready-file", str(self.ready_file)],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    def wait_ready(self) -> list[dict[str, Any]]:
        until = time.monotonic() + WAIT_S
        while not self.ready_file.exists():
            assert self.process.poll() is None, self.out
            assert time.monotonic() < until, self.out
            time.sleep(0.02)
        ready: list[dict[str, Any]] = json.loads(self.ready_file.read_text())
        return ready

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@pytest.fixture
def running(tmp_path: Path) -> Iterator[list[Running]]:
    started: list[Running] = []
    yield started
    for each in started:
        if each.process.poll() is None:
            each.stop()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_printed_lines_work_and_a_restart_resumes(
    tmp_path: Path, running: list[Running]
) -> None:
    base_port = free_base_port()
    cluster = Running(tmp_path / "data", base_port, 3)
    running.append(cluster)
    ready = cluster.wait_ready()
    assert [each["name"] for each in ready] == ["n1", "n2", "n3"]
    assert [each["url"] for each in ready] == [
        f"http://127.0.0.1:{base_port + 10 * n}" for n in range(3)
    ]
    lines = [line.strip() for line in cluster.out.splitlines() if line.strip().startswith("curl ")]
    assert len(lines) == 5
    answers = [
        subprocess.run(
            ["curl", "-s", *shlex.split(line)[1:]], capture_output=True, text=True, check=False
        ).stdout
        for line in lines
    ]
    assert json.loads(answers[0])["status"] == "created"
    assert json.loads(answers[1])["value"] == "hello"
    assert json.loads(answers[2])["value"] == 1
    assert json.loads(answers[3].splitlines()[0])["type"] == "created"
    assert "greeting" in answers[3]
    assert json.loads(answers[4])["kvs"][0]["value"] == "aGVsbG8="
    assert cluster.stop() == 0
    assert not any(is_alive(each["pid"]) for each in ready)
    assert not cluster.ready_file.exists()
    again = Running(tmp_path / "data", base_port, 3)
    running.append(again)
    url = again.wait_ready()[2]["url"]
    assert get(f"{url}/api/v1/keys/greeting")["value"] == "hello"
    assert again.stop(signal.SIGINT) == 0


def test_a_node_that_cannot_start_is_told_and_nothing_is_left(
    tmp_path: Path, running: list[Running]
) -> None:
    import socket

    base_port = free_base_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base_port))
        taken.listen()
        cluster = Running(tmp_path / "data", base_port, 1)
        running.append(cluster)
        assert cluster.process.wait(WAIT_S) == 1
    assert "cannot listen for clients" in cluster.out
    assert "node.listen" in cluster.out


def test_the_size_of_a_cluster_stays_what_it_was(tmp_path: Path) -> None:
    prepare(tmp_path / "data", plan(tmp_path / "data", 3, 7400), mode="strong", engine=None)
    with pytest.raises(InvalidOptionError, match="holds a cluster of 3 nodes"):
        prepare(tmp_path / "data", plan(tmp_path / "data", 5, 7400), mode="strong", engine=None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("of somebody else")
    with pytest.raises(InvalidOptionError, match="is not empty"):
        prepare(tmp_path / "other", plan(tmp_path / "other", 3, 7400), mode="strong", engine=None)
    with pytest.raises(InvalidOptionError, match="lower --base-port"):
        plan(tmp_path, 99, 65_000)


def test_a_second_process_on_the_same_data_is_refused(
    tmp_path: Path, running: list[Running]
) -> None:
    cluster = Running(tmp_path / "data", free_base_port(), 1)
    running.append(cluster)
    cluster.wait_ready()
    second = subprocess.run(
        [*JANUSKV, "serve", "--data", str(tmp_path / "data/n1/data"), "--listen", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert second.returncode == 2
    assert "in use" in second.stderr or "another process" in second.stderr
