"""Configuration files written out: all of a Config, or a commented sample. Pure.

Both are made from the settings' own table (kv/config/sections.py), so a sample never lies about a
default. In a sample help begins with "# " and a setting that keeps its default with "#" alone: take
the mark away and change the value. Only what differs from the defaults is in force.

The samples of SAMPLES are also kept as files in deploy/config, compared by a test.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

from kv.config.members import InitialMember
from kv.config.reading import environment_name
from kv.config.sections import Config, walk
from kv.config.table import Setting, settings_of
from kv.config.units import Duration, Size
from kv.config.values import (
    Address,
    Choice,
    ListOf,
    Number,
    Whole,
)

WIDTH: Final = 100
NODES: Final = tuple(Address(f"10.0.0.{number}", 7401) for number in (1, 2, 3))
_LEGEND: Final = (
    'Help begins with "# ", a setting at its default with "#" alone: take it away and change the '
    "value. "
    "Every setting can also come from the environment, lists separated by commas, as "
    f"{environment_name('node.listen')}=127.0.0.1:7400. `januskv config check FILE` finds mistakes."
)


@dataclass(frozen=True, slots=True)
class Sample:
    about: str
    values: Mapping[str, Any]
    """By path: what differs from the defaults."""


_CLUSTER: Final[Mapping[str, Any]] = {
    "node.name": "n1",
    "node.data": "/var/lib/januskv",
    "node.listen": Address("10.0.0.1", 7400),
    "node.rack": "rack-1",
    "cluster.id": "example",
    "cluster.initial": tuple(InitialMember(f"n{i}", peer) for i, peer in enumerate(NODES, 1)),
    "cluster.secret_file": "/etc/januskv/cluster-secret",
    "tls.client_cert": "/etc/januskv/tls/client.pem",
    "tls.client_key": "/etc/januskv/tls/client.key",
    "tls.client_ca": "/etc/januskv/tls/clients-ca.pem",
    "tls.peer_cert": "/etc/januskv/tls/peer.pem",
    "tls.peer_key": "/etc/januskv/tls/peer.key",
    "tls.peer_ca": "/etc/januskv/tls/peers-ca.pem",
    "log.format": "json",
}
UNNAMED: Final = frozenset({"testing"})
"""Sections that stand in no sample: no node that serves anybody may have them."""
_EACH: Final = (
    "The first of three nodes, one machine each. On the others change node.name, node.listen and "
    "node.rack, or set them in the environment; the rest is the same everywhere."
)

SAMPLES: Final[Mapping[str, Sample]] = {
    "single": Sample("One node on this machine: what runs without any file.", {}),
    "strong": Sample(
        f"A cluster whose keyspaces are linearizable unless they say otherwise. {_EACH}",
        {**_CLUSTER, "mode": "strong"},
    ),
    "leaderless": Sample(
        f"A cluster whose keyspaces are always writable unless they say otherwise. {_EACH}",
        {**_CLUSTER, "mode": "leaderless"},
    ),
    "mixed": Sample(
        "A cluster for both regimes: `default` is linearizable, and keyspaces that take every "
        "write are made beside it (januskv keyspace create carts --regime leaderless). "
        f"{_EACH}",
        {
            **_CLUSTER,
            "mode": "strong",
            "storage.rocks.block_cache_bytes": 256 * 1024 * 1024,
        },
    ),
}


def sample(name: str = "single", mode: str | None = None) -> str:
    """A commented file. `mode` replaces that of the sample."""
    chosen = SAMPLES[name]
    values = dict(chosen.values)
    if mode is not None:
        values["mode"] = mode
    lines = [*_comment(f"JanusKV. {chosen.about}"), "#", *_comment(_LEGEND)]
    for path, section in walk():
        if path in UNNAMED:
            continue
        if path:
            lines += ["", "", *_comment((section.__doc__ or "").strip()), f"[{path}]"]
        for setting in settings_of(section, path):
            lines += ["", *_comment(_help(setting))]
            mark = "" if setting.path in values else "#"
            text = _assignment(setting, values.get(setting.path, setting.default))
            lines += [f"{mark}{line}" for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def _help(setting: Setting) -> str:
    kind = setting.kind
    if isinstance(kind, Choice):
        return f"{setting.help} ({' | '.join(kind.names)})"
    if isinstance(kind, Whole | Number):
        return f"{setting.help} ({kind.least:,} to {kind.most:,})"
    if isinstance(kind, Duration | Size) or setting.default in ("", None, (), {}):
        return f"{setting.help} ({kind.says})"
    return setting.help


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def to_toml(config: Config) -> str:
    """All of it, nothing left to defaults: reading it gives an equal Config."""
    lines: list[str] = []
    for path, section in walk():
        if path:
            lines += ["", f"[{path}]"]
        part = attrgetter(path)(config) if path else config
        lines += [
            _assignment(setting, getattr(part, setting.attribute))
            for setting in settings_of(section, path)
        ]
    return "\n".join(lines) + "\n"


def _assignment(setting: Setting, value: Any) -> str:
    kind, key = setting.kind, setting.path.rpartition(".")[2]
    line = f"{key} = {kind.render(value)}"
    if len(line) <= WIDTH or not isinstance(kind, ListOf):
        return line
    return "\n".join([f"{key} = [", *(f"    {kind.item.render(item)}," for item in value), "]"])
