"""Whether the replicas of two shards that are to be merged still come together. Pure.

While they do both shards are held: no split, no move, no other merge. So they are let go

    a node is away     that has a replica of either, for AWAY_S, or one of them has no leader:
                       nothing can come to rest before it is back or replaced
    nothing comes      for STILL_S: no replica, no member, no byte of a snapshot (there is no room
                       on a disk, or other replicas are being filled first)
    GATHER_S           over, whatever came

What has come by then is no loss: replicas stay where they are, and the next attempt goes on from
there. Patience begins anew with whoever goes on with the operation.
"""

from __future__ import annotations

from typing import Final

from kv.division.figures import Shown
from raftgroups.meta.view import MetaView
from raftgroups.transport import NodeId

AWAY_S: Final = 30.0
STILL_S: Final = 300.0
GATHER_S: Final = 1800.0


class Gathering:
    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._reason = ""
        self._reason_s = now_s
        """Since when there is a reason, whichever."""
        self._last: object = None
        self._last_s = now_s

    def why_not(self, shards: tuple[int, ...], view: MetaView, shown: Shown, now_s: float) -> str:
        """Why it is to be given up; empty: it goes on."""
        seen = [shown.standings.get(shard) for shard in shards]
        near = [each and (each.voters, each.learners, each.filled_bytes) for each in seen]
        if near != self._last:
            self._last, self._last_s = near, now_s
        reason = _what_is_missing(shards, view, shown)
        if not (reason and self._reason):
            self._reason_s = now_s
        self._reason = reason
        if reason and now_s - self._reason_s >= AWAY_S:
            return f"{reason}; ask again once that is mended"
        if now_s - self._last_s >= STILL_S:
            return (
                f"their replicas have come no nearer to each other for {STILL_S:g} s; see whether "
                "their nodes have room, and what else is being moved"
            )
        if now_s - self._since_s >= GATHER_S:
            return f"their replicas did not come together within {GATHER_S:g} s"
        return ""


def _what_is_missing(shards: tuple[int, ...], view: MetaView, shown: Shown) -> str:
    heard = {node for replicas in shown.durable.values() for node in replicas}
    for shard in shards:
        standing = shown.standings.get(shard)
        if standing is None:
            return f"shard {shard} has no leader"
        for node in sorted(node for node, _ in (*standing.voters, *standing.learners)):
            if NodeId(node) not in heard:
                known = view.nodes.get(node)
                name = node if known is None else known.name
                return f"node {name}, which has a replica of shard {shard}, is away"
    return ""
