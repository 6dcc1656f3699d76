"""Hazards of AppendEntries and its acknowledgements: a, b, d2, n1, n3, j, k, n5.

Each test fails without its rule; the letters are those of raftgroups/ARCHITECTURE.md.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from raftgroups.errors import BrokenLogError
from raftgroups.filters import b_place
from raftgroups.messages import Ack, Append
from raftgroups.outcomes import Applied, Refused
from raftgroups.transport import RAFT, NodeId

Make = Callable[..., Any]


class Terms:
    """A log of which only the terms matter: base, then one term an entry."""

    def __init__(self, base_index: int, base_term: int, *terms: int) -> None:
        self.base_index = base_index
        self._terms = [base_term, *terms]

    @property
    def last_index(self) -> int:
        return self.base_index + len(self._terms) - 1

    @property
    def last_term(self) -> int:
        return self._terms[-1]

    def term_at(self, index: int) -> int:
        assert index >= self.base_index
        return self._terms[index - self.base_index]


def append(prev: int | None, prev_term: int, *terms: int, commit: int = 0, term: int = 9) -> Append:
    return Append(1, term, prev, prev_term, commit, False, [(t, b"\x01") for t in terms])


def led_by_a(make_cluster: Make, **settings: Any) -> Any:
    cluster = make_cluster(3, **settings)
    cluster.create()
    cluster.put(b"first")
    cluster.make_leader(NodeId("a"))
    cluster.put(b"second")
    cluster.converge()
    cluster.network.log.clear()
    return cluster


# --- a ---------------------------------------------------------------------------------------


def test_hazard_a_ack_of_an_older_term_is_not_counted(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    leader = cluster["a"]
    cluster.network.isolate("a", cluster.ids)
    results = cluster.propose(leader, b"only here")
    cluster.run(0.05)
    status = leader.group.status()
    assert status.commit_index < status.last_index
    late = Ack(1, status.term - 1, status.last_index + 1, success=True, reset=False)
    cluster.inject("b", "a", late)
    cluster.run(0.05)
    assert results == []
    assert leader.group.status().commit_index < status.last_index
    assert leader.host.status().dropped["a-ack-of-another-term"] == 1


# --- b ---------------------------------------------------------------------------------------


def test_hazard_b_suffix_deleted_by_late_append(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    for number in range(5):
        cluster.put(b"%d" % number)
    cluster.converge()
    follower = cluster["b"]
    journal = follower.group.replica.journal
    last, term = journal.last_index, follower.group.status().term
    old = [(t, command) for command, _, t in journal.window.read(last - 3, 1)]
    late = Append(1, term, last - 4, journal.term_at(last - 4), 0, False, old)
    cluster.network.log.clear()
    cluster.inject("a", "b", late)
    cluster.run(0.01)
    assert journal.last_index == last
    assert cluster.sent(Ack, "b")[0] == Ack(1, term, last - 2, success=True, reset=False)


def test_hazard_b_suffix_deleted_by_late_heartbeat(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    results = [cluster.propose(cluster["a"], b"%d" % n) for n in range(5)]
    cluster.until(lambda: all(results))
    cluster.converge()
    journal = cluster["b"].group.replica.journal
    last, term = journal.last_index, cluster["b"].group.status().term
    cluster.inject("a", "b", Append(1, term, last - 1, journal.term_at(last - 1), 0, False, []))
    cluster.run(0.001)
    assert journal.last_index == last
    assert cluster["b"].fatal is None


def test_hazard_b_commit_index_is_clamped_to_what_matched() -> None:
    log = Terms(1, 0, 1, 1, 2, 2)
    placed = b_place(append(3, 1, commit=9), log)
    assert placed.append == append(5, 2, commit=3)
    assert placed.matched == 3
    placed = b_place(append(2, 1, 1, commit=9), log)
    assert placed.append.commit == 3


def test_hazard_b_clamp_keeps_a_foreign_suffix_uncommitted(make_cluster: Make) -> None:
    """c holds entries of an older term behind a matching prefix; a heartbeat for the prefix that
    names a high commit index must not commit them."""
    cluster = led_by_a(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    leader = cluster["a"]
    for number in range(3):
        cluster.propose(leader, b"lost %d" % number)
        cluster.run(0.01)
    journal = leader.group.replica.journal
    matching = journal.last_index - 3
    term = leader.group.status().term
    heartbeat = Append(1, term + 1, matching, journal.term_at(matching), 10_000, False, [])
    cluster.inject("b", "a", heartbeat)
    cluster.run(0.01)
    assert leader.group.status().commit_index == matching
    assert not any(b"lost" in row for row in leader.machine.rows())


@pytest.mark.parametrize(
    ("log", "message", "expected", "matched", "truncates"),
    [
        # appended at the end: as it is
        (Terms(1, 0, 1, 1), append(3, 1, 2), append(3, 1, 2), 4, None),
        # a repetition: nothing new
        (Terms(1, 0, 1, 1), append(2, 1, 1), append(3, 1), 3, None),
        # half new
        (Terms(1, 0, 1, 1), append(1, 0, 1, 1, 2), append(3, 1, 2), 4, None),
        # a real conflict in the middle
        (Terms(1, 0, 1, 1, 1), append(1, 0, 1, 2), append(2, 1, 2), 3, 3),
        # the previous entry is missing, or of another term: refused by pysyncobj
        (Terms(1, 0, 1), append(5, 1, 1), append(5, 1, 1), None, None),
        (Terms(1, 0, 1, 1), append(3, 2, 2), append(3, 2, 2), None, None),
        # wholly, partly below the base: what is compacted is committed, therefore equal
        (Terms(10, 3, 3), append(4, 1, 1, 2), append(11, 3), 10, None),
        (Terms(10, 3, 3), append(8, 2, 3, 3, 3, 4), append(11, 3, 4), 12, None),
        (Terms(10, 3, 3), append(9, 3, 3, 3), append(11, 3), 11, None),
        (Terms(10, 3), append(9, 3, 3), append(10, 3), 10, None),
    ],
)
def test_rule_b_places_every_case(
    log: Terms, message: Append, expected: Append, matched: int | None, truncates: int | None
) -> None:
    placed = b_place(message, log)
    assert placed.append._replace(entries=list(placed.append.entries)) == expected
    assert (placed.matched, placed.truncate_from) == (matched, truncates)


# --- d2 --------------------------------------------------------------------------------------


def test_hazard_d2_a_refusal_backs_up_in_one_step(make_cluster: Make) -> None:
    """b comes back with a long suffix that nobody else has: the new leader must not walk it."""
    cluster = led_by_a(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    for number in range(60):
        cluster.propose(cluster["a"], b"lost %d" % number)
        cluster.run(0.002)
    assert cluster["a"].group.status().last_index > 60
    cluster.run(3.0)
    for number in range(100):
        cluster.put(b"%d" % number)
    cluster.network.log.clear()
    cluster.network.heal()
    cluster.converge()
    refusals = [ack for ack in cluster.sent(Ack, "a") if ack.reset]
    assert 1 <= len(refusals) <= 3


# --- n1 --------------------------------------------------------------------------------------


def test_hazard_n1_append_without_previous_entry_commits_nothing(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    cluster.network.isolate("a", cluster.ids)
    cluster.propose(cluster["a"], b"lost")
    cluster.run(0.01)
    before = cluster["a"].group.status()
    cluster.inject("b", "a", Append(1, before.term + 1, None, 0, 10_000, False, []))
    cluster.run(0.01)
    assert cluster["a"].group.status().commit_index == before.commit_index
    assert cluster["a"].machine.rows() == [b"first", b"second"]


# --- n3, j, k --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (b"\x03" + cbor2.dumps(7), "n3-unknown-entry-kind"),
        (b"\x01 ", "n3-unknown-entry-kind"),
        (b"", "malformed-entries"),
        (b"\x02 no configuration", "malformed-entries"),
        (b"\x02" + pickle.dumps(["add", "x"]), "malformed-entries"),
    ],
)
def test_hazard_n3_unknown_entries_are_rejected(
    make_cluster: Make, command: bytes, reason: str
) -> None:
    cluster = led_by_a(make_cluster)
    follower = cluster["b"]
    last, term = follower.group.status().last_index, follower.group.status().term
    last_term = follower.group.replica.journal.last_term
    cluster.inject("a", "b", Append(1, term, last, last_term, last, False, [(term, command)]))
    cluster.run(0.01)
    assert follower.group.status().last_index == last
    assert follower.host.status().dropped[reason] == 1
    assert follower.fatal is None


def test_hazard_n3_entries_with_terms_out_of_order_are_rejected(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    follower = cluster["b"]
    last, term = follower.group.status().last_index, follower.group.status().term
    for terms in ((term + 1,), (term, term - 1)):
        entries = [(t, b"\x01") for t in terms]
        cluster.inject("a", "b", Append(1, term, last, term, last, False, entries))
    cluster.run(0.01)
    assert follower.group.status().last_index == last
    assert follower.host.status().dropped["malformed-entries"] == 2


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00",
        b"\xff" * 40,
        pickle.dumps({"type": "append_entries", "term": 99}),
        cbor2.dumps({"type": "apply_command", "command": b"x"}),
        cbor2.dumps([2, 1, "boot", []]),
        cbor2.dumps([1, -1, "boot", []]),
        cbor2.dumps([1, 1, "boot", [[99, 1, 1]]]),
        cbor2.dumps([1, 1, "boot", [[2, 1, 1, -5, True, False]]]),
        cbor2.dumps([1, 1, "boot", [[2, 1, 1, 5, 1, 0]]]),
        cbor2.dumps([1, 1, "boot", [[2, 1, 1 << 70, 5, True, False]]]),
        cbor2.dumps([1, 1, "boot", [[1, 1, 1, 1, 1, 1, False, [[1]]]]]),
        cbor2.dumps([1, 1, "boot", ["x", None, [], [[]]]]),
        b"\x9f" * 5000,
    ],
)
def test_hazard_j_hostile_bytes_are_counted_and_dropped(make_cluster: Make, frame: bytes) -> None:
    cluster = led_by_a(make_cluster)
    follower = cluster["b"]
    follower.life.handlers[RAFT](NodeId("a"), frame)
    dropped = follower.host.status().dropped
    assert dropped.get("malformed-frame", 0) + dropped.get("malformed-message", 0) >= 1
    cluster.put(b"goes on")
    cluster.converge()


def test_hazard_k_entries_larger_than_a_batch_travel_whole(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster, append_max_bytes=1000, entry_max_bytes=200_000)
    assert isinstance(cluster.put(b"x" * 150_000), Applied)
    cluster.converge()
    results = cluster.propose(cluster["a"], b"x" * 200_001)
    cluster.until(lambda: bool(results))
    assert isinstance(results[0], Refused)
    assert "200000" in results[0].reason


# --- n5 --------------------------------------------------------------------------------------


def test_hazard_n5_a_slow_peer_gets_a_bounded_number_of_bytes(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster, inflight_max_bytes=10_000, append_max_bytes=5_000)
    cluster.network.hold("a", "c")
    for _ in range(40):
        cluster.put(b"x" * 1000)
    under_way = sum(
        len(command) for append in cluster.sent(Append, "a", "c") for _, command in append.entries
    )
    assert 10_000 <= under_way <= 16_000
    cluster.network.release("a", "c")
    cluster.converge()


def test_hazard_n5_nothing_under_way_is_sent_again(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    cluster.network.hold("b", "a")
    cluster.network.hold("c", "a")
    for number in range(5):
        cluster.propose(cluster["a"], b"%d" % number)
        cluster.run(0.003)
    for pair in (("b", "a"), ("c", "a")):
        for channel, frame in cluster.network.held.pop(pair):
            cluster.network.deliver(*pair, channel, frame)
            cluster.run(0.003)
    cluster.converge()
    sent = [index for a in cluster.sent(Append, "a", "b") for index in _indexes(a)]
    assert len(sent) == len(set(sent)) == 5


def _indexes(append: Append) -> list[int]:
    assert append.prev_index is not None
    return [append.prev_index + 1 + n for n in range(len(append.entries))]


def test_hazard_n5_truncating_what_is_applied_is_fatal(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    follower = cluster["b"]
    status = follower.group.status()
    conflict = Append(1, status.term + 1, 1, 0, 0, False, [(status.term + 1, b"\x01")])
    cluster.inject("a", "b", conflict)
    cluster.run(0.01)
    assert isinstance(follower.fatal, BrokenLogError)
    assert "committed here" in str(follower.fatal)


def test_hazard_n5_the_journal_itself_refuses_to_forget_what_is_applied(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    journal = cluster["b"].group.replica.journal
    with pytest.raises(BrokenLogError, match="to be overwritten"):
        journal.deleteEntriesFrom(1)


def test_a_full_link_is_tried_again_at_the_next_heartbeat(make_cluster: Make) -> None:
    cluster = led_by_a(make_cluster)
    cluster.network.full.add(("a", "c"))
    for number in range(5):
        cluster.put(b"%d" % number)
    assert cluster["a"].host.status().dropped["link-full-or-down"] >= 1
    cluster.network.full.clear()
    started = cluster.world.now
    cluster.converge()
    assert cluster.world.now - started < 0.3
