"""Samples are true, complete, and the same as the files in deploy/config."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from kv.config.reading import Config, parse_config
from kv.config.sample import SAMPLES, UNNAMED, sample, to_toml
from kv.config.sections import all_settings, walk
from kv.config.summary import files_named
from kv.config.table import Setting, settings_of

DEPLOYED = Path(__file__).parents[4] / "deploy" / "config"


@pytest.mark.parametrize("name", list(SAMPLES))
def test_the_deployed_file_is_the_sample_and_starts_a_node(name: str) -> None:
    text = (DEPLOYED / f"{name}.toml").read_text()
    assert text == sample(name), (
        f"run `januskv config sample --for {name} > deploy/config/{name}.toml`"
    )
    config = parse_config(text)
    assert config.insecure is False
    assert max(len(line) for line in text.splitlines()) <= 100


def test_deploy_has_no_other_configuration() -> None:
    assert {path.stem for path in DEPLOYED.iterdir()} == set(SAMPLES)


def test_the_sample_of_one_node_changes_nothing() -> None:
    assert parse_config(sample("single")) == Config()
    assert parse_config(sample("single", "leaderless")) == Config(mode="leaderless")


def test_clusters_are_protected_and_differ_in_their_regime() -> None:
    modes = {}
    for name in ("strong", "leaderless", "mixed"):
        config = parse_config(sample(name))
        modes[name] = config.mode
        assert len(config.cluster.initial) == 3
        assert len(files_named(config)) == 7
    assert modes == {"strong": "strong", "leaderless": "leaderless", "mixed": "strong"}


@pytest.mark.parametrize("name", list(SAMPLES))
def test_every_setting_stands_in_a_sample_with_what_it_is_without_it(name: str) -> None:
    text = re.sub(r"(?m)^#(?=\S)", "", sample(name))
    assert parse_config(text) == parse_config(sample(name))
    table = tomllib.loads(text)
    for path, section in walk():
        if path in UNNAMED:
            assert path not in text
            continue
        part = table
        for key in path.split(".") if path else ():
            part = part[key]
        for setting in settings_of(section, path):
            assert setting.path.rpartition(".")[2] in part


def test_every_setting_has_help_and_reads_its_own_default() -> None:
    for setting in all_settings().values():
        check_setting(setting)


def check_setting(setting: Setting) -> None:
    assert setting.help.endswith("."), setting.path
    written = tomllib.loads(f"x = {setting.kind.render(setting.default)}")["x"]
    assert setting.kind.read(written) == setting.default, setting.path


@pytest.mark.parametrize("name", list(SAMPLES))
def test_a_config_written_out_reads_as_itself(name: str) -> None:
    config = parse_config(sample(name))
    assert parse_config(to_toml(config)) == config
