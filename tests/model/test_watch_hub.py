"""The watch hub against a naive model: a list of everything that ever happened.

Whatever the order of commits, slow readers, pages of the log, compactions, snapshots and
reconnects: what a client has taken is always a beginning of what it should get, cut between two
revisions; what it is told as progress is true; it is cancelled only if it needed what was
compacted; and once everyone reads and the log is read to its end, everyone has everything.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kv.watch.catchup import StepBudget
from kv.watch.hub import Created, WatchHub
from kv.watch.index import EVERYTHING, KeyRange, key_range, one_key, with_prefix
from kv.watch.messages import Cancelled, CancelReason, EventBatch, Progress
from kv.watch.watcher import WatchLimits, WatchRequest
from storage.errors import CompactedError
from storage.mvcc_events import EventPage
from storage.mvcc_records import (
    Event,
    event_of,
    is_tombstone,
    pack_event,
    put_record,
    tombstone_record,
)

KEYS = (b"a", b"a1", b"a2", b"b", b"b1", b"c")
RANGES = (
    *(one_key(key) for key in KEYS[:4]),
    with_prefix(b"a"),
    with_prefix(b"b"),
    key_range(b"a1", b"b1"),
    key_range(b"a2", None),
    EVERYTHING,
)
changes = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 5), min_size=1, max_size=4)
numbers = st.integers(0, 1_000)


def shown(event: Event, with_prev: bool) -> bytes:
    revision, key = event.kv.mod_revision, event.kv.key
    previous = event.prev.value if with_prev and event.prev is not None else b"-"
    what = b"X" if event.is_delete else event.kv.value
    return b"%d %s %s %s" % (revision, key, what, previous)


@dataclass
class Client:
    request: WatchRequest
    identity: int
    start: int
    got: list[bytes] = field(default_factory=list)
    resume: int = 0
    """From where a reconnect goes on."""
    is_over: bool = False
    has_half: bool = False
    """Of the last revision, since the next fragment is still to come."""


class HubMachine(RuleBasedStateMachine):
    @initialize(
        outbox_events=st.integers(1, 6),
        message_events=st.integers(1, 5),
        outbox_bytes=st.sampled_from([60, 300, 10_000]),
        total_bytes=st.sampled_from([1, 400, 100_000]),
    )
    def start(
        self, outbox_events: int, message_events: int, outbox_bytes: int, total_bytes: int
    ) -> None:
        limits = WatchLimits(
            outbox_events=outbox_events,
            outbox_bytes=outbox_bytes,
            total_bytes=total_bytes,
            message_events=message_events,
            fragment_bytes=15,
            progress_interval_s=10.0,
        )
        self.hub = WatchHub(shown, revision=1, limits=limits)
        self.history: dict[int, list[Event]] = {}
        self.bodies: dict[int, list[bytes]] = {1: []}
        self.records: dict[bytes, bytes] = {}
        self.revision = 1
        self.compact_revision = 0
        self.now_s = 0.0
        self.clients: list[Client] = []
        for keys in (EVERYTHING, one_key(b"a")):
            self.watch(keys, 0, (True, True, False), 0, 0)

    # --- the shard ---

    def _write(self, changed: dict[bytes, int]) -> list[bytes]:
        self.revision += 1
        bodies: list[bytes] = []
        for sub, (key, number) in enumerate(changed.items()):
            old = self.records.get(key)
            if number == 0 and old is not None and not is_tombstone(old):
                new = tombstone_record(old, self.revision, sub, 0)
            else:
                new = put_record(old, b"v" * number, 0, self.revision, sub, 0)
            self.records[key] = new
            bodies.append(pack_event(key, new, old))
        self.bodies[self.revision] = bodies
        self.history[self.revision] = [event_of(body) for body in bodies]
        return bodies

    def _read(
        self,
        from_revision: int,
        start: bytes,
        end: bytes | None,
        *,
        max_events: int,
        max_bytes: int,
    ) -> EventPage:
        if from_revision < self.compact_revision:
            raise CompactedError("gone", self.compact_revision)
        keys = KeyRange(start, end)
        events: list[Event] = []
        for revision in range(from_revision, self.revision + 1):
            group = [event_of(body) for body in self.bodies[revision]]
            group = [event for event in group if keys.holds(event.kv.key)]
            if events and len(events) + len(group) > max_events:
                return EventPage(events, revision)
            events += group
        return EventPage(events, max(from_revision, self.revision + 1))

    @rule(several=st.lists(changes, min_size=1, max_size=5))
    def commit(self, several: list[dict[bytes, int]]) -> None:
        for changed in several:
            bodies = self._write(changed)
            self.hub.committed(self.revision, bodies)

    @rule(several=st.lists(changes, min_size=1, max_size=4), compact=st.booleans())
    def snapshot(self, several: list[dict[bytes, int]], compact: bool) -> None:
        for changed in several:
            self._write(changed)
        if compact:
            self._forget_below(self.revision)
        self.hub.jumped(self.revision, self.compact_revision)

    @rule(number=numbers, tell=st.booleans())
    def compact(self, number: int, tell: bool) -> None:
        """The hub may hear of it only from the reader."""
        self._forget_below(1 + number % self.revision)
        if tell:
            self.hub.compacted(self.compact_revision)

    def _forget_below(self, revision: int) -> None:
        self.compact_revision = max(self.compact_revision, revision)
        for gone in [each for each in self.bodies if each < self.compact_revision]:
            del self.bodies[gone]

    # --- clients ---

    @rule(
        keys=st.sampled_from(RANGES),
        number=st.one_of(st.just(0), numbers),
        wishes=st.tuples(*[st.booleans()] * 3),
        no_put=st.integers(0, 4),
        no_delete=st.integers(0, 4),
    )
    def watch(
        self,
        keys: KeyRange,
        number: int,
        wishes: tuple[bool, bool, bool],
        no_put: int,
        no_delete: int,
    ) -> None:
        prev_kv, progress, fragment = wishes
        start = number % (self.revision + 4)
        request = WatchRequest(
            keys, start, no_put == 1, no_delete == 1, prev_kv, progress, fragment
        )
        start = start or self.revision + 1
        client = Client(request, self._connect(request), start, resume=start)
        self.clients.append(client)

    def _connect(self, request: WatchRequest) -> int:
        created = self.hub.create(request, self.now_s)
        assert isinstance(created, Created)
        assert created.revision == self.revision
        return created.identity

    def _client(self, number: int) -> Client | None:
        alive = [client for client in self.clients if not client.is_over]
        return alive[number % len(alive)] if alive else None

    @rule(number=numbers, max_bytes=st.sampled_from([0, 1, 100]), is_out=st.booleans())
    def take(self, number: int, max_bytes: int, is_out: bool) -> None:
        client = self._client(number)
        if client is not None:
            self._take(client, max_bytes)
            if is_out:
                self.hub.room(client.identity)

    def _take(self, client: Client, max_bytes: int = 0) -> int:
        messages = self.hub.take(client.identity, max_bytes)
        for message in messages:
            assert not client.is_over
            if isinstance(message, EventBatch):
                assert message.first_revision >= client.resume or client.has_half
                client.got += message.parts
                client.has_half = message.more
                client.resume = message.revision + (0 if message.more else 1)
                if not message.more:
                    assert client.got == self._expected(client, message.revision)
            elif isinstance(message, Progress):
                assert client.request.progress
                assert client.got == self._expected(client, message.revision)
                client.resume = max(client.resume, message.revision + 1)
            else:
                self._check_end(client, message)
        return len(messages)

    def _check_end(self, client: Client, end: Cancelled) -> None:
        assert end.reason is CancelReason.COMPACTED
        assert client.resume < end.compact_revision <= self.compact_revision
        assert not client.has_half
        client.is_over = True

    @rule(number=numbers)
    def reconnect(self, number: int) -> None:
        """What was not taken is lost with the connection; so is a half revision."""
        client = self._client(number)
        if client is None or number % 2:
            return
        assert self.hub.cancel(client.identity)
        if client.has_half:
            client.got = self._expected(client, client.resume - 1)
            client.has_half = False
        old = client.request
        client.request = WatchRequest(
            old.keys,
            client.resume,
            old.no_put,
            old.no_delete,
            old.prev_kv,
            old.progress,
            old.fragment,
        )
        client.identity = self._connect(client.request)

    @rule(number=numbers)
    def leave(self, number: int) -> None:
        client = self._client(number)
        if client is not None and number % 4 == 0:
            assert self.hub.cancel(client.identity)
            client.is_over = True

    # --- the hub's own work ---

    @rule(events=st.integers(1, 8), watchers=st.integers(1, 5))
    def step(self, events: int, watchers: int) -> None:
        self.hub.step(self._read, StepBudget(events, 10_000, watchers))

    @rule(seconds=st.sampled_from([1.0, 10.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.hub.tick(self.now_s)
        due_s = self.hub.next_tick_s()
        assert due_s is None or due_s > self.now_s

    def _expected(self, client: Client, last: int) -> list[bytes]:
        request = client.request
        return [
            shown(event, request.prev_kv)
            for revision in range(client.start, last + 1)
            for event in self.history.get(revision, ())
            if request.keys.holds(event.kv.key)
            and not (request.no_delete if event.is_delete else request.no_put)
        ]

    @invariant()
    def the_books_are_right(self) -> None:
        if not hasattr(self, "hub"):
            return
        statistics = self.hub.statistics()
        alive = [client for client in self.clients if not client.is_over]
        assert sum(statistics[:5]) == len(alive)
        if not alive:
            assert statistics.held_bytes == statistics.ranges == 0
        for client in alive:
            if not client.has_half:
                reached = self.hub.reached([client.identity])
                if reached >= client.start:
                    assert client.got == self._expected(client, max(reached, client.resume - 1))

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        for _ in range(10_000):
            moved = self.hub.step(self._read, StepBudget(3, 10_000, 2))
            for client in self.clients:
                if not client.is_over:
                    self.hub.room(client.identity)  # may let in what waited for it
                    moved |= self._take(client) > 0
            if not moved and not self.hub.is_behind:
                break
        else:
            raise AssertionError("it does not come to rest")
        statistics = self.hub.statistics()
        assert statistics.victims == statistics.ended == statistics.held_bytes == 0
        for client in self.clients:
            if not client.is_over:
                assert client.got == self._expected(client, self.revision)


class TestHub(HubMachine.TestCase):
    settings = settings(stateful_step_count=40)
