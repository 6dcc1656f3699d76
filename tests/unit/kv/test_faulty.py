"""Nodes that fail on demand, and the configuration that keeps real ones from doing so."""

from __future__ import annotations

import pytest

from kv.config.reading import ConfigError, parse_config
from kv.config.rules import is_for_tests
from kv.faulty import EXIT_POWER_CUT, NodeFaults, WrongClock
from storage.clock import ManualClock
from storage.engine import Batch
from storage.errors import WriteFailedError
from storage.memory import MemoryEngine

ON = '[testing]\ncontrol = "127.0.0.1:7402"\ndata_loss_is_meant = true\n'
TLS = '[tls]\nclient_cert = "c"\nclient_key = "k"\n'


def test_a_node_is_not_for_tests_unless_it_says_so() -> None:
    assert not is_for_tests(parse_config(""))
    assert is_for_tests(parse_config(ON))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (ON.replace("true", "false"), "data_loss_is_meant = true"),
        (ON.replace("127.0.0.1", "10.0.0.1"), "looks like a real one (10.0.0.1:7402)"),
        ("insecure = true\n" + ON, "looks like a real one (insecure)"),
        ('insecure = true\n[node]\nlisten = "0.0.0.0:7400"\n' + ON, "a real one (0.0.0.0"),
        (TLS + ON, "looks like a real one (tls)"),
        ('[cluster]\nsecret_file = "s"\n' + ON, "looks like a real one (cluster.secret_file)"),
    ],
)  # fmt: skip
def test_a_production_configuration_refuses_it(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    assert says in str(caught.value)


def test_a_wrong_clock_never_goes_back() -> None:
    right = ManualClock(100.0, 1_000.0)
    clock = WrongClock(right)
    assert (clock.monotonic(), clock.wall()) == (100.0, 1_000.0)
    clock.set(offset_s=-500.0, drift=-0.5)
    assert (clock.monotonic(), clock.wall()) == (100.0, 500.0)
    right.advance(10.0)
    assert clock.monotonic() == 105.0
    clock.set(offset_s=0.0, drift=1.0)
    assert clock.monotonic() == 105.0
    right.advance(1.0)
    assert clock.monotonic() == 107.0


def put(value: bytes) -> Batch:
    batch = Batch()
    batch.put(b"k", value)
    return batch


def test_lost_power_loses_what_was_not_synced_and_ends_the_process() -> None:
    lost = set()
    for _ in range(40):
        inner, codes = MemoryEngine(clock=ManualClock()), []
        faults = NodeFaults(ManualClock(), codes.append)
        engine = faults.wrap(inner)
        engine.write(put(b"synced"), sync=True)
        engine.write(put(b"not synced"), sync=False)
        faults.obey({"do": "power-cut"})
        assert codes == [EXIT_POWER_CUT]
        with inner.snapshot() as snapshot:
            lost.add(snapshot.get(b"k"))
    assert lost == {b"synced", b"not synced"}


def test_a_disk_breaks_and_heals() -> None:
    faults = NodeFaults(ManualClock())
    engine = faults.wrap(MemoryEngine(clock=ManualClock()))
    faults.obey({"do": "disk", "free_bytes": 7})
    assert engine.statistics().disk_free_bytes == 7
    faults.obey({"do": "disk"})
    engine.write(put(b"v"), sync=True)
    faults.obey({"do": "disk", "fail_sync": True})
    with pytest.raises(WriteFailedError):
        engine.write(put(b"w"), sync=True)


def test_an_order_that_nobody_knows_is_refused() -> None:
    faults = NodeFaults(ManualClock())
    with pytest.raises(ValueError, match="no such order"):
        faults.obey({"do": "dance"})
    with pytest.raises(AssertionError):
        faults.obey({"do": "clock", "drift": -2})
