"""dev.py where it cannot do its work: one sentence that says what to do, nothing left behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.polling import until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("dev.py", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    return clone


def run(clone: Path, *arguments: str, without: tuple[str, ...] = ()) -> tuple[int, str, str]:
    hidden = clone.parent / "hidden"
    hidden.mkdir()
    for module in without:
        (hidden / f"{module}.py").write_text("raise ImportError('hidden by a test')\n")
    done = subprocess.run(
        [sys.executable, clone / "dev.py", *arguments],
        env={"PYTHONPATH": str(hidden), "PATH": str(hidden)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_python_that_cannot_make_a_venv_is_told_which_package_to_install(clone: Path) -> None:
    code, out, err = run(clone, "check", without=("ensurepip", "pip", "virtualenv"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert code == 2
    assert out == ""
    assert err.splitlines()[-1].endswith(f"apt-get install python{version}-venv")
    assert "Traceback" not in err
    assert not (clone / ".venv").exists()


def test_an_unknown_command_is_refused_before_anything_is_made(clone: Path) -> None:
    code, _, err = run(clone, "tset")
    assert code == 2
    assert "tset" in err
    assert not (clone / ".venv").exists()


def test_help_works_without_an_environment(clone: Path) -> None:
    code, out, _ = run(clone, "--help")
    assert code == 0
    for command in ("up", "test", "check", "bench", "sim"):
        assert f"    {command} " in out
    assert not (clone / ".venv").exists()


def interpreter(folder: Path, name: str, version: str, flags: str) -> None:
    """Something that says of itself what an interpreter would, and makes no environment."""
    program = folder / name
    said = f'["{program}", {version}, {flags}]'
    program.write_text(f"#!/bin/sh\n[ \"$2\" = -c ] && echo '{said}'\n")
    program.chmod(0o755)


def test_an_interpreter_without_optimisation_gives_way_to_an_optimised_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    interpreter(first, "python3.11", "[3, 11, 7]", "false")
    interpreter(first, "python3.12", "[3, 12, 1]", "false")
    interpreter(second, "python3.11", "[3, 11, 2]", "true")
    interpreter(second, "python3.12", "[3, 12, 0]", "true")
    interpreter(second, "python3", "[3, 9, 0]", "true")
    (second / "python3.13").write_text("no program")
    monkeypatch.setenv("PATH", f"{first}:{second}:{tmp_path / 'nowhere'}")
    monkeypatch.delenv("DEV_PYTHON", raising=False)
    dev = load()

    monkeypatch.setattr(sys, "executable", str(first / "python3.11"))
    order = [each.program for each in dev.pythons()]
    kept = [str(second / name) for name in ("python3.11", "python3.12")]
    assert order == [*kept, str(first / "python3.11")], "the same minor version first"

    monkeypatch.setattr(sys, "executable", str(second / "python3.12"))
    assert [each.program for each in dev.pythons()] == [str(second / "python3.12")]


def test_a_named_interpreter_is_taken_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter(tmp_path, "mine", "[3, 12, 1]", "false")
    interpreter(tmp_path, "old", "[3, 10, 13]", "true")
    dev = load()
    monkeypatch.setenv("DEV_PYTHON", str(tmp_path / "mine"))
    assert [each.program for each in dev.pythons()] == [str(tmp_path / "mine")]
    for wrong in ("old", "missing"):
        monkeypatch.setenv("DEV_PYTHON", str(tmp_path / wrong))
        with pytest.raises(dev.DevError, match=wrong):
            dev.pythons()


CHILD = """
import os, pathlib, signal, sys
def end(*_):
    raise SystemExit(7)
signal.signal(signal.SIGTERM, end)
here = pathlib.Path(sys.argv[1])
(here / "new").write_text(str(os.getpid()))
(here / "new").rename(here / "pid")
while True:
    signal.pause()
"""
PARENT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("dev", sys.argv[1])
dev = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dev)
raise SystemExit(dev.run(sys.executable, "-c", *sys.argv[2:]))
"""


def test_whoever_ends_it_ends_what_it_has_started(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, ROOT / "dev.py", CHILD, tmp_path])
    child = 0
    try:
        until((tmp_path / "pid").exists, "the child runs")
        child = int((tmp_path / "pid").read_text())
        parent.terminate()
        assert parent.wait(20.0) == 7
        assert not Path(f"/proc/{child}").exists()
    finally:
        parent.kill()
        parent.wait()
        if child and Path(f"/proc/{child}").exists():
            os.kill(child, signal.SIGKILL)


def load() -> Any:
    spec = importlib.util.spec_from_file_location("dev_of_the_clone", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
