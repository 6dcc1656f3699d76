"""Reads of nodes that have no replica of the shard, answered by one that has (forward.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kv.errors import OverloadedError
from kv.model import DEADLINE_MAX_S, ReadOptions, SessionToken, parse_level
from kv.strong.forward import FAILED_QUESTION
from kv.strong.frames import Question
from kv.strong.queries import decode_query, encode_answer
from kv.strong.shard import StrongShard
from raftgroups.outcomes import Applied, ProposeResult, Refused
from raftgroups.results import failure_of
from storage.clock import Scheduler
from storage.errors import InvalidRequestError, JanusError, WrongShardError


def evaluate(
    shard: StrongShard | None,
    question: Question,
    done: Callable[[ProposeResult], None],
    scheduler: Scheduler,
) -> None:
    """`shard`: None if it is not served here."""
    if shard is None:
        scheduler.call_soon(done, Refused("this node does not serve that group now"))
        return
    try:
        query = decode_query(question.query)
        level = parse_level(question.level)
    except JanusError as error:
        scheduler.call_soon(done, Applied(FAILED_QUESTION, failure_of(error, 0)))
        return

    def answered(answer: Any) -> None:
        done(_result_of(answer))

    seen = SessionToken({question.group: question.seen})
    budget_s = min(question.budget_ms / 1000, DEADLINE_MAX_S)
    shard.read(query, answered, ReadOptions(level, seen, budget_s))


def _result_of(answer: object) -> ProposeResult:
    if isinstance(answer, InvalidRequestError | WrongShardError):
        return Applied(FAILED_QUESTION, failure_of(answer, 0))
    if isinstance(answer, JanusError):
        return Refused(str(answer), busy=isinstance(answer, OverloadedError))
    return Applied(0, encode_answer(answer))
