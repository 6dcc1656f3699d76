"""The composition root: a configuration in, a node with its faces out.

    Config -> Node (kv/node.py) -> Strong -> REST (kv/api), etcd gateway (kv/etcd), metrics
                              |                '------ one port, one listener ------'
                              '-> Leaderless -> REST (kv/api/leaderless), metrics
                                               if `mode` says so (kv/leaderless_app.py)

Connections begin in the fast lane (kv/lane), which hands over to aiohttp what is not hot.

The port is open from the first moment, so that whoever asks is told what goes on: until the node
serves, a small face answers 503 "starting" to everything but /livez. `stop` ends in the order in
which it hurts least: the leadership moves, the port closes, watches are told the end, requests
under way finish, then everything below is closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Final

import msgspec
from aiohttp import web

from kv.api import app as rest
from kv.api.context import Api, ApiSettings
from kv.api.context import Node as ApiNode
from kv.api.failures import error_reply
from kv.api.guard import Access
from kv.api.leaderless.face import Face
from kv.api.leaderless.side import add_side_routes
from kv.budget import ByteBudget
from kv.config.parts import allowed_hosts, min_lease_ttl_s
from kv.config.rules import is_for_tests
from kv.config.sections import LEADERLESS, STRONG, Config
from kv.errors import OverloadedError
from kv.etcd import gateway as etcd
from kv.etcd.alarms import Alarms
from kv.etcd.context import GatewayContext, GatewayLimits, SnapshotPart, uint64_of
from kv.faulty import NodeFaults
from kv.lane.assemble import make_lane, make_leaderless_lane
from kv.lane.lane import Lane, LaneLimits
from kv.leaderless.environment import LeaderlessEnvironment
from kv.leaderless_app import LeaderlessParts
from kv.meta.keyspace_admin import KeyspaceAdmin
from kv.metrics import exposition
from kv.metrics.from_store import ShardFigures
from kv.metrics.loop_lag import LoopLagProbe
from kv.metrics.metrics import Endpoint, Metrics, NodeInfo
from kv.metrics.process import process_figures
from kv.node import Fatal, Node
from kv.node_settings import client_tls, node_settings
from kv.online_backup import OnlineBackup
from kv.regime import Strong
from kv.report import Report
from raftgroups.meta.records import FIRST_SHARD, Regime
from storage.errors import InvalidOptionError
from storage.system_clock import SystemClock

_log = logging.getLogger(__name__)

SMALL_BODY_BYTES: Final = 64 * 1024
BODIES_BYTES: Final = 32 * 1024 * 1024
"""Of all bodies that are not small, from their head to their answer."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STARTING: Final = msgspec.json.encode(
    {
        "error": "unavailable",
        "message": "this node is starting: it does not serve yet; ask again in a moment",
        "outcome": "none",
        "retryable": True,
    }
)


