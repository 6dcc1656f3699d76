"""The scenarios that come with the package: catalogue/*.toml, by name; or a file of one's own."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from chaos.scenarios.parsing import BadScenarioError, parse_scenario
from chaos.scenarios.scenario import Scenario


def all_scenarios() -> dict[str, Scenario]:
    """The composed ones last."""
    folder = files("chaos.scenarios") / "catalogue"
    found = []
    for entry in folder.iterdir():
        if entry.name.endswith(".toml"):
            scenario = parse_scenario(entry.read_text(), entry.name)
            if entry.name != f"{scenario.name}.toml":
                raise BadScenarioError(f"{entry.name}: it is called {scenario.name}; rename one")
            found.append(scenario)
    found.sort(key=lambda each: (each.composed, each.name))
    return {scenario.name: scenario for scenario in found}


def find_scenario(name: str) -> Scenario:
    """By name, or a path to a TOML file. Raises BadScenarioError."""
    if name.endswith(".toml"):
        try:
            return parse_scenario(Path(name).read_text(), name)
        except OSError as error:
            raise BadScenarioError(f"{name} cannot be read: {error.strerror}") from error
    known = all_scenarios()
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        near = f"; did you mean {close[0]}?" if close else f"; there is {', '.join(known)}"
        raise BadScenarioError(f"there is no scenario {name}{near}")
    return known[name]
