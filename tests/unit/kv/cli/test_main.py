"""Finding commands: only the one that is called is imported, and it is the one of the table."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kv.cli.main import BUILT_IN, known


def test_every_command_of_the_table_is_there_under_its_name() -> None:
    for name in BUILT_IN:
        (command,) = known([name, "--help"])
        assert command.name == name
        assert command.help


@pytest.mark.parametrize("arguments", [[], ["--help"], ["gte"], ["sim"]], ids=str)
def test_otherwise_all_are_known_also_those_of_other_packages(arguments: list[str]) -> None:
    names = [command.name for command in known(arguments)]
    assert names[: len(BUILT_IN)] == list(BUILT_IN)
    assert len(set(names)) == len(names)


def test_a_command_of_the_client_imports_no_server() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from kv.cli.main import main; main(['get', 'k', '--endpoints', ':']);"
            "print(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split()
    assert "kv.client.client" in loaded
    assert not {"kv.app", "kv.node", "lmdb", "rocksdict", "pysyncobj", "aiohttp.web"} & set(loaded)
