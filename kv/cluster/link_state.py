"""How far a connection of the peer link has come (link_connection.py)."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    RAW = 0
    SHAKING = 1
    OPEN = 2
    DRAINING = 3
    OVER = 4
