"""Which disk this is: a random number, made when an engine is first used by a group host.

A node's name can be given to another directory, by a restore, a copy or a mistake; this number
cannot, because it lives beside the journals that it vouches for. Configurations bind members to it
(raftgroups/membership.py), so whoever lost its journals is another node, whatever it is called.
"""

from __future__ import annotations

from raftgroups.records import INCARNATION_KEY
from storage.clock import Rng
from storage.codec import seal, unseal
from storage.engine import Batch, Engine


def incarnation(engine: Engine, rng: Rng) -> int:
    """This engine's number; the first call makes it, synced. Never 0."""
    with engine.snapshot() as rows:
        record = rows.get(INCARNATION_KEY)
    if record is None:
        body = b"\x01" + rng.randbytes(6)
        batch = Batch()
        batch.put(INCARNATION_KEY, seal(INCARNATION_KEY, body))
        engine.write(batch, sync=True)
    else:
        body = unseal(INCARNATION_KEY, record)
    return int.from_bytes(body, "big")
