"""A harness for raft processes: start them, ask them, kill, freeze and thaw them.

Synchronous on purpose: what it measures happens in other processes, and a blocking client has no
loop of its own that could be late. Every process is ended by its id when the cluster is closed,
also after a failure; a node whose harness dies sees the end of its standard input and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from kv import leash
from raftgroups.levels import FEATURE_LEVEL
from storage.system_clock import SystemClock

CLOCK: Final = SystemClock()
POLL_S: Final = 0.005
T = TypeVar("T")


class StuckError(Exception):
    """Something did not come to pass in time. The message says what, and what the nodes say."""


class Gone(ConnectionError):  # noqa: N818 - reads as a state: the node is gone
    """The node does not answer: its process died, or the connection broke."""


def wait_for(
    probe: Callable[[], T | None], what: str, deadline_s: float = 30.0, *, poll_s: float = POLL_S
) -> T:
    """Poll until the probe gives something."""
    end = CLOCK.monotonic() + deadline_s
    while True:
        found = probe()
        if found:
            return found
        if CLOCK.monotonic() > end:
            raise StuckError(f"within {deadline_s:g} s it did not come to this: {what}")
        time.sleep(poll_s)


class Client:
    """One control connection. Several requests may be under way; answers come in any order."""

    def __init__(self, address: tuple[str, int], timeout_s: float = 5.0) -> None:
        self._socket = socket.create_connection(address, timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0

    def send(self, request: Mapping[str, Any]) -> int:
        """Returns the number of the request."""
        self._number += 1
        line = json.dumps({**request, "id": self._number}).encode() + b"\n"
        try:
            self._socket.sendall(line)
        except OSError as error:
            raise Gone(str(error)) from error
        return self._number

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Any answer, or None when none came in time."""
        if not self._answers:
            self._read(timeout_s)
        if not self._answers:
            return None
        return self._answers.pop(next(iter(self._answers)))

    def _read(self, timeout_s: float) -> None:
        ready, _, _ = select.select([self._socket], [], [], max(timeout_s, 0.0))
        if not ready:
            return
        try:
            data = self._socket.recv(1 << 20)
        except OSError as error:
            raise Gone(str(error)) from error
        if not data:
            raise Gone("the node closed the connection")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._answers[answer["id"]] = answer

    def call(self, request: Mapping[str, Any], timeout_s: float = 10.0) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        number = self.send(request)
        end = CLOCK.monotonic() + timeout_s
        while number not in self._answers:
            if CLOCK.monotonic() > end:
                raise StuckError(f"no answer to {request['op']} in {timeout_s:g} s")
            self._read(end - CLOCK.monotonic())
        return self._answers.pop(number)

    def close(self) -> None:
        self._socket.close()


class NodeProcess:
    """One node over all its lives. Its data directory and its log stay."""

    def __init__(self, name: str, directory: Path, engine: str, loop: str, canary: str) -> None:
        self.name = name
        self.directory = directory
        self._arguments = [
            "--node", name, "--data", str(directory), "--engine", engine, "--loop", loop,
            "--secret", "of-the-failover-harness", "--canary", canary,
        ]  # fmt: skip
        self.feature_level = FEATURE_LEVEL
        """What its program says it knows, from its next start on."""
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None
        self.peer_address: tuple[str, int] = ("", 0)
        self.control_address: tuple[str, int] = ("", 0)

    @property
    def log_path(self) -> Path:
        return self.directory / "log.txt"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} does not run"
        return self._process

    def spawn(self) -> None:
        assert self._process is None
        self.directory.mkdir(parents=True, exist_ok=True)
        arguments = [*self._arguments, "--feature-level", str(self.feature_level)]
        with self.log_path.open("ab") as log:
            self._process = leash.start(
                "chaos.raftnode", arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, start_new_session=False,
            )  # fmt: skip

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 30)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            raise StuckError(f"{self.name} did not start; its log: {self.log_path}")
        said = json.loads(line)
        self.peer_address = (said["peer"][0], said["peer"][1])
        self.control_address = (said["control"][0], said["control"][1])

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(self.control_address)
        return self._client

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def bury(self) -> None:
        """The process was killed: wait for its end and forget it."""
        process, self._process = self.process, None
        process.wait(timeout=30)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        self.hang_up()

    def hang_up(self) -> None:
        """The next request uses a new connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.bury()


class Cluster:
    """Three (or more) of them, and what to ask them together."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        engine: str = "lmdb",
        loop: str = "uvloop",
        groups: int = 1,
        canary: str = "",
    ) -> None:
        names = [f"node-{chr(ord('a') + number)}" for number in range(nodes)]
        self._groups = groups
        self.nodes = {
            name: NodeProcess(name, directory / name, engine, loop, canary) for name in names
        }

    def __enter__(self) -> Cluster:
        try:
            self.start(*self.nodes)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()

    def start(self, *names: str) -> None:
        """Start these, and tell everybody where everybody is now."""
        for name in names:
            self.nodes[name].spawn()
        for name in names:
            self.nodes[name].wait_ready()
        peers = {name: node.peer_address for name, node in self.nodes.items()}
        for node in self.nodes.values():
            node.client.call({"op": "peers", "peers": peers, "groups": self._groups})

    def kill(self, *names: str) -> None:
        """kill -9, all of them before the first is waited for."""
        for name in names:
            self.nodes[name].signal(signal.SIGKILL)
        for name in names:
            self.nodes[name].bury()

    def status(self, name: str) -> dict[str, Any]:
        return self.nodes[name].client.call({"op": "status"})

    def group_status(self, name: str, group: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = self.status(name)["groups"].get(str(group), {})
        return found

    def leader(self, group: int = 1) -> str:
        """The node that leads and that all others follow, once there is one that can commit."""

        def probe() -> str | None:
            answers = {name: self.group_status(name, group) for name in self.nodes}
            leads = [name for name, answer in answers.items() if answer.get("role") == "leader"]
            agreed = {answer.get("leader") for answer in answers.values()} == set(leads)
            terms = {answer.get("term") for answer in answers.values()}
            return leads[0] if len(leads) == len(terms) == 1 and agreed else None

        return wait_for(probe, "one leader that all nodes follow")

    def converged(self, group: int = 1) -> str:
        """Wait until all nodes have applied the same; returns the hash of the history."""

        def probe() -> str | None:
            answers = [self.group_status(name, group) for name in self.nodes]
            places = {(answer.get("machine_index"), answer.get("chain")) for answer in answers}
            applied = {answer.get("applied_index") for answer in answers}
            return answers[0].get("chain") if len(places) == len(applied) == 1 else None

        return wait_for(probe, "all nodes have applied the same history")

    def others(self, name: str) -> Iterator[NodeProcess]:
        return (node for node in self.nodes.values() if node.name != name)
