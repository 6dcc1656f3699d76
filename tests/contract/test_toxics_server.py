"""Toxics, driven verb by verb by toxiproxy's own Python client, with real connections: our server,
and a real toxiproxy on this machine, if TOXIPROXY_URL names one.

Our server runs on a loop of its own in a thread, because the client blocks. What takes `ours` is
where it says more than a real one does, or does better.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from aiohttp import web

from chaos.toxics.server import ToxicsServer
from storage.system_clock import SystemClock

with warnings.catch_warnings():
    # The client's dependency `future` still imports what Python is about to drop.
    warnings.simplefilter("ignore")
    from toxiproxy import Toxiproxy
    from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

URL_NAME = "TOXIPROXY_URL"


class Echo:
    """A TCP server that sends back what it gets."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.closing = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            client, _ = self.listener.accept()
            if self.closing:
                client.close()
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(65536):
                client.sendall(data)

    def close(self) -> None:
        self.closing = True
        host, port = self.address.split(":")
        socket.create_connection((host, int(port))).close()
        self.thread.join(5)
        self.listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture(params=["ours", "real"])
def toxiproxy(request: pytest.FixtureRequest) -> Iterator[Toxiproxy]:
    served = served_by_us() if request.param == "ours" else served_at(os.environ.get(URL_NAME))
    with served as client:
        yield client


@pytest.fixture
def ours() -> Iterator[Toxiproxy]:
    with served_by_us() as client:
        yield client


@contextlib.contextmanager
def served_at(url: str | None) -> Iterator[Toxiproxy]:
    if not url:
        pytest.skip(f"{URL_NAME} names no toxiproxy")
    parts = urlsplit(url if "//" in url else f"http://{url}")
    assert parts.hostname, f"{URL_NAME} is {url!r}; write http://HOST:PORT"
    client = Toxiproxy()
    client.update_api_consumer(parts.hostname, parts.port or 8474)
    assert client.running(), f"no toxiproxy answers at {url}"
    assert client.proxies() == {}, "it is in use: these tests need one of their own"
    try:
        yield client
    finally:
        client.destroy_all()


