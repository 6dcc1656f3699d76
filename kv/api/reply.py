"""An answer as plain values, whichever lane writes it. Pure.

Both lanes (aiohttp here, the fast lane beside it) take the body and `reply_headers` as they are, so
what they answer is the same to the byte.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kv.model import Level, SessionToken

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"

Headers = tuple[tuple[str, str], ...]


class Reply(NamedTuple):
    status: int
    body: bytes = b""
    content_type: str = JSON
    version: int = 0
    """The key's, for ETag; 0: there is none."""
    shard: int = 0
    """Whose revision the caller has now seen; 0: none."""
    revision: int = 0
    headers: Headers = ()


def reply_headers(
    reply: Reply, level: Level | None, session: SessionToken
) -> list[tuple[str, str]]:
    """All headers but Content-Type and Content-Length. `level`: the one that was met, None if the
    answer says nothing about the data."""
    headers = list(reply.headers)
    if level is not None:
        headers.append(("Consistency-Level", level.value))
    token = session_after(reply, session)
    if token:
        headers.append(("Session-Token", token))
    if reply.version:
        headers.append(("ETag", f'"{reply.version}"'))
    if reply.revision:
        headers.append(("Revision", str(reply.revision)))
    return headers


def session_after(reply: Reply, session: SessionToken) -> str:
    """What the caller has seen now, as text; empty if that is nothing."""
    if not reply.shard:
        return str(session) if session.revisions else ""
    if not session.revisions:  # nearly always
        return f"{reply.shard}:{reply.revision}"
    return str(session.saw(reply.shard, reply.revision))
