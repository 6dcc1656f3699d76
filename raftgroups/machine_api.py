"""What a group asks of the state machine that it replicates: one machine a replica of a group.

How a turn treats it (raftgroups/host.py):

    apply_each(index, payloads) an entry, many, in log order
    prepare(batch)              the host adds the group's applied index to the SAME batch
    (the batch is written and synced, or the process ends)
    after_commit()

All operations that waited travel as one log entry: they take effect one after the other, share its
index and are written in the same batch. No index comes back once it was written, or after a larger.

A machine's own reads see everything applied, written or not: effects wait in an overlay until
after_commit. Between prepare and after_commit no entry is applied, so a machine needs one overlay,
not two; beside a batch that `prepare` had no part in entries may be applied. After a crash the
entries past the written applied index are applied again, from the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from storage.engine import Batch
from storage.slices import Range


class StateMachine(Protocol):
    def apply_each(self, index: int, payloads: Sequence[bytes]) -> Sequence[object]:
        """The operations of an entry; one answer for each, whatever becomes of the others. It makes
        no difference which of them an entry has together. Deterministic: time and dice come with
        the payload. A client's error is a result, not an exception; an exception means that this
        replica is broken and stops the node."""
        ...

    def prepare(self, batch: Batch) -> None:
        """Add the effects that were applied but not yet written."""
        ...

    def after_commit(self) -> None:
        """What prepare added is on the disk: drop it from the overlay."""
        ...

    def owned_ranges(self) -> Sequence[Range]:
        """The rows of the engine that a snapshot of this replica streams, and that go when it is
        removed: the machine's data only. None of them is another replica's. A snapshot takes
        them at a moment when everything applied is written, so they are those of its rows."""
        ...

    def reset(self) -> None:
        """A snapshot is about to replace the state: drop overlays and caches."""
        ...

    def restored(self, index: int) -> None:
        """The rows in owned_ranges are now those of a snapshot taken after applying `index`. Also
        called at start with the written applied index, before anything is applied."""
        ...
