from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftgroups.keyttl import MAXIMUM_TTL_MS, KeyTtl, KeyTtls, check_ttl_ms
from raftgroups.refusals import TtlTooLargeError
from storage.engine import Batch
from storage.errors import InvalidOptionError
from storage.memory import MemoryEngine

KEYS = [b"", b"a", b"a\x00", b"b", b"\xff" * 432]


def test_bounds() -> None:
    check_ttl_ms(0)
    check_ttl_ms(MAXIMUM_TTL_MS)
    with pytest.raises(InvalidOptionError):
        check_ttl_ms(-1)
    with pytest.raises(TtlTooLargeError):
        check_ttl_ms(MAXIMUM_TTL_MS + 1)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from(KEYS), st.integers(1, 9)),
        st.tuples(st.just("remove"), st.sampled_from(KEYS), st.just(0)),
        st.tuples(st.sampled_from(["write", "committed"]), st.just(b""), st.just(0)),
    ),
    max_size=30,
)


def committing(engine: MemoryEngine, ttls: KeyTtls) -> Callable[[], None]:
    def commit() -> None:
        batch = Batch()
        ttls.write(batch)
        engine.write(batch, sync=True)
        ttls.after_commit()

    return commit


@given(STEPS, st.integers(0, 10), st.integers(1, 6))
def test_against_a_dict(steps: list[tuple[str, bytes, int]], now: int, limit: int) -> None:
    """Reads see everything set, wherever it lies."""
    engine = MemoryEngine()
    ttls = KeyTtls(engine.snapshot, 7)
    commit = committing(engine, ttls)
    model: dict[bytes, KeyTtl] = {}
    for step, key, number in steps:
        if step == "set":
            model[key] = KeyTtl(number, number + 100)
            ttls.set(key, model[key])
        elif step == "remove":
            model.pop(key, None)
            ttls.remove(key)
        else:
            commit()
        assert ttls.count == len(model)
        assert [ttls.get(key) for key in KEYS] == [model.get(key) for key in KEYS]
        due = sorted((ttl.deadline_ms, key) for key, ttl in model.items() if ttl.deadline_ms <= now)
        assert ttls.due(now, limit) == [key for _, key in due[:limit]]
        earliest = min((ttl.deadline_ms for ttl in model.values()), default=None)
        assert ttls.next_deadline_ms() == earliest
    commit()
    with engine.snapshot() as snapshot:
        rows = snapshot.scan().items
    assert len(rows) == 2 * len(model)
