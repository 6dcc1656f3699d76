"""The hub, one rule and one change of state at a time."""

from __future__ import annotations

from collections.abc import Callable

from kv.watch.hub import WatchHub
from kv.watch.index import key_range, one_key, with_prefix
from kv.watch.messages import Cancelled, CancelReason, EventBatch, Progress
from kv.watch.watcher import WatchLimits, WatchRequest

from .conftest import Desk, encode

MakeDesk = Callable[..., Desk]


# --- what is delivered ---


def test_a_synced_watcher_gets_each_commit_at_once_and_whole(desk: Desk) -> None:
    watcher = desk.watch(with_prefix(b"a"))
    desk.commit((b"a1", b"x"), (b"b", b"y"), (b"a2", b"z"))
    desk.commit((b"b", b"y"))
    desk.commit((b"a1", None))
    assert desk.hub.take_ready() == [watcher]
    assert desk.events(watcher) == [[b"2:a1=x", b"2:a2=z"], [b"4:a1=X"]]
    assert desk.events(watcher) == []
    assert desk.hub.take_ready() == []
    assert desk.log.reads == 0


def test_keys_prefixes_ranges_and_everything(desk: Desk) -> None:
    asked = [one_key(b"b"), with_prefix(b"b"), key_range(b"b0", b"c"), key_range(b"\x00", None)]
    watchers = [desk.watch(keys) for keys in asked]
    desk.commit((b"a", b""), (b"b", b""), (b"b1", b""), (b"c", b""))
    assert [desk.events(watcher) for watcher in watchers] == [
        [[b"2:b="]],
        [[b"2:b=", b"2:b1="]],
        [[b"2:b1="]],
        [[b"2:a=", b"2:b=", b"2:b1=", b"2:c="]],
    ]


def test_filters_and_previous_records_live_and_in_catch_up(desk: Desk) -> None:
    wishes = [{"no_put": True}, {"no_delete": True}, {"prev_kv": True}, {}]
    wishes.append({"no_put": True, "no_delete": True})
    live = [desk.watch(**each) for each in wishes]
    desk.commit((b"k", b"1"))
    desk.commit((b"k", None))
    desk.commit((b"k", b"2"))
    desk.commit((b"k", b"3"))
    late = [desk.watch(start_revision=1, **each) for each in wishes]
    desk.settle()
    expected = [
        [b"3:k=X"],
        [b"2:k=1", b"4:k=2", b"5:k=3"],
        [b"2:k=1", b"3:k=X[1]", b"4:k=2", b"5:k=3[2]"],
        [b"2:k=1", b"3:k=X", b"4:k=2", b"5:k=3"],
        [],
    ]
    for watcher, wanted in zip(live, expected, strict=True):
        assert desk.events(watcher) == [[part] for part in wanted]
    for watcher, wanted in zip(late, expected, strict=True):
        assert desk.events(watcher) == ([wanted] if wanted else [])


def test_an_event_is_encoded_once_for_all_and_not_by_the_commit(desk: Desk) -> None:
    watchers = [desk.watch(keys) for keys in (with_prefix(b"k"), one_key(b"k")) for _ in range(3)]
    with_prev = [desk.watch(prev_kv=True) for _ in range(3)]
    desk.commit((b"k", b"1"))
    desk.commit((b"k", b"2"))
    assert desk.encoded == []
    batches = [desk.messages(watcher)[1] for watcher in watchers + with_prev]
    assert all(isinstance(batch, EventBatch) and batch.parts for batch in batches)
    assert sorted(desk.encoded) == [(3, b"k", False), (3, b"k", True)]
    assert batches[0] is batches[1] is batches[2]
    assert batches[6] is batches[7]


def test_a_message_names_the_revisions_it_holds(desk: Desk) -> None:
    watcher = desk.watch(with_prefix(b"k"), 1)
    for value in (b"1", b"2", b"3"):
        desk.commit((b"k", value))
    desk.settle()
    desk.commit((b"k", b"4"))
    behind, live = desk.messages(watcher)
    assert isinstance(behind, EventBatch)
    assert (behind.first_revision, behind.revision, behind.count) == (2, 4, 3)
    assert isinstance(live, EventBatch)
    assert (live.first_revision, live.revision, live.more) == (5, 5, False)


