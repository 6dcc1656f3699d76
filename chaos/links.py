"""Every link of a cluster through a proxy of its own, broken and healed by name.

    n1 -- proxy n1-n2 --> n2        one for each node that dials another: peers (directed)
    clients -- proxy clients-n2 --> n2

Two nodes share one connection, which either may have dialed, so what n1 sends to n2 goes upstream
through n1-n2 or downstream through n2-n1: `cut` and `spoil` take both. Driven by toxiproxy's own
client, so the server may be ours (chaos/toxics) or a real one.

What breaks a link has a tag; `heal` takes away what the tag brought, in reverse. Synchronous:
asyncio programs call it in a thread; a lock makes it safe from several.

Invariant: a proxy is disabled exactly while some tag refuses on it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from chaos.raftcluster import StuckError, wait_for
from kv import leash
from kv.cli.cluster import Member
from kv.peers.cluster import free_ports

STREAMS: Final = ("upstream", "downstream")
API_S: Final = 20.0
Pair = tuple[str, str]


class NoProxiesError(Exception):
    """There is no toxiproxy to drive; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where clients reach a node."""

    name: str
    host: str
    port: int


def _client() -> Any:
    try:
        with warnings.catch_warnings():
            # Its dependency `future` still imports what Python is about to drop.
            warnings.simplefilter("ignore")
            import toxiproxy
            import toxiproxy.exceptions
    except ImportError as error:
        raise NoProxiesError(
            "the package toxiproxy-python is missing, which drives the proxies between the nodes; "
            "pip install toxiproxy-python"
        ) from error
    return toxiproxy


class Links:
    def __init__(self, url: str) -> None:
        """`url`: of a toxiproxy API that answers."""
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if not parts.hostname or not parts.port:
            raise NoProxiesError(f"{url!r} is no toxiproxy; write http://HOST:PORT")
        self.url = url
        self._library = _client()
        self._server = self._library.Toxiproxy()
        self._server.update_api_consumer(parts.hostname, parts.port)
        if not self._server.running():
            raise NoProxiesError(f"no toxiproxy answers at {url}; start it, or leave it out")
        self.version = _version(self._server.version())
        self.peers: dict[Pair, Any] = {}
        self.doors: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._toxics: dict[str, list[tuple[Any, str]]] = {}
        self._refusing: dict[str, list[Any]] = {}

    # --- proxies ----------------------------------------------------------------------------

    def connect(self, members: Sequence[Member]) -> None:
        """A proxy for each link. The names carry a port, so that a shared server can hold more than
        one cluster."""
        run = members[0].client.rpartition(":")[2]
        for a in members:
            self.doors[a.name] = self._create(f"{run}-clients-{a.name}", a.client)
            for b in members:
                if a is not b:
                    name = f"{run}-{a.name}-{b.name}"
                    self.peers[a.name, b.name] = self._create(name, b.peer)

    def _create(self, name: str, upstream: str) -> Any:
        return self._server.create(upstream=upstream, name=name, listen="127.0.0.1:0")

    def routes(self, member: Member) -> dict[str, str]:
        """What [cluster] peer_addresses of this node must say."""
        return {b: proxy.listen for (a, b), proxy in self.peers.items() if a == member.name}

    def door(self, name: str) -> Door:
        host, _, port = self.doors[name].listen.rpartition(":")
        return Door(name, host.strip("[]"), int(port))

    def close(self) -> None:
        for proxy in [*self.peers.values(), *self.doors.values()]:
            with contextlib.suppress(self._library.exceptions.NotFound, OSError):
                proxy.destroy()

    # --- breaking ---------------------------------------------------------------------------

    def cut(self, tag: str, pairs: Iterable[Pair], *, refuse: bool) -> None:
        """Nothing goes from a to b any more, for each (a, b). Refusing needs both directions."""
        wanted = set(pairs)
        with self._lock:
            for a, b in sorted(wanted):
                if refuse and (b, a) in wanted:
                    self._disable(tag, self.peers[a, b])
                else:
                    self._add(tag, self.peers[a, b], "timeout", "upstream", {"timeout": 0})
                    self._add(tag, self.peers[b, a], "timeout", "downstream", {"timeout": 0})

    def spoil(
        self,
        tag: str,
        pairs: Iterable[Pair],
        doors: Iterable[str],
        kind: str,
        attributes: Mapping[str, int],
        share: float = 1.0,
    ) -> None:
        """A toxic on both directions of these links."""
        with self._lock:
            proxies = [self.peers[pair] for pair in sorted(pairs)]
            proxies += [self.doors[name] for name in sorted(doors)]
            for proxy in proxies:
                for stream in STREAMS:
                    self._add(tag, proxy, kind, stream, attributes, share)

    def heal(self, tag: str, proxies: Sequence[Any] | None = None) -> None:
        """What the tag brought; only on these proxies, if any are given."""
        with self._lock:
            for proxy, name in reversed(self._toxics.get(tag, [])):
                if proxies is None or proxy in proxies:
                    with contextlib.suppress(self._library.exceptions.NotFound):
                        proxy.destroy_toxic(name)
            kept = [
                each for each in self._toxics.pop(tag, []) if proxies and each[0] not in proxies
            ]
            if kept:
                self._toxics[tag] = kept
            refusing = self._refusing.pop(tag, [])
            still = [proxy for proxy in refusing if proxies and proxy not in proxies]
            if still:
                self._refusing[tag] = still
            for proxy in refusing:
                if proxy not in still and not self._is_refused(proxy):
                    proxy.enable()

    def heal_pair(self, tag: str, pair: Pair) -> None:
        a, b = pair
        self.heal(tag, [self.peers[a, b], self.peers[b, a]])

    def _add(
        self, tag: str, proxy: Any, kind: str, stream: str, attributes: Mapping[str, int],
        share: float = 1.0,
    ) -> None:  # fmt: skip
        name = f"{tag}-{kind}-{stream}"
        with contextlib.suppress(self._library.exceptions.ProxyExists):
            proxy.add_toxic(
                name=name, type=kind, stream=stream, toxicity=share, attributes=dict(attributes)
            )
            self._toxics.setdefault(tag, []).append((proxy, name))

    def _disable(self, tag: str, proxy: Any) -> None:
        if not self._is_refused(proxy):
            proxy.disable()
        self._refusing.setdefault(tag, []).append(proxy)

    def _is_refused(self, proxy: Any) -> bool:
        return any(proxy in proxies for proxies in self._refusing.values())


def _version(answer: bytes) -> str:
    """JSON since toxiproxy 2.6; the bare number before."""
    try:
        return str(json.loads(answer)["version"])
    except (ValueError, TypeError, KeyError):
        return answer.decode(errors="replace").strip()


@contextlib.contextmanager
def toxics_server(seed: int) -> Iterator[str]:
    """Ours, as a process of its own. Yields its URL."""
    port = free_ports([0])
    arguments = ["--listen", f"127.0.0.1:{port}", "--seed", str(seed)]
    process = leash.start("chaos.toxics", arguments)

    def answers() -> bool:
        if process.poll() is not None:
            raise StuckError(f"the toxics server ended with code {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return True
        return False

    try:
        wait_for(answers, "the toxics server listens", API_S)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
