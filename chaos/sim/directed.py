"""Directed schedules: bugs that dice find late or never, laid bare step by step on a quiet cluster.

Each script plays the whole story, with the correct code or with a canary's bug, and returns what
the checkers found: nothing, or a violation.

no-ack-term-check (hazard a): a leader counts an acknowledgement that was meant for an earlier term.

    term 1   A leads, writes 12 entries to B alone; B's acknowledgements get stuck on their way
    term 2   C leads, replaces them on A and B by its own entry, which nobody confirms
    term 3   A leads again with the votes of D and E, writes 12 entries to D alone (2 of 5),
             and now the stuck acknowledgements arrive: B seems to have them (3 of 5)
    then     A and D are cut off; B, C and E elect a leader that knows nothing of all that

duplicate-votes (hazard e2): a repeated vote counts twice.

    A is told to stand by leader E. At that moment {A, B} are cut off, and the network repeats B's
    vote: A has 3 of 5. E restarts and knows of nothing; C, D and E elect one of them, same term.

vote-before-sync: a vote leaves before the disk has it.

    The leader dies. A stands, B votes for it while its disk hangs, A leads. B loses power and has
    forgotten its vote. A is cut off, the old leader returns: B helps to elect another, same term.

no-write-barrier (hazard c): an acknowledgement leaves before the disk has the entry.

    A writes while C is cut off and B's disk hangs; B confirms, A answers its client. B loses power,
    A is cut off: B and C go on without the entry.

no-backup-rule (hazard d2): a follower's refusals, each naming another place, undo each other.

    A writes while it is cut off; B leads and writes as much. A comes back: entries travel to it a
    few at a time, all are refused, and the last refusal points to the end of A's log again.

read-joins-probe-in-flight (hazard f): a late read boards a probe that left before it came.

    A reads; the echoes of its probe get stuck. A is cut off, B leads and takes a write. Now
    somebody reads from A, and then the echoes arrive: A answers what was there before the write.

read-index-without-own-term (hazard f): a new leader trusts a commit index that is not its own.

    A commits a write with B, and dies before B hears that it is committed. B leads, but cannot get
    its first entry to C; C echoes B's probe: B answers what was there before the write.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from chaos.checkers.violation import Violation
from chaos.sim.node import SimNode
from chaos.sim.simulation import logs_into
from chaos.sim.stage import Stage, apart, pass_all
from raftgroups.messages import Ack, Append, Message, PreVoteRequest, VoteRequest
from raftgroups.outcomes import Applied

BACK_WITHIN_S: Final = 8.0

# --- hazard a ----------------------------------------------------------------------------------


def stale_acknowledgements(canaries: Collection[str], seed: int = 1) -> list[Violation]:
    return _play(Stage(5, canaries, seed), _stale_acknowledgements)


def _stale_acknowledgements(stage: Stage) -> None:
    a = stage.formed()
    b, *others = [node for node in stage.nodes if node is not a]
    base = stage.last_index(a)

    # Term 1: to B alone, whose answers get stuck in the connection.
    stage.rule = apart([a, b], others)
    stage.network.block(b.node_id, a.node_id)
    stage.write(a, 12)
    stage.wait("B has A's entries", lambda: stage.last_index(b) == base + 12)

    # Term 2: C replaces them on A and B; D and E never see it, and nobody confirms it.
    def without_entries(source: SimNode, target: SimNode, message: Message) -> bool:
        empty = not isinstance(message, Append) or not message.entries
        return source in others and target in others and empty

    stage.rule = without_entries
    c = stage.a_leader(others, "a leader of the majority")
    d, e = (node for node in others if node is not c)

    def replaced(source: SimNode, target: SimNode, message: Message) -> bool:
        if target is c and source in (a, b):
            return isinstance(message, Ack) and not message.success
        return (source is c and target in (a, b)) or without_entries(source, target, message)

    stage.rule = replaced
    stage.wait(
        "C replaces the entries of A and B",
        lambda: stage.last_index(a) == stage.last_index(b) == base + 1,
    )

    # Term 3: A again, by D and E; only A and D speak of entries.
    def again(source: SimNode, target: SimNode, message: Message) -> bool:
        if source is a and isinstance(message, Append):
            return target is d
        asks = source is a and isinstance(message, (PreVoteRequest, VoteRequest))
        return (asks and target in (d, e)) or (
            source in (d, e)
            and target is a
            and not isinstance(message, (PreVoteRequest, VoteRequest))
        )

    stage.rule = again
    stage.wait("A leads again", lambda: stage.leads(a))
    stage.wait("D has A's log", lambda: stage.last_index(d) == stage.last_index(a))
    results = stage.write(a, 12)
    stage.wait("D has A's new entries", lambda: stage.last_index(d) == stage.last_index(a))
    stage.network.unblock(b.node_id, a.node_id)
    stage.world.run(stage.world.now + 0.5)
    confirmed = sum(isinstance(result, Applied) for result in results)
    stage.world.trace(f"A told its clients that {confirmed} of 12 writes are done")

    # Then: the other three, a majority, go on.
    stage.rule = apart([a, d], [b, c, e])
    rest = stage.a_leader([b, c, e], "a leader of the rest")
    if not stage.violations:
        stage.wait("the rest commits", lambda: stage.applied(rest) >= stage.last_index(rest))


# --- hazard e2 ---------------------------------------------------------------------------------


def repeated_votes(canaries: Collection[str], seed: int = 1) -> list[Violation]:
    return _play(Stage(5, canaries, seed), _repeated_votes)


def _repeated_votes(stage: Stage) -> None:
    e = stage.formed()
    a, b, *others = [node for node in stage.nodes if node is not e]
    cut = apart([a, b], [e, *others])
    stands = False

    def when_a_stands(source: SimNode, target: SimNode, message: Message) -> bool:
        nonlocal stands
        stands = stands or (source is a and isinstance(message, VoteRequest))
        return not stands or cut(source, target, message)

    stage.rule = when_a_stands
    stage.network.settings.duplicate_p = 1.0
    stage.group(e).transfer(a.node_id, lambda result: None)
    stage.wait("A stands for election", lambda: stands)
    e.crash(power=False)
    stage.world.run(stage.world.now + 0.1)
    e.start()
    stage.a_leader([e, *others], "a leader of the majority")


# --- a vote before its sync ---------------------------------------------------------------------


def forgotten_vote(canaries: Collection[str], seed: int = 1) -> list[Violation]:
    return _play(Stage(3, canaries, seed), _forgotten_vote)


def _forgotten_vote(stage: Stage) -> None:
    old = stage.formed()
    rest = [node for node in stage.nodes if node is not old]
    stage.wait("they know each other's state", lambda: stage.equal(stage.nodes))
    candidates: list[SimNode] = []

    def voter_hangs(source: SimNode, target: SimNode, message: Message) -> bool:
        """As soon as one stands, the other's disk hangs; that one never stands itself."""
        if isinstance(message, VoteRequest) and source not in candidates:
            candidates.append(source)
            target.disk.stalled_until = stage.world.now + 1.0
        return source in candidates or not isinstance(message, VoteRequest)

    stage.rule = voter_hangs
    old.crash(power=True)
    stage.wait("somebody stands", lambda: bool(candidates))
    a = candidates[0]
    b = next(node for node in rest if node is not a)
    stage.world.run(stage.world.now + 0.5)
    b.crash(power=True, keep=False)
    b.disk.stalled_until = 0.0
    stage.rule = apart([a], [b, old])
    b.start()
    old.start()
    stage.a_leader([b, old], "a leader of the others")


