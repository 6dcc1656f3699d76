"""The container file: read as a list of instructions, and held against what the node is."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from kv.cli.main import build_parser, built_in
from kv.config.reading import load_config
from kv.config.sections import Config

ROOT = Path(__file__).parents[3]
CONTAINER = ROOT / "deploy" / "container"
KNOWN = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN",
    "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}  # fmt: skip


class Instruction(NamedTuple):
    name: str
    rest: str


def instructions(text: str) -> list[Instruction]:
    """Raises ValueError for what is none."""
    found, line = [], ""
    for raw in text.splitlines():
        if raw.lstrip().startswith("#") or not (line or raw.strip()):
            continue
        line += raw.rstrip()
        if line.endswith("\\"):
            line = line[:-1]
            continue
        name, _, rest = line.partition(" ")
        if name not in KNOWN or not rest.strip():
            raise ValueError(f"no instruction: {line}")
        found.append(Instruction(name, re.sub(r"\s+", " ", rest.strip())))
        line = ""
    if line:
        raise ValueError(f"does not end: {line}")
    return found


ALL = instructions((CONTAINER / "Dockerfile").read_text())
_LAST_FROM = max(place for place, each in enumerate(ALL) if each.name == "FROM")
FINAL = ALL[_LAST_FROM:]


def only(name: str, among: list[Instruction] = FINAL) -> str:
    (found,) = [each.rest for each in among if each.name == name]
    return found


def probe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("januskv_probe", CONTAINER / "probe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def is_in_context(path: str) -> bool:
    """As BuildKit reads the ignore file: the last pattern that fits decides."""
    ignored = False
    for line in (CONTAINER / "Dockerfile.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parents = [path, *(str(parent) for parent in Path(path).parents)]
        fits = any(fnmatch(each, pattern) for each in parents)
        ignored = not line.startswith("!") if fits else ignored
    return not ignored


@pytest.mark.parametrize("text", ["FORM python", "RUN", "RUN a \\\n", "FROM a\nsomething else"])
def test_a_wrong_file_is_found(text: str) -> None:
    with pytest.raises(ValueError, match=r"no instruction|does not end"):
        instructions(text)


def test_it_is_built_in_two_stages_of_one_pinned_python() -> None:
    stages = [each.rest for each in ALL if each.name == "FROM"]
    assert stages == ["python:${PYTHON} AS build", "python:${PYTHON}"]
    assert re.fullmatch(r"PYTHON=3\.11-slim-\w+", only("ARG", ALL))


def test_nothing_is_fetched_in_the_last_stage() -> None:
    for each in FINAL:
        if each.name in ("RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK"):
            assert not re.search(r"\b(pip|apt|apt-get|curl|wget|git)\b", each.rest), each
    build = " ".join(each.rest for each in ALL[:_LAST_FROM] if each.name == "RUN")
    assert "-c deploy/constraints.txt ." in build


@pytest.mark.parametrize("rest", [each.rest for each in ALL if each.name == "COPY"])
def test_what_is_copied_is_there_and_may_be_seen(rest: str) -> None:
    words = [word for word in rest.split() if not word.startswith("--chmod")]
    if words[0] == "--from=build":
        assert words[1:] == ["/opt/januskv", "/opt/januskv"]
        return
    for source in words[:-1]:
        assert (ROOT / source).exists(), source
        assert is_in_context(source), source


def test_the_context_has_no_more_than_that() -> None:
    for path in (".git/config", ".venv/bin/python", "tests/conftest.py", "kv/__pycache__/app.pyc"):
        assert not is_in_context(path)
    # What pyproject.toml needs to build the wheel.
    for path in ("pyproject.toml", "README.md", "LICENSE", "kv/app.py", "chaos/toxics/__main__.py"):
        assert is_in_context(path)


def test_it_runs_as_nobody_special() -> None:
    places = {each.name: place for place, each in enumerate(FINAL)}
    assert only("USER") == "10001:10001"
    assert places["RUN"] < places["USER"] < places["ENTRYPOINT"]


def test_it_starts_a_node_from_its_file() -> None:
    words = [*json.loads(only("ENTRYPOINT")), *json.loads(only("CMD"))]
    assert words[0] == "januskv"
    args = build_parser(built_in()).parse_args(words[1:])
    assert args.command == "serve"
    assert str(args.config) == probe().DEFAULT_CONFIG
    copied = [each.rest for each in FINAL if each.name == "COPY"]
    assert f"deploy/container/januskv.toml {args.config}" in copied


def test_its_own_file_is_safe_and_keeps_its_data_in_the_volume() -> None:
    config = load_config(CONTAINER / "januskv.toml", {})
    assert config.node.data == only("VOLUME") == only("WORKDIR")
    assert not config.insecure
    assert config.node.listen == Config().node.listen
    ports = f"{config.node.listen.port} {config.node.peer_listen.port}"
    assert only("EXPOSE") == ports


def test_it_is_stopped_in_good_order() -> None:
    assert only("STOPSIGNAL") == "SIGTERM"


def test_its_health_check_is_the_probe() -> None:
    options, _, command = only("HEALTHCHECK").partition(" CMD ")
    words = json.loads(command)
    copied = [each.rest for each in FINAL if each.name == "COPY"]
    assert f"--chmod=0755 deploy/container/probe.py /usr/local/bin/{words[0]}" in copied
    seconds = dict(re.findall(r"--([a-z-]+)=(\d+)s?", options))
    assert set(seconds) == {"interval", "timeout", "start-period", "retries"}
    assert float(seconds["timeout"]) > 4.0, "it tells by itself why nobody answered"
    assert words[1:] == ["readyz"]


# --- the probe -----------------------------------------------------------------------------------


def run_probe(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, CONTAINER / "probe.py", *arguments],
        env={"PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_probe_says_what_is_wrong_with_the_configuration(tmp_path: Path) -> None:
    missing = run_probe("readyz", "--config", str(tmp_path / "none.toml"))
    assert missing.returncode == 2
    assert "none.toml" in missing.stderr
    mistyped = run_probe(
        "readyz", "--config", str(CONTAINER / "januskv.toml"), JANUSKV_NODE__LISTN="127.0.0.1:1"
    )
    assert mistyped.returncode == 2
    assert "JANUSKV_NODE__LISTEN" in mistyped.stderr
    no_certificate = run_probe(
        "readyz",
        "--config",
        str(CONTAINER / "januskv.toml"),
        JANUSKV_TLS__CLIENT_CERT=str(tmp_path / "a.pem"),
        JANUSKV_TLS__CLIENT_KEY=str(tmp_path / "a.key"),
    )
    assert no_certificate.returncode == 2
    assert "tls.client_cert" in no_certificate.stderr


def test_the_probe_knows_two_questions() -> None:
    assert run_probe("health").returncode == 2
