"""Where faults act: the cluster, and who is broken already.

A fault that takes a node down claims it first; a second one that wants the same node is turned
away (BusyError) instead of waking what another holds down. Faults run in threads.

Invariants: a claim is held by one fault at a time; `down` names exactly the nodes of which the
end of the process is expected.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

from chaos.links import Links, Pair
from chaos.server import Server
from chaos.servers import Servers


class BusyError(Exception):
    """Another fault holds what this one wants."""


class Stage:
    def __init__(self, servers: Servers, links: Links, role_of: Callable[[str], str]) -> None:
        """`role_of`: what a node said last of itself, without asking it anew."""
        self.servers, self.links = servers, links
        self.over = threading.Event()
        """Set when the time of faults is over: whatever waits gives up."""
        self._role_of = role_of
        self._lock = threading.Lock()
        self._claimed: set[str] = set()
        self.down: set[str] = set()
        """Nodes whose process is meant to be gone, or frozen."""

    @property
    def names(self) -> list[str]:
        return sorted(self.servers.nodes)

    def server(self, name: str) -> Server:
        return self.servers.nodes[name]

    def targets(self, which: str, dice: Random) -> list[str]:
        """Who is meant, now. Without a known leader `leader` is anybody."""
        names = self.names
        if which == "all":
            return names
        if which in ("minority", "majority"):
            small = max(1, (len(names) - 1) // 2)
            return sorted(dice.sample(names, small if which == "minority" else len(names) - small))
        leaders = [name for name in names if self._role_of(name) == "leader"]
        if which == "leader" and leaders:
            return [dice.choice(leaders)]
        if which == "follower":
            names = [name for name in names if name not in leaders] or names
        return [dice.choice(names)]

    @contextmanager
    def claim(self, names: Sequence[str], *, down: bool = True) -> Iterator[None]:
        with self._lock:
            busy = self._claimed.intersection(names)
            if busy:
                raise BusyError(f"{', '.join(sorted(busy))} already")
            self._claimed.update(names)
            if down:
                self.down.update(names)
        try:
            yield
        finally:
            with self._lock:
                self._claimed.difference_update(names)
                self.down.difference_update(names)

    @contextmanager
    def background(self, work: Callable[[], object]) -> Iterator[None]:
        """Do it again and again in a thread; the last round ends before this does."""
        over = threading.Event()

        def repeat() -> None:
            while not (over.is_set() or self.over.is_set()):
                try:
                    work()
                except OSError:
                    over.wait(0.1)

        thread = threading.Thread(target=repeat, name="chaos-background")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def pairs(self, names: Sequence[str] | None = None) -> set[Pair]:
        """All directed links; with names, those that touch one of them."""
        everybody = self.names
        return {
            (a, b)
            for a in everybody
            for b in everybody
            if a != b and (names is None or a in names or b in names)
        }