# --- hazard c ----------------------------------------------------------------------------------


def forgotten_entry(canaries: Collection[str], seed: int = 1) -> list[Violation]:
    return _play(Stage(3, canaries, seed), _forgotten_entry)


def _forgotten_entry(stage: Stage) -> None:
    a = stage.formed()
    b, c = (node for node in stage.nodes if node is not a)
    stage.wait("all are equal", lambda: stage.equal(stage.nodes))
    base = stage.last_index(a)
    stage.rule = apart([a, b], [c])
    b.disk.stalled_until = stage.world.now + 0.8
    stage.write(a, 1)
    stage.wait("B has the entry in memory", lambda: stage.last_index(b) > base)
    stage.world.run(stage.world.now + 0.4)
    b.crash(power=True, keep=False)
    b.disk.stalled_until = 0.0
    stage.rule = apart([a], [b, c])
    b.start()
    leader = stage.a_leader([b, c], "a leader of the others")
    stage.wait("they commit", lambda: stage.applied(leader) > base)


# --- hazard d2 ---------------------------------------------------------------------------------


def refusals_in_a_burst(canaries: Collection[str], seed: int = 1) -> list[Violation]:
    tight = {"leader_silence_s": 20.0, "append_max_bytes": 100, "inflight_max_bytes": 600}
    return _play(Stage(3, canaries, seed, **tight), _refusals_in_a_burst)