# --- where a watcher starts ---


def test_now_and_the_next_revision_are_the_same(desk: Desk) -> None:
    desk.commit((b"k", b"1"))
    watchers = [desk.watch(start_revision=start) for start in (-5, 0, 3)]
    assert desk.states() == (0, 3, 0, 0, 0)
    desk.commit((b"k", b"2"))
    assert [desk.events(watcher) for watcher in watchers] == [[[b"3:k=2"]]] * 3


def test_a_future_start_waits(desk: Desk) -> None:
    later = desk.watch(start_revision=5)
    soon = desk.watch(start_revision=4)
    gone = desk.watch(start_revision=4)
    assert desk.states() == (3, 0, 0, 0, 0)
    assert desk.hub.cancel(gone)
    for value in (b"2", b"3", b"4"):
        desk.commit((b"k", value))
    assert desk.states() == (1, 1, 0, 0, 0)
    desk.commit((b"k", b"5"))
    assert desk.states() == (0, 2, 0, 0, 0)
    assert desk.events(later) == [[b"5:k=5"]]
    assert desk.events(soon) == [[b"4:k=4"], [b"5:k=5"]]


def test_a_past_start_is_inclusive_and_joins_the_live_stream(desk: Desk) -> None:
    for value in (b"2", b"3", b"4"):
        desk.commit((b"k", value))
    watcher = desk.watch(start_revision=3)
    assert desk.states() == (0, 0, 1, 0, 0)
    desk.commit((b"k", b"5"))
    assert desk.events(watcher) == []
    assert desk.step() is False
    assert desk.states() == (0, 1, 0, 0, 0)
    desk.commit((b"k", b"6"))
    assert desk.events(watcher) == [[b"3:k=3", b"4:k=4", b"5:k=5"], [b"6:k=6"]]


def test_a_compacted_start_is_created_and_then_cancelled(desk: Desk) -> None:
    for value in (b"2", b"3", b"4"):
        desk.commit((b"k", value))
    desk.compact(3)
    at = desk.watch(start_revision=3)
    below = desk.watch(start_revision=2)
    assert desk.hub.take_ready() == [below]
    cancelled = desk.end(below)
    assert (cancelled.reason, cancelled.compact_revision) == (CancelReason.COMPACTED, 3)
    assert "revision 2" in cancelled.message
    desk.settle()
    assert desk.events(at) == [[b"3:k=3", b"4:k=4"]]
    assert desk.hub.statistics().cancelled_compacted == 1


def test_what_cannot_be_watched_is_refused(make_desk: MakeDesk) -> None:
    desk = make_desk(watchers=1)
    empty = desk.hub.create(WatchRequest(key_range(b"b", b"a")), 0.0)
    assert isinstance(empty, Cancelled)
    assert empty.reason is CancelReason.INVALID
    first = desk.watch()
    refused = desk.hub.create(WatchRequest(one_key(b"k")), 0.0)
    assert isinstance(refused, Cancelled)
    assert refused.reason is CancelReason.LIMIT
    assert "1 watchers" in refused.message
    desk.hub.cancel(first)
    assert desk.watch() != first


# --- slow readers ---


def test_a_full_outbox_makes_a_victim_which_is_retried(make_desk: MakeDesk) -> None:
    desk = make_desk(outbox_events=2)
    slow, quick = desk.watch(), desk.watch()
    for value in (b"2", b"3", b"4"):
        desk.commit((b"k", value))
        assert len(desk.events(quick)) == 1
    assert desk.states() == (0, 1, 0, 1, 0)
    assert desk.hub.statistics().outboxes_filled == 1
    desk.hub.room(slow)  # nothing was taken, so there is none
    assert desk.states() == (0, 1, 0, 1, 0)
    assert [message.revision for message in desk.hub.take(slow)] == [2, 3]
    assert desk.states() == (0, 1, 0, 1, 0)
    assert desk.hub.take(slow) == []  # what was taken counts until it is out
    desk.hub.room(slow)
    assert desk.states() == (0, 2, 0, 0, 0)
    assert desk.events(slow) == [[b"4:k=4"]]
    assert desk.log.reads == 0


