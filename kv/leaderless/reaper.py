"""Forgetting dead keys: the rounds of reap.py, asked and answered.

    every reap_s: due keys that this node is the first owner of
        shed values whose time is over (each replica does that by itself)
        a batch of those that have been dead for `rest_s` --> ReapProof
            CONFIRM, FIRST_WAVE, SECOND_WAVE: everybody at once, this node among them
            DROP: each owner drops what it still holds exactly so

No proof begins while members change, while one of them cannot be reached, or while this node lacks
something: it would only fail. What a node answers is read after a fence: all that was in its inbox
when it was asked is on its disk then, so an old version cannot hide in a queue. What is sent,
taken and streamed is in the QuietLedger (Parts.ledger).

Held tombstones are counted as the rounds pass over them: `held`, and the age of the oldest. One
that is held for `alarm_s` raises an alarm: some node is away, and should be brought back or be
declared dead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from kv.leaderless import frames
from kv.leaderless.frames import MalformedFrameError, Prove, Reply, Status
from kv.leaderless.messenger import Outcome, SendReply
from kv.leaderless.parts import Parts
from kv.leaderless.procedure import Procedures, Signal
from kv.leaderless.reap import Canary, Candidate, Phase, Quiet, ReapProof, holds_exactly
from kv.leaderless.upkeep import DropReaped, Fence, ForgetDue, ShedExpired
from raftgroups.transport import NodeId
from storage.buckets import DIGEST_BYTES, bucket_of
from storage.errors import CorruptRecordError
from storage.hints import key_has_hints
from storage.objects import Record, read_digest, read_record, scan_reapable

PAGE: Final = 256
"""Keys that are looked at in one pass, and in one proof."""


@dataclass(frozen=True, slots=True)
class ReapSettings:
    enabled: bool = True
    reap_s: float = 10.0
    """Between two rounds."""
    rest_s: float = 30.0
    """How long a key is left alone after it died: late writes would only break the proof."""
    question_s: float = 5.0
    pause_s: float = 0.01
    alarm_s: float = 7 * 24 * 3600.0
    canaries: frozenset[Canary] = frozenset()


class Reaper:
    def __init__(
        self,
        parts: Parts,
        procedures: Procedures,
        *,
        boot: int,
        lacks: Callable[[int, int], bool],
        settings: ReapSettings | None = None,
    ) -> None:
        """`boot` names this life of the process; `lacks(keyspace, bucket)`: it is still filled."""
        self._parts = parts
        self._procedures = procedures
        self._boot = boot
        self._lacks = lacks
        self.settings = settings or ReapSettings()
        self._proof: ReapProof | None = None
        self.held = 0
        """Dead keys that are not forgotten yet, as the last round counted them."""
        self.oldest_s = 0.0
        """How long the oldest of them has been dead."""
        self.proofs = self.proofs_failed = self.proved = self.shed = 0
        self.last_failure = ""

    # --- the driver -----------------------------------------------------------------------

    async def round(self) -> None:
        """All due keys once."""
        held, oldest_ms = 0, self._parts.replica.now_ms()
        for number in list(self._parts.keyspaces):
            after: tuple[int, bytes] | None = None
            more = True
            while more:
                replica = self._parts.replica
                page = scan_reapable(
                    replica.reader(), number, replica.now_ms(), after=after, limit=PAGE
                )
                candidates: dict[Candidate, tuple[NodeId, ...]] = {}
                for due_ms, key in page.items:
                    after = due_ms, key
                    record = self._record(number, due_ms, key)
                    if record is None:
                        continue
                    held += 1
                    died_ms = _died_ms(record)
                    oldest_ms = min(oldest_ms, died_ms)
                    self._consider(number, key, died_ms, candidates)
                more = page.more
                if candidates:
                    await self._prove(candidates)
                await self._procedures.pause(self.settings.pause_s)
        self.held = held
        self.oldest_s = max(0.0, (self._parts.replica.now_ms() - oldest_ms) / 1000) if held else 0.0
        if self.oldest_s > self.settings.alarm_s:
            self._parts.replica.alarm(
                "old_tombstones",
                f"{held} deleted keys are held, the oldest for {self.oldest_s:.0f} s: a node is "
                "away; bring it back, or declare it dead",
            )

    def _record(self, keyspace: int, due_ms: int, key: bytes) -> Record | None:
        """The dead record of a due row, its expired values shed."""
        replica = self._parts.replica
        try:
            record = read_record(replica.reader(), keyspace, key)
        except CorruptRecordError:
            return None  # repair replaces it
        if record is None or record.siblings.reapable_from_ms() != due_ms:
            replica.submit(ForgetDue(keyspace, due_ms, key))
            return None
        if any(version.value is not None for version in record.siblings.versions):
            replica.submit(ShedExpired(replica, keyspace, key))
            self.shed += 1
        return record

    def _consider(
        self,
        keyspace: int,
        key: bytes,
        died_ms: int,
        candidates: dict[Candidate, tuple[NodeId, ...]],
    ) -> None:
        owners = self._parts.view().ring.preference(bucket_of(key), self._n(keyspace))
        rested_ms = self._parts.replica.now_ms() - self.settings.rest_s * 1000
        if not owners or owners[0] != self._parts.node or died_ms > rested_ms:
            return
        digest = read_digest(self._parts.replica.reader(), keyspace, key)
        if digest is not None:
            candidates[Candidate(keyspace, key, digest)] = owners

    def _n(self, keyspace: int) -> int:
        return self._parts.keyspaces.n_of(keyspace)

    async def _prove(self, candidates: Mapping[Candidate, tuple[NodeId, ...]]) -> None:
        view = self._parts.view()
        calm = view.arriving is None and all(map(self._parts.reachable, view.members))
        if not calm and not self.settings.canaries:
            self.last_failure = "members change, or one of them is not in reach"
            return
        self.proofs += 1
        proof = ReapProof(
            view.epoch_number, candidates, view.members, canaries=self.settings.canaries
        )
        self._proof = proof
        while proof.phase < Phase.DROP:
            phase = proof.phase
            asked = [
                (node, proof.question(node), self._ask(node, phase, proof.question(node)))
                for node in sorted(proof.asked())
            ]
            for node, question, signal in asked:
                self._told(proof, phase, node, question, await signal)
        self._proof = None
        if proof.phase is Phase.FAILED:
            self.proofs_failed += 1
            self.last_failure = proof.failure
            return
        self.proved += len(proof.left)
        drops = [
            self._ask(node, Phase.DROP, tuple(c for c, _ in found), found[0][1])
            for node, found in proof.drops().items()
        ]
        for signal in drops:
            await signal

    def _told(
        self,
        proof: ReapProof,
        phase: Phase,
        node: NodeId,
        question: tuple[Candidate, ...],
        outcome: Outcome,
    ) -> None:
        if not isinstance(outcome, Reply) or outcome.status is not Status.PROVED:
            proof.on_unreachable(node)
            return
        try:
            boot, marks = frames.decode_body(frames.proved_decoder, outcome.body)
        except MalformedFrameError:
            proof.on_unreachable(node)
            return
        answers = {
            candidate: Quiet(mark)
            for candidate, mark in zip(question, marks, strict=False)
            if mark is not None
        }
        if phase is Phase.CONFIRM:
            proof.on_confirmed(node, boot, proof.ring_epoch, answers)
        else:
            proof.on_quiet(node, boot, proof.ring_epoch, phase, answers)

    def _ask(
        self, node: NodeId, phase: Phase, question: tuple[Candidate, ...], boot: int = 0
    ) -> Signal[Outcome]:
        signal: Signal[Outcome] = Signal()
        keys = [(c.keyspace, c.key, c.digest.to_bytes(DIGEST_BYTES, "big")) for c in question]
        request = Prove(0, self._parts.view().epoch, int(phase), boot, keys)
        if node == self._parts.node:
            self.serve(request, lambda status, body: signal.set(Reply(0, status, body)))
        else:
            deadline_s = self._parts.clock.monotonic() + self.settings.question_s
            self._parts.messenger.ask(node, request, deadline_s, signal.set)
        return signal

    def view_changed(self) -> None:
        if self._proof is not None:
            self._proof.on_ring_change(self._parts.view().epoch_number)

    # --- every member ---------------------------------------------------------------------

    def serve(self, request: Prove, reply: SendReply) -> None:
        if request.ring != self._parts.view().epoch:
            reply(Status.OTHER_RING, b"")
            return
        candidates = [
            Candidate(keyspace, key, int.from_bytes(digest, "big"))
            for keyspace, key, digest in request.keys
            if keyspace in self._parts.keyspaces
        ]
        if len(candidates) != len(request.keys):
            reply(Status.FAILED, b"it does not know this keyspace")
        elif request.phase == Phase.DROP:
            self._drop(request, candidates, reply)
        else:
            confirm = request.phase == Phase.CONFIRM
            look = self._confirmed if confirm else self._quiet

            def answer() -> None:
                marks = [look(candidate) for candidate in candidates]
                reply(Status.PROVED, frames.encode_body((self._boot, marks)))

            self._parts.replica.submit(Fence(answer))

    def _drop(self, request: Prove, candidates: list[Candidate], reply: SendReply) -> None:
        if request.boot != self._boot:
            reply(Status.FAILED, b"it has restarted since it confirmed")
            return
        replica = self._parts.replica
        for candidate in candidates:
            replica.submit(DropReaped(replica, candidate))
        replica.submit(Fence(lambda: reply(Status.PROVED, frames.encode_body((self._boot, [])))))

    def _confirmed(self, candidate: Candidate) -> int | None:
        record = self._held(candidate)
        now_ms = self._parts.replica.now_ms()
        return 0 if holds_exactly(record, candidate, now_ms) else None

    def _quiet(self, candidate: Candidate) -> int | None:
        keyspace, key = candidate.keyspace, candidate.key
        bucket = bucket_of(key)
        if self._lacks(keyspace, bucket):
            return None
        owners = self._parts.view().holders(bucket, self._n(keyspace))
        quiet = self._parts.ledger.answer(
            keyspace,
            key,
            bucket,
            hinted=key_has_hints(self._parts.replica.reader(), keyspace, key),
            foreign=self._parts.node not in owners and self._held(candidate) is not None,
        )
        return None if quiet is None else quiet.mark

    def _held(self, candidate: Candidate) -> Record | None:
        try:
            return read_record(self._parts.replica.reader(), candidate.keyspace, candidate.key)
        except CorruptRecordError:
            return None


def _died_ms(record: Record) -> int:
    """When the last version of it was written or expired."""
    written = max((version.timestamp >> 16 for version in record.siblings.versions), default=0)
    expired = max((version.expiry_ms for version in record.siblings.versions), default=0)
    return max(written, expired)
