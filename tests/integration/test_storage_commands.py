"""The command line as a user meets it: bench, backup, restore, in processes of their own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.datadir import DataDirectory, RegimeName
from storage.engine import Batch
from storage.environment import open_engine
from storage.system_clock import SystemClock

ENGINES = ("lmdb", "rocksdb")


def januskv(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from kv.cli.main import entry; entry()", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(*words: object) -> str:
    """The one line of a call that must be refused with exit code 2."""
    done = januskv(*words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def tree(path: Path) -> dict[str, str]:
    """Every file with a digest of its bytes: to see that nothing changed."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(params=ENGINES)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A stopped node's data directory with a thousand keys."""
    path = tmp_path / "data"
    with DataDirectory.open(path, create=True, cluster_id="c1") as directory:
        engine = open_engine(directory, RegimeName.STRONG, request.param, clock=SystemClock())
        batch = Batch()
        for number in range(1_000):
            batch.put(b"key%d" % number, b"value%d" % number)
        engine.write(batch, sync=True)
        engine.close()
    return path


@pytest.fixture
def holder(data: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the directory open."""
    script = (
        "import sys; from pathlib import Path; from storage.datadir import DataDirectory\n"
        "directory = DataDirectory.open(Path(sys.argv[1]), create=False)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, data],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_bench_engines_prints_a_table_and_writes_json_and_a_chart(tmp_path: Path) -> None:
    done = januskv(
        "bench", "engines", "--keys", 2_000, "--dir", tmp_path / "disk", "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    for word in ("fill", "overwrite", "read", "scan", "delete", "memory", "lmdb", "rocksdb"):
        assert word in done.stdout
    document = json.loads((tmp_path / "out" / "engines.json").read_text())
    assert [result["engine"] for result in document["results"]] == ["memory", "lmdb", "rocksdb"]
    for result in document["results"]:
        phases = {phase["name"]: phase for phase in result["phases"]}
        assert phases["fill"]["operations"] == phases["scan"]["operations"] == 2_000
        assert all(0 < phase["p50_us"] <= phase["p99_us"] for phase in phases.values())
        if result["engine"] != "memory":
            assert result["write_amplification"] > 1
            assert result["space_amplification"] > 1
    ET.parse(tmp_path / "out" / "engines.svg")
    assert list((tmp_path / "disk").iterdir()) == [], "the bench cleans up after itself"


def test_bench_raw_prints_the_ratios(tmp_path: Path) -> None:
    done = januskv(
        "bench", "engines", "--engine", "lmdb", "--raw", "--keys", 1_000, "--json",
        "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout)["ratios"]
    assert [ratio["loop"].split()[0] for ratio in ratios] == ["put,", "get", "mvcc"]
    assert all(ratio["ratio"] > 0 for ratio in ratios)
    assert "python" in ratios[-1]["note"]


def test_backup_verify_restore_brings_everything_back(data: Path, tmp_path: Path) -> None:
    backup, again = tmp_path / "backup", tmp_path / "again"
    assert "whole" not in januskv("backup", backup, "--data", data).stdout
    verified = januskv("backup", backup, "--verify")
    assert verified.returncode == 0
    assert "is whole" in verified.stdout
    restored = januskv("restore", backup, "--data", again)
    assert restored.returncode == 0, restored.stderr
    assert "new incarnation" in restored.stdout
    with DataDirectory.open(data, create=False) as directory:
        before = directory.identity
    with DataDirectory.open(again, create=False, cluster_id="c1") as directory:
        assert directory.identity.node_id == before.node_id
        assert directory.identity.incarnation != before.incarnation
        name = json.loads((again / "strong" / "environment.json").read_text())["engine"]
        engine = open_engine(directory, RegimeName.STRONG, name, clock=SystemClock())
        with engine.snapshot() as snapshot:
            assert len(snapshot.scan().items) == 1_000
            assert snapshot.get(b"key999") == b"value999"
        engine.close()


def test_a_damaged_backup_is_named_and_never_restored(data: Path, tmp_path: Path) -> None:
    backup, again = tmp_path / "backup", tmp_path / "again"
    januskv("backup", backup, "--data", data)
    victim = max(backup.rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    damaged = bytearray(victim.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    victim.unlink()  # it may share its blocks with the living database
    victim.write_bytes(damaged)
    verified = januskv("backup", backup, "--verify")
    assert verified.returncode == 1
    assert victim.name in verified.stdout
    assert victim.name in refused("restore", backup, "--data", again)
    assert not again.exists()


def test_wrong_calls_are_one_line_and_change_nothing(data: Path, tmp_path: Path) -> None:
    before = tree(data)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "photo.jpg").write_bytes(b"not ours")
    newer = tmp_path / "newer"
    newer.mkdir()
    stamp = json.loads((data / "januskv.json").read_text())
    (newer / "januskv.json").write_text(json.dumps({**stamp, "format": 99}))
    assert "there is none" in refused("backup", tmp_path / "b", "--data", tmp_path / "nowhere")
    assert "photo.jpg" in refused("backup", tmp_path / "b", "--data", foreign)
    assert "99" in refused("backup", tmp_path / "b", "--data", newer)
    assert "not empty" in refused("backup", foreign, "--data", data)
    assert "either --data DIR" in refused("backup", tmp_path / "b")
    assert "no checkpoint" in refused("restore", tmp_path / "b", "--data", tmp_path / "new")
    assert "did you mean --keys?" in refused("bench", "engines", "--kesy", 5)
    assert "outside" in refused("bench", "engines", "--keys", 1)
    assert tree(data) == before
    assert tree(foreign).keys() == {"photo.jpg"}


def test_a_directory_in_use_is_refused_and_names_the_holder(
    data: Path, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    before = tree(data)
    assert str(holder.pid) in refused("backup", tmp_path / "b", "--data", data)
    assert tree(data) == before
    assert not (tmp_path / "b").exists()
