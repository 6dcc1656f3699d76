"""One real process with the real parts: LMDB, committer, peer link, group host, register machine.

    python -m chaos.raftnode --node ID --data DIR [--engine lmdb|memory] [--loop uvloop|asyncio]

It is what the failover measurement and the process tests run three of. It listens on two loopback
ports of the system's choice and says which in one line of JSON on its standard output; then it
waits to be told its peers. When its standard input ends, or on SIGTERM, it stops in good order, so
no node outlives the harness that started it.

Control: one JSON object a line, answered by one with the same `id`, in the order of the outcomes.
    {"op": "peers", "peers": {ID: [host, port]}, "groups": N}    set them all; form groups once
    {"op": "propose", "group": 1, "command": [operation, action, key, value, expected]}
    {"op": "read", "group": 1, "key": K}              linearizable, on any node
    {"op": "operations", "group": 1, "prefix": P}     names of applied operations, linearizable
    {"op": "status"}

`--canary` puts a bug in, to prove that the harness sees it: `local-reads` answers reads without
asking a majority, `early-acks` acknowledges a proposal before anybody has it.

Exit codes: 0 told to stop; 70 a write failed or a participant broke; 71 a write hung; 72 a task
died. In the last three nothing more is answered: the process is gone at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from chaos.sim.machine import Action, AppliedRecord, Command, RegisterMachine
from kv.cluster.link import PeerLink
from kv.cluster.link_handshake import Identity
from kv.cluster.tasks import Tasks
from raftgroups.host import GroupHost, HostConfig
from raftgroups.levels import FEATURE_LEVEL
from raftgroups.outcomes import Applied, ProposeResult, ReadReady, ReadResult, Refused
from raftgroups.status import Role
from raftgroups.transport import NodeId
from storage.committer import Committer, SyncWatchdog
from storage.datadir import DataDirectory, RegimeName
from storage.engine import Engine
from storage.lmdb_engine import LmdbEngine
from storage.logged_engine import LoggedEngine
from storage.memory import MemoryEngine
from storage.system_clock import SystemClock
from storage.writers import AdaptiveWriter, kernel_syncs

_log = logging.getLogger(__name__)

EXIT_BROKEN: Final = 70
EXIT_HUNG: Final = 71
EXIT_TASK: Final = 72
CANARIES: Final = ("early-acks", "local-reads")
LINE_MAX_BYTES: Final = 1024 * 1024
STALL_AFTER_S: Final = 1.0
"""A write that took longer than the election timeout: a leader steps down first."""

Reply = Callable[[dict[str, Any]], None]


class RaftNode:
    """The composition root of one process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, args: argparse.Namespace) -> None:
        self.node_id = NodeId(args.node)
        self.canary: str = args.canary
        self.clock = SystemClock()
        self.tasks = Tasks(loop, lambda name, _: die(EXIT_TASK, f"task {name} died"))
        self.engine: Engine
        self.directory: DataDirectory | None = None
        if args.engine == "memory":
            self.engine = MemoryEngine(clock=self.clock)
            incarnation = 1 + random.Random(os.urandom(16)).getrandbits(48)
        else:
            path = Path(args.data) / "data"
            self.directory = DataDirectory.open(path, create=True, node_id=args.node)
            incarnation = self.directory.identity.incarnation
            strong = self.directory.environment_path(RegimeName.STRONG)
            dice = random.Random(os.urandom(16))
            self.engine = LoggedEngine(LmdbEngine(strong, clock=self.clock), rng=dice)
        self.writer = AdaptiveWriter(
            self.clock,
            loop.call_soon_threadsafe,
            sync_apart=True,
            kernel=kernel_syncs(self.clock, loop, _log.warning),
        )
        self.committer = Committer(
            self.engine,
            self.writer,
            loop,
            self.clock,
            on_fatal=lambda error: die(EXIT_BROKEN, f"cannot go on: {error!r}", error),
            stall_after_s=STALL_AFTER_S,
        )
        self.watchdog = SyncWatchdog(
            self.committer,
            self.clock,
            lambda seconds: die(EXIT_HUNG, f"a write has lasted {seconds:.1f} s"),
        )
        boot_id = os.urandom(8).hex()
        secret = args.secret.encode() if args.secret else None
        self.link = PeerLink(
            Identity(args.cluster, self.node_id, boot_id, secret),
            loop=loop,
            tasks=self.tasks,
            clock=self.clock,
            rng=random.Random(os.urandom(16)),
            entropy=os.urandom,
        )
        self.machines: dict[int, RegisterMachine] = {}
        self.repeated = 0
        """Operations that were applied a second time; must stay zero."""
        self.host = GroupHost(
            node_id=self.node_id,
            incarnation=incarnation,
            boot_id=boot_id,
            engine=self.engine,
            committer=self.committer,
            link=self.link,
            clock=self.clock,
            rng=random.Random(os.urandom(16)),
            scheduler=loop,
            config=HostConfig(feature_level=args.feature_level),
            machines=self._make_machine,
        )

    def _make_machine(self, group_id: int) -> RegisterMachine:
        machine = self.machines[group_id] = RegisterMachine(group_id, self.engine, self._applied)
        return machine

    def _applied(self, record: AppliedRecord) -> None:
        if record.repeated_at is not None:
            self.repeated += 1

    async def start(self) -> tuple[str, int]:
        address = await self.link.start()
        self.watchdog.start()
        self.host.start()
        return address

    async def close(self) -> None:
        self.host.stop()
        await self.link.close()
        await self.tasks.close()
        self.committer.stop()
        self.watchdog.close()
        self.writer.close()
        self.engine.close()
        if self.directory is not None:
            self.directory.close()

    # --- control --------------------------------------------------------------------------

    def handle(self, request: dict[str, Any], reply: Reply) -> None:
        group_id = request.get("group", 1)
        match request["op"]:
            case "peers":
                self._set_peers(request["peers"], request["groups"])
                reply({"outcome": "done"})
            case "propose":
                operation, action, key, value, expected = request["command"]
                command = Command(operation, Action(action), key, value, expected)
                self._propose(group_id, command, reply)
            case "read":
                machine, key = self.machines[group_id], request["key"]
                self._read(group_id, reply, lambda: {"value": machine.read(key)})
            case "operations":
                machine, prefix = self.machines[group_id], request["prefix"]
                self._read(group_id, reply, lambda: {"names": _names(machine, prefix)})
            case "status":
                reply(self._status())
            case other:
                reply({"outcome": "refused", "reason": f"no such op: {other!r}"})

    def _set_peers(self, peers: dict[str, tuple[str, int]], groups: int) -> None:
        for peer, (host, port) in peers.items():
            if peer != self.node_id:
                self.link.set_peer(NodeId(peer), (host, port))
        for group_id in range(1, groups + 1):
            if group_id not in self.host.groups:
                self.host.create(group_id, [NodeId(peer) for peer in sorted(peers)])

    def _propose(self, group_id: int, command: Command, reply: Reply) -> None:
        group = self.host.group(group_id)
        if self.canary == "early-acks" and group.role == Role.LEADER:
            reply({"outcome": "applied", "index": 0, "answer": [True, command.value]})
            reply = _nobody
        group.propose(command.encode(), partial(_proposed, reply))

    def _read(self, group_id: int, reply: Reply, value: Callable[[], dict[str, Any]]) -> None:
        def done(result: ReadResult) -> None:
            if isinstance(result, ReadReady):
                reply({"outcome": "ready", "index": result.index, **value()})
            else:
                reply({"outcome": "refused", "reason": result.reason, "leader": result.leader})

        if self.canary == "local-reads":
            done(ReadReady(self.machines[group_id].index))
        else:
            self.host.group(group_id).read(done)

    def _status(self) -> dict[str, Any]:
        groups = {}
        for group_id, group in self.host.groups.items():
            machine = self.machines[group_id]
            groups[group_id] = {
                **asdict(group.status()),
                "machine_index": machine.index,
                "chain": machine.chain.hex(),
            }
        link = self.link.status()
        return {
            "node": self.node_id,
            "groups": groups,
            "repeated": self.repeated,
            "host": asdict(self.host.status()),
            "commits": self.committer.commits,
            "last_sync_s": self.committer.last_sync_s,
            "connected": [peer for peer, status in link.peers.items() if status.connected],
            "link_problems": dict(link.problems),
        }


