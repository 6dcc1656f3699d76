"""A client against the REST face over one machine in memory (the fixture of tests/unit/kv/api)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kv.client import Client

_FACE = Path(__file__).parents[1] / "api" / "conftest.py"


def _face() -> Any:
    name = "client_tests_api_face"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, _FACE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


make_rest = _face().make_rest
rest = _face().rest


@pytest.fixture
async def client(rest: Any) -> AsyncIterator[Client]:
    async with Client(f"127.0.0.1:{rest.port}", timeout_s=5) as made:
        yield made
