"""Child processes that do not outlive the program that started them, however that one ended.

A supervisor ends its children on its way out, but `kill -9` leaves it no way out. So a child on the
leash asks the kernel, before it does anything else, to kill it when its parent is gone. The kernel
takes the THREAD that started the child for its parent; therefore one thread, which lives as long as
this program, starts them all.

Only Linux can do this; elsewhere children are as free as ever.

Invariant: a child that has begun its own work dies with this program, also while it is frozen.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final

PR_SET_PDEATHSIG: Final = 1
ROOT: Final = Path(__file__).parents[1]

_starter: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="leash")


def start(
    module: str,
    arguments: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] = subprocess.DEVNULL,
    start_new_session: bool = True,
) -> subprocess.Popen[bytes]:
    """A module of ours as a program. A session of its own: ctrl-C is for the parent, which ends its
    children in good order."""
    program = (
        f"from kv.leash import hold; hold({os.getpid()}); "
        f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return _start(
        [sys.executable, "-P", "-c", program, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment(),
        start_new_session=start_new_session,
    )


def start_program(
    command: Sequence[str],
    *,
    stdout: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Any program, in a session of its own. It sees nothing of us, and of `env` all."""
    program = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); from kv.leash import hold; "
        f"hold({os.getpid()}); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    return _start(
        [sys.executable, "-P", "-S", "-c", program, *command],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=env,
        start_new_session=True,
    )


def pool(jobs: int) -> ProcessPoolExecutor:
    """Of fresh processes. Hand it its first task in a thread that stays."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, context, initializer=hold, initargs=(os.getpid(),))


def _start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    def begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, **options)

    return _starter.submit(begin).result()


def environment() -> dict[str, str]:
    """So that a child imports the code that runs here, wherever it was started."""
    root = str(ROOT)
    known = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root}


def hold(parent: int) -> None:
    """In the child: die with this parent from now on, or at once if it is gone already."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel does not tie this process to its parent")
    if os.getppid() != parent:
        raise SystemExit(f"the program that started this one, process {parent}, is gone")
