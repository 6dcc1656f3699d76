"""`januskv bench raft` in a process of its own: its shape and its sanity, never its speed."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest


def januskv(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from kv.cli.main import entry; entry()", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_bench_raft_writes_sound_figures(tmp_path: Path) -> None:
    done = januskv(
        "bench", "raft", "--groups", "1,3", "--seconds", 0.2, "--payload-bytes", 33, "--json",
        "--dir", tmp_path / "disk", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "out" / "raft.json").read_text())
    assert document["payload_bytes"] == 33
    phases = document["phases"]
    loads = [
        ("write", 1),
        ("write", 64),
        ("write", 256),
        ("read-leader", 64),
        ("read-follower", 64),
    ]
    assert [(phase["groups"], phase["what"], phase["in_flight"]) for phase in phases] == [
        (groups, *load) for groups in (1, 3) for load in loads
    ]
    for phase in phases:
        assert phase["seconds"] >= 0.2
        assert phase["operations"] > 0
        # A busy machine may stall a disk long enough for a leader to step down: few, not none.
        assert phase["failed"] < phase["operations"]
        assert 0 < phase["p50_us"] <= phase["p99_us"]
        assert phase["cpu_us"] > 0
        assert phase["per_second"] == pytest.approx(phase["operations"] / phase["seconds"])
    for phase in phases:
        if phase["what"] != "write":
            assert phase["entries"] == 0, "a read point writes nothing"
        elif phase["in_flight"] == 1:
            # One at a time: an entry each, but for the one that the edge of the window cut in two.
            assert phase["entries"] >= phase["operations"] - 1
            # Nobody acknowledges what is not synced on a majority: two syncs an operation.
            assert phase["syncs"] >= 2 * (phase["operations"] - 1)
        else:
            assert phase["operations"] > phase["entries"], "operations that wait share an entry"
    idle = document["idle"]
    assert idle["groups"] == 64
    assert idle["seconds"] >= 1
    assert 0 < idle["cpu_share"] < 1
    assert idle["holds"] == (idle["cpu_share"] < 0.03)
    ET.parse(tmp_path / "out" / "raft.svg")
    assert list((tmp_path / "disk").iterdir()) == [], "the bench cleans up after itself"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--groups", "1,many"], "'many' is not a whole number"),
        (["--groups", "0"], "outside 1..1024"),
        (["--seconds", "0.01"], "outside 0.1..3600"),
        (["--seconds", "nan"], "outside 0.1..3600"),
        (["--payload-bytes", "0"], "outside 1..1048576"),
        (["--payload-byte", "many"], "is not a whole number"),
    ],
)
def test_wrong_calls_are_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from kv.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["bench", "raft", *words])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert says in printed
