"""The real client etcd3gw against the gateway of one node in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import etcd3gw
import pytest

from tests.integration.etcd3gw_scenarios import SCENARIOS


@pytest.fixture(params=["/v3/", None], ids=["v3", "discovered"])
def client(request: pytest.FixtureRequest, serve: Callable[..., Any]) -> Iterator[Any]:
    with serve() as (port, _):
        made = etcd3gw.client(host="127.0.0.1", port=port, api_path=request.param, timeout=20)
        try:
            yield made
        finally:
            made.session.close()


def test_every_scenario(client: Any) -> None:
    """One server for all: what one leaves behind must not trip another."""
    for name, scenario in SCENARIOS.items():
        scenario(client, f"{name}/")
