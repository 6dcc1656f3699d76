"""The turn of the group commit: its order, its barrier, and what is fatal."""

from __future__ import annotations

import pytest

from storage.committer import Need
from storage.errors import WriteFailedError
from tests.unit.storage.committer_world import World

# --- the order of a turn ---------------------------------------------------------------------


def test_a_turn_keeps_its_order_and_writes_once_for_all(world: World) -> None:
    world.a.put(b"1")
    world.b.put(b"2")
    world.kick()
    assert world.diary == ["a begin", "b begin", "a prepare", "b prepare"]
    assert world.a.acknowledged == []
    world.writer.finish()
    assert world.diary[4:] == ["a after", "b after"]
    assert (world.a.acknowledged, world.b.acknowledged) == ([b"1"], [b"2"])
    assert world.engine.statistics().batches == 1
    assert (world.committer.turns, world.committer.commits) == (1, 1)


def test_what_begin_turn_sends_leaves_in_the_pass_before_the_write(world: World) -> None:
    sent = []

    def flush() -> None:
        sent.append(len(world.writer.submitted))

    world.a.put(b"1")
    world.a.on_begin = lambda: world.loop.call_soon(flush)
    world.kick()
    assert sent == [0]
    assert len(world.writer.submitted) == 1


def test_a_turn_that_nothing_has_to_leave_before_is_written_at_once(world: World) -> None:
    world.a.put(b"1", Need.AT_ONCE)
    world.committer.kick()
    world.loop.pass_once()
    assert len(world.writer.submitted) == 1
    world.writer.finish()
    world.a.put(b"2", Need.AT_ONCE)
    world.b.put(b"3", Need.NOW)
    world.committer.kick()
    world.loop.pass_once()
    assert world.writer.submitted == [], "what the other one has sent leaves first"
    world.loop.pass_once()
    assert len(world.writer.submitted) == 1


def test_work_that_arrives_between_begin_and_prepare_is_written_with_it(world: World) -> None:
    world.a.put(b"1")
    world.committer.kick()
    world.loop.pass_once()
    assert world.diary == ["a begin", "b begin"]
    world.b.put(b"2")
    world.committer.kick()
    world.loop.run()
    world.writer.finish()
    assert world.b.acknowledged == [b"2"]


def test_a_turn_without_need_writes_nothing(world: World) -> None:
    world.kick()
    assert world.diary == ["a begin", "b begin"]
    assert world.writer.submitted == []
    assert world.committer.in_flight_since is None


def test_many_kicks_make_one_turn(world: World) -> None:
    for _ in range(5):
        world.committer.kick()
    world.loop.run()
    assert world.turns() == 1


def test_what_is_kicked_for_when_a_turn_is_about_to_begin_is_of_that_turn(world: World) -> None:
    def on_turn() -> None:
        world.a.put(b"1")
        world.committer.kick()
        world.committer.on_turn = lambda: None

    world.committer.on_turn = on_turn
    world.kick()
    world.writer.finish()
    assert (world.a.acknowledged, world.turns()) == ([b"1"], 1)


def test_a_turn_can_begin_in_the_pass_that_asks_for_it(world: World) -> None:
    world.committer.hurry()
    assert world.turns() == 0, "nobody has asked for one"
    world.a.put(b"1")
    world.committer.kick()
    world.committer.hurry()
    assert world.turns() == 1
    world.committer.kick()
    world.committer.hurry()
    assert world.turns() == 1, "that one's write is under way"
    world.loop.run()
    world.writer.finish()
    assert world.a.acknowledged == [b"1"]


def test_a_committer_without_participants_turns_in_peace() -> None:
    world = World()
    alone = world.build(world.writer)
    alone.kick()
    world.loop.run()
    assert alone.turns == 1
    assert list(alone.participants) == []


# --- the barrier -----------------------------------------------------------------------------


def test_no_turn_begins_while_a_write_is_in_flight_and_kicks_are_remembered(world: World) -> None:
    world.a.put(b"1")
    world.kick()
    world.b.put(b"2")
    for _ in range(3):
        world.kick()
        world.loop.advance(1)
    assert world.turns() == 1
    assert world.committer.in_flight_since == 0.0
    world.writer.finish()
    assert world.committer.in_flight_since is None
    assert world.turns() == 1, "the next turn waits for the next pass of the loop"
    world.loop.run()
    assert world.turns() == 2
    world.writer.finish()
    assert world.b.acknowledged == [b"2"]
    world.loop.run()
    assert world.turns() == 2, "a remembered kick is spent once"


def test_a_kick_out_of_begin_turn_is_remembered_past_the_write(world: World) -> None:
    world.a.put(b"1")
    world.a.on_begin = world.committer.kick
    world.kick()
    world.a.on_begin = None
    assert world.turns() == 1
    world.writer.finish()
    world.loop.run()
    assert world.turns() == 2


def test_a_kick_between_begin_and_write_is_remembered(world: World) -> None:
    world.a.put(b"1")
    world.committer.kick()
    world.loop.pass_once()
    world.committer.kick()
    world.loop.run()
    assert world.turns() == 1
    world.writer.finish()
    world.loop.run()
    assert world.turns() == 2


# --- lazy work -------------------------------------------------------------------------------


