"""A write under a lease of another shard: what is told when its tries do not come through."""

from __future__ import annotations

from typing import Any

import pytest

from kv.errors import OutcomeUnknownError, UnavailableError
from kv.model import WriteOptions
from kv.strong.attached import AttachedWrite
from raftgroups.commands import Put, Token
from raftgroups.refusals import LeaseFencedError
from storage.errors import JanusError, WrongShardError

DEADLINE_S = 10.0


class Keyspace:
    """Its clock, and what it is told."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.again: list[bool] = []
        self.answers: list[Any] = []

    def now_s(self) -> float:
        return self.at_s

    def later(self, delay_s: float, write: AttachedWrite, *, look: bool) -> None:
        self.again.append(look)

    def answered(self, write: AttachedWrite, answer: Any) -> None:
        self.answers.append(answer)


def write_of(keyspace: Any, token: Token | None) -> AttachedWrite:
    command, options = Put(b"k", b"v", lease=7), WriteOptions(token=token)
    return AttachedWrite(keyspace, print, DEADLINE_S, command, b"", options)


@pytest.mark.parametrize(
    ("refusal", "look"),
    [
        (LeaseFencedError("a lease has ended since"), False),
        (WrongShardError("the shard does not hold this key"), True),
    ],
)
def test_a_repeated_try_in_a_shard_that_then_refuses_may_have_been_done(
    refusal: JanusError, look: bool
) -> None:
    """The shard repeats a write with a token by itself when a try of it was lost, and only then may
    find the lease ended or the key gone: what it says last tells nothing of the lost one."""
    keyspace = Keyspace()
    write = write_of(keyspace, Token(b"client", 1))
    write._answered_here(refusal)
    assert keyspace.again == [look]
    keyspace.at_s = DEADLINE_S
    write.try_again("no leader")
    assert isinstance(keyspace.answers[0], OutcomeUnknownError)


def test_without_a_token_a_refusal_means_that_nothing_was_done() -> None:
    keyspace = Keyspace()
    write = write_of(keyspace, None)
    write._answered_here(LeaseFencedError("a lease has ended since"))
    keyspace.at_s = DEADLINE_S
    write.try_again("no leader")
    assert isinstance(keyspace.answers[0], UnavailableError)


def test_other_answers_are_the_answer() -> None:
    keyspace = Keyspace()
    write_of(keyspace, Token(b"client", 1))._answered_here("done")
    assert keyspace.answers == ["done"]
