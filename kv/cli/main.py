"""The entry point of `januskv`: finds the command, turns errors into one line and an exit code."""

from __future__ import annotations


def entry() -> int:
    raise SystemExit("januskv: no command is built yet")
