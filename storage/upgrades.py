"""What an earlier version left in an engine, brought to today's form when it is opened.

Each step may be repeated: it is done before the stamp says so, and a power cut may come between.

    leaderless, before format 3    bucket sums stood in the table MERKLE_LEAF, and rows of the token
                                   index were empty. The sums go at once. An empty row is read as
                                   the digest in its object, and gets its own with the next change.
"""

from __future__ import annotations

from storage.codec import Table
from storage.engine import Batch, Engine


def forget_leaves(engine: Engine) -> None:
    """Nobody keeps them any more."""
    batch = Batch()
    batch.delete_range(bytes((Table.MERKLE_LEAF,)), bytes((Table.MERKLE_LEAF + 1,)))
    engine.write(batch, sync=True)
