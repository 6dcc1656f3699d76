"""Whose life this engine's Raft state belongs to: the incarnation of the node's data directory.

The data directory draws the number (storage/datadir.py): at its first start, and anew when its data
may have gone back in time. Configurations bind members to it (raftgroups/membership.py). The engine
keeps the number under which its journals and votes were written, and `adopt` compares:

    no Raft state, no number     a new engine: the number is written
    the same number              nothing happens
    another number, or none      the state is older than what its node promised: an old backup, a
                                 copied directory. A vote or an acknowledged entry may be missing
                                 from it, so every replica here is told to stop, as a removed one
                                 is: it neither votes nor stands until it was removed from its group
                                 and added again. In one synced batch with the new number, so that
                                 no crash leaves half of it.

`stand_alone` is the way back when there is nobody left to add it again: the whole cluster is gone
and this engine is what remains. What it does not hold is lost, and whoever is still alive of the
old members no longer belongs to it.

Invariant: afterwards the engine's number is the given one. Neither runs while a host is open.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from raftgroups.membership import Config
from raftgroups.records import (
    INCARNATION_KEY,
    HardState,
    meta_key,
    pack_configs,
    pack_hard_state,
    unpack_configs,
    unpack_hard_state,
)
from raftgroups.transport import NodeId
from storage.codec import Table, seal, table_range, unseal
from storage.engine import Batch, Engine, Reader, iterate

_logger = logging.getLogger(__name__)

_BYTES: Final = 7


def recorded(engine: Engine) -> int | None:
    """The incarnation under which the engine's Raft state was written."""
    with engine.snapshot() as rows:
        record = rows.get(INCARNATION_KEY)
    return None if record is None else int.from_bytes(unseal(INCARNATION_KEY, record), "big")


def adopt(engine: Engine, incarnation: int) -> list[int]:
    """Make this the engine's incarnation; the groups whose replicas here were stopped by that."""
    assert 0 < incarnation < 1 << 8 * _BYTES, "0 stands for a member that was not heard yet"
    before = recorded(engine)
    if before == incarnation:
        return []
    batch = Batch()
    stopped = []
    with engine.snapshot() as rows:
        for group, hard, configs in _replicas(rows):
            config_index, config = configs[-1]
            if config.voters or config.learners:
                stopped.append(group)
                key = meta_key(Table.HARD_STATE, group)
                removed_at = max(hard.removed_at, config_index)
                batch.put(key, pack_hard_state(key, hard._replace(removed_at=removed_at)))
    _write(engine, batch, incarnation)
    if stopped:
        _logger.critical(
            "this engine's Raft state was written under incarnation %s and the data directory is "
            "in incarnation %d: it is an old backup or a copy. The replicas of groups %s do not "
            "vote any more: remove this node from each of them and add it again",
            before,
            incarnation,
            ", ".join(map(str, stopped)),
        )
    return stopped


def stand_alone(engine: Engine, node_id: NodeId, incarnation: int) -> list[int]:
    """Every group here goes on with this node as its only member. For an operator who knows that no
    other member runs or ever will: two of them would be two clusters."""
    batch = Batch()
    groups = []
    alone = Config({node_id: incarnation})
    with engine.snapshot() as rows:
        for group, hard, configs in _replicas(rows):
            if not configs[-1][1].voters:
                continue  # it waits for its first snapshot, so there is nothing to go on with
            groups.append(group)
            key = meta_key(Table.HARD_STATE, group)
            batch.put(key, pack_hard_state(key, HardState(hard.term + 1, None, 0)))
            key = meta_key(Table.GROUP_CONFIG, group)
            batch.put(key, pack_configs(key, [(index, alone) for index, _ in configs]))
    _write(engine, batch, incarnation)
    _logger.warning(
        "node %s is the only member of groups %s now; members of before must never run again",
        node_id,
        ", ".join(map(str, groups)),
    )
    return groups


def _replicas(rows: Reader) -> Iterator[tuple[int, HardState, list[tuple[int, Config]]]]:
    for key, record in iterate(rows, *table_range(Table.HARD_STATE)):
        group = int.from_bytes(key[1:9], "big")
        config_key = meta_key(Table.GROUP_CONFIG, group)
        configs = rows.get(config_key)
        assert configs is not None, f"group {group} has a hard state and no configuration"
        yield group, unpack_hard_state(key, record), unpack_configs(config_key, configs)


def _write(engine: Engine, batch: Batch, incarnation: int) -> None:
    batch.put(INCARNATION_KEY, seal(INCARNATION_KEY, incarnation.to_bytes(_BYTES, "big")))
    engine.write(batch, sync=True)
