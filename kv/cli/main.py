"""The entry point of `januskv`: finds the command, runs it, turns errors into a line and a code.

Commands are objects (kv/cli/command.py). Those of kv are named here; packages above kv add theirs
through the entry point group `januskv.commands`, so that kv never imports them.

Exit codes: 0 done; 1 the command ran and its answer is "no" (each command says when: a key that
does not exist, a comparison that was lost, a node that does not answer); 2 the call or its
surroundings are wrong, nothing was done, and the one line printed says what to do; 3 a write was
sent and nobody knows whether it took effect; 130 interrupted. `lock` gives the code of the command
that it ran, `serve` has more of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points, version
from typing import Final

from kv.cli.command import Command, Parser
from storage.errors import JanusError, Outcome

ENTRY_POINT_GROUP = "januskv.commands"
EXIT_WRONG = 2
EXIT_UNKNOWN = 3


BUILT_IN: Final = {
    "serve": "kv.cli.serve:ServeCommand",
    "cluster": "kv.cli.cluster:ClusterCommand",
    "get": "kv.cli.keys:GetCommand",
    "put": "kv.cli.keys:PutCommand",
    "del": "kv.cli.keys:DeleteCommand",
    "cas": "kv.cli.keys:CasCommand",
    "incr": "kv.cli.keys:IncrementCommand",
    "watch": "kv.cli.watch:WatchCommand",
    "txn": "kv.cli.txn:TxnCommand",
    "lease": "kv.cli.lease:LeaseCommand",
    "lock": "kv.cli.lock:LockCommand",
    "ring": "kv.cli.ring:RingCommand",
    "repair": "kv.cli.repair:RepairCommand",
    "status": "kv.cli.status:StatusCommand",
    "health": "kv.cli.status:HealthCommand",
    "keyspace": "kv.cli.keyspace:KeyspaceCommand",
    "shard": "kv.cli.shard:ShardCommand",
    "node": "kv.cli.node:NodeCommand",
    "config": "kv.cli.config:ConfigCommand",
    "backup": "kv.cli.backup:BackupCommand",
    "restore": "kv.cli.backup:RestoreCommand",
    "bench": "kv.cli.bench:BenchCommand",
}
"""Where each is, in the order of `--help`."""


def known(arguments: Sequence[str]) -> list[Command]:
    """All commands; but only the one that is called where its name comes first, because the modules
    of all together take longer to import than a `get` takes."""
    first = arguments[0] if arguments else ""
    if first in BUILT_IN:
        return [_load(BUILT_IN[first])]
    return [_load(place) for place in BUILT_IN.values()] + discovered()


def _load(place: str) -> Command:
    module, _, name = place.partition(":")
    command: Command = getattr(import_module(module), name)()
    return command


def discovered() -> list[Command]:
    """Commands of other packages, in the order of their names."""
    found: list[Command] = [point.load() for point in entry_points(group=ENTRY_POINT_GROUP)]
    return sorted(found, key=lambda command: command.name)


def build_parser(commands: Sequence[Command]) -> Parser:
    parser = Parser(
        prog="januskv",
        description="A replicated key-value store with two faces: linearizable shards and "
        "always-writable leaderless keyspaces.",
    )
    parser.add_argument("--version", action="version", version=f"januskv {version('januskv')}")
    chosen = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands:
        command.add_arguments(
            chosen.add_parser(command.name, help=command.help, description=command.help)
        )
    return parser


def main(arguments: Sequence[str]) -> int:
    commands = known(arguments)
    own, another = split_off_another(arguments, commands)
    parsed = build_parser(commands).parse_args(own)
    parsed.another = another
    command = next(command for command in commands if command.name == parsed.command)
    try:
        return command.run(parsed)
    except JanusError as error:
        complain(str(error))
        return EXIT_UNKNOWN if error.outcome is Outcome.UNKNOWN else EXIT_WRONG
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing to say and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def split_off_another(
    arguments: Sequence[str], commands: Sequence[Command]
) -> tuple[list[str], list[str]]:
    """What is ours, and behind `--` the words of a program that our command is to run. argparse
    cannot take options between a name and those."""
    words = list(arguments)
    runs = {command.name for command in commands if getattr(command, "runs_another", False)}
    if not words or words[0] not in runs or "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def complain(text: str) -> None:
    sys.stderr.write(f"januskv: {text}\n")


def entry() -> None:
    raise SystemExit(main(sys.argv[1:]))


if __name__ == "__main__":
    entry()
