"""Which engine a child process opens, given as text: `module:function` or `path/file.py:function`.

The function takes a directory and gives an Engine. The second form lets a test keep a broken engine
(a canary) beside itself.
"""

from __future__ import annotations

import importlib
import runpy
from collections.abc import Callable
from pathlib import Path

from storage.engine import Engine

Opener = Callable[[Path], Engine]


def opener(text: str) -> Opener:
    where, _, name = text.rpartition(":")
    if where.endswith(".py"):
        found = runpy.run_path(where)[name]
    else:
        found = getattr(importlib.import_module(where), name)
    made: Opener = found
    return made
