"""What `etcdctl check perf` prints, read."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv.peers import etcd
from kv.peers.cluster import ClusterFailedError
from kv.peers.etcd import EtcdMissingError, parse_native

BAR = " 59 / 60   98.33%\n 60 / 60  100.00% 1m0s\n"
TOO_LOW = (
    "FAIL: Throughput too low: 1425 writes/s\nSlowest request took too long: 1.251414s\n"
    "Stddev too high: 0.156768s\nFAIL\n"
)
PASSED = (
    "PASS: Throughput is 150 writes/s\nPASS: Slowest request took 0.087509s\n"
    "PASS: Stddev is 0.011084s\nPASS\n"
)


@pytest.mark.parametrize(
    ("load", "output", "rate", "slowest", "lines"),
    [("l", TOO_LOW, 1_425, 1.251414, 3), ("s", PASSED, 150, 0.087509, 3)],
)
def test_its_verdict(load: str, output: str, rate: float, slowest: float, lines: int) -> None:
    read = parse_native(load, BAR + output)
    assert read.writes_per_second == rate
    assert read.slowest_s == slowest
    assert list(read.said) == output.splitlines()[:lines]
    assert read.as_json()["offered_per_second"] == {"l": 8_000, "s": 150}[load]


def test_without_a_figure_its_words_are_handed_on() -> None:
    with pytest.raises(ClusterFailedError, match=r"no throughput: .*context deadline"):
        parse_native("xl", "Error: context deadline exceeded")


def test_without_etcd_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd, "PACKAGE", "a-package-that-is-not-there")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EtcdMissingError, match="or measure with --only januskv"):
        etcd.need("etcd")


def test_etcd_of_the_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd, "PACKAGE", "a-package-that-is-not-there")
    binary = tmp_path / "etcd"
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert etcd.need("etcd") == binary
