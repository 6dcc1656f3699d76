"""Faults of membership: nodes join and leave, are drained, lose their disk; replicas move.

One of them at a time, beside whatever else is broken meanwhile: they claim PLACEMENT, and wait for
their turn as long as there is time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Final

from chaos.faults.operating import SHARDS, Node, Operator
from chaos.faults.stage import BusyError, Stage
from chaos.scenarios.scenario import Fault

PLACEMENT: Final = "placement"
TURN_AGAIN_S: Final = 0.25


@contextmanager
def join(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    """A new node joins and is given replicas; at the end it is drained, and removed."""
    operator = Operator(stage, dice)
    if not stage.servers.guests:
        raise BusyError("nobody can join")
    name = dice.choice(sorted(stage.servers.guests))
    with _turn(stage):
        stage.servers.begin_anew(name)
        try:
            operator.until(lambda: operator.node(name), f"{name} is a member")
            operator.until(lambda: _holds(operator, name), f"{name} has replicas", hurried=True)
            yield f"{name} joined"
        finally:
            _leave(stage, operator, name)


@contextmanager
def drain(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    """Its replicas go to others; at the end it may have some again."""
    operator = Operator(stage, dice)
    (name,) = stage.targets(fault.target, dice)
    with _turn(stage):
        status = operator.drain(name)
        try:
            if status != 200:
                raise BusyError(f"{name} cannot be drained now: {status}")
            operator.until(lambda: _is_empty(operator, name), f"{name} is drained", hurried=True)
            yield f"drained {name}"
        finally:  # also after a call whose answer was lost
            operator.until(lambda: operator.undrain(name), f"{name} is drained no longer")


@contextmanager
def replace(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    """kill -9, and its disk is gone: it is declared dead, removed once others have its replicas,
    and comes back as a new node."""
    operator = Operator(stage, dice)
    (name,) = stage.targets(fault.target, dice)
    with _turn(stage), stage.claim([name]):
        known = operator.node(name)
        if known is None:
            raise BusyError(f"{name} is no member now")
        stage.servers.kill(name)
        try:
            yield f"lost the disk of {name}"
        finally:
            gone = known["node_id"]
            operator.until(lambda: operator.remove(gone, dead=True), f"{name} is removed")
            stage.servers.begin_anew(name)
            operator.until(lambda: operator.node(name), f"{name} is a member again")


@contextmanager
def move(stage: Stage, fault: Fault, dice: Random) -> Iterator[str]:
    """An operator's wish. One that is refused or does not come about does no harm."""
    operator = Operator(stage, dice)
    active = [each for each in operator.nodes() if each["state"] == "active"]
    choices = [
        (shard, source, target)
        for source in active
        for shard in source["replicas"]
        for target in active
        if shard not in target["replicas"]
    ]
    if not choices:
        raise BusyError("no replica can move")
    shard, source, target = dice.choice(choices)
    with stage.claim([PLACEMENT], down=False):
        body = {"source": source["node_id"], "target": target["node_id"]}
        answer = operator.ask(f"{SHARDS}/{shard}/move", body)
        said = "no answer" if answer is None else answer[0]
        yield f"shard {shard} moves from {source['name']} to {target['name']}: {said}"


@contextmanager
def _turn(stage: Stage) -> Iterator[None]:
    while True:
        with ExitStack() as claimed:
            try:
                claimed.enter_context(stage.claim([PLACEMENT], down=False))
            except BusyError:
                if stage.over.wait(TURN_AGAIN_S):
                    raise
                continue
            yield
            return


def _leave(stage: Stage, operator: Operator, name: str) -> None:
    operator.until(lambda: operator.drain(name) == 200, f"{name} can be drained")
    operator.until(lambda: _is_empty(operator, name), f"{name} is drained")
    operator.until(lambda: operator.remove(name), f"{name} is removed")
    stage.servers.wait_ended(name)


def _holds(operator: Operator, name: str) -> Node | None:
    found = operator.node(name)
    return found if found is not None and found["replicas"] else None


def _is_empty(operator: Operator, name: str) -> bool:
    found = operator.node(name)
    return found is not None and not found["replicas"]
