"""The systemd unit: known directives only, and a command line that the real parser takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from kv.cli.main import build_parser, known
from kv.config.reading import load_config
from kv.handing_over import WITHIN_S
from kv.node import EXIT_BROKEN, EXIT_HUNG, EXIT_TASK

ROOT = Path(__file__).parents[3]
SYSTEMD = ROOT / "deploy" / "systemd"
TEXT = (SYSTEMD / "januskv.service").read_text()
KNOWN = {
    "Unit": {
        "After", "Description", "Documentation", "StartLimitBurst", "StartLimitIntervalSec",
        "Wants",
    },
    "Install": {"WantedBy"},
    "Service": {
        "AmbientCapabilities", "CapabilityBoundingSet", "ConfigurationDirectory",
        "ConfigurationDirectoryMode", "EnvironmentFile", "ExecStart", "Group", "KillMode",
        "KillSignal", "LimitCORE", "LimitNOFILE", "LockPersonality", "MemoryDenyWriteExecute",
        "NoNewPrivileges", "OOMScoreAdjust", "PrivateDevices", "PrivateTmp", "PrivateUsers",
        "ProtectClock", "ProtectControlGroups", "ProtectHome", "ProtectHostname",
        "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc",
        "ProtectSystem", "RemoveIPC", "Restart", "RestartPreventExitStatus", "RestartSec",
        "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID",
        "StateDirectory", "StateDirectoryMode", "SystemCallArchitectures", "SystemCallErrorNumber",
        "SystemCallFilter", "TimeoutStartSec", "TimeoutStopSec", "Type", "UMask", "User",
        "WorkingDirectory",
    },
}  # fmt: skip


class Directive(NamedTuple):
    section: str
    name: str
    value: str


def directives(text: str) -> list[Directive]:
    """Raises ValueError for a line that systemd would warn of."""
    found, section = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
            if section not in KNOWN:
                raise ValueError(f"line {number}: no section {section}")
            continue
        name, equals, value = line.partition("=")
        if not equals or name not in KNOWN.get(section, ()):
            raise ValueError(f"line {number}: {name} is no directive of [{section}]")
        found.append(Directive(section, name, value))
    return found


ALL = directives(TEXT)


def value(name: str) -> str:
    (found,) = [each.value for each in ALL if each.name == name]
    return found


@pytest.mark.parametrize(
    "text", ["[Servce]\n", "[Service]\nRestrt=no\n", "[Unit]\nRestart=no\n", "[Unit]\nnothing\n"]
)
def test_a_wrong_unit_is_found(text: str) -> None:
    with pytest.raises(ValueError, match="line"):
        directives(text)


def test_a_directive_stands_once() -> None:
    names = [each.name for each in ALL if each.name != "SystemCallFilter"]
    assert len(names) == len(set(names))


def test_the_command_is_one_that_januskv_takes() -> None:
    program, *words = shlex.split(value("ExecStart"))
    assert program == "/opt/januskv/bin/januskv"
    args = build_parser(known(words)).parse_args(words)
    assert args.command == "serve"
    assert args.config == Path("/etc") / value("ConfigurationDirectory") / "januskv.toml"
    assert value("EnvironmentFile") == f"-{args.config.with_suffix('.env')}"


@pytest.mark.parametrize("sample", ["strong", "leaderless", "mixed"])
def test_the_samples_write_where_the_unit_may(sample: str) -> None:
    config = load_config(ROOT / "deploy" / "config" / f"{sample}.toml", {})
    assert config.node.data == f"/var/lib/{value('StateDirectory')}" == value("WorkingDirectory")
    for path in (config.tls.client_cert, config.tls.peer_key, config.cluster.secret_file):
        assert path.startswith(f"/etc/{value('ConfigurationDirectory')}/")
    files = config.limits.connections + config.storage.rocks.max_open_files
    assert int(value("LimitNOFILE")) > files
    assert int(value("TimeoutStopSec")) >= WITHIN_S + 3 * config.limits.drain_timeout_s + 5


def test_every_exit_code_is_explained_and_only_hopeless_ones_are_final() -> None:
    for code in (0, 2, EXIT_BROKEN, EXIT_HUNG, EXIT_TASK, 130):
        assert re.search(rf"^#   {code}\s+\w", TEXT, re.MULTILINE), f"{code} is not explained"
    assert value("Restart") == "on-failure"
    final = {int(word) for word in value("RestartPreventExitStatus").split()}
    assert final == {2, 130}
    assert int(value("StartLimitBurst")) * float(value("RestartSec")) < float(
        value("StartLimitIntervalSec")
    ), "the limit is reached only if restarts fit into its time"


def test_it_is_hardened() -> None:
    for name in (
        "LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges", "PrivateDevices",
        "PrivateTmp", "ProtectControlGroups", "ProtectHome", "ProtectKernelModules",
        "ProtectKernelTunables", "RestrictNamespaces", "RestrictSUIDSGID",
    ):  # fmt: skip
        assert value(name) == "yes"
    assert value("ProtectSystem") == "strict"
    assert value("CapabilityBoundingSet") == value("AmbientCapabilities") == ""
    assert value("UMask") == "0077"


def test_its_user_is_the_one_that_sysusers_makes() -> None:
    text = (SYSTEMD / "januskv.sysusers").read_text()
    (line,) = [line for line in text.splitlines() if line and not line.startswith("#")]
    kind, name, number, _, home, shell = shlex.split(line)
    assert (kind, name, number) == ("u", value("User"), "-")
    assert name == value("Group")
    assert home == value("WorkingDirectory")
    assert shell.endswith("nologin")


def test_the_files_that_its_introduction_names_are_there() -> None:
    for path in re.findall(r"deploy/[\w./-]+", TEXT):
        assert (ROOT / path).exists(), path
