"""Asking the meta group for changes, and keeping the map of this node new.

    propose(command)    from any node: proposed here if this one leads group 0, else forwarded to
                        who does; a request id makes trying again safe, so it is tried until the
                        deadline
    versions            whoever hosts a replica of group 0 tells every peer of a newer version, when
                        it comes and when they meet; who has an older one asks for the view
    refresh             somebody was answered "not here": ask for a newer map now

A node without a replica of group 0 asks one of its hosts again every few seconds, since a note may
be lost. Its newest view is on the disk (map_file.py): it serves the shards that it knows while no
host of group 0 can be reached.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final, Protocol

from kv.cluster.mail import Mail, NoAnswerError
from kv.cluster.tasks import TaskOwner
from kv.errors import OutcomeUnknownError, StoppingError, UnavailableError
from kv.meta.cluster_map import ClusterMap
from kv.meta.map_file import read_map, write_map
from kv.strong.forward import Forwarder
from raftgroups.group import Group
from raftgroups.levels import RING_LEVEL
from raftgroups.meta.commands import (
    OF_RING,
    REQUEST_BYTES,
    MetaAnswerBody,
    MetaCommand,
    decode,
    decode_answer,
    encode,
)
from raftgroups.meta.machine import META_GROUP, MetaMachine
from raftgroups.meta.view import MetaView, decode_view, encode_view
from raftgroups.outcomes import Applied, DoneEach, ProposeResult, ReadReady, ReadResult, Refused
from raftgroups.results import Failure, MetaAnswer, error_of
from raftgroups.transport import Link, NodeId
from storage.clock import Clock
from storage.errors import InvalidRequestError, JanusError

_log = logging.getLogger(__name__)

NOTE: Final = "map-version"
ASK: Final = "map"
DEADLINE_S: Final = 5.0
RETRY_S: Final = 0.05
TRY_S: Final = 1.0
"""One try waits so long for its answer before another node is asked."""
ANSWER_WITHIN_S: Final = 1.0
LOOK_AGAIN_S: Final = 3.0
SPREAD_S: Final = 0.005


class Entropy(Protocol):
    def __call__(self, size: int, /) -> bytes: ...


class MetaService:
    """For the node's loop only."""

    def __init__(
        self,
        *,
        node_id: NodeId,
        directory: Path,
        forwarder: Forwarder,
        mail: Mail,
        link: Link,
        peers: Callable[[], Iterator[NodeId]],
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        entropy: Entropy,
        tasks: TaskOwner,
    ) -> None:
        """`peers`: every other node that is known by a card."""
        self.map: Final = ClusterMap()
        self.node_id: Final = node_id
        self.link: Final = link
        self._directory = directory
        self._forwarder = forwarder
        self._mail = mail
        self._peers = peers
        self._loop = loop
        self._clock = clock
        self._entropy = entropy
        self._tasks = tasks
        self.group: Group | None = None
        self._machine: MetaMachine | None = None
        self._leader: NodeId | None = None
        """Whom a refusal named last."""
        self._refreshing = False
        self._next_refreshed: asyncio.Future[None] | None = None
        self._asking: set[NodeId] = set()
        self._spread_scheduled = False
        self._saved_version = 0
        self._stopped = False
        mail.on(NOTE, self._noted)
        mail.on(ASK, self._asked)
        link.on_peer_change(self._on_peer_change)

    # --- this node's replica, or file ---------------------------------------------------------

    def host(self, group: Group, machine: MetaMachine) -> None:
        """This node has a replica of group 0."""
        self.group, self._machine = group, machine
        machine.observer = self._applied
        self._applied(machine.view)

    def unhost(self) -> None:
        """It has none any more, or one that is only being filled."""
        if self._machine is not None:
            self._machine.observer = None
        self.group = self._machine = None
        if self.map.view.version:
            self._save()

    def learn(self, view: MetaView) -> None:
        """From whoever admitted this node."""
        self._learn(view)

    def load_file(self) -> None:
        """What was known before the last stop."""
        view = read_map(self._directory)
        if view is not None:
            self._saved_version = view.version
            self.map.learn(view)

    def start(self) -> None:
        self._tasks.spawn(self._look_again(), "cluster map")

    @property
    def leads(self) -> bool:
        return self.group is not None and self.group.settled

    def _applied(self, view: MetaView) -> None:
        if view.version and self.map.learn(view) and not self._spread_scheduled:
            self._spread_scheduled = True
            self._loop.call_later(SPREAD_S, self._spread)

    def _spread(self) -> None:
        self._spread_scheduled = False
        for peer in self._peers():
            self._tell(peer)

    def _tell(self, peer: NodeId) -> None:
        if self.map.view.version and not self._stopped:
            self._mail.tell(peer, NOTE, self.map.view.version.to_bytes(8, "big"))

    def _on_peer_change(self, peer: NodeId, connected: bool) -> None:
        if connected:
            self._tell(peer)

    # --- newer views --------------------------------------------------------------------------

    def _noted(self, peer: NodeId, body: bytes) -> None:
        version = int.from_bytes(body[:8], "big")
        behind = version > self.map.view.version
        if behind and self.group is None and not self._stopped and peer not in self._asking:
            self._tasks.spawn(self._follow(peer), "map of a peer")

    def _asked(self, peer: NodeId, body: bytes) -> bytes:
        newer = self.map.view.version > int.from_bytes(body[:8], "big")
        return encode_view(self.map.view) if newer else b""

    async def _follow(self, peer: NodeId) -> None:
        await self._ask(peer)

    async def _ask(self, peer: NodeId) -> bool:
        """True: it answered, whatever it knew."""
        self._asking.add(peer)
        try:
            known = self.map.view.version.to_bytes(8, "big")
            answer = await self._mail.ask(peer, ASK, known, ANSWER_WITHIN_S)
            if answer:
                self._learn(decode_view(answer))
        except (NoAnswerError, ValueError) as error:
            _log.debug("no map from %s: %s", peer, error)
            return False
        finally:
            self._asking.discard(peer)
        return True

    def _learn(self, view: MetaView) -> None:
        if self.map.learn(view) and self.group is None:
            self._save()

    def _save(self) -> None:
        view = self.map.view
        if view.version > self._saved_version:
            try:
                write_map(self._directory, view)
                self._saved_version = view.version
            except OSError as error:
                _log.warning("the map of the cluster could not be kept: %s", error)

    async def _look_again(self) -> None:
        turn = 0
        while not self._stopped:
            if self.group is None:
                hosts = [*self.map.view.meta_replicas] or list(self._peers())
                if hosts:
                    turn += 1
                    await self._ask(NodeId(hosts[turn % len(hosts)]))
            await asyncio.sleep(LOOK_AGAIN_S if self.map.known else RETRY_S)

    async def refresh(self) -> None:
        """Wait, not long, until the map is at least what the group had applied when this was
        called; without a replica of it here, what a host of it had applied, which may be a moment
        older. Callers share a question, never one that was asked before they came."""
        if not self._refreshing:
            self._tasks.spawn(self._refresh(), "refresh of the cluster map")
            self._refreshing = True
        if self._next_refreshed is None:
            self._next_refreshed = self._loop.create_future()
        await asyncio.shield(self._next_refreshed)

    async def _refresh(self) -> None:
        told: asyncio.Future[None] | None = None
        try:
            while self._next_refreshed is not None:
                told, self._next_refreshed = self._next_refreshed, None
                await self._ask_anew()
                _release(told)
        finally:
            self._refreshing = False
            _release(told)
            _release(self._next_refreshed)
            self._next_refreshed = None

    async def _ask_anew(self) -> None:
        if self.group is not None:
            await self._read_own(self.group)
            return
        hosts = [NodeId(host) for host in self.map.view.meta_replicas]
        for peer in chain(hosts, (p for p in self._peers() if p not in hosts)):
            if await self._ask(peer):
                return

    async def _read_own(self, group: Group) -> None:
        ready: asyncio.Future[ReadResult] = self._loop.create_future()

        def answered(result: ReadResult) -> None:
            if not ready.done():
                ready.set_result(result)

        group.read(answered)
        try:
            result = await asyncio.wait_for(ready, ANSWER_WITHIN_S)
        except TimeoutError:
            return
        if isinstance(result, ReadReady) and self._machine is not None:
            self._applied(self._machine.view)

    # --- changes ------------------------------------------------------------------------------

    def lead_each(self, payloads: Sequence[bytes], askers: Sequence[Any], done: DoneEach) -> None:
        """What another node forwarded: propose it if this node leads group 0, nothing else."""
        group = self.group
        for payload, asker in zip(payloads, askers, strict=True):
            if group is None:
                why = "this node hosts no replica of the meta group"
            else:
                try:
                    why = why_not_yet(decode(payload)[0], group)
                except JanusError as error:
                    why = str(error)
                if not why:
                    group.propose_each((payload,), (asker,), done)
                    continue
            self._loop.call_soon(done, (asker,), Refused(why))

    async def propose(
        self, command: MetaCommand, deadline_s: float | None = None
    ) -> MetaAnswerBody:
        """Raises what the rules refuse (raftgroups/meta/refusals.py), UnavailableError (surely not
        done), OutcomeUnknownError."""
        until_s = self._clock.monotonic() + (deadline_s or DEADLINE_S)
        payload = encode(command, self._entropy(REQUEST_BYTES), int(self._clock.wall() * 1000))
        unsure, why, turn = False, "no host of the meta group is known", 0
        while not self._stopped:
            try_s = min(until_s, self._clock.monotonic() + TRY_S)
            result = await self._try(command, payload, try_s, turn)
            if isinstance(result, Applied):
                return _answer(result.result)
            if not isinstance(result, Refused):
                unsure = True
            why = result.reason
            self._leader = result.leader if isinstance(result, Refused) else None
            turn += 1
            if self._clock.monotonic() >= until_s:
                break
            await asyncio.sleep(RETRY_S)
        if unsure:
            raise OutcomeUnknownError(
                f"it is not known whether the meta group did this: {why}; look, then ask again"
            )
        if self._stopped:
            raise StoppingError("nothing was done: this node is stopping; ask another one")
        raise UnavailableError(f"nothing was done: the meta group cannot be reached: {why}")

    async def _try(
        self, command: MetaCommand, payload: bytes, until_s: float, turn: int
    ) -> ProposeResult:
        answer: asyncio.Future[ProposeResult] = self._loop.create_future()
        done = partial(_settle, answer)
        group = self.group
        target = self._leader if group is None else group.leader
        if group is not None and group.leads:
            why = why_not_yet(command, group)
            if why:
                return Refused(why)
            group.propose(payload, done)
        else:
            hosts = [NodeId(each) for each in self.map.view.meta_replicas if each != self.node_id]
            if target is None and group is None and hosts:
                target = hosts[turn % len(hosts)]
            if target is None or target == self.node_id:
                return Refused("the meta group has no leader now")
            self._forwarder.send(target, META_GROUP, payload, until_s, done, repeatable=True)
        return await answer

    def stop(self) -> None:
        self._stopped = True
        _release(self._next_refreshed)  # its task may be ended before it began


def why_not_yet(command: MetaCommand, group: Group) -> str:
    """Why a group may not be given a command yet that older programs cannot execute; empty: it
    may."""
    if isinstance(command, OF_RING) and group.feature_level < RING_LEVEL:
        return (
            "not every host of the meta group runs a version that has leaderless keyspaces; "
            "upgrade all nodes"
        )
    return ""


def _release(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _settle(answer: asyncio.Future[ProposeResult], result: ProposeResult) -> None:
    if not answer.done():
        answer.set_result(result)


def _answer(result: object) -> MetaAnswerBody:
    if isinstance(result, MetaAnswer):
        return decode_answer(result.body)
    if isinstance(result, Failure):
        raise error_of(result)
    raise InvalidRequestError(f"the meta group answered with {type(result).__name__}")
