"""Children on the leash: they live as long as the program that started them, and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kv import leash
from tests.polling import until

CHILD = "import os, sys, time; print(os.getpid(), sys.argv[1:], flush=True); time.sleep(60)"
PARENT = """
import sys, threading, time
from kv import leash

def start():
    STARTED

thread = threading.Thread(target=start)  # faults start nodes in threads that end
thread.start()
thread.join()
sys.stdin.read()
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.parametrize(
    "started",
    [
        'leash.start("leashed_child", ["a word"], stdout=sys.stdout)',
        'leash.start_program([sys.executable, "-m", "leashed_child", "a word"], stdout=sys.stdout)',
    ],
    ids=["module", "program"],
)
def test_a_frozen_child_dies_with_its_parent_and_not_with_a_thread(
    tmp_path: Path, started: str
) -> None:
    (tmp_path / "leashed_child.py").write_text(CHILD)
    surroundings = leash.environment()
    surroundings["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.replace("STARTED", started)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=surroundings,
    ) as parent:
        assert parent.stdout is not None
        pid, _, words = parent.stdout.readline().strip().partition(" ")
        child = int(pid)
        try:
            assert words == "['a word']"
            assert is_running(child)  # the thread that asked for it has ended
            os.kill(child, signal.SIGSTOP)
            parent.kill()
            parent.wait()
            until(lambda: not is_running(child), "the child outlives its parent")
        finally:
            if is_running(child):
                os.kill(child, signal.SIGKILL)


POOLED = """
import os, time
from kv import leash

if __name__ == "__main__":
    pool = leash.pool(1)
    worker = pool.submit(os.getpid).result()
    pool.submit(time.sleep, 60)
    print(worker, flush=True)
    time.sleep(60)
"""


def test_the_workers_of_a_pool_die_with_the_program(tmp_path: Path) -> None:
    """In the middle of what they do, which may take long."""
    program = tmp_path / "pooled.py"
    program.write_text(POOLED)
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        text=True,
        env=leash.environment(),
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        try:
            assert is_running(worker)
            parent.kill()
            parent.wait()
            until(lambda: not is_running(worker), "the worker outlives the program")
        finally:
            if is_running(worker):
                os.kill(worker, signal.SIGKILL)


def test_one_whose_parent_was_gone_before_it_began_ends_at_once() -> None:
    program = "from kv.leash import hold; hold(1); print('still here')"
    ended = subprocess.run(
        [sys.executable, "-c", program], env=leash.environment(), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "still here" not in ended.stdout
    assert "process 1, is gone" in ended.stderr