def _refusals_in_a_burst(stage: Stage) -> None:
    a = stage.formed()
    others = [node for node in stage.nodes if node is not a]
    stage.wait("all are equal", lambda: stage.equal(stage.nodes))
    stage.rule = apart([a], others)
    stage.write(a, 60)
    b = stage.a_leader(others, "a leader of the others")
    stage.write(b, 60)
    stage.rule = pass_all
    stage.world.run(stage.world.now + BACK_WITHIN_S)
    if not stage.equal(stage.nodes):
        what = f"{a.label} does not have {b.label}'s log {BACK_WITHIN_S:g} s after it came back"
        stage.cluster.observer.report([Violation("liveness", what)])


# --- hazard f ----------------------------------------------------------------------------------


def boarding_late(canaries: Collection[str], seed: int = 1) -> list[Violation]:
    patient = {"leader_silence_s": 20.0, "read_timeout_s": 20.0}
    return _play(Stage(3, canaries, seed, **patient), _boarding_late)


def _boarding_late(stage: Stage) -> None:
    a = stage.formed()
    others = [node for node in stage.nodes if node is not a]
    stage.write_and_wait(a)
    stage.wait("all are equal", lambda: stage.equal(stage.nodes))
    for node in others:
        stage.network.block(node.node_id, a.node_id)
    stage.read(a)
    stage.world.run(stage.world.now + 0.2)
    stage.rule = apart([a], others)
    b = stage.a_leader(others, "a leader of the others")
    stage.write_and_wait(b)
    late = stage.read(a)
    stage.world.run(stage.world.now + 0.1)
    for node in others:
        stage.network.unblock(node.node_id, a.node_id)
    stage.world.run(stage.world.now + 0.3)
    stage.world.trace(f"the late read: {late}")


def untold_commit(canaries: Collection[str], seed: int = 1) -> list[Violation]:
    return _play(Stage(3, canaries, seed), _untold_commit)


def _untold_commit(stage: Stage) -> None:
    a = stage.formed()
    b, c = (node for node in stage.nodes if node is not a)
    stage.write_and_wait(a)
    stage.wait("all are equal", lambda: stage.equal(stage.nodes))

    def entries_to_b(source: SimNode, target: SimNode, message: Message) -> bool:
        if isinstance(message, Append):
            return target is b and bool(message.entries)
        return c not in (source, target)

    stage.rule = entries_to_b
    stage.write_and_wait(a)

    def without_entries(source: SimNode, target: SimNode, message: Message) -> bool:
        empty = not isinstance(message, Append) or not message.entries
        return a not in (source, target) and empty

    stage.rule = without_entries
    stage.wait("B leads", lambda: stage.leads(b))
    stage.read(b)
    stage.world.run(stage.world.now + 0.5)


def _play(stage: Stage, script: Callable[[Stage], None]) -> list[Violation]:
    with logs_into(stage.world):
        stage.cluster.start()
        script(stage)
    return stage.violations


SCRIPTS: Final[dict[str, Callable[..., list[Violation]]]] = {
    "no-ack-term-check": stale_acknowledgements,
    "duplicate-votes": repeated_votes,
    "vote-before-sync": forgotten_vote,
    "no-write-barrier": forgotten_entry,
    "no-backup-rule": refusals_in_a_burst,
    "read-joins-probe-in-flight": boarding_late,
    "read-index-without-own-term": untold_commit,
}
"""canary -> the script that lays it bare: with the canary a violation, without it none."""
