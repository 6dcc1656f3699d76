"""Strong's calls as coroutines, with the kind of answer that is expected. (The key-value calls go
without coroutines: hot.py.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kv.errors import OutcomeUnknownError
from kv.model import PLAIN_READ, ReadOptions
from kv.regime import Done, ShardReader, Strong, ask
from raftgroups.commands import Command
from raftgroups.results import Result
from storage.errors import JanusError

T = TypeVar("T")
R = TypeVar("R")


async def write(strong: Strong, command: Command, kind: type[R]) -> R:
    """Raises the JanusError that is the answer."""

    def start(done: Done[Result]) -> None:
        strong.write(command, done)

    answer = await ask(start)
    if isinstance(answer, kind):
        return answer
    raise unexpected(answer)


async def read(
    strong: Strong, evaluate: Callable[[ShardReader], T], options: ReadOptions = PLAIN_READ
) -> T:
    def start(done: Done[T]) -> None:
        strong.read(evaluate, done, options)

    return await ask(start)


def unexpected(answer: object) -> JanusError:
    """For an answer that is neither an error nor of the kind that belongs to the call."""
    if isinstance(answer, JanusError):
        return answer
    return OutcomeUnknownError(
        f"the shard answered with {type(answer).__name__}, which is not an answer to this call"
    )
