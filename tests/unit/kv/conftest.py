"""What the tests of clients and commands share: the served REST face of tests/unit/kv/api."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

_FACE = Path(__file__).parent / "api" / "conftest.py"


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