def test_lazy_work_rides_along_with_the_next_write(world: World) -> None:
    world.a.put(b"1", Need.LAZY)
    world.kick()
    assert world.writer.submitted == []
    world.b.put(b"2", Need.NOW)
    world.kick()
    world.writer.finish()
    assert world.a.acknowledged == [b"1"]
    world.loop.advance(10)
    assert world.writer.submitted == [], "its timer was taken back"
    assert world.turns() == 2


def test_lazy_work_alone_is_written_after_its_limit(world: World) -> None:
    world.a.put(b"1", Need.LAZY)
    world.kick()
    world.loop.advance(0.4)
    world.a.put(b"2", Need.LAZY)
    world.kick()
    assert world.writer.submitted == []
    world.loop.advance(0.1)
    world.writer.finish()
    assert world.a.acknowledged == [b"1", b"2"]
    world.a.put(b"3", Need.LAZY)
    world.kick()
    assert world.writer.submitted == [], "a new limit runs for new work"
    world.loop.advance(0.5)
    world.writer.finish()
    assert world.a.acknowledged == [b"1", b"2", b"3"]


def test_a_limit_that_ran_out_for_nothing_does_not_hurry_later_work(world: World) -> None:
    world.a.put(b"1", Need.LAZY)
    world.kick()
    world.a.need = Need.NOTHING
    world.loop.advance(0.5)
    world.a.need = Need.LAZY
    world.kick()
    assert world.writer.submitted == []
    world.loop.advance(0.5)
    assert len(world.writer.submitted) == 1


def test_lazy_work_that_falls_due_during_a_write_follows_it(world: World) -> None:
    world.a.put(b"1", Need.LAZY)
    world.kick()
    world.loop.advance(0.3)
    world.b.put(b"2", Need.NOW)
    world.committer.kick()
    world.loop.run()
    world.a.put(b"3", Need.LAZY)
    world.loop.advance(0.3)
    assert len(world.writer.submitted) == 1
    world.writer.finish()
    assert world.a.acknowledged == [b"1"]
    world.loop.run()
    world.loop.advance(0.5)
    world.writer.finish()
    assert world.a.acknowledged == [b"1", b"3"]


# --- stalls and failures ---------------------------------------------------------------------


def test_a_stall_is_told_to_all_before_anything_is_acknowledged(world: World) -> None:
    world.a.put(b"1")
    world.kick()
    world.b.put(b"2")
    world.kick()
    world.writer.finish(seconds=1.5)
    assert world.diary[4:] == ["a stalled 1.5", "b stalled 1.5", "a after", "b after"]
    assert world.committer.stalls == 1
    assert world.committer.last_sync_s == 1.5


def test_a_write_just_under_the_limit_is_no_stall(world: World) -> None:
    world.a.put(b"1")
    world.kick()
    world.writer.finish(seconds=1.0)
    assert world.committer.stalls == 0


def test_a_failed_write_acknowledges_nothing_and_ends_all_turns(world: World) -> None:
    world.a.put(b"1")
    world.kick()
    world.b.put(b"2")
    world.kick()
    failure = WriteFailedError("the disk said no")
    world.writer.finish(failure)
    assert world.fatal == [failure]
    assert world.a.acknowledged == []
    diary = list(world.diary)
    world.kick()
    world.loop.advance(10)
    assert world.diary == diary
    assert world.writer.submitted == []


@pytest.mark.parametrize("where", ["begin", "prepare", "after", "stalled 2"])
@pytest.mark.parametrize("who", ["a", "b"])
def test_an_exception_out_of_a_participant_is_fatal(world: World, where: str, who: str) -> None:
    culprit = world.a if who == "a" else world.b
    world.a.put(b"1")
    world.b.put(b"2")
    culprit.raises = where
    world.kick()
    if world.writer.submitted:
        world.writer.finish(seconds=2)
    assert [str(error) for error in world.fatal] == [f"defect in {where}"]
    assert culprit.acknowledged == []
    assert world.b.acknowledged == []
    if where in ("begin", "prepare"):
        assert world.stored() == []
    assert world.committer.in_flight_since is None, "the watchdog has nothing to wait for"
    diary = list(world.diary)
    world.kick()
    world.loop.advance(10)
    assert world.diary == diary
    assert len(world.fatal) == 1


def test_after_stop_no_turn_begins_and_nobody_is_told(world: World) -> None:
    world.a.put(b"1")
    world.kick()
    world.committer.stop()
    world.writer.finish()
    assert world.a.acknowledged == []
    assert world.fatal == []
    assert world.committer.in_flight_since is None
    world.kick()
    assert world.turns() == 1


def test_stop_between_begin_and_write_leaves_nothing_in_flight(world: World) -> None:
    world.a.put(b"1")
    world.committer.kick()
    world.loop.pass_once()
    world.committer.stop()
    world.loop.run()
    assert world.writer.submitted == []
    assert world.committer.in_flight_since is None


def test_stop_takes_a_scheduled_turn_and_a_lazy_limit_back(world: World) -> None:
    world.a.put(b"1", Need.LAZY)
    world.kick()
    world.committer.kick()
    world.committer.stop()
    world.loop.advance(10)
    assert world.turns() == 1
