"""When memory stands still, and how it is said."""

from __future__ import annotations

from kv.cli.peers_table import memory
from kv.peers.endurance import WISHED_BYTES, Endurance, Plan, Sample

MB = 1_000_000


def found(*largest: int, problem: str | None = None) -> Endurance:
    samples = [Sample(10.0 * at, (30 * MB, bytes_)) for at, bytes_ in enumerate(largest)]
    return Endurance("a system", samples, 100.0, 200.0, problem)


def test_what_fills_caches_at_first_is_no_growth() -> None:
    run = found(*[50 * MB, 90 * MB, 100 * MB, 100 * MB, 101 * MB, 99 * MB, 100 * MB, 104 * MB])
    assert run.largest_bytes == 104 * MB
    assert run.growth == 1.04
    assert run.holds


def test_memory_that_goes_on_growing_or_is_too_much_is_told() -> None:
    growing = found(*[(50 + 5 * at) * MB for at in range(12)])
    assert growing.largest_bytes < WISHED_BYTES
    assert growing.growth > 1.3
    assert not growing.holds
    large = found(*[WISHED_BYTES] * 8)
    assert large.growth == 1.0
    assert not large.holds
    text = "\n".join(memory(growing, Plan()))
    assert "holds: the largest had 105.0 MB" in text
    assert "MISSED: the last quarter's largest is 1.400 times" in text
    assert text.count("28.6 MiB") >= 12, "a line for each of few samples"


def test_a_run_that_did_not_work_says_so() -> None:
    text = "\n".join(memory(found(50 * MB, problem="3 x lost"), Plan()))
    assert "no result: 3 x lost" in text
