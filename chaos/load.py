"""Load for a raft cluster: unique writes from several threads, and what became of each.

Every operation is in exactly one of three sets at the end: `acknowledged` (an answer said so),
`refused` (an answer said that it surely was not done), `unknown` (the node said so, or died under
it). Each thread keeps several operations under way and follows hints to the leader.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from chaos.raftcluster import Client, Cluster, Gone
from chaos.sim.machine import Action

THREADS: Final = 3
UNDER_WAY: Final = 16
PAUSE_S: Final = 0.002


class Load:
    """Operations are named prefix + thread + number and write keys of their own."""

    def __init__(self, cluster: Cluster, prefix: str, *, threads: int = THREADS) -> None:
        self._addresses = {name: node.control_address for name, node in cluster.nodes.items()}
        self._prefix = prefix
        self._stopping = threading.Event()
        self.acknowledged: set[str] = set()
        self.refused: set[str] = set()
        self.unknown: set[str] = set()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), daemon=True)
            for number in range(threads)
        ]

    def run_for(self, seconds: float) -> None:
        """Start, and come back while it still runs."""
        for thread in self._threads:
            thread.start()
        time.sleep(seconds)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, thread: int) -> None:
        names = sorted(self._addresses)
        target = names[thread % len(names)]
        operations = (f"{self._prefix}{thread}-{number}" for number in itertools.count())
        while not self._stopping.is_set():
            under_way: dict[int, str] = {}
            try:
                client = Client(self._addresses[target], timeout_s=1.0)
            except OSError:
                target = names[(names.index(target) + 1) % len(names)]
                time.sleep(PAUSE_S)
                continue
            try:
                target = self._talk(client, operations, target, under_way)
            except Gone:
                target = names[(names.index(target) + 1) % len(names)]
            finally:
                client.close()
                self.unknown.update(under_way.values())

    def _talk(
        self, client: Client, operations: Iterator[str], target: str, under_way: dict[int, str]
    ) -> str:
        """Until it is stopped, or another node is the leader: returns that node."""
        hint = target
        while not self._stopping.is_set() and (hint == target or under_way):
            while hint == target and len(under_way) < UNDER_WAY:
                name = next(operations)
                command = [name, Action.WRITE, f"key-{name}", "value", None]
                under_way[0] = name  # if the sending fails half way it may have been read
                under_way[client.send({"op": "propose", "command": command})] = name
                del under_way[0]
            answer = client.receive(0.05)
            if answer is not None:
                hint = self._settle(answer, under_way.pop(answer["id"])) or hint
        return hint

    def _settle(self, answer: dict[str, Any], name: str) -> str | None:
        """Note the outcome. Returns the leader that a refusal named."""
        outcome = answer["outcome"]
        if outcome == "applied":
            self.acknowledged.add(name)
        elif outcome == "refused":
            self.refused.add(name)
            time.sleep(PAUSE_S)
            leader: str | None = answer["leader"]
            return leader
        else:
            self.unknown.add(name)
        return None
