"""When memory counts as rising with the length of an outage."""

from __future__ import annotations

from chaos.outage import MIB, Sample, judge


def run_of(memory_mib: list[float], *, refused: int = 5) -> list[Sample]:
    return [
        Sample(float(at), 100 * at, 0, 2_000, refused, int(memory * MIB))
        for at, memory in enumerate(memory_mib)
    ]


def test_memory_that_came_to_its_bound_is_good() -> None:
    assert judge(run_of([50, 70, 90, 100, 101, 102, 102, 103, 103])) is None


def test_memory_that_goes_on_rising_is_not() -> None:
    wrong = judge(run_of([50, 70, 90, 110, 130, 150, 170, 190, 210]))
    assert wrong is not None
    assert "130.0 to 190.0 MiB" in wrong


def test_an_outage_in_which_all_hints_had_room_shows_nothing() -> None:
    assert judge(run_of([50.0] * 9, refused=0)) is not None
    assert judge(run_of([50.0])) is not None