def test_a_victim_that_missed_more_catches_up(make_desk: MakeDesk) -> None:
    desk = make_desk(outbox_events=2)
    slow = desk.watch()
    for value in (b"2", b"3", b"4", b"5"):
        desk.commit((b"k", value))
    assert desk.hub.step(desk.log.read) is False  # nobody has room
    assert desk.events(slow) == [[b"2:k=2"], [b"3:k=3"]]
    assert desk.states() == (0, 0, 1, 0, 0)
    assert desk.hub.is_behind
    desk.settle()
    assert desk.states() == (0, 1, 0, 0, 0)
    assert desk.events(slow) == [[b"4:k=4"], [b"5:k=5"]]


def test_a_victim_goes_on_only_once_half_is_out(make_desk: MakeDesk) -> None:
    desk = make_desk(outbox_bytes=2_000, message_bytes=1)
    slow = desk.watch()
    for _ in range(6):
        desk.commit((b"k", bytes(800)))
    assert desk.states() == (0, 0, 0, 1, 0)
    desk.hub.take(slow, max_bytes=1)  # one; the pending one takes its place
    desk.hub.room(slow)
    assert desk.states() == (0, 0, 0, 1, 0)
    desk.hub.take(slow, max_bytes=1)
    desk.hub.room(slow)
    assert desk.states() == (0, 0, 1, 0, 0)


def test_catching_up_with_a_full_outbox_stops_between_revisions(make_desk: MakeDesk) -> None:
    desk = make_desk(outbox_events=3, message_events=1)
    for value in (b"2", b"3", b"4"):
        desk.commit((b"a", value), (b"b", value))
    slow = desk.watch(start_revision=2)
    assert desk.step() is False
    assert desk.states() == (0, 0, 0, 1, 0)
    assert desk.events(slow) == [[b"2:a=2", b"2:b=2"]]
    desk.settle()
    assert desk.events(slow) == [[b"3:a=3", b"3:b=3"]]
    desk.settle()
    assert desk.events(slow) == [[b"4:a=4", b"4:b=4"]]
    desk.settle()
    assert desk.states() == (0, 1, 0, 0, 0)


def test_an_empty_outbox_takes_a_revision_of_any_size(make_desk: MakeDesk) -> None:
    desk = make_desk(outbox_events=1, outbox_bytes=10, total_bytes=1)
    watcher = desk.watch()
    desk.commit((b"a", bytes(100)), (b"b", bytes(100)))
    desk.commit((b"a", b""))
    (message,) = desk.hub.take(watcher)
    assert isinstance(message, EventBatch)
    assert message.count == 2
    desk.hub.room(watcher)
    assert desk.events(watcher) == [[b"3:a="]]


def test_all_outboxes_together_are_bounded(make_desk: MakeDesk) -> None:
    desk = make_desk(total_bytes=1_000)
    stuck, other = desk.watch(one_key(b"a")), desk.watch(one_key(b"b"))
    for _ in range(4):
        desk.commit((b"a", bytes(400)))
    assert desk.hub.statistics().victims == 1
    held_bytes = desk.hub.statistics().held_bytes
    assert 1_000 <= held_bytes < 2_500
    desk.commit((b"b", b"1"))
    desk.commit((b"b", b"2"))  # its outbox is not empty, so this waits
    assert desk.hub.statistics().victims == 2
    assert desk.events(other) == [[b"6:b=1"]]
    assert desk.events(other) == [[b"7:b=2"]]
    for _ in range(9):
        desk.events(stuck)
        desk.settle()
    assert desk.states() == (0, 2, 0, 0, 0)
    assert desk.hub.statistics().held_bytes == 0


