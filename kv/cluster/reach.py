"""Whether an address can be reached from outside this machine. Pure: no name is resolved.

A name that is not surely loopback counts as foreign.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

LOOPBACK_NAMES: Final = frozenset({"localhost"})


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK_NAMES
