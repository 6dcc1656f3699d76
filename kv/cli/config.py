"""`januskv config check FILE` and `januskv config sample`: before a node starts with it.

`check` sees what a node would see: the file, this environment, and whether the files it names are
there. With `--elsewhere` only the file itself counts, for one that is meant for another machine.
Exit codes: 0 without problems (warnings are allowed), 2 with any.

What knows the settings is imported when it is asked for: other commands start without it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kv.config.reading import Problem
    from kv.config.sections import Config

EXIT_PROBLEMS: Final = 2
PURPOSES: Final = ("single", "strong", "leaderless", "mixed")
"""The names of kv/config/sample.py's SAMPLES."""
MODES: Final = ("strong", "leaderless")


class ConfigCommand:
    name = "config"
    help = "check a configuration file, or print a commented sample"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        below = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        text = "find every mistake of a file and tell what a node would do with it"
        check = below.add_parser("check", help=text, description=f"{text}; exit code 0 or 2")
        check.add_argument("file", type=Path, help="the TOML file")
        check.add_argument("--json", action="store_true", help="print one JSON document")
        check.add_argument(
            "--elsewhere",
            action="store_true",
            help="the file is for another machine: leave out this environment (JANUSKV_...) and do "
            "not look for the certificates and secrets that it names",
        )
        text = "print a commented sample with every setting, its default and its help"
        printed = below.add_parser("sample", help=text, description=text)
        printed.add_argument(
            "--for",
            dest="purpose",
            choices=PURPOSES,
            default="single",
            help="one node on this machine (default), or a cluster of three",
        )
        printed.add_argument("--mode", choices=MODES, help="the regime of the keyspace default")

    def run(self, args: argparse.Namespace) -> int:
        if args.action == "sample":
            from kv.config.sample import sample

            print(sample(args.purpose, args.mode), end="")
            return 0
        config, problems = _check(args.file, elsewhere=args.elsewhere)
        report = _report(args.file, config, problems)
        if args.json:
            print(json.dumps(report, indent=2))
        else:
            _print(report, problems)
        return EXIT_PROBLEMS if problems else 0


def _check(file: Path, *, elsewhere: bool) -> tuple[Config | None, list[Problem]]:
    from kv.config.reading import ConfigError, load_config

    try:
        config = load_config(file, {} if elsewhere else os.environ)
    except ConfigError as error:
        return None, list(error.problems)
    return config, [] if elsewhere else _unreadable(config, str(file))


def _unreadable(config: Config, source: str) -> list[Problem]:
    from kv.config.reading import Problem
    from kv.config.summary import files_named

    problems = []
    for path, name in files_named(config).items():
        try:
            with Path(name).open("rb") as file:
                file.read(1)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            message = f"is {name}, which cannot be read ({why}); make it readable for the node"
            problems.append(Problem(path, message, source))
    return problems


def _report(file: Path, config: Config | None, problems: list[Problem]) -> dict[str, Any]:
    from kv.config.summary import summary, warnings

    return {
        "file": str(file),
        "ok": not problems,
        "problems": [
            {
                "setting": problem.setting,
                "message": problem.message,
                "source": problem.source,
                "line": problem.line,
            }
            for problem in problems
        ],
        "warnings": list(warnings(config)) if config else [],
        "summary": summary(config) if config and not problems else {},
    }


def _print(report: dict[str, Any], problems: list[Problem]) -> None:
    for problem in problems:
        print(problem)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        print(f"{report['file']}: {count}; no node starts with it")
    else:
        print(f"{report['file']}: no problems. A node would run as")
        for what, text in report["summary"].items():
            print(f"  {what:<11} {text}")
    for warning in report["warnings"]:
        print(f"warning: {warning}")
