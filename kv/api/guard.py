"""Who may call from a browser: Host, Origin and CORS. Pure.

A page of any site can make its reader's browser send requests to 127.0.0.1. Two checks stop it:

    Origin   browsers send it with every request that could change something; one that is neither
             this server itself nor listed is refused. Other programs send none.
    Host     must be an address, `localhost` or a listed name: a name that an attacker's DNS points
             at us is none of them.

CORS headers go to listed origins, to any (as etcd has it), or to none.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from kv.api.failures import HostRefusedError, OriginRefusedError

ANY: Final = "*"
ANYONE: Final = "any"
ALLOWED_HEADERS: Final = (
    "Content-Type, Consistency-Level, Session-Token, Idempotency-Key, Request-Timeout, If-Match, "
    "If-None-Match, Last-Event-ID, Authorization"
)
EXPOSED_HEADERS: Final = "Consistency-Level, Session-Token, ETag, Revision, Retry-After, Allow"
PREFLIGHT_MAX_AGE_S: Final = 600


@dataclass(frozen=True, slots=True)
class Access:
    """`origins`: as browsers send them (`https://app.example:8443`). `hosts`: names that this node
    is reached by besides addresses and `localhost`, without port, or `*`. `cors` any: pages of all
    origins may call."""

    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    cors: str = "listed"
    """off, listed, any."""

    def check_host(self, host: str | None) -> None:
        """Raises HostRefusedError. A request without Host is refused by HTTP itself."""
        name = host_name(host or "")
        if ANY in self.hosts or name == "localhost" or name in self.hosts or _is_address(name):
            return
        raise HostRefusedError(
            f"this node is not reached as {name[:100]!r}; call it by address, or add the name to "
            "its allowed hosts"
        )

    def check_origin(self, origin: str | None, host: str | None) -> None:
        """Raises OriginRefusedError."""
        if origin is None or self.allows(origin) or _same(origin, host or ""):
            return
        raise OriginRefusedError(
            f"pages of {origin[:100]!r} may not call this node; add that origin to its allowed "
            "origins if they should"
        )

    def allows(self, origin: str) -> bool:
        return self.cors == ANYONE or origin.lower() in self.origins


def host_name(host: str) -> str:
    """Without the port, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def cors_headers(access: Access, origin: str | None) -> list[tuple[str, str]]:
    if access.cors == ANYONE:
        return [
            ("Access-Control-Allow-Origin", ANY),
            ("Access-Control-Expose-Headers", EXPOSED_HEADERS),
        ]
    if not access.origins or access.cors == "off":
        return []
    headers = [("Vary", "Origin")]
    if origin is not None and access.allows(origin):
        headers.append(("Access-Control-Allow-Origin", origin))
        headers.append(("Access-Control-Expose-Headers", EXPOSED_HEADERS))
    return headers


def preflight_headers(methods: str) -> list[tuple[str, str]]:
    """Beside those of any answer."""
    return [
        ("Access-Control-Allow-Methods", methods),
        ("Access-Control-Allow-Headers", ALLOWED_HEADERS),
        ("Access-Control-Max-Age", str(PREFLIGHT_MAX_AGE_S)),
    ]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _same(origin: str, host: str) -> bool:
    scheme, separator, authority = origin.lower().partition("://")
    return bool(separator) and scheme in ("http", "https") and authority == host.strip().lower()
