"""Whatever is given, there is a Config whose every part can be made, or a ConfigError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.config import parts
from kv.config.reading import (
    SETTINGS,
    Config,
    ConfigError,
    Problem,
    config_of,
    environment_name,
    parse_config,
)
from kv.config.rocks import rocks_options
from kv.config.sample import to_toml
from kv.config.sections import walk
from kv.config.summary import files_named, summary, warnings

KEYS = sorted({part for path in SETTINGS for part in path.split(".")} | {"x", "", "heartbeat_ms"})
WORDS = """strong memory fifo off 1s 20ms 0s 1MiB 5 auto 127.0.0.1:0 [::]:1 0.0.0.0:7400 1e400 true
a=127.0.0.1:7401 https://a.example 1KiB"""
TEXTS = st.text(max_size=20) | st.sampled_from(WORDS.split())
SCALARS = (
    st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 2, 3, 100, 10**400])
    | st.floats()
    | TEXTS
    | st.dates()
    | st.times()
    | st.datetimes()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*KEYS, "name", "peer"]) | TEXTS, inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """A few real settings with values that may fit, among anything else."""
    table: dict[str, Any] = draw(
        st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), VALUES, max_size=3)
    )
    for path in draw(st.lists(st.sampled_from(sorted(SETTINGS)), max_size=6)):
        *sections, key = path.split(".")
        part = table
        for name in sections:
            inner = part.get(name)
            if not isinstance(inner, dict):
                inner = part[name] = {}
            part = inner
        part[key] = draw(VALUES)
    return table


def outcome(make: Callable[[], Config]) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        config = make()
    except ConfigError as error:
        config, problems = None, error.problems
    if config is None:
        assert problems
        assert all(problem.message and str(problem).isprintable() for problem in problems)
        return
    parts.host_config(config)
    parts.compaction_policy(config)
    parts.watch_limits(config)
    parts.set_limits(config)
    parts.hint_limits(config)
    rocks_options(config)
    assert parts.min_lease_ttl_s(config) >= 1
    assert set(files_named(config)) <= set(SETTINGS)
    assert all(text.isprintable() for text in (*summary(config).values(), *warnings(config)))
    assert parse_config(to_toml(config)) == config


@given(tables())
def test_any_table_gives_a_config_or_its_problems(table: dict[str, Any]) -> None:
    outcome(lambda: config_of(table))


@given(
    st.text()
    | st.lists(st.sampled_from(["[", "]", "node", ".", "=", '"', "\n", "1", "#", "'"])).map("".join)
)
def test_any_text_does(text: str) -> None:
    outcome(lambda: parse_config(text))


@given(
    st.dictionaries(
        st.sampled_from([environment_name(path) for path in SETTINGS])
        | st.text().map(lambda name: f"JANUSKV_{name}__X"),
        TEXTS,
        max_size=5,
    ),
    st.dictionaries(st.sampled_from(sorted(SETTINGS)) | st.text(max_size=9), VALUES, max_size=5),
)
def test_any_environment_and_options_do(
    environ: dict[str, str], overrides: dict[str, object]
) -> None:
    outcome(lambda: parse_config("", environ, overrides))


@given(st.sampled_from(sorted(SETTINGS)), VALUES)
def test_any_value_of_one_setting_does(path: str, value: object) -> None:
    outcome(lambda: parse_config("", {}, {path: value}))


@pytest.mark.parametrize("path", sorted(SETTINGS))
def test_a_number_too_long_to_be_printed_is_a_problem_too(path: str) -> None:
    *sections, key = path.split(".")
    header = f"[{'.'.join(sections)}]\n" if sections else ""
    with pytest.raises(ConfigError, match="thousands of digits"):
        parse_config(f"{header}{key} = 0x{'f' * 5000}\n")


def test_every_section_can_be_empty() -> None:
    for path, _ in walk():
        table: dict[str, Any] = {}
        part = table
        for key in path.split(".") if path else ():
            part[key] = part = {}
        assert config_of(table) == Config()
