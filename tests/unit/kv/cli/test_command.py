"""A wrong call is answered by one line that says what to do, and by exit code 2."""

from __future__ import annotations

import argparse

import pytest

from kv.cli.command import Parser, whole_number


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="januskv")
    chosen = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    bench = chosen.add_parser("bench")
    bench.add_argument("--keys", type=whole_number(1, 1_000))
    bench.add_argument("--engine", choices=["lmdb", "rocksdb"])
    return parser


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bnech"], "did you mean bench?"),
        (["bench", "--key-count", "3"], "unrecognized arguments: --key-count 3"),
        (["bench", "--enigne", "lmdb"], "unrecognized arguments: --enigne lmdb"),
        (["bench", "--keys", "many"], "'many' is not a whole number"),
        (["bench", "--keys", "1001"], "1001 is outside 1..1000"),
        (["bench", "--engine", "sqlite"], "sqlite"),
        ([], "COMMAND"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    parser: Parser, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert says in printed.err
    assert "--help" in printed.err


def test_a_misspelt_option_is_named_with_its_neighbour(
    parser: Parser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["bench", "--enigne", "lmdb"])
    assert "did you mean --engine?" in capsys.readouterr().err


def test_numbers_may_have_thousands_separators() -> None:
    assert whole_number(1, 10**9)("1_000_000") == 1_000_000
    assert whole_number(1, 10**9)("1,000") == 1_000
    with pytest.raises(argparse.ArgumentTypeError):
        whole_number(1, 10)("")
