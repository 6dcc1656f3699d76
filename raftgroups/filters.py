"""The message rules: what a replica lets through to pysyncobj, and in which form. Pure.

A rule that answers a hazard of pysyncobj (the table in raftgroups/ARCHITECTURE.md) carries its
letter, so that tests and canaries name it. Two carry none: `ack_within_log` bounds what a peer may
claim, and `blank_vote_counts` judges a vote that pysyncobj knows nothing of. A rule that refuses
returns the reason as a short word, which the host counts; a rule that rewrites returns the new
value. None of them changes anything.

What the rules may assume of a sender: it is the node that the link authenticated. Nothing else: it
may be late, repeated, out of date, removed, or on another disk than before.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from raftgroups.levels import BLANK_VOTES_LEVEL
from raftgroups.membership import UNBOUND, Config
from raftgroups.messages import Ack, Append, MalformedError, VoteRequest, WireEntry
from raftgroups.records import KIND_CONFIG, KIND_OPERATIONS, NOOP
from raftgroups.transport import NodeId


class LogView(Protocol):
    """What rule b reads of a log."""

    @property
    def base_index(self) -> int: ...

    @property
    def last_index(self) -> int: ...

    @property
    def last_term(self) -> int: ...

    def term_at(self, index: int) -> int: ...


class Placed(NamedTuple):
    """An Append as pysyncobj may see it (rule b)."""

    append: Append
    matched: int | None
    """The log equals the leader's up to here once this was delivered; None: it does not fit."""
    truncate_from: int | None
    """Delivering it drops our entries from here on: a real conflict."""


# --- AppendEntries ---------------------------------------------------------------------------


def n3_j_entries(append: Append) -> str | None:
    """Rules n3, j, k: only kinds of entries that this program knows, well formed, in order. There
    is no VERSION entry, no chunked transmission, nothing pickled."""
    term = append.prev_term
    for entry_term, command in append.entries:
        if entry_term < term or entry_term > append.term or not command:
            return "malformed-entries"
        term = entry_term
        kind = command[0]
        if kind == KIND_OPERATIONS:
            continue
        if kind == KIND_CONFIG:
            try:
                Config.decode(command[1:])
            except MalformedError:
                return "malformed-entries"
        elif command != NOOP:
            return "n3-unknown-entry-kind"
    if append.prev_index is None and append.entries:
        return "malformed-entries"
    return None


def n1_snapshot_phase(append: Append) -> Append:
    """Rule n1: without a previous entry nothing is known of our log, so nothing is committed."""
    if append.prev_index is None:
        return append._replace(commit=0)
    return append


def b_place(append: Append, log: LogView) -> Placed:
    """Rule b: what we hold already is stripped, so that pysyncobj never deletes a matching suffix;
    and the commit index is clamped to what this message proves to be equal.

    1. What lies at or below our base is committed, therefore equal: skip it.
    2. The previous entry is missing or of another term: deliver as it is, it will be refused.
    3. Skip every entry that we hold with the same term.
    4. Nothing left: rewrite to "after our last entry, no entries", and acknowledge what matched.
    5. Otherwise the rest begins either after our last entry, or at a real conflict.
    """
    assert append.prev_index is not None
    entries: Sequence[WireEntry] = append.entries
    end = append.prev_index + len(entries)
    previous = max(append.prev_index, min(log.base_index, end))
    if append.prev_index >= log.base_index and (
        append.prev_index > log.last_index or log.term_at(append.prev_index) != append.prev_term
    ):
        return Placed(append, None, None)
    skip = previous - append.prev_index
    last = log.last_index
    while skip < len(entries) and append.prev_index + skip + 1 <= last:
        if log.term_at(append.prev_index + skip + 1) != entries[skip][0]:
            break
        skip += 1
    commit = min(append.commit, max(end, log.base_index))
    if skip == len(entries):
        matched = max(end, log.base_index)
        rewritten = append._replace(
            prev_index=last, prev_term=log.last_term, entries=[], commit=commit
        )
        return Placed(rewritten, matched, None)
    first_new = append.prev_index + skip + 1
    if not skip and commit == append.commit:  # as it came: nearly always
        return Placed(append, end, first_new if first_new <= last else None)
    prev_term = append.prev_term if skip == 0 else log.term_at(first_new - 1)
    rewritten = append._replace(
        prev_index=first_new - 1, prev_term=prev_term, entries=entries[skip:], commit=commit
    )
    return Placed(rewritten, end, first_new if first_new <= last else None)


def d2_back_up(next_index: int, commit_index: int) -> int:
    """Rule d2: a refusal sends the leader back to what is surely equal, in one step. Otherwise
    it walks back an entry a heartbeat, and later refusals of the same burst undo the walk."""
    return min(next_index, commit_index + 1)


# --- acknowledgements ------------------------------------------------------------------------


def a_ack_of_this_term(ack: Ack, term: int) -> str | None:
    """Rule a: an acknowledgement counts only in the term whose leader it was meant for."""
    return None if ack.term == term else "a-ack-of-another-term"


def ack_within_log(ack: Ack, last_index: int) -> str | None:
    """Nobody can hold or want more than the leader has."""
    return None if 1 <= ack.next_index <= last_index + 1 else "ack-beyond-log"


def l2_member(config: Config, node: NodeId, incarnation: int) -> str | None:
    """Rule l2: only members are heard (pysyncobj raises KeyError for others), and only the
    incarnation that was admitted: a node that lost its disk is another node."""
    if config.is_member(node, incarnation):
        return None
    return "foreign-incarnation" if config.incarnation(node) is not None else "l2-not-a-member"


# --- votes -----------------------------------------------------------------------------------


def e_undisturbed(
    request: VoteRequest, *, leads: bool, silence_s: float, election_timeout_s: float
) -> str | None:
    """Rule e: while a leader is there, a vote request that it did not ask for is not even allowed
    to move our term."""
    if request.transfer:
        return None
    if leads or silence_s < election_timeout_s:
        return "e-leader-is-there"
    return None


def e_pre_vote(
    *,
    proposed_term: int,
    candidate: tuple[int, int],
    own_term: int,
    own: tuple[int, int],
    leads: bool,
    silence_s: float,
    election_timeout_s: float,
) -> bool:
    """Rule e: would we vote for it? `candidate` and `own` are (last term, last index)."""
    if leads or silence_s < election_timeout_s:
        return False
    return proposed_term > own_term and candidate >= own


def e2_vote_counts(
    config: Config, voter: NodeId, incarnation: int, counted: Collection[NodeId]
) -> str | None:
    """Rule e2: each voter once, and voters only."""
    if not config.is_voter(voter, incarnation):
        return "e2-vote-of-a-non-voter"
    return "e2-duplicate-vote" if voter in counted else None


def blank_vote_counts(config: Config, voter: NodeId) -> str | None:
    """The vote of a replica that has heard nothing of its group counts like that of an empty log,
    but only if it surely never had more. Below the level a program may have erased it without a
    mark; a voter that is not bound to a disk may have lost the one that had more."""
    if config.level < BLANK_VOTES_LEVEL:
        return "blank-vote-below-level"
    if config.voters.get(voter, UNBOUND) == UNBOUND:
        return "blank-vote-of-any-disk"
    return None
