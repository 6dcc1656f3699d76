"""Links on real loopback sockets, a proxy that can stop or cut, certificates made on the spot.

Every async test here runs on asyncio's loop and on uvloop, because the product runs on both
and their transports differ.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from kv.cluster.link import PeerLink
from kv.cluster.link_config import Address, LinkConfig, PeerStatus
from kv.cluster.link_handshake import Identity
from kv.cluster.link_tls import LinkTls
from kv.cluster.tasks import Tasks
from raftgroups.transport import NodeId
from storage.system_clock import SystemClock

QUICK = {
    "keepalive_s": 0.05,
    "idle_timeout_s": 2.0,
    "unanswered_timeout_s": 4.0,
    "handshake_timeout_s": 2.0,
    "backoff_first_s": 0.01,
    "backoff_max_s": 0.05,
    "close_timeout_s": 0.5,
}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(name="until")
def _until() -> Callable[..., Awaitable[None]]:
    return until


async def until(condition: Callable[[], object], what: str, deadline_s: float = 10.0) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while not condition():
        if loop.time() > end:
            raise AssertionError(f"within {deadline_s} s it did not come to this: {what}")
        await asyncio.sleep(0.002)


@dataclass
class Node:
    """A link and everything that came out of it."""

    link: PeerLink
    address: Address = ("", 0)
    frames: list[tuple[str, str, bytes]] = field(default_factory=list)
    """(channel, peer, frame)"""
    changes: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def id(self) -> NodeId:
        return self.link.identity.node_id

    def of(self, channel: str) -> list[bytes]:
        return [frame for name, _, frame in self.frames if name == channel]

    def peer(self, other: Node) -> PeerStatus:
        return self.link.status().peers[other.id]

    def problems(self) -> dict[str, int]:
        return dict(self.link.status().problems)

    def knows(self, *others: Node) -> bool:
        return all(self.link.connected(other.id) for other in others)


class Links:
    def __init__(self) -> None:
        self.failures: list[tuple[str, BaseException]] = []
        self.tasks = Tasks(
            asyncio.get_running_loop(), lambda name, error: self.failures.append((name, error))
        )
        self.nodes: list[Node] = []
        self.proxies: list[Proxy] = []

    async def node(
        self,
        name: str,
        *,
        boot: str | None = None,
        cluster: str = "c1",
        secret: bytes | None = b"the cluster secret",
        tls: LinkTls | None = None,
        versions: tuple[int, int] = (1, 1),
        subscribe: tuple[str, ...] = ("raft", "snapshot", "gossip"),
        **config: Any,
    ) -> Node:
        identity = Identity(
            cluster, NodeId(name), boot or f"boot-{name}", secret, versions[0], versions[1]
        )
        link = PeerLink(
            identity,
            loop=asyncio.get_running_loop(),
            tasks=self.tasks,
            clock=SystemClock(),
            rng=random.Random(name),
            entropy=os.urandom,
            config=LinkConfig(**{**QUICK, **config}),
            tls=tls,
        )
        node = Node(link)
        for channel in subscribe:
            link.subscribe(
                channel,
                lambda peer, frame, channel=channel: node.frames.append((channel, peer, frame)),
            )
        link.on_peer_change(lambda peer, up: node.changes.append((peer, up)))
        self.nodes.append(node)
        node.address = await link.start()
        return node

    async def pair(self, **config: Any) -> tuple[Node, Node]:
        """Two nodes that dialed each other at the same moment and are connected."""
        a, b = await self.node("a", **config), await self.node("b", **config)
        a.link.set_peer(b.id, b.address)
        b.link.set_peer(a.id, a.address)
        await until(lambda: a.knows(b) and b.knows(a), "a and b are connected")
        return a, b

    async def proxy(self, target: Address) -> Proxy:
        proxy = Proxy(target)
        await proxy.start()
        self.proxies.append(proxy)
        return proxy

    async def close(self) -> None:
        for proxy in self.proxies:
            proxy.close()
        await asyncio.gather(*(node.link.close() for node in self.nodes))
        await self.tasks.close()
        assert self.failures == [], "no task of a link may fail"


@pytest.fixture
async def links() -> AsyncIterator[Links]:
    made = Links()
    try:
        yield made
    finally:
        await made.close()


class Half(asyncio.Protocol):
    """One end of a proxied connection."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.other: Half | None = None
        self.transport: asyncio.Transport | None = None
        self.waiting: list[bytes] = []
        self.held: list[bytes] = []
        self.dialing: Awaitable[object] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        self.proxy.halves.append(self)
        if self.other is None:
            self.other = Half(self.proxy)
            self.other.other = self
            loop = asyncio.get_running_loop()
            self.dialing = loop.create_task(
                loop.create_connection(lambda: self.other, *self.proxy.target)
            )
        else:
            for data in self.other.waiting:
                self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        assert self.other is not None
        if self.proxy.stopped:  # uvloop begins to read whatever connection_made said
            assert self.transport is not None
            self.transport.pause_reading()
            self.held.append(data)
        elif self.other.transport is None:
            self.waiting.append(data)
        else:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport and not self.proxy.stopped:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self in self.proxy.halves:
            self.proxy.halves.remove(self)
        if self.other is not None and self.other.transport and not self.proxy.silent:
            self.other.transport.abort()


class Proxy:
    """A TCP proxy: `stop` holds bytes back, `cut` resets, `silent` hides that an end is gone."""

    def __init__(self, target: Address) -> None:
        self.target = target
        self.halves: list[Half] = []
        self.stopped = False
        self.silent = False
        self.address: Address = ("", 0)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: Half(self), "127.0.0.1", 0)
        host, port = self.server.sockets[0].getsockname()
        self.address = (host, port)

    def stop(self) -> None:
        self.stopped = True
        for half in self.halves:
            assert half.transport is not None
            half.transport.pause_reading()

    def go_on(self) -> None:
        self.stopped = False
        for half in self.halves:
            assert half.transport is not None
            held, half.held = half.held, []
            for data in held:
                half.data_received(data)
            half.transport.resume_reading()

    def cut(self) -> None:
        for half in list(self.halves):
            assert half.transport is not None
            half.transport.abort()

    def close(self) -> None:
        self.server.close()
        self.silent = False
        self.cut()


@dataclass(frozen=True)
class Certificates:
    directory: Path

    def context(self, purpose: ssl.Purpose, name: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(purpose, cafile=str(self.directory / "ca.pem"))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if name is not None:
            context.load_cert_chain(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        if purpose is ssl.Purpose.CLIENT_AUTH:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def mutual(self, name: str | None = "node") -> LinkTls:
        """What a node with this certificate uses; None: it has none to show as a client."""
        return LinkTls(
            server=self.context(ssl.Purpose.CLIENT_AUTH, name or "node"),
            client=self.context(ssl.Purpose.SERVER_AUTH, name),
            server_hostname="januskv.test",
        )


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, a node's certificate of it, and one of another authority."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command is not installed, so no certificate can be made")
    directory = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for authority, name in (("ca", "node"), ("other-ca", "foreign")):
        openssl(
            "req", "-x509", *new_key, "-subj", f"/CN={authority}",
            "-keyout", f"{authority}.key", "-out", f"{authority}.pem",
        )  # fmt: skip
        openssl(
            "req", "-x509", *new_key, "-subj", "/CN=januskv.test",
            "-addext", "subjectAltName=DNS:januskv.test",
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
            "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip
    return Certificates(directory)
