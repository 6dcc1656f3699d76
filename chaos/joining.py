"""The configuration of a node that joins a cluster that stands, made of a founder's. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence


def joining(text: str, join: Sequence[str], **node: str) -> str:
    """`initial` is replaced by `join`; `node`: settings of [node] that are its own."""
    lines: list[str] = []
    skipping, section = False, ""
    for line in text.splitlines():
        name = line.partition(" = ")[0]
        if line.startswith("["):
            section = line
        if skipping:
            skipping = line != "]"
        elif name in ("initial", "join"):
            skipping = not line.endswith("]")
            lines.append(f"join = {json.dumps(list(join))}")
        elif section == "[node]" and name in node:
            lines.append(f"{name} = {json.dumps(node[name])}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"
