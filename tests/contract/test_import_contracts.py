"""Each import contract catches a planted violation, so that a green `check` means something."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("kv", "raftgroups", "storage", "chaos")

PLANTED = {
    "layers: storage -> kv": ("storage/memory.py", "import kv.cli", "layers"),
    "layers: raftgroups -> kv": ("raftgroups/transport.py", "import kv.cli", "layers"),
    "layers: kv -> chaos": ("kv/cli/progress.py", "import chaos.sim", "layers"),
    "pure: time in engine.py": ("storage/engine.py", "import time", "pure"),
    "pure: asyncio in errors.py": ("storage/errors.py", "import asyncio", "pure"),
    "pure: an engine in engine.py": ("storage/engine.py", "import storage.memory", "pure"),
    "door: lmdb in memory.py": ("storage/memory.py", "import lmdb", "door-lmdb"),
    "door: lmdb in kv": ("kv/cli/progress.py", "import lmdb", "door-lmdb"),
    "door: rocksdict in kv": ("kv/cli/progress.py", "import rocksdict", "door-rocksdict"),
    "door: pysyncobj in kv": ("kv/cli/progress.py", "import pysyncobj", "door-pysyncobj"),
    "door: aiohttp in storage": ("storage/memory.py", "import aiohttp", "door-web"),
    "door: aiohttp in kv/cli": ("kv/cli/progress.py", "import aiohttp", "door-web"),
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the contracts look at."""
    copy = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def lint_imports(tree: Path, contract: str) -> subprocess.CompletedProcess[str]:
    linter = Path(sys.executable).parent / "lint-imports"
    return subprocess.run(
        [linter, "--contract", contract, "--no-cache"],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "PATH": str(linter.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_fails_its_contract(tree: Path, planted: str) -> None:
    name, line, contract = PLANTED[planted]
    file = tree / name
    clean = file.read_text()
    file.write_text(clean + f"\n{line}\n")
    try:
        result = lint_imports(tree, contract)
    finally:
        file.write_text(clean)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BROKEN" in result.stdout


@pytest.mark.parametrize("contract", sorted({contract for _, _, contract in PLANTED.values()}))
def test_the_tree_as_it_is_keeps_every_contract(tree: Path, contract: str) -> None:
    result = lint_imports(tree, contract)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "KEPT" in result.stdout


BANNED = {
    "import aiohttp.web": "kv/__init__.py",
    "from aiohttp import web": "kv/__init__.py",
    "from time import monotonic": "storage/engine.py",
    "import random\n\nROLL = random.random()": "raftgroups/transport.py",
    "from asyncio import create_task": "storage/committer.py",
}


@pytest.mark.parametrize("line", BANNED)
def test_a_banned_name_fails_the_lint(tree: Path, line: str) -> None:
    ruff = Path(sys.executable).parent / "ruff"
    result = subprocess.run(
        [ruff, "check", "--select", "TID251", "--stdin-filename", tree / BANNED[line], "-"],
        cwd=tree,
        input=line + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "TID251" in result.stdout
