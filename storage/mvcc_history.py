"""From a key's newest record back to the one that was valid at a revision.

There is no history table. A record's event embeds the record before it, so the way back from a
record newer than revision r is:

    1. Among the record's jumps that still lie above r, take the farthest; load its event and go on
       from that record.
    2. No jump lies above r: load the record's own event. The record embedded there as the previous
       one is the answer if it is not above r; if it is, go on from it.

Only events above r are loaded, which compaction to R <= r has kept. At most 16 steps a jump level
(mvcc_records.py): about 50 reads among 10,000 versions instead of thousands.
"""

from __future__ import annotations

from collections.abc import Callable

from storage.mvcc_records import head_of, jumps_of, unpack_event

LoadEvent = Callable[[bytes, int, int], bytes]
"""(key, revision, sub) -> the event body of that key at that place."""


def record_at(key: bytes, body: bytes, revision: int, load: LoadEvent) -> bytes | None:
    """The newest record at or below `revision`, starting from `body`; None if the key had none.
    A tombstone is returned as such."""
    while True:
        head = head_of(body)
        if head.mod <= revision:
            return body
        if head.depth == 1:
            return None
        above = [place for place in jumps_of(body) if place[0] > revision]
        if above:
            _, body, _ = unpack_event(load(key, *above[-1]))
            continue
        _, _, previous = unpack_event(load(key, head.mod, head.sub))
        assert previous is not None, "a record of depth 2 or more has a previous one"
        body = previous
