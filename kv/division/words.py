"""The kinds and steps of operations that divide shards, as the map has them. Pure."""

from __future__ import annotations

from typing import Final

SPLIT: Final = "split"
MERGE: Final = "merge"
KINDS: Final = frozenset({SPLIT, MERGE})

PROPOSE: Final = "propose"
"""The one step of a split."""
GATHER: Final = "gather"
JOIN: Final = "join"
UNDO: Final = "undo"
"""Of a merge (steps.py)."""
