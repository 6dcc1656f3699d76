"""TOML in, a Scenario out, or an error that says what to write. Pure.

name = "kill-leader"
about = "One sentence."
minutes = 2
sizes = {strong = [3, 5]}                 # by mode; the first is the default
shards = 1                                # ranges that the keyspace begins with

[[load]]
kind = "register"                         # chaos/scenarios/menu.py names all
clients = 6

[[fault]]
kind = "kill"
target = "leader"
first_s = 5                               # after the start of the load
every_s = 15
lasts_s = 3

[checks]
minimum_rate = 20
answers_within_s = 20
splits = 3                                # of shards, at least

[node.limits]                             # added to the nodes' configuration
queue_operations = 512
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

from chaos.scenarios.menu import FAULTS, LOADS, NEEDS_LEADER, FaultKind, Option, Value
from chaos.scenarios.scenario import Checks, Fault, Load, Scenario, Settings
from kv.config.sections import MODES, STRONG
from raftgroups.meta.view import SHARDS_MAX

NODES_MAX: Final = 9
_TOP: Final = frozenset(
    {
        "name", "about", "minutes", "sizes", "calm_s", "composed", "shards",
        "load", "fault", "checks", "node",
    }
)  # fmt: skip
_FAULT: Final = frozenset({"kind", "target", "first_s", "every_s", "lasts_s"})
_LOAD: Final = frozenset({"kind", "clients"})
_CHECKS: Final = frozenset({"minimum_rate", "answers_within_s", "splits", "merges"})


class BadScenarioError(ValueError):
    """The scenario cannot be run; the message says where and what to write."""


def parse_scenario(text: str, source: str) -> Scenario:
    try:
        table = tomllib.loads(text)
    except ValueError as error:
        raise BadScenarioError(f"{source}: this is no TOML ({error})") from error
    return _Reader(source).scenario(table)


class _Reader:
    def __init__(self, source: str) -> None:
        self._where = source

    def scenario(self, table: Mapping[str, Any]) -> Scenario:
        self._known(table, _TOP, "")
        name = self._text(table, "name")
        self._where = f"{self._where} ({name})"
        sizes = self._sizes(table.get("sizes", {STRONG: [3]}))
        loads = [self._load(each, n) for n, each in enumerate(self._tables(table, "load"), 1)]
        faults = [
            self._fault(each, n, sizes) for n, each in enumerate(self._tables(table, "fault"), 1)
        ]
        for mode in sizes:
            if not any(mode in LOADS[load.kind].modes for load in loads):
                self._bad(f"sizes.{mode}: no [[load]] works in this mode; add one that does")
        checks = table.get("checks", {})
        self._known(checks, _CHECKS, "checks.")
        return Scenario(
            name=name,
            about=self._text(table, "about"),
            minutes=self._number(table, "minutes", 2.0, 0.01, 24 * 60),
            sizes=sizes,
            loads=tuple(loads),
            faults=tuple(faults),
            calm_s=self._number(table, "calm_s", 5.0, 0.0, 3600),
            composed=bool(table.get("composed", False)),
            shards=int(self._number(table, "shards", 1, 1, SHARDS_MAX)),
            checks=Checks(
                self._number(checks, "minimum_rate", 20.0, 0.1, 1e6),
                self._number(checks, "answers_within_s", 20.0, 0.1, 3600),
                int(self._number(checks, "splits", 0, 0, 1000)),
                int(self._number(checks, "merges", 0, 0, 1000)),
            ),
            settings=self._settings(table),
        )

    def _sizes(self, given: object) -> dict[str, tuple[int, ...]]:
        example = "sizes: write {strong = [3, 5], leaderless = [5]}"
        if not isinstance(given, Mapping) or not given:
            self._bad(example)
        sizes: dict[str, tuple[int, ...]] = {}
        for mode, numbers in given.items():
            if mode not in MODES:
                self._bad(f"sizes: there is no mode {mode!r}; {example}")
            whole = isinstance(numbers, list) and all(type(each) is int for each in numbers)
            if not whole or not numbers or not all(1 <= each <= NODES_MAX for each in numbers):
                self._bad(f"sizes.{mode}: write numbers of nodes from 1 to {NODES_MAX}, as [3, 5]")
            sizes[mode] = tuple(numbers)
        return sizes

    def _load(self, table: Mapping[str, Any], number: int) -> Load:
        where = f"load {number}: "
        kind_name = self._text(table, "kind", where)
        kind = LOADS.get(kind_name)
        if kind is None:
            self._bad(f"{where}there is no load {kind_name!r}{_near(kind_name, LOADS)}")
        self._known(table, _LOAD | kind.options.keys(), where)
        clients = int(self._number(table, "clients", kind.clients, 1, 1000, where))
        return Load(kind_name, clients, self._options(table, kind.options, where))

    def _fault(
        self, table: Mapping[str, Any], number: int, sizes: Mapping[str, tuple[int, ...]]
    ) -> Fault:
        where = f"fault {number}: "
        kind_name = self._text(table, "kind", where)
        kind = FAULTS.get(kind_name)
        if kind is None:
            self._bad(f"{where}there is no fault {kind_name!r}{_near(kind_name, FAULTS)}")
        self._known(table, _FAULT | kind.options.keys(), where)
        for mode, numbers in sizes.items():
            if mode not in kind.modes:
                self._bad(f"{where}{kind_name} needs mode {' or '.join(kind.modes)}, not {mode}")
            if min(numbers) < kind.least_nodes:
                self._bad(f"{where}{kind_name} needs at least {kind.least_nodes} nodes")
        every_s = self._number(table, "every_s", 15.0, 0.1, 86_400, where)
        return Fault(
            kind_name,
            self._target(table, kind, sizes, where),
            self._number(table, "first_s", every_s / 3, 0.0, 86_400, where),
            every_s,
            self._number(table, "lasts_s", 5.0, 0.0, 86_400, where),
            self._options(table, kind.options, where),
        )

    def _target(
        self, table: Mapping[str, Any], kind: FaultKind, sizes: Iterable[str], where: str
    ) -> str:
        if not kind.targets:
            if "target" in table:
                self._bad(f"{where}this fault has no target; remove it")
            return ""
        target = str(table.get("target", kind.targets[0]))
        if target not in kind.targets:
            self._bad(f"{where}target is {target!r}; write one of {', '.join(kind.targets)}")
        if target in NEEDS_LEADER and any(mode != STRONG for mode in sizes):
            self._bad(
                f"{where}target {target!r} needs a leader, and not every mode of sizes has one"
            )
        return target

    def _options(
        self, table: Mapping[str, Any], options: Mapping[str, Option], where: str
    ) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for name, option in options.items():
            value = table.get(name, option.default)
            if option.choices:
                if value not in option.choices:
                    self._bad(
                        f"{where}{name} is {value!r}; write one of {', '.join(option.choices)}"
                    )
                found[name] = value
                continue
            number = self._number(
                table, name, float(option.default), option.least, option.most, where
            )
            found[name] = int(number) if type(option.default) is int else number
        return found

    def _settings(self, table: Mapping[str, Any]) -> Settings:
        sections = self._table(table, "node")
        for name, settings in sections.items():
            if not isinstance(settings, Mapping):
                self._bad(f"node.{name}: write a section, as [node.{name}]")
        return sections

    # --- the small ones ---------------------------------------------------------------------

    def _bad(self, what: str) -> NoReturn:
        raise BadScenarioError(f"{self._where}: {what}")

    def _known(self, table: Mapping[str, Any], names: Iterable[str], where: str) -> None:
        known = set(names)
        for name in table:
            if name not in known:
                self._bad(f"{where}{name} is not known{_near(name, known)}")

    def _text(self, table: Mapping[str, Any], name: str, where: str = "") -> str:
        value = table.get(name)
        if not isinstance(value, str) or not value:
            self._bad(f'{where}{name} is missing; write {name} = "..."')
        return str(value)

    def _number(
        self, table: Mapping[str, Any], name: str, default: float, least: float, most: float,
        where: str = "",
    ) -> float:  # fmt: skip
        value = table.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._bad(f"{where}{name} is {value!r}; write a number")
        if not least <= value <= most:
            self._bad(f"{where}{name} is {value:g}; write {least:g} to {most:g}")
        return float(value)

    def _table(self, table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        value = table.get(name, {})
        if not isinstance(value, Mapping):
            self._bad(f"{name} is no table; write [{name}]")
        return dict(value)

    def _tables(self, table: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
        value = table.get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
            self._bad(f"{name} is no list of tables; write [[{name}]]")
        return list(value)


def _near(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(known)}"
