"""`januskv config`: what it prints, in both forms, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kv.cli.config import MODES, PURPOSES
from kv.cli.main import main
from kv.config.reading import parse_config
from kv.config.sample import SAMPLES
from kv.config.sections import MODES as ALL_MODES


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JANUSKV_MODE", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "n.toml"


def test_a_good_file_tells_what_a_node_would_do(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text('mode = "leaderless"\n[node]\nname = "n1"\n')
    assert main(["config", "check", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"{file}: no problems" in printed
    assert "leaderless for the keyspace default" in printed
    assert "n1, data in ./januskv-data" in printed


def test_every_problem_of_a_bad_file_is_printed_with_its_line(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text('mode = "weak"\nnodes = 3\n')
    assert main(["config", "check", str(file)]) == 2
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f'{file}:1: mode is "weak"; write "strong" or "leaderless"'
    assert printed[1].startswith(f"{file}:2: nodes is no setting")
    assert printed[2] == f"{file}: 2 problems; no node starts with it"


def test_json_has_the_same(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text('mode = "weak"\n')
    assert main(["config", "check", "--json", str(file)]) == 2
    bad = json.loads(capsys.readouterr().out)
    assert bad == {
        "file": str(file),
        "ok": False,
        "problems": [
            {
                "setting": "mode",
                "message": 'is "weak"; write "strong" or "leaderless"',
                "source": str(file),
                "line": 1,
            }
        ],
        "warnings": [],
        "summary": {},
    }
    file.write_text('[strong]\nengine = "memory"\n')
    assert main(["config", "check", "--json", str(file)]) == 0
    good = json.loads(capsys.readouterr().out)
    assert good["ok"]
    assert len(good["warnings"]) == 1
    assert good["summary"]["clients"] == "127.0.0.1:7400, plain, this machine only"


def test_files_that_are_not_there_are_problems_unless_the_node_is_elsewhere(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = file.with_name("secret")
    file.write_text(f'[cluster]\nsecret_file = "{secret}"\n')
    assert main(["config", "check", str(file)]) == 2
    assert f"cluster.secret_file is {secret}, which cannot be read" in capsys.readouterr().out
    assert main(["config", "check", str(file), "--elsewhere"]) == 0
    secret.write_text("s")
    assert main(["config", "check", str(file)]) == 0


def test_the_environment_counts_unless_the_node_is_elsewhere(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("")
    monkeypatch.setenv("JANUSKV_NODE__LISTN", "x")
    assert main(["config", "check", str(file)]) == 2
    assert "did you mean JANUSKV_NODE__LISTEN?" in capsys.readouterr().out
    assert main(["config", "check", str(file), "--elsewhere"]) == 0


def test_a_missing_file_is_a_problem(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check", str(file)]) == 2
    assert "cannot be read" in capsys.readouterr().out


def test_samples_are_printed_for_a_purpose_and_a_regime(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["config", "sample", "--mode", "leaderless"]) == 0
    assert parse_config(capsys.readouterr().out).mode == "leaderless"
    assert main(["config", "sample", "--for", "strong"]) == 0
    assert len(parse_config(capsys.readouterr().out).cluster.initial) == 3


def test_a_wrong_call_says_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["config", "chek", "x"])
    assert caught.value.code == 2
    assert "did you mean check?" in capsys.readouterr().err


def test_the_names_it_offers_are_all_there_are() -> None:
    assert tuple(SAMPLES) == PURPOSES
    assert ALL_MODES == MODES
