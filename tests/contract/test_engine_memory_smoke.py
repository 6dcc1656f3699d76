"""A first look at the memory engine; the contract suite of all engines replaces it."""

from storage.engine import Batch
from storage.memory import MemoryEngine


def test_a_snapshot_keeps_seeing_its_moment() -> None:
    engine = MemoryEngine()
    batch = Batch()
    batch.put(b"a", b"1")
    batch.put(b"c", b"3")
    engine.write(batch, sync=True)
    before = engine.snapshot()
    batch = Batch()
    batch.delete_range(b"a", b"b")
    batch.put(b"b", b"2")
    engine.write(batch, sync=True)
    assert before.scan().items == [(b"a", b"1"), (b"c", b"3")]
    assert before.scan(reverse=True).items == [(b"c", b"3"), (b"a", b"1")]
    assert engine.snapshot().scan().items == [(b"b", b"2"), (b"c", b"3")]
