"""When a tombstone may be forgotten: proved, never timed.

A key of which nothing lives still holds a set: tombstones and a clock, which absorb every older
version that turns up. Forgotten too early, an old version from a hint, a stream or a slow link has
nobody to absorb it and the deleted value is back. So the owners forget together, after a proof that
nothing older is left anywhere, within one ring epoch:

    driver (an owner)                every owner              every live member
    CONFIRM      ---------------->   "I hold exactly this
                                      set, synced, dead"
    FIRST_WAVE   -------------------------------------------> "nothing of this key waits here",
                                                              and a mark of its activity
    SECOND_WAVE  -------------------------------------------> the same, and the mark has not moved
    DROP         ---------------->   drops it if it still holds exactly this set

What waits: a hint, a write that was sent and not acknowledged, a stream of the bucket that is not
finished, a copy on a node that is no owner (a stand-in's, a former owner's).

Why two waves. One asks each member at its own moment: X says that nothing waits, then Y passes its
old write to X, then Y says that nothing waits. Whoever holds something old between the waves either
had it in the first (and said so) or took it since (and its mark moved), so a second wave that all
pass means that nobody holds it; and what nobody holds nobody can send. Owners need no mark: they
hold exactly the set that absorbs whatever comes. A sender counts a message as waiting until it is
acknowledged, or until a newer connection to that peer stands, whose making discards the old one's
bytes unread.

The proof fails, and is begun again later, if the ring changes, if a member cannot be reached or
restarts (its boot id changes): it may have forgotten what it was waiting for. A member declared
dead is not asked: it returns only empty. For the same reason a directory restored from a copy must
come back empty, as a new node: the copy may hold what was reaped since.

A key that fails alone (an owner holds something else, a hint waits) leaves the proof; the others go
on. This file is pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from raftgroups.transport import NodeId
from storage.buckets import set_digest
from storage.objects import Record


class Canary(StrEnum):
    """Known bugs that a test switches on, to see that it would be caught."""

    NO_WAVES = "no_waves"
    """All owners have the tombstone: that must do."""
    ONE_WAVE = "one_wave"


class Phase(IntEnum):
    CONFIRM = 0
    FIRST_WAVE = 1
    SECOND_WAVE = 2
    DROP = 3
    FAILED = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """One key and exactly what its owners must hold."""

    keyspace: int
    key: bytes
    digest: int


def holds_exactly(record: Record | None, candidate: Candidate, now_ms: int) -> bool:
    """An owner's own check, when it confirms and again when it drops."""
    if record is None:
        return False
    due_ms = record.siblings.reapable_from_ms()
    if due_ms is None or due_ms > now_ms:
        return False
    return set_digest(candidate.key, record.siblings) == candidate.digest


@dataclass(frozen=True, slots=True)
class Quiet:
    """A member's answer for one key: nothing of it waits here."""

    mark: int


