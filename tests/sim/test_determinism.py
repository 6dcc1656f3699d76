"""The same seed is the same run: in another process, under another PYTHONHASHSEED."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.sim


def trace_hash(seed: int, hash_seed: str) -> str:
    command = [
        sys.executable, "-m", "chaos.cli", "sim",
        "--seed", str(seed), "--seconds", "18", "--jobs", "1",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^trace hash (\w+)$", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return found[1]


def test_a_seed_replays_in_another_process_and_under_another_hash_seed() -> None:
    hashes = {trace_hash(3, hash_seed) for hash_seed in ("0", "1", "4242")}
    assert len(hashes) == 1
    assert trace_hash(4, "0") not in hashes
