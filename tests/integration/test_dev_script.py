"""dev.py where it cannot do its work: one sentence that says what to do, nothing left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