def _nobody(answer: dict[str, Any]) -> None:
    """A canary has answered already."""


def _names(machine: RegisterMachine, prefix: str) -> list[str]:
    return [name for name, _ in machine.operations() if name.startswith(prefix)]


def _proposed(reply: Reply, result: ProposeResult) -> None:
    if isinstance(result, Applied):
        reply({"outcome": "applied", "index": result.index, "answer": result.result})
    elif isinstance(result, Refused):
        reply({"outcome": "refused", "reason": result.reason, "leader": result.leader})
    else:
        reply({"outcome": "unknown", "reason": result.reason})


class Control(asyncio.Protocol):
    """One control connection: lines in, lines out."""

    def __init__(self, node: RaftNode) -> None:
        self._node = node
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            self._node.handle(request, partial(self._reply, request.get("id")))
        if len(self._buffer) > LINE_MAX_BYTES and self._transport is not None:
            self._transport.abort()

    def _reply(self, number: int | None, answer: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(json.dumps({"id": number, **answer}).encode() + b"\n")


def die(code: int, why: str, error: BaseException | None = None) -> None:
    """End now, whatever else is going on: nothing may be acknowledged any more."""
    _log.critical("%s", why, exc_info=error)
    os._exit(code)


async def run(args: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()

    def input_ready() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            told_to_stop.set()

    loop.add_signal_handler(signal.SIGTERM, told_to_stop.set)
    loop.add_reader(sys.stdin.fileno(), input_ready)
    node = RaftNode(loop, args)
    peer_address = await node.start()
    server = await loop.create_server(lambda: Control(node), "127.0.0.1", 0)
    ready = {
        "node": node.node_id,
        "pid": os.getpid(),
        "peer": peer_address,
        "control": server.sockets[0].getsockname()[:2],
    }
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    await told_to_stop.wait()
    server.close()
    await node.close()


def make_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop()
    return asyncio.SelectorEventLoop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="raftnode", description="one real raft process")
    parser.add_argument("--node", required=True, metavar="ID", help="the node's id")
    parser.add_argument("--data", required=True, metavar="DIR", help="its data directory")
    parser.add_argument("--engine", choices=["lmdb", "memory"], default="lmdb")
    parser.add_argument("--cluster", default="raftnodes", metavar="ID")
    parser.add_argument("--secret", default="", help="the cluster secret; none by default")
    parser.add_argument("--canary", choices=["", *CANARIES], default="")
    parser.add_argument(
        "--feature-level",
        type=int,
        default=FEATURE_LEVEL,
        metavar="N",
        help="what it says it knows",
    )
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    args = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s {args.node} %(levelname)s %(name)s: %(message)s"
    )
    with asyncio.Runner(loop_factory=partial(make_loop, args.loop)) as runner:
        runner.run(run(args))


if __name__ == "__main__":
    main()
