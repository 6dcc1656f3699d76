"""Programs that are started are ended, and their last words handed on."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from kv.peers import cluster
from kv.peers.cluster import ClusterFailedError, free_ports, program, wait_until

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def first_words(log: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        text = log.read_text()
        if text.endswith("\n"):
            return text
        time.sleep(0.01)
    raise AssertionError("the program said nothing")


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_childs_child_ends_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with program([sys.executable, "-c", PARENT], log) as process:
        child = int(first_words(log))
        assert is_running(child)
    assert process.returncode is not None
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(child)


def test_one_that_does_not_want_to_end_is_made_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "STOP_MAX_S", 0.2)
    log = tmp_path / "log"
    stubborn = "import signal, time; signal.signal(15, 1); print('up', flush=True); time.sleep(60)"
    with program([sys.executable, "-c", stubborn], log) as process:
        first_words(log)
    assert process.returncode == -9


def test_one_that_ends_early_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said = "import sys; [print(n) for n in range(9)]; sys.exit('no disk')"
    with (
        program([sys.executable, "-c", said], log) as process,
        pytest.raises(ClusterFailedError, match=r"x ended with code 1: .*no disk"),
    ):
        wait_until(lambda: False, "x", [(process, log)])


def test_one_that_never_serves_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "START_MAX_S", 0.1)
    log = tmp_path / "log"
    with (
        program([sys.executable, "-c", "import time; time.sleep(60)"], log) as process,
        pytest.raises(ClusterFailedError, match="did not serve within 0 s: it said nothing"),
    ):
        wait_until(lambda: False, "x", [(process, log)])


def test_ports_are_free_and_in_range() -> None:
    base = free_ports((0, 1, 10, 11, 20, 21))
    assert cluster.PORTS_FROM <= base < cluster._outgoing_from() - 21, "no outgoing connection's"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 10))
        assert not cluster._is_free(base + 10)