class App:
    """One node of a process. Invariant: after `stop` nothing of it runs any more."""

    def __init__(self, config: Config, *, loop: asyncio.AbstractEventLoop, on_fatal: Fatal) -> None:
        """Opens the data directory; raises what it, or the configuration, refuses."""
        self.config = config
        self._loop = loop
        self._tls = client_tls(config)
        self._faults = NodeFaults(SystemClock()) if is_for_tests(config) else None
        settings = replace(node_settings(config), faults=self._faults)
        self.node = Node(settings, loop=loop, on_fatal=on_fatal)
        self.metrics = Metrics(
            NodeInfo(
                version("januskv"),
                platform.python_version(),
                self.node.node_id,
                config.node.name,
                self.node.cluster_id,
                config.mode,
            )
        )
        self.report: Report | None = None
        self._leaderless_default = False
        self.leaderless: LeaderlessParts | None = None
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._runners: list[web.AppRunner] = []
        self._server: asyncio.Server | None = None
        self._make_protocol: Callable[[], asyncio.Protocol] | None = None
        self._gateway: etcd.Gateway | None = None
        self.lane: Lane | None = None
        self._probe: LoopLagProbe | None = None
        self._backup: OnlineBackup | None = None
        self.address: tuple[str, int] = (config.node.listen.host, config.node.listen.port)
        self._bodies = ByteBudget(BODIES_BYTES)
        self._stopped = False

    # --- start ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns once the faces serve. Whether a leader is known is /readyz's business."""
        self._make_protocol = await self._runner(_starting_app())
        listen = self.config.node.listen
        try:
            self._server = await self._loop.create_server(
                self._protocol, listen.host, listen.port, ssl=self._tls, backlog=1024
            )
        except OSError as error:
            raise InvalidOptionError(
                f"cannot listen for clients on {listen}: {error.strerror}; is another node there? "
                "Choose another node.listen"
            ) from error
        self.address = self._server.sockets[0].getsockname()[:2]
        if self._faults is not None:
            control = self.config.testing.control
            await self._faults.start(control.host, control.port)
        self.node.stand.on_open = self._ring_opened
        await self.node.start()
        self._leaderless_default = self.node.stand.has_default
        if (self.config.mode == LEADERLESS) != self._leaderless_default:
            _log.warning(
                "mode is %s and the keyspace default of this cluster is not: what it was formed "
                "with counts; keyspaces of the other regime can be made (januskv keyspace create)",
                self.config.mode,
            )
        if self._leaderless_default:
            assert self.leaderless is not None, "the map was known, and the ring is open"
            self._connect_metrics()
            await self._serve_leaderless(self.leaderless)
            return
        self.report = Report(self.node, process=process_figures)
        if self.leaderless is not None:
            self.report.on_ring = self.leaderless.ring
        self._connect_metrics()
        self._backup = OnlineBackup(
            self.node.directory, self.node.engine, clock=self.node.clock, loop=self._loop
        )
        await self._serve()

    async def _serve(self) -> None:
        """The faces take over, the fast lane in front of them."""
        assert self.report is not None
        api, context = self._api(self.report), self._gateway_context()
        app = self._faces(api, context)
        server = await self._runner(app)
        assert self._gateway is not None
        self.lane = make_lane(
            loop=self._loop,
            api=api,
            gateway=self._gateway,
            context=context,
            server=server,
            endpoint=self._endpoint,
            limits=self._lane_limits(),
        )
        self.lane.start()
        self.node.host.on_pass(self.lane.hold, self.lane.flush)
        self.node.committer.on_turn = self.lane.begin_for_turn
        self.lane.on_begun, self.lane.hurry = self.node.forwarder.flush, self.node.committer.hurry
        self._make_protocol = self.lane.make_protocol

    async def _serve_leaderless(self, parts: LeaderlessParts) -> None:
        """As `_serve`, of a node whose keys are leaderless."""
        report, face = parts.report(), parts.face(self.node.stand.default)
        api = self._api(report, face)
        app = self._application(api)
        add_side_routes(app, report.trouble)
        self.lane = make_leaderless_lane(
            loop=self._loop,
            api=api,
            face=face,
            server=await self._runner(app),
            endpoint=self._endpoint,
            limits=self._lane_limits(),
        )
        self.lane.start()
        self._make_protocol = self.lane.make_protocol

    def _lane_limits(self) -> LaneLimits:
        limits = self.config.limits
        return LaneLimits(
            limits.connections,
            limits.header_timeout_s,
            limits.body_timeout_s,
            limits.idle_timeout_s,
        )

    def _protocol(self) -> asyncio.Protocol:
        assert self._make_protocol is not None
        return self._make_protocol()

    async def _runner(self, app: web.Application) -> Callable[[], asyncio.Protocol]:
        limits = self.config.limits
        runner = web.AppRunner(
            app,
            **rest.RUNNER_OPTIONS,
            keepalive_timeout=limits.idle_timeout_s,
            shutdown_timeout=limits.drain_timeout_s,
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
        )
        await runner.setup()
        self._runners.append(runner)
        assert runner.server is not None
        return runner.server

    def _api(self, report: ApiNode, leaderless: Face | None = None) -> Api:
        config = self.config
        return Api(
            self.node.serving.default,
            report,
            clock=self.node.clock,
            rng=random.Random(os.urandom(16)),
            settings=ApiSettings(
                Access(config.http.origins, allowed_hosts(config), config.http.cors),
                config.limits.request_bytes,
                min_lease_ttl_s(config),
            ),
            observe=self._observe,
            keyspaces=KeyspaceAdmin(
                self.node.meta,
                self.node.division.wishes,
                self.node.serving.leader_of,
                self.node.stand.seats,
                self.node.stand.serving.count,
            ),
            others=self._served,
            leaderless=leaderless,
            placement=self.node.placement.service,
        )

    def _served(self, name: str) -> Strong | Face:
        """What serves a keyspace here. Raises JanusErrors."""
        record = self.node.serving.record_named(name)
        if record.regime is Regime.STRONG:
            return self.node.serving.keyspace(record.keyspace)
        space = self.node.stand.keyspace(record)
        assert self.leaderless is not None, "it serves the keyspace"
        return self.leaderless.face(space)

    def _ring_opened(self, environment: LeaderlessEnvironment) -> None:
        """Now, while the node starts, or when the first leaderless keyspace is made."""
        parts = self.leaderless = LeaderlessParts(environment, self.node, self._loop)
        if self.report is not None:
            self.report.on_ring = parts.ring
            self._connect_leaderless(parts)

    def _gateway_context(self) -> GatewayContext:
        config, node = self.config, self.node
        assert self.report is not None
        return GatewayContext(
            strong=node.serving.default,
            cluster_id=uint64_of(node.cluster_id),
            member_id=uint64_of(node.node_id),
            members=self.report.members,
            status=self.report.numbers,
            rng=random.Random(os.urandom(16)),
            snapshot=self._snapshot_parts,
            transfer_leadership=self.report.transfer_to_member,
            alarms=Alarms(self.report.alarms),
            minimum_ttl_s=min_lease_ttl_s(config),
            any_origin=config.http.cors == "any",
            limits=GatewayLimits(request_bytes=config.limits.request_bytes),
        )

    def _faces(self, api: Api, context: GatewayContext) -> web.Application:
        app = self._application(api)
        self._gateway = etcd.add_routes(app, context)
        return app

    def _application(self, api: Api) -> web.Application:
        request_bytes = self.config.limits.request_bytes
        app = web.Application(
            middlewares=[self._measure_gateway, self._bound_bodies], client_max_size=request_bytes
        )
        rest.install_guard(app, api.settings.access, rest.add_routes(app, api).router)
        app.router.add_get("/metrics", self._serve_metrics)
        return app

    async def _snapshot_parts(self) -> AsyncIterator[SnapshotPart]:
        assert self._backup is not None
        async for remaining_bytes, data in self._backup.parts():
            yield SnapshotPart(remaining_bytes, data)

    # --- metrics --------------------------------------------------------------------------

    def _connect_metrics(self) -> None:
        node, sources = self.node, self.metrics.sources
        sources.host = node.host.status
        sources.groups = lambda: [group.status() for group in node.host.groups.values()]
        sources.link = node.link.status
        sources.shards = lambda: [
            ShardFigures.of_machine(shard.machine, group=group, keyspace="default")
            for group, shard in node.serving.shards.items()
        ]
        sources.engines = lambda: {STRONG: node.engine.statistics()}
        sources.space = lambda: {STRONG: node.guard}
        sources.committers = lambda: {STRONG: node.committer}
        sources.process = process_figures
        sources.etcd_shard = lambda: FIRST_SHARD
        if self.leaderless is not None:
            self._connect_leaderless(self.leaderless)
        node.committer.on_commit = self.metrics.commit_observer(STRONG)
        overload = self.metrics.refusals.labels("writes_and_reads").add
        node.serving.observe(self.metrics.proposals, overload)
        node.forwarder.on_answer = self.metrics.forwarded.ended
        node.forwarder.on_batch = self.metrics.forward_batch.observe
        self._probe = LoopLagProbe(node.clock, self.metrics.loop_lag.observe)
        self._probe.start(node.tasks)

    def _connect_leaderless(self, parts: LeaderlessParts) -> None:
        node, own, sources = self.node, parts.environment, self.metrics.sources
        sources.leaderless = parts.figures
        sources.engines = lambda: {
            STRONG: node.engine.statistics(),
            LEADERLESS: own.engine.statistics(),
        }
        sources.space = lambda: {STRONG: node.guard, LEADERLESS: own.guard}
        sources.committers = lambda: {STRONG: node.committer, LEADERLESS: own.committer}
        own.committer.on_commit = self.metrics.commit_observer(LEADERLESS)

    def _endpoint(self, route: str, method: str) -> Endpoint:
        found = self._endpoints.get((route, method))
        if found is None:
            found = self._endpoints[route, method] = self.metrics.endpoint(route, method, "")
        return found

    def _observe(self, route: str, method: str, status: int, seconds: float, level: str) -> None:
        endpoint = self._endpoint(route, method).at(level)
        endpoint.began()
        endpoint.ended(status, seconds)

    @web.middleware
    async def _measure_gateway(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/v3/"):
            return await handler(request)
        started_s = self.node.clock.monotonic()
        etcd.LEVEL.set("")
        response = await handler(request)
        route = request.path if response.status != 404 else "unknown"
        took_s = self.node.clock.monotonic() - started_s
        self._observe(route, "POST", response.status, took_s, etcd.LEVEL.get())
        return response

    @web.middleware
    async def _bound_bodies(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Large bodies share a budget, taken before a byte of them is read: the connection holds
        the rest back. (The fast lane hands large bodies over; streams have small messages.)"""
        size = request.content_length
        if size is None:
            size = self.config.limits.request_bytes if request.can_read_body else 0
        if size <= SMALL_BODY_BYTES or request.path in etcd.STREAM_PATHS:
            return await handler(request)
        if not self._bodies.take(size):
            error = OverloadedError(
                f"request bodies of {self._bodies.used} bytes are under way on this node, and "
                f"{self._bodies.limit} are the limit; ask again in a second, or another node"
            )
            self.metrics.refusals.labels("bodies").add()
            if request.path.startswith("/v3") and self._gateway is not None:
                return self._gateway.refuse(error)
            return rest.plain(error_reply(error))
        try:
            return await handler(request)
        finally:
            self._bodies.give_back(size)

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=self.metrics.render(), headers={"Content-Type": exposition.CONTENT_TYPE}
        )

    # --- while it runs, and the end ---------------------------------------------------------

    def describe(self) -> str:
        scheme = "https" if self._tls else "http"
        where = f"{scheme}://{self.address[0]}:{self.address[1]}"
        return f"{self.config.node.name} serves on {where}, data in {self.config.node.data}"

    async def stop(self, why: str) -> None:
        """Safe to call twice, and after a start that failed or was cancelled."""
        if self._stopped:
            return
        self._stopped = True
        if self._server is not None:
            await self.node.hand_over_all()
            self._server.close()
        if self._gateway is not None:
            self._gateway.stop(why)
        if self.lane is not None:
            await self.lane.stop(self.config.limits.drain_timeout_s)
        self.node.drain(why)
        if self.leaderless is not None:
            self.leaderless.watching.stop()
        for runner in reversed(self._runners):
            await runner.cleanup()
        if self._server is not None:
            await self._server.wait_closed()
        if self._backup is not None:
            self._backup.close()
        if self._faults is not None:
            self._faults.close()
        await self.node.close()


def _starting_app() -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/livez", partial(_answer, 200, b"ok\n", "text/plain"))
    app.router.add_route("*", "/{path:.*}", partial(_answer, 503, STARTING, "application/json"))
    return app


async def _answer(
    status: int, body: bytes, content_type: str, request: web.Request
) -> web.Response:
    """The next request comes on a new connection, which the real faces may get."""
    response = web.Response(
        status=status, body=body, content_type=content_type, headers={"Retry-After": "1"}
    )
    response.force_close()
    return response
