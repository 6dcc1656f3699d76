"""Anti-entropy between two nodes: what merkle.py decides, asked, scanned, paced and transferred.

    initiator (Exchanger.with_peer)                   responder (answering.py)
      root from memory ------------ Compare --------> root from memory: equal, done
      sums of segments, a slice     Compare           sums of segments, a slice a pass
        a pass                        ...
      keys and digests ------------ ListKeys -------> keys and digests
      the sets that it lacks ------ Fetch ----------> sets; merged here in one synced turn
      the sets that the other lacks Store ----------> merged there; LATER says to wait

The node that joins, or comes back without its disk, is filled in this way too: its side is empty,
so whole segments are listed and fetched in order. A fetched set is not checked against the digest
that was listed for it (a write may have changed it meanwhile); what is still different is found by
the sums of whoever repairs next.

Pace. Scans go in slices with a pause after each, transfers pay for their bytes, and the receiver of
a set may say LATER; so a repair of any size leaves the loop and the disk to the clients.

Writes go on meanwhile. A key that is under way looks different on both sides for a moment; sending
it once more does no harm. A key under transfer counts as `sending`, for reap.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from kv.leaderless import frames
from kv.leaderless.dvv import merge
from kv.leaderless.frames import Compare, Fetch, ListKeys, Reply, Request, Status, Store
from kv.leaderless.get_core import Found
from kv.leaderless.merkle import (
    Difference,
    Exchange,
    Segment,
    SharedBuckets,
    difference,
)
from kv.leaderless.messenger import Outcome
from kv.leaderless.parts import Parts
from kv.leaderless.procedure import Procedures, Signal
from kv.leaderless.put_core import Answer, Stored
from kv.leaderless.scanning import Scanner
from kv.leaderless.view import RingView
from raftgroups.transport import NodeId
from storage.buckets import Leaf
from storage.errors import JanusError
from storage.siblings import MalformedSetError, decode_set

LATER_TRIES: Final = 200


class ExchangeError(JanusError):
    """The comparison was broken off; it is begun anew later."""

    code = "exchange_broken_off"
    retryable = True


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    question_s: float = 10.0
    slice: int = 2_000
    """Keys that are scanned in one pass of the loop."""
    pause_s: float = 0.002
    """After each slice."""
    keys: int = 256
    """Sets that are transferred at once."""
    fetch_bytes: int = 512 * 1024
    bytes_per_s: float = 32 * 1024 * 1024
    """Of sets, by each node that repairs."""


@dataclass(slots=True)
class Report:
    """What one exchange, or a repair of several, did."""

    exchanges: int = 0
    equal: int = 0
    """Exchanges that ended with the comparison of the roots."""
    compared: int = 0
    """Sums compared."""
    listed: int = 0
    fetched: int = 0
    pushed: int = 0
    transferred_bytes: int = 0
    """Of sets, both ways."""
    failed: int = 0
    """Sets that one side could not store."""
    broken_off: dict[NodeId, str] = field(default_factory=dict)
    """Peers with whom it did not come to an end, and why."""

    def add(self, other: Report) -> None:
        for name in ("exchanges", "equal", "compared", "listed", "fetched", "pushed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.transferred_bytes += other.transferred_bytes
        self.failed += other.failed
        self.broken_off.update(other.broken_off)


class Exchanger:
    def __init__(
        self,
        parts: Parts,
        procedures: Procedures,
        scanner: Scanner,
        settings: ExchangeSettings | None = None,
    ) -> None:
        self._parts = parts
        self._procedures = procedures
        self._scanner = scanner
        self._settings = settings or ExchangeSettings()
        self.totals = Report()

    # --- asking ---------------------------------------------------------------------------

    def ask(self, peer: NodeId, request: Request, within_s: float | None = None) -> Signal[Outcome]:
        signal: Signal[Outcome] = Signal()
        deadline_s = self._parts.clock.monotonic() + (within_s or self._settings.question_s)
        self._parts.messenger.ask(peer, request, deadline_s, signal.set)
        return signal

    async def _answer(self, peer: NodeId, request: Request, status: Status) -> bytes:
        """Raises ExchangeError."""
        for _ in range(LATER_TRIES):
            outcome = await self.ask(peer, request)
            if not isinstance(outcome, Reply):
                raise ExchangeError(f"{peer}: {outcome.reason}")
            if outcome.status is status:
                return outcome.body
            if outcome.status is not Status.LATER:
                reason = outcome.body.decode(errors="replace")
                raise ExchangeError(f"{peer} answered {outcome.status.name}: {reason}")
            await self._procedures.pause(0.05)
        raise ExchangeError(f"{peer} has had no time for it")

    # --- the initiator --------------------------------------------------------------------

    async def with_peer(self, peer: NodeId, keyspace: int) -> Report:
        """Make the two equal in all that both are to have. Raises ExchangeError."""
        report = Report(exchanges=1)
        view, n = self._parts.view(), self._parts.keyspaces.n_of(keyspace)
        shared = SharedBuckets(view.shared(self._parts.node, peer, n))
        exchange = Exchange(shared)
        try:
            while segments := exchange.next_segments():
                ours = await self._scanner.sums(keyspace, shared, segments, peer)
                if ours is None:
                    raise ExchangeError("its own sums are still being added up")
                theirs = await self._compare(peer, keyspace, view, segments, ours)
                exchange.on_compared(ours, theirs)
            report.equal = int(exchange.done)
            while segments := exchange.next_key_segments():
                await self._level(peer, keyspace, view, shared, segments, report)
        except frames.MalformedFrameError as error:
            raise ExchangeError(f"{peer}: {error}") from error
        finally:
            report.compared = exchange.compared
            self.totals.add(report)
        return report

    async def _compare(
        self,
        peer: NodeId,
        keyspace: int,
        view: RingView,
        segments: Sequence[Segment],
        ours: Sequence[Leaf],
    ) -> list[int | None]:
        request = Compare(
            0, view.epoch, keyspace, _pairs(segments), [leaf.to_bytes() for leaf in ours]
        )
        body = await self._answer(peer, request, Status.COMPARED)
        theirs = frames.decode_body(frames.compared_decoder, body)
        if len(theirs) != len(segments) or view is not self._parts.view():
            raise ExchangeError("the ring has changed meanwhile")
        return theirs

    async def _level(
        self,
        peer: NodeId,
        keyspace: int,
        view: RingView,
        shared: SharedBuckets,
        segments: list[Segment],
        report: Report,
    ) -> None:
        """List these segments on both sides and transfer what differs."""
        while segments:
            request = ListKeys(0, view.epoch, keyspace, _pairs(segments))
            body = await self._answer(peer, request, Status.LISTED)
            listed, until = frames.decode_body(frames.listed_decoder, body)
            if until <= segments[0].first or view is not self._parts.view():
                raise ExchangeError("the ring has changed meanwhile")
            covered, segments = _cut(segments, until)
            ours, _ = await self._scanner.keys(keyspace, shared, covered, limit=None)
            theirs = [(key, int.from_bytes(digest, "big")) for key, digest in listed]
            report.listed += len(theirs)
            await self._transfer(peer, keyspace, difference(ours, theirs), report)

    async def _transfer(
        self, peer: NodeId, keyspace: int, found: Difference, report: Report
    ) -> None:
        wanted = sorted([*found.pull, *found.both])
        size = self._settings.keys
        for start in range(0, len(wanted), size):
            await self._pull(peer, keyspace, wanted[start : start + size], report)
        for start in range(0, len(found.push), size):
            await self._push(peer, keyspace, found.push[start : start + size], report)

    async def _pull(
        self, peer: NodeId, keyspace: int, keys: Sequence[bytes], report: Report
    ) -> None:
        """Fetch the other's sets, merge them here, and send back what he lacks of the result."""
        ledger = self._parts.ledger
        for key in keys:
            ledger.sending(keyspace, key)
        try:
            left = list(keys)
            back: list[bytes] = []
            while left:
                body = await self._answer(peer, Fetch(0, keyspace, left), Status.FETCHED)
                sets = frames.decode_body(frames.fetched_decoder, body)
                if not 0 < len(sets) <= len(left):
                    raise ExchangeError(f"{peer} answered with {len(sets)} of {len(left)} sets")
                back += await self._take(keyspace, left, sets, report)
                del left[: len(sets)]
                await self._pay(len(body))
            if back:
                await self._push(peer, keyspace, back, report)
        finally:
            for key in keys:
                ledger.sent(keyspace, key)

    async def _take(
        self, keyspace: int, keys: Sequence[bytes], sets: Sequence[bytes], report: Report
    ) -> list[bytes]:
        """Merge fetched sets here; gives the keys of which the other lacks something."""
        signals: list[Signal[Answer]] = []
        back: list[bytes] = []
        for key, encoded in zip(keys, sets, strict=False):
            if not encoded:
                continue  # it is gone there since it was listed
            try:
                theirs = decode_set(encoded)
            except MalformedSetError as error:
                raise ExchangeError(str(error)) from error
            report.fetched += 1
            report.transferred_bytes += len(encoded)
            ours = self._parts.replica.read(keyspace, key)
            if isinstance(ours, Found) and merge(ours.siblings, theirs) != theirs:
                back.append(key)
            signal: Signal[Answer] = Signal()
            self._parts.replica.store(keyspace, key, theirs, encoded, signal.set)
            signals.append(signal)
        for signal in signals:
            report.failed += not isinstance(await signal, Stored)
        return back

    async def _push(
        self, peer: NodeId, keyspace: int, keys: Sequence[bytes], report: Report
    ) -> None:
        waiting = list(keys)
        for _ in range(LATER_TRIES):
            sent: list[tuple[bytes, Signal[Outcome]]] = []
            size = 0
            for key in waiting:
                encoded = self._parts.replica.read_encoded(keyspace, key)
                if isinstance(encoded, bytes):
                    size += len(encoded)
                    message = Store(0, keyspace, key, encoded, "", True)
                    sent.append((key, self.ask(peer, message)))
            report.transferred_bytes += size
            waiting = []
            for key, signal in sent:
                outcome = await signal
                if not isinstance(outcome, Reply):
                    raise ExchangeError(f"{peer}: {outcome.reason}")
                if outcome.status is Status.LATER:
                    waiting.append(key)
                else:
                    stored = outcome.status is Status.STORED
                    report.pushed += stored
                    report.failed += not stored
            await self._pay(size)
            if not waiting:
                return
            await self._procedures.pause(0.05)
        raise ExchangeError(f"{peer} has had no time for it")

    async def _pay(self, size_bytes: int) -> None:
        seconds = size_bytes / self._settings.bytes_per_s
        await self._procedures.pause(max(self._settings.pause_s, seconds))


def _pairs(segments: Iterable[Segment]) -> list[tuple[int, int]]:
    return [(segment.first, segment.end) for segment in segments]


def _cut(segments: Sequence[Segment], until: int) -> tuple[list[Segment], list[Segment]]:
    """What lies below the number and what is left."""
    below = [Segment(s.first, min(s.end, until)) for s in segments if s.first < until]
    left = [Segment(max(s.first, until), s.end) for s in segments if s.end > until]
    return below, left