class ReapProof:
    """The driver's side for a batch of keys. Invariant: `left` are the candidates of which nothing
    said so far speaks against; `_answered` are the nodes that have answered in this phase."""

    def __init__(
        self,
        ring_epoch: int,
        candidates: Mapping[Candidate, Iterable[NodeId]],
        members: Iterable[NodeId],
        *,
        canaries: frozenset[Canary] = frozenset(),
    ) -> None:
        """`candidates` with their owners; `members` are all that are not declared dead."""
        self.ring_epoch = ring_epoch
        self.left = {candidate: frozenset(owners) for candidate, owners in candidates.items()}
        self.phase = Phase.CONFIRM
        self.failure = ""
        self._members = frozenset(members)
        self._boots: dict[NodeId, int] = {}
        self._marks: dict[tuple[NodeId, Candidate], int] = {}
        self._answered: set[NodeId] = set()
        self._canaries = canaries
        missing = frozenset().union(*self.left.values()) - self._members
        if missing:
            self._fail(f"owners {sorted(missing)} are no live members")
        self._advance()

    def asked(self) -> frozenset[NodeId]:
        """Who has still to answer in this phase."""
        if self.phase is Phase.CONFIRM:
            return frozenset().union(*self.left.values()) - self._answered
        if self.phase in (Phase.FIRST_WAVE, Phase.SECOND_WAVE):
            return self._members - self._answered
        return frozenset()

    def question(self, node: NodeId) -> tuple[Candidate, ...]:
        """The keys to ask this node about."""
        if self.phase is Phase.CONFIRM:
            return tuple(c for c, owners in self.left.items() if node in owners)
        return tuple(self.left)

    def on_confirmed(
        self, node: NodeId, boot: int, ring_epoch: int, held: Iterable[Candidate]
    ) -> None:
        """An owner's answer to CONFIRM: what it holds exactly so, on its disk."""
        if self.phase is not Phase.CONFIRM or node not in self.asked():
            return
        if self._same_world(node, boot, ring_epoch):
            confirmed = set(held)
            self._keep(c for c, owners in self.left.items() if node not in owners or c in confirmed)
            self._answered.add(node)
            self._advance()

    def on_quiet(
        self,
        node: NodeId,
        boot: int,
        ring_epoch: int,
        phase: Phase,
        answers: Mapping[Candidate, Quiet],
    ) -> None:
        """A member's answer to a wave: the keys of which nothing waits there."""
        if phase is not self.phase or node not in self.asked():
            return
        if not self._same_world(node, boot, ring_epoch):
            return
        self._keep(c for c, owners in self.left.items() if self._passes(node, c, owners, answers))
        self._answered.add(node)
        self._advance()

    def on_unreachable(self, node: NodeId) -> None:
        """No answer in time, or the link broke."""
        if self.phase < Phase.DROP and node in self._members:
            self._fail(f"{node} cannot be reached")

    def on_ring_change(self, ring_epoch: int) -> None:
        if self.phase < Phase.DROP and ring_epoch != self.ring_epoch:
            self._fail(f"the ring went from epoch {self.ring_epoch} to {ring_epoch}")

    def drops(self) -> dict[NodeId, list[tuple[Candidate, int]]]:
        """What each owner may drop now, with the boot in which it confirmed. Empty before DROP."""
        found: dict[NodeId, list[tuple[Candidate, int]]] = {}
        if self.phase is Phase.DROP:
            for candidate, owners in self.left.items():
                for owner in sorted(owners):
                    found.setdefault(owner, []).append((candidate, self._boots[owner]))
        return found

    def _passes(
        self,
        node: NodeId,
        candidate: Candidate,
        owners: frozenset[NodeId],
        answers: Mapping[Candidate, Quiet],
    ) -> bool:
        answer = answers.get(candidate)
        if answer is None:
            return False
        if self.phase is Phase.FIRST_WAVE:
            self._marks[node, candidate] = answer.mark
            return True
        return node in owners or self._marks[node, candidate] == answer.mark

    def _same_world(self, node: NodeId, boot: int, ring_epoch: int) -> bool:
        if ring_epoch != self.ring_epoch:
            self._fail(f"{node} is in ring epoch {ring_epoch}, the proof in {self.ring_epoch}")
        elif self._boots.setdefault(node, boot) != boot:
            self._fail(f"{node} has restarted")
        return self.phase is not Phase.FAILED

    def _keep(self, kept: Iterable[Candidate]) -> None:
        self.left = {candidate: self.left[candidate] for candidate in kept}

    def _advance(self) -> None:
        while self.phase < Phase.DROP:
            if not self.left:
                self._fail("no key passed")
            elif self.asked():
                return
            else:
                self.phase = self._following()
                self._answered = set()

    def _following(self) -> Phase:
        if self.phase is Phase.CONFIRM and Canary.NO_WAVES in self._canaries:
            return Phase.DROP
        if self.phase is Phase.FIRST_WAVE and Canary.ONE_WAVE in self._canaries:
            return Phase.DROP
        return Phase(self.phase + 1)

    def _fail(self, why: str) -> None:
        self.phase = Phase.FAILED
        self.failure = why


# --- a member's side -------------------------------------------------------------------------

MAX_MARKS: Final = 65_536


class QuietLedger:
    """What a member must remember to answer a wave: what it has sent and what it has taken.

    `sending` and `sent` bracket every replica write, read repair and hint replay; `streaming` and
    `streamed` every transfer of buckets; `took` is called when the node stores, for whatever
    reason, a set of a key that it does not own. Marks rise and are bounded: when one is forgotten,
    the key's mark becomes the highest forgotten, so it can only seem to have moved.
    """

    def __init__(self, *, max_marks: int = MAX_MARKS) -> None:
        self._sending: dict[tuple[int, bytes], int] = {}
        self._batches: dict[int, tuple[int, frozenset[bytes]]] = {}
        self._streams: dict[int, tuple[int, int, int]] = {}
        self._marks: dict[tuple[int, bytes], int] = {}
        self._max_marks = max_marks
        self._floor = 0
        self._last = 0

    def sending(self, keyspace: int, key: bytes) -> None:
        place = keyspace, key
        self._sending[place] = self._sending.get(place, 0) + 1

    def sent(self, keyspace: int, key: bytes) -> None:
        """Acknowledged, or a newer connection to that peer stands."""
        place = keyspace, key
        count = self._sending[place] - 1
        if count:
            self._sending[place] = count
        else:
            del self._sending[place]

    def sending_all(self, number: int, keyspace: int, keys: Iterable[bytes]) -> None:
        """One message with sets of all these keys, under a number of the caller's."""
        self._batches[number] = keyspace, frozenset(keys)

    def sent_all(self, number: int) -> None:
        del self._batches[number]

    def streaming(self, stream: int, keyspace: int, first: int, last: int) -> None:
        self._streams[stream] = keyspace, first, last

    def streamed(self, stream: int) -> None:
        self._streams.pop(stream, None)

    def took(self, keyspace: int, key: bytes) -> None:
        place = keyspace, key
        self._last += 1
        self._marks.pop(place, None)
        self._marks[place] = self._last
        if len(self._marks) > self._max_marks:
            oldest = next(iter(self._marks))
            self._floor = self._marks.pop(oldest)

    def answer(
        self, keyspace: int, key: bytes, bucket: int, *, hinted: bool, foreign: bool
    ) -> Quiet | None:
        """None: something waits. `hinted`: a hint of the key is held, for whomever; `foreign`: a
        record of the key is held by this node, which is no owner."""
        place = keyspace, key
        streaming = any(
            space == keyspace and first <= bucket <= last
            for space, first, last in self._streams.values()
        )
        batched = any(space == keyspace and key in keys for space, keys in self._batches.values())
        if hinted or foreign or streaming or batched or place in self._sending:
            return None
        return Quiet(self._marks.get(place, self._floor))
