"""The OpenAPI document: complete, well formed, and true (schemathesis against a running server)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig

from kv.api.app import RUNNER_OPTIONS, make_app
from kv.api.context import Api
from kv.api.leaderless.table import REFUSED
from kv.api.leaderless.table import ROUTES as LEADERLESS
from kv.api.openapi import document
from kv.api.route import Route
from kv.api.router import Router
from kv.api.table import ROUTES
from raftgroups.commands import LeaseGrant, Put
from storage.system_clock import SystemClock

from .conftest import Direct, OneNode, Rest, Single
from .keyspaces_double import KeyspacesDouble
from .placement_double import PlacementDouble


async def test_it_is_served(rest: Rest) -> None:
    answer = await rest.get("/openapi.json")
    assert answer.body["openapi"] == "3.1.0"
    assert answer.body["info"]["title"] == "JanusKV"
    served = {
        (method.upper(), path)
        for path, operations in answer.body["paths"].items()
        for method in operations
    }
    assert served == {(route.method, route.template) for route in ROUTES}
    names = [
        operation["operationId"]
        for operations in answer.body["paths"].values()
        for operation in operations.values()
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("routes", [ROUTES, LEADERLESS])
def test_every_schema_in_it_is_one(routes: tuple[Route, ...]) -> None:
    for schema in document(routes, "0")["components"]["schemas"].values():
        jsonschema_rs.meta.validate(
            {**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"}
        )


@pytest.mark.parametrize("routes", [ROUTES, LEADERLESS])
def test_every_reference_leads_somewhere(routes: tuple[Route, ...]) -> None:
    whole = document(routes, "0")
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                found.append(node["$ref"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(whole)
    assert len(found) > 100
    for reference in found:
        node: Any = whole
        for name in reference.removeprefix("#/").split("/"):
            node = node[name]


PARAMS = {"id": b"7", "key": b"a", "name": b"n", "keyspace": b"k", "shard": b"5"}


@pytest.mark.parametrize("routes", [ROUTES, LEADERLESS])
def test_every_route_is_found_by_its_own_path(routes: tuple[Route, ...]) -> None:
    router = Router(routes)
    for route in routes:
        path = route.template
        for param, value in PARAMS.items():
            path = path.replace("{" + param + "}", value.decode())
        found, argument = router.find(route.method, path.encode())
        assert found is route
        assert argument == (b"" if route.param is None else PARAMS[route.param])


# --- is it true? -----------------------------------------------------------------------------


class Served:
    """The face on a loop of its own, since schemathesis is not asynchronous."""

    def __init__(self, leaderless: bool) -> None:
        self.leaderless = leaderless
        self.url = ""
        self.schema: Any = None
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        self.stop = asyncio.Event()
        strong = Direct()
        for number in range(5):
            strong.apply(Put(b"%d" % number, b"%d" % number))
        strong.apply(LeaseGrant(1, 1000))
        single = Single() if self.leaderless else None
        face = None if single is None else single.face
        api = Api(
            strong,
            OneNode(),
            clock=SystemClock(),
            rng=Random(3),
            leaderless=face,
            keyspaces=KeyspacesDouble(),
            placement=PlacementDouble().service,
        )
        runner = web.AppRunner(make_app(api), shutdown_timeout=1.0, **RUNNER_OPTIONS)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.ready.set()
        await self.stop.wait()
        await runner.cleanup()
        strong.stop()
        if single is not None:
            await single.stop()


@pytest.fixture(scope="module", params=["strong", "leaderless"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    server = Served(request.param == "leaderless")
    server.thread.start()
    assert server.ready.wait(10)
    config = SchemathesisConfig.from_dict(
        {"checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}}
    )
    server.schema = schemathesis.openapi.from_url(server.url + "/openapi.json", config=config)
    yield server
    server.loop.call_soon_threadsafe(server.stop.set)
    server.thread.join(10)
    assert not server.thread.is_alive()


ACCEPTED = ["2xx", "304", "400", "403", "404", "409", "410", "412"]
"""What data that fits the schema may be answered: a lease may not exist, a revision be gone."""
LINE_MAX_BYTES = 8_000
"""Longer request lines do not reach the face: aiohttp's parser refuses them."""
LEFT_OUT = {"unsupported_method", "ignored_auth", "use_after_free", "ensure_resource_availability"}
"""No authentication here yet; there are no resources with ids of the server's own; methods are
tested in test_paths.py, since OPTIONS is answered everywhere."""


@pytest.mark.parametrize(
    ("served", "method", "template"),
    [
        *(("strong", route.method, route.template) for route in ROUTES),
        *(
            ("leaderless", route.method, route.template)
            for route in LEADERLESS
            if route not in REFUSED
        ),
        ("leaderless", REFUSED[0].method, REFUSED[0].template),
    ],
    indirect=["served"],
)
def test_schemathesis_finds_no_violation(served: Served, method: str, template: str) -> None:
    operation = served.schema[template][method]
    checks = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]
    good = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
    bad = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(good, bad))
    def each(case: Any) -> None:
        if template.endswith("/watch"):  # an endless stream is no answer to look at
            case.query = {**(case.query or {}), "poll": "0.001"}
        if template.startswith("/api/v1/locks/") and isinstance(case.body, dict):
            case.body.pop("wait_seconds", None)
        request = requests.Request(**case.as_transport_kwargs(base_url=served.url)).prepare()
        assume(len(request.url or "") < LINE_MAX_BYTES)
        case.call_and_validate(checks=checks)

    each()


def test_the_document_is_small_enough_to_read() -> None:
    assert len(json.dumps(document(ROUTES, "0"))) < 200_000
