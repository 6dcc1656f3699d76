"""JanusKV as a user starts it: `januskv cluster`, and the file that it writes once it serves.

The only knowledge of that command in the measurement. The ready file is a JSON list of
{"name", "url", "pid"}, one a node.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kv.leash import environment
from kv.peers import gateway
from kv.peers.cluster import NODES, ClusterFailedError, Node, free_ports, program, wait_until

OFFSETS: Final = tuple(10 * node + port for node in range(NODES) for port in (0, 1))
COMMAND: Final = (sys.executable, "-P", "-c", "from kv.cli.main import entry; entry()")
"""The installed command, but of the code that runs here."""


class JanusKV:
    def __init__(
        self,
        command: Sequence[str] = (),
        *,
        name: str = "januskv",
        options: Sequence[str] = (),
        healthy: Callable[[Sequence[Node]], bool] = gateway.all_healthy,
    ) -> None:
        """`options` of the command `cluster`, if not all defaults."""
        self.name = name
        self._command = tuple(command) or COMMAND
        self._options = tuple(options)
        self._healthy = healthy

    @property
    def about(self) -> str:
        if self._command != COMMAND:
            return f"JanusKV started by {' '.join(self._command)}"
        how = " ".join(self._options) or "all defaults"
        return f"JanusKV {version('januskv')}, three nodes, {how}"

    @contextmanager
    def running(self, directory: Path) -> Iterator[Sequence[Node]]:
        ready, log = directory / "ready.json", directory / "cluster.log"
        words: list[object] = ["cluster", "--nodes", NODES, "--data", directory / "data"]
        words += ["--base-port", free_ports(OFFSETS), "--ready-file", ready]
        words += self._options
        command = [*self._command, *map(str, words)]
        # Another version must not find this one's packages first.
        surroundings = environment() if self._command == COMMAND else None
        nodes: list[Node] = []
        try:
            with program(command, log, surroundings) as process:
                wait_until(lambda: _is_whole(ready), "januskv cluster", [(process, log)])
                nodes += nodes_of(ready)
                wait_until(lambda: self._healthy(nodes), "januskv cluster", [(process, log)])
                yield nodes
        finally:
            if process.returncode == -signal.SIGKILL:
                _kill(nodes)  # it had to be killed: then it did not stop its nodes


def _kill(nodes: Sequence[Node]) -> None:
    for node in nodes:
        with suppress(ProcessLookupError):
            os.kill(node.pid, signal.SIGKILL)


def _is_whole(ready: Path) -> bool:
    return ready.exists() and ready.read_text().rstrip().endswith("]")


def nodes_of(ready: Path) -> list[Node]:
    try:
        nodes = [
            Node(entry["name"], *_address(entry["url"]), int(entry["pid"]))
            for entry in json.loads(ready.read_text())
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ClusterFailedError(
            f"the ready file {ready} is not a list of name, url and pid: {error!r}"
        ) from error
    if len(nodes) != NODES:
        raise ClusterFailedError(f"the ready file names {len(nodes)} nodes, not {NODES}")
    return nodes


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"{url!r} has no host and port")
    return parts.hostname, parts.port
