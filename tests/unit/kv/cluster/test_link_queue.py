"""The outbound queue: bounded per channel, urgent first, a share for everybody."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kv.cluster.link_protocol import (
    CONTROL,
    FRAGMENT_BYTES,
    HEADER_BYTES,
    Channel,
    Decoder,
)
from kv.cluster.link_queue import CONTROL_LIMIT, OutboundQueue

RAFT = Channel("raft", 1, 300_000, 1_000_000, 50, 128 * 1024)
BULK = Channel("bulk", 2, 300_000, 1_000_000, 50, 70_000)
CHANNELS = (RAFT, BULK)


def decode(decoder: Decoder, data: bytes) -> list[tuple[int, bytes]]:
    frames = []
    while data:
        room = decoder.free
        piece, data = data[: len(room)], data[len(room) :]
        room[: len(piece)] = piece
        frames += decoder.received(len(piece))
    assert decoder.violation is None
    return frames


def opened() -> Decoder:
    decoder = Decoder()
    decoder.open_channels(CHANNELS)
    return decoder


def test_a_full_channel_refuses_and_takes_nothing_from_the_others() -> None:
    queue = OutboundQueue(CHANNELS)
    taken = sum(queue.offer(2, bytes(200_000)) for _ in range(10))
    assert taken == 5, "five of 200 kB fit into 1 MB"
    assert queue.lanes[2].queued_bytes == 1_000_000
    assert not queue.offer(2, b"x")
    assert queue.offer(2, b""), "nothing weighs nothing"
    assert queue.offer(1, b"x")


def test_a_channel_is_bounded_in_frames_too() -> None:
    queue = OutboundQueue(CHANNELS)
    assert [queue.offer(1, b"") for _ in range(51)] == [True] * 50 + [False]
    queue.take(HEADER_BYTES)
    assert queue.offer(1, b"")


def test_what_has_partly_left_still_counts_whole() -> None:
    queue = OutboundQueue(CHANNELS)
    frame = bytes(200_000)
    for _ in range(5):
        queue.offer(2, frame)
    queue.take(FRAGMENT_BYTES)
    assert queue.lanes[2].queued_bytes == 1_000_000
    assert not queue.offer(2, b"x")


@given(
    offers=st.lists(
        st.tuples(st.sampled_from([1, 2]), st.integers(0, 300_000)), min_size=1, max_size=30
    ),
    budgets=st.lists(st.integers(1, 400_000), min_size=1, max_size=10),
)
def test_whatever_the_bursts_each_channel_arrives_whole_and_in_order(
    offers: list[tuple[int, int]], budgets: list[int]
) -> None:
    queue, decoder = OutboundQueue(CHANNELS), opened()
    sent: dict[int, list[bytes]] = {1: [], 2: []}
    came: dict[int, list[bytes]] = {1: [], 2: []}
    for turn, (channel, size) in enumerate(offers):
        frame = bytes([turn]) * size
        if queue.offer(channel, frame):
            sent[channel].append(frame)
        budget = budgets[turn % len(budgets)]
        if turn % 2:
            burst = b"".join(queue.take(budget))
            assert len(burst) < budget + FRAGMENT_BYTES + HEADER_BYTES
            for got, payload in decode(decoder, burst):
                came[got].append(payload)
    rounds = 0
    while queue.pending:
        rounds += 1
        assert rounds < 10_000, "take() always gets on"
        for got, payload in decode(decoder, b"".join(queue.take(budgets[rounds % len(budgets)]))):
            came[got].append(payload)
    assert came == sent
    assert all(lane.queued_bytes == 0 and lane.offset == 0 for lane in queue.lanes.values())
    assert {lane.channel.id: lane.sent_frames for lane in queue.lanes.values()} == {
        channel: len(frames) for channel, frames in sent.items()
    }


def channels_of(burst: bytes) -> list[int]:
    found, at = [], 0
    while at < len(burst):
        found.append(burst[at + 9])
        at += HEADER_BYTES + int.from_bytes(burst[at + 4 : at + 8])
    return found


def test_the_urgent_channel_goes_first_whoever_came_first() -> None:
    queue = OutboundQueue(CHANNELS)
    queue.offer(2, b"bulk")
    queue.offer(1, b"heartbeat")
    assert channels_of(b"".join(queue.take(1_000_000))) == [1, 2]


def test_an_urgent_frame_waits_for_one_burst_at_most() -> None:
    queue = OutboundQueue(CHANNELS)
    for _ in range(3):
        queue.offer(2, bytes(300_000))
    assert channels_of(b"".join(queue.take(100_000))) == [2, 2]
    queue.offer(1, b"heartbeat")
    assert channels_of(b"".join(queue.take(100_000)))[0] == 1


def test_a_flood_of_urgent_frames_leaves_the_others_their_share() -> None:
    queue, sent = OutboundQueue(CHANNELS), {1: 0, 2: 0}
    for _ in range(200):
        while queue.offer(1, bytes(10_000)):
            pass
        while queue.offer(2, bytes(10_000)):
            pass
        for channel in channels_of(b"".join(queue.take(64 * 1024))):
            sent[channel] += 1
    share = sent[2] / (sent[1] + sent[2])
    expected = BULK.share_bytes / (BULK.share_bytes + RAFT.share_bytes)
    assert abs(share - expected) < 0.05


def test_messages_of_the_link_go_first_and_are_few() -> None:
    queue = OutboundQueue(CHANNELS)
    queue.offer(1, b"frame")
    assert [queue.offer_control(b"pong") for _ in range(CONTROL_LIMIT + 1)] == [
        True
    ] * CONTROL_LIMIT + [False]
    kinds = channels_of(b"".join(queue.take(1_000_000)))
    assert kinds == [CONTROL] * CONTROL_LIMIT + [1]
    assert queue.pending == 0


def test_clear_forgets_half_sent_frames_and_says_what_was_lost() -> None:
    queue = OutboundQueue(CHANNELS)
    queue.offer(2, bytes(300_000))
    queue.offer(2, b"second")
    queue.take(1)
    assert queue.clear() == {2: 2}
    queue.offer(2, b"fresh")
    assert decode(opened(), b"".join(queue.take(1_000_000))) == [(2, b"fresh")]
