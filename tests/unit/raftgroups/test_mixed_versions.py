"""A node of a newer program among older ones: what they cannot read is dropped and counted.

An entry of a kind that a replica does not know is hazard n3 (test_hazards_append.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from raftgroups.frames import FRAME_VERSION, decode_frame, encode_frame
from raftgroups.messages import Append, Beat, Message
from raftgroups.outcomes import Applied
from raftgroups.transport import RAFT, NodeId

Make = Callable[..., Any]


def led_by_a(make_cluster: Make) -> Any:
    cluster = make_cluster(3)
    cluster.create()
    cluster.put(b"before")
    cluster.make_leader(NodeId("a"))
    cluster.converge()
    return cluster


def newer(frame: bytes) -> bytes:
    """The same frame under the next version number."""
    _, *rest = cbor2.loads(frame)
    return cbor2.dumps([FRAME_VERSION + 1, *rest])


def speaks_newer(cluster: Any, node: str) -> Callable[[], None]:
    """From now on this node's frames are of the next version; the answer ends it."""
    life = cluster[node].life
    send = life.send

    def send_newer(peer: NodeId, channel: str, frame: bytes, *, at_once: bool = False) -> bool:
        cluster.network.deliver(NodeId(node), peer, channel, newer(frame))
        return True

    life.send = send_newer
    return lambda: setattr(life, "send", send)


def test_frames_of_a_newer_follower_are_counted_and_the_majority_goes_on(
    make_cluster: Make,
) -> None:
    cluster = led_by_a(make_cluster)
    end = speaks_newer(cluster, "c")
    assert isinstance(cluster.put(b"without c"), Applied)
    cluster.run(5.0)
    assert isinstance(cluster.put(b"still"), Applied)
    assert cluster["a"].host.status().dropped["malformed-frame"] > 0
    assert [node.fatal for node in cluster.alive()] == [None] * 3
    end()
    cluster.converge()
    assert cluster["c"].machine.rows() == [b"before", b"without c", b"still"]


def test_a_newer_leader_is_left_and_the_older_nodes_elect_another(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    end = speaks_newer(cluster, "a")
    cluster.until(lambda: any(node.id != "a" for node in cluster.leaders()), 20.0)
    cluster.until(lambda: [node.id for node in cluster.leaders()] != ["a"], 20.0)
    assert isinstance(cluster.put(b"of the older ones"), Applied)
    assert cluster["b"].host.status().dropped["malformed-frame"] > 0
    assert [node.fatal for node in cluster.alive()] == [None] * 3
    end()
    cluster.converge()


def test_the_message_of_a_newer_frame_says_who_must_upgrade() -> None:
    frame = newer(encode_frame(1, "boot", 1, [Beat(1, 1)]))
    with pytest.raises(Exception, match=r"version 3 .* speaks 2; upgrade the older node"):
        decode_frame(frame)


def test_known_messages_beside_an_unknown_kind_are_delivered(make_cluster: Make) -> None:
    """A frame of this version that carries one message of a kind which is not in the table."""
    cluster = led_by_a(make_cluster)
    follower = cluster["b"]
    term = follower.group.term
    index = follower.group.status().last_index
    good: Message = Append(1, term, index, term, index, False, [(term, b"\x01")])
    frame = encode_frame(cluster["a"].host.incarnation, "boot", 1, [good])
    version, incarnation, boot, level, body = cbor2.loads(frame)
    frame = cbor2.dumps([version, incarnation, boot, level, [[99, 1, term], *body, [98]]])
    cluster["a"].life.alive = False  # nothing more of its own interferes
    before = follower.host.status().dropped.get("malformed-message", 0)
    follower.life.handlers[RAFT](NodeId("a"), frame)
    cluster.run(0.05)
    assert follower.host.status().dropped["malformed-message"] == before + 2
    assert follower.group.status().last_index == index + 1
    assert follower.fatal is None
