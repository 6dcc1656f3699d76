"""What came back, as plain values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    """Whatever the case of their names."""
    body: bytes