def test_a_revision_over_the_hard_limit_cancels_and_names_it(make_desk: MakeDesk) -> None:
    desk = make_desk(revision_bytes=500, message_bytes=500)
    everything, one = desk.watch(), desk.watch(one_key(b"a"))
    desk.commit((b"a", b"1"))
    desk.commit((b"a", bytes(300)), (b"b", bytes(300)))
    desk.commit((b"a", b"3"))
    late = desk.watch(start_revision=2)
    desk.settle()
    for watcher in (everything, late):
        first, last = desk.messages(watcher)
        assert isinstance(first, EventBatch)
        assert first.parts == (b"2:a=1",)
        assert isinstance(last, Cancelled)
        assert last.reason is CancelReason.LIMIT
        assert "revision 3" in last.message
        assert "500" in last.message
    assert [message.revision for message in desk.hub.take(one)] == [2, 3, 4]
    assert desk.hub.statistics().cancelled_limit == 2


def test_one_that_stopped_before_a_revision_over_the_limit_misses_nothing(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(revision_bytes=500, message_bytes=500, message_events=1, outbox_events=1)
    desk.commit((b"a", b"2"))
    desk.commit((b"a", b"3"))
    desk.commit((b"a", bytes(600)))
    watcher = desk.watch(start_revision=2)
    desk.settle()
    assert desk.events(watcher) == [[b"2:a=2"]]
    desk.settle()
    batch, end = desk.messages(watcher)
    assert isinstance(batch, EventBatch)
    assert batch.parts == (b"3:a=3",)
    assert isinstance(end, Cancelled)
    assert end.reason is CancelReason.LIMIT


# --- compaction, snapshots, the end ---


def test_compaction_cancels_those_that_still_need_the_events(make_desk: MakeDesk) -> None:
    desk = make_desk(outbox_events=1)
    victim = desk.watch()
    pending_only = desk.watch(one_key(b"p"))
    for value in (b"2", b"3", b"4"):
        desk.commit((b"k", value))
    desk.commit((b"p", b"5"))
    desk.commit((b"p", b"6"))
    behind = desk.watch(start_revision=3)
    fine = desk.watch(start_revision=5)
    desk.compact(4)
    assert desk.states() == (0, 0, 1, 2, 1)
    assert desk.end(behind).compact_revision == 4
    desk.compact(5)  # the victim has 2, pending 3 and needs 4
    assert [m.revision for m in desk.hub.take(victim) if isinstance(m, EventBatch)] == [2, 3]
    assert desk.states() == (0, 0, 1, 1, 0)
    assert desk.events(pending_only) == [[b"5:p=5"]]
    assert desk.events(pending_only) == [[b"6:p=6"]]
    desk.settle()
    assert desk.events(fine) == [[b"5:p=5", b"6:p=6"]]


def test_a_reader_that_was_compacted_first_cancels_as_well(desk: Desk) -> None:
    for value in (b"2", b"3", b"4"):
        desk.commit((b"k", value))
    watcher, fine = desk.watch(start_revision=2), desk.watch(start_revision=4)
    desk.log.compact_revision = 3
    assert desk.step() is True
    assert desk.end(watcher).compact_revision == 3
    assert desk.hub.compact_revision == 3
    desk.settle()
    assert desk.events(fine) == [[b"4:k=4"]]


def test_a_reader_ahead_of_the_hub_does_not_double(desk: Desk) -> None:
    desk.commit((b"k", b"2"))
    watcher = desk.watch(start_revision=2)
    ahead = desk.log.write([(b"k", b"3")])
    desk.settle()
    assert desk.states() == (0, 1, 0, 0, 0)
    desk.hub.committed(3, ahead)
    assert desk.events(watcher) == [[b"2:k=2"], [b"3:k=3"]]


def test_a_reader_behind_the_hub_is_asked_again_later(desk: Desk) -> None:
    bodies = desk.log.write([(b"k", b"2")])
    desk.log.revision = 1
    desk.hub.committed(2, bodies)
    watcher = desk.watch(start_revision=2)
    assert desk.step() is False
    assert desk.hub.is_behind
    desk.log.revision = 2
    desk.settle()
    assert desk.events(watcher) == [[b"2:k=2"]]


def test_a_snapshot_sends_all_to_the_log(desk: Desk) -> None:
    synced = desk.watch()
    futures = [desk.watch(start_revision=start) for start in (3, 4, 5, 6)]
    desk.commit((b"k", b"2"))
    for value in (b"3", b"4"):
        desk.log.write([(b"k", value)])
    desk.hub.jumped(4, 0)
    assert desk.states() == (2, 0, 3, 0, 0)
    desk.settle()
    assert desk.states() == (2, 3, 0, 0, 0)
    desk.commit((b"k", b"5"))
    assert desk.events(synced) == [[b"2:k=2"], [b"3:k=3", b"4:k=4"], [b"5:k=5"]]
    assert [desk.events(future) for future in futures] == [
        [[b"3:k=3", b"4:k=4"], [b"5:k=5"]],
        [[b"4:k=4"], [b"5:k=5"]],
        [[b"5:k=5"]],
        [],
    ]
    late = desk.watch()
    desk.log.revision = 9
    desk.hub.jumped(9, 8)
    assert desk.end(late).compact_revision == 8


def test_cancelling_is_final_and_repeatable(make_desk: MakeDesk) -> None:
    desk = make_desk(outbox_events=1)
    every = [desk.watch(), desk.watch(), desk.watch(start_revision=9)]
    desk.commit((b"k", b"2"))
    desk.commit((b"k", b"3"))
    every.append(desk.watch(start_revision=2))
    desk.events(every[1])
    assert desk.states() == (1, 1, 1, 1, 0)
    for watcher in every:
        assert desk.hub.cancel(watcher) is True
        assert desk.hub.cancel(watcher) is False
        assert desk.hub.take(watcher) == []
        desk.hub.room(watcher)
    statistics = desk.hub.statistics()
    assert statistics[:7] == (0, 0, 0, 0, 0, 0, 0)
    assert desk.hub.take_ready() == []
    desk.commit((b"k", b"4"))


def test_closing_ends_every_watcher_after_its_events(make_desk: MakeDesk) -> None:
    desk = make_desk(outbox_events=1)
    every = [desk.watch(), desk.watch(start_revision=9)]
    desk.commit((b"k", b"2"))
    desk.commit((b"k", b"3"))  # pending
    desk.hub.close("node 3 stops; watch on another one")
    assert desk.states() == (0, 0, 0, 0, 2)
    kinds = [[type(message) for message in desk.messages(watcher)] for watcher in every]
    assert kinds == [[EventBatch, EventBatch, Cancelled], [Cancelled]]
    assert desk.hub.statistics()[:7] == (0, 0, 0, 0, 0, 0, 0)


# --- progress, fragments ---


def test_progress_after_a_quiet_interval_and_only_if_true(make_desk: MakeDesk) -> None:
    desk = make_desk(outbox_events=1)
    assert desk.hub.next_tick_s() is None
    quiet, busy, stuck, plain = (
        desk.watch(one_key(b"q"), progress=True),
        desk.watch(one_key(b"b"), progress=True),
        desk.watch(one_key(b"s"), progress=True),
        desk.watch(one_key(b"q")),
    )
    desk.commit((b"b", b"2"))
    desk.commit((b"s", b"3"))
    desk.commit((b"s", b"4"))
    assert desk.events(busy) == [[b"2:b=2"]]
    behind = desk.watch(one_key(b"q"), 1, progress=True)
    assert desk.hub.next_tick_s() == 600
    desk.hub.tick(599.0)
    assert desk.messages(quiet) == []
    desk.hub.tick(600.0)
    assert desk.messages(quiet) == [Progress(4)]
    for watcher in (busy, plain, behind):
        assert desk.messages(watcher) == []
    desk.settle()
    desk.commit((b"x", b"5"))
    assert desk.hub.next_tick_s() == 1_200
    desk.hub.tick(1_250.0)
    for watcher in (quiet, busy, behind):
        assert desk.messages(watcher) == [Progress(5)]
    assert desk.messages(plain) == []
    assert [message.revision for message in desk.hub.take(stuck)] == [3]
    desk.hub.tick(10_000.0)
    desk.hub.tick(20_000.0)  # not taken: said once
    assert desk.messages(quiet) == [Progress(5)]
    for watcher in (quiet, busy, stuck, behind):
        desk.hub.cancel(watcher)
    assert desk.hub.next_tick_s() is None


def test_progress_on_request_counts_only_what_was_taken(make_desk: MakeDesk) -> None:
    desk = make_desk(outbox_events=1)
    watcher = desk.watch(one_key(b"k"))
    future = desk.watch(one_key(b"k"), 4)
    assert desk.hub.reached([watcher, future, 99]) == 1
    desk.commit((b"x", b"2"))
    assert desk.hub.reached([watcher, future]) == 2
    for value in (b"3", b"4", b"5"):
        desk.commit((b"k", value))
    assert desk.hub.reached([watcher]) == 2
    assert desk.hub.reached([future]) == 3
    desk.hub.take(watcher)
    assert desk.hub.reached([watcher]) == 3
    desk.hub.room(watcher)
    desk.hub.take(watcher)
    assert desk.hub.reached([watcher]) == 4
    desk.hub.room(watcher)
    assert desk.hub.reached([watcher]) == 4  # the log has the rest
    desk.settle()
    desk.hub.take(watcher)
    assert desk.hub.reached([watcher]) == 5


def test_fragments_for_those_who_asked(make_desk: MakeDesk) -> None:
    desk = make_desk(fragment_bytes=14)
    whole, cut = desk.watch(), desk.watch(fragment=True)
    desk.commit((b"a", b"1"), (b"b", b"2"), (b"c", b"3"))
    desk.commit((b"a", b"a long value"))
    assert [len(parts) for parts in desk.events(whole)] == [3, 1]
    pieces = [piece for piece in desk.messages(cut) if isinstance(piece, EventBatch)]
    assert [piece.parts for piece in pieces] == [
        (b"2:a=1", b"2:b=2"),
        (b"2:c=3",),
        (b"3:a=a long value",),
    ]
    assert [piece.more for piece in pieces] == [True, False, False]
    assert desk.hub.statistics().held_bytes == 0


# --- sharing the work of catching up ---


def test_one_page_serves_all_that_can_use_it(desk: Desk) -> None:
    for number in range(20):
        desk.commit((b"k%02d" % number, b""))
    watchers = [desk.watch(with_prefix(b"k"), 2 + number % 3) for number in range(50)]
    desk.settle()
    assert desk.log.reads == 1
    assert [len(desk.events(watcher)[0]) for watcher in watchers[:3]] == [20, 19, 18]
    assert len([form for form in desk.encoded if form[0] == 2]) == 1


def test_a_step_is_bounded_and_starves_nobody(desk: Desk) -> None:
    for number in range(30):
        desk.commit((b"k%02d" % number, b""))
    near = desk.watch(start_revision=20)
    far = desk.watch(start_revision=2)
    assert desk.step(events=4) is True
    assert sum(len(parts) for parts in desk.events(near)) == 4
    assert desk.step(events=4) is True
    assert desk.events(far) == [[b"%d:k%02d=" % (number + 2, number) for number in range(4)]]
    for _ in range(20):
        desk.step(events=4, watchers=1)
    assert desk.states() == (0, 2, 0, 0, 0)


def test_the_commit_does_not_look_at_watchers_that_are_behind(make_desk: MakeDesk) -> None:
    """A thousand stuck readers of a prefix: the next commits make nothing for them."""
    desk = make_desk(outbox_events=1)
    for _ in range(1_000):
        desk.watch(with_prefix(b"k"))
    desk.commit((b"k", b"2"))
    desk.commit((b"k", b"3"))
    assert desk.states() == (0, 0, 0, 1_000, 0)
    before = desk.hub.statistics()
    desk.commit((b"k", b"4"))
    assert desk.hub.statistics() == before
    assert desk.encoded == []


def test_limits_that_cannot_work_are_refused() -> None:
    hub = WatchHub(encode, revision=7, compact_revision=7, limits=WatchLimits())
    assert (hub.revision, hub.compact_revision) == (7, 7)
    try:
        WatchLimits(message_bytes=10, revision_bytes=9)
    except AssertionError:
        return
    raise AssertionError("accepted")