@contextlib.contextmanager
def served_by_us() -> Iterator[Toxiproxy]:
    loop = asyncio.new_event_loop()
    server = ToxicsServer(clock=SystemClock(), rng=random.Random(1))
    runner = web.AppRunner(server.application())

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    port = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    client = Toxiproxy()
    client.update_api_consumer("127.0.0.1", port)
    yield client
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)

    async def settle() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 5)

    asyncio.run_coroutine_threadsafe(settle(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


def connect(proxy: object) -> socket.socket:
    host, port = proxy.listen.split(":")  # type: ignore[attr-defined]
    return socket.create_connection((host, int(port)), timeout=5)


def say(plug: socket.socket, data: bytes) -> bytes:
    plug.sendall(data)
    received = b""
    while len(received) < len(data) and (more := plug.recv(len(data))):
        received += more
    return received


def test_version_and_running(toxiproxy: Toxiproxy) -> None:
    assert toxiproxy.running()
    assert b'"version"' in toxiproxy.version()


def test_create_list_get_destroy(toxiproxy: Toxiproxy, echo: Echo) -> None:
    proxy = toxiproxy.create(upstream=echo.address, name="one")
    assert proxy.enabled
    assert proxy.listen.startswith("127.0.0.1:")
    assert not proxy.listen.endswith(":0")
    assert set(toxiproxy.proxies()) == {"one"}
    assert toxiproxy.get_proxy("one").listen == proxy.listen
    assert toxiproxy.get_proxy("two") is None
    with connect(proxy) as plug:
        assert say(plug, b"hello") == b"hello"
    with pytest.raises(ProxyExists):
        toxiproxy.create(upstream=echo.address, name="one")
    assert toxiproxy.destroy(proxy)
    assert toxiproxy.proxies() == {}
    with pytest.raises(OSError, match="refused"):
        connect(proxy)
    with pytest.raises(NotFound):
        proxy.destroy()


def test_disable_drops_and_enable_listens_on_the_same_port(
    toxiproxy: Toxiproxy, echo: Echo
) -> None:
    proxy = toxiproxy.create(upstream=echo.address, name="one")
    with connect(proxy) as plug:
        assert say(plug, b"x") == b"x"
        with proxy.down():
            with pytest.raises(OSError, match="refused"):
                connect(proxy)
            assert not toxiproxy.get_proxy("one").enabled
            with contextlib.suppress(ConnectionResetError):
                assert plug.recv(1) == b""
    with connect(proxy) as plug:
        assert say(plug, b"y") == b"y"


def test_created_disabled_listens_only_once_enabled(toxiproxy: Toxiproxy, echo: Echo) -> None:
    proxy = toxiproxy.create(upstream=echo.address, name="one", enabled=False)
    assert not proxy.enabled
    proxy.enable()
    with connect(toxiproxy.get_proxy("one")) as plug:
        assert say(plug, b"x") == b"x"


def test_populate_makes_it_so_and_reset_cleans_up(toxiproxy: Toxiproxy, echo: Echo) -> None:
    wished = [{"name": name, "upstream": echo.address} for name in ("a", "b")]
    assert [proxy.name for proxy in toxiproxy.populate(wished)] == ["a", "b"]
    one = toxiproxy.get_proxy("a")
    one.add_toxic(type="latency", attributes={"latency": 5})
    one.disable()
    assert toxiproxy.reset()
    assert toxiproxy.get_proxy("a").enabled
    assert toxiproxy.get_proxy("a").toxics() == {}
    again = [{"name": "a", "upstream": echo.address, "listen": one.listen}]
    response = requests.post(api(toxiproxy) + "/populate", json=again, timeout=5)
    assert response.status_code == 201
    assert response.json()["proxies"][0]["listen"] == one.listen
    toxiproxy.destroy_all()
    assert toxiproxy.proxies() == {}


def api(toxiproxy: Toxiproxy) -> str:
    from toxiproxy.api import APIConsumer

    return f"http://{APIConsumer.host}:{APIConsumer.port}"


def test_toxics_are_added_listed_changed_and_removed(toxiproxy: Toxiproxy, echo: Echo) -> None:
    proxy = toxiproxy.create(upstream=echo.address, name="one")
    proxy.add_toxic(type="latency", attributes={"latency": 60, "jitter": 0})
    named = proxy.get_toxic("latency_downstream")
    assert (named.type, named.stream, named.toxicity) == ("latency", "downstream", 1.0)
    assert named.attributes == {"latency": 60, "jitter": 0}
    with connect(proxy) as plug:
        started = time.perf_counter()
        assert say(plug, b"x") == b"x"
        assert time.perf_counter() - started >= 0.060
        url = f"{api(toxiproxy)}/proxies/one/toxics/latency_downstream"
        changed = requests.post(url, json={"attributes": {"latency": 0}}, timeout=5).json()
        assert changed["attributes"] == {"latency": 0, "jitter": 0}
        assert say(plug, b"y") == b"y"
    with pytest.raises(ProxyExists):
        proxy.add_toxic(type="latency")
    assert proxy.destroy_toxic("latency_downstream")
    assert proxy.toxics() == {}
    with pytest.raises(NotFound):
        proxy.destroy_toxic("latency_downstream")


def test_bad_calls_are_refused_with_a_sentence(ours: Toxiproxy, echo: Echo) -> None:
    toxiproxy = ours
    proxy = toxiproxy.create(upstream=echo.address, name="one")
    with pytest.raises(InvalidToxic, match="invalid toxic type"):
        proxy.add_toxic(type="rain")
    with pytest.raises(InvalidToxic, match="has no attribute"):
        proxy.add_toxic(type="latency", attributes={"wet": 1})
    with pytest.raises(InvalidToxic, match="not an address"):
        toxiproxy.create(upstream="nowhere", name="two")
    taken = proxy.listen
    with pytest.raises(InvalidToxic, match="cannot listen on"):
        toxiproxy.create(upstream=echo.address, name="two", listen=taken)
    assert set(toxiproxy.proxies()) == {"one"}
    response = requests.post(api(toxiproxy) + "/proxies", data=b"{", timeout=5)
    assert response.status_code == 400
    assert "bad request body" in response.json()["error"]
    assert requests.get(api(toxiproxy) + "/elsewhere", timeout=5).status_code == 404


def test_a_timeout_of_zero_is_a_black_hole_until_it_is_removed(
    toxiproxy: Toxiproxy, echo: Echo
) -> None:
    proxy = toxiproxy.create(upstream=echo.address, name="one")
    with connect(proxy) as plug:
        assert say(plug, b"x") == b"x"
        proxy.add_toxic(type="timeout", stream="upstream", attributes={"timeout": 0})
        plug.sendall(b"lost")
        plug.settimeout(0.1)
        with pytest.raises(TimeoutError):
            plug.recv(1)
        proxy.destroy_toxic("timeout_upstream")
        plug.settimeout(5)
        assert plug.recv(1) == b"", "a stream with a hole in it cannot go on"
    with connect(proxy) as plug:
        assert say(plug, b"y") == b"y"


def test_a_timeout_ends_the_connection_in_time(toxiproxy: Toxiproxy, echo: Echo) -> None:
    proxy = toxiproxy.create(upstream=echo.address, name="one")
    proxy.add_toxic(type="timeout", attributes={"timeout": 100})
    with connect(proxy) as plug:
        started = time.perf_counter()
        plug.sendall(b"x")
        assert plug.recv(1) == b""
        assert 0.09 <= time.perf_counter() - started < 4


def test_reset_peer_is_a_real_reset(toxiproxy: Toxiproxy, echo: Echo) -> None:
    proxy = toxiproxy.create(upstream=echo.address, name="one")
    with connect(proxy) as plug:
        assert say(plug, b"x") == b"x"
        proxy.add_toxic(type="reset_peer", attributes={"timeout": 0})
        with pytest.raises(ConnectionResetError):
            say(plug, b"y")  # a real one acts on what comes


def test_limit_data_closes_after_so_many_bytes(toxiproxy: Toxiproxy, echo: Echo) -> None:
    proxy = toxiproxy.create(upstream=echo.address, name="one")
    proxy.add_toxic(type="limit_data", attributes={"bytes": 10})
    with connect(proxy) as plug:
        plug.sendall(b"0123456789abcdef")
        received = b""
        while data := plug.recv(100):
            received += data
        assert received == b"0123456789"


def test_slicer_and_bandwidth_lose_nothing(toxiproxy: Toxiproxy, echo: Echo) -> None:
    proxy = toxiproxy.create(upstream=echo.address, name="one")
    proxy.add_toxic(
        type="slicer", attributes={"average_size": 500, "size_variation": 100, "delay": 10}
    )
    proxy.add_toxic(type="bandwidth", stream="upstream", attributes={"rate": 500})
    payload = random.Random(3).randbytes(100_000)
    with connect(proxy) as plug:
        started = time.perf_counter()
        assert say(plug, payload) == payload
        assert time.perf_counter() - started >= 100_000 / (500 * 1024) * 0.9


def test_slow_close_keeps_the_end_back(toxiproxy: Toxiproxy, echo: Echo) -> None:
    proxy = toxiproxy.create(upstream=echo.address, name="one")
    proxy.add_toxic(type="slow_close", attributes={"delay": 150})
    with connect(proxy) as plug:
        assert say(plug, b"x") == b"x"
        started = time.perf_counter()
        plug.shutdown(socket.SHUT_WR)
        assert plug.recv(1) == b""
        assert time.perf_counter() - started >= 0.14


def test_half_close_passes_through(ours: Toxiproxy, echo: Echo) -> None:
    """A real one closes both halves."""
    proxy = ours.create(upstream=echo.address, name="one")
    with connect(proxy) as plug:
        plug.sendall(b"last words")
        plug.shutdown(socket.SHUT_WR)
        received = b""
        while data := plug.recv(100):
            received += data
        assert received == b"last words"


def test_a_dead_upstream_closes_the_client(toxiproxy: Toxiproxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"127.0.0.1:{listener.getsockname()[1]}"
    proxy = toxiproxy.create(upstream=dead, name="one")
    with connect(proxy) as plug:
        assert plug.recv(1) == b""
