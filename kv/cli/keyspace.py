"""`januskv keyspace ACTION`: list, show, create, alter, drop."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kv.cli import remote
from kv.cli.remote import emit, emit_json
from kv.cli.show import table
from raftgroups.meta.records import MERGE_RULES

if TYPE_CHECKING:
    from kv.client import Client

LEADERLESS: Final = "leaderless"
_RIGHT: Final = "SHARDS COPIES"
PATH: Final = "/api/v1/admin/keyspaces"
OPTIONS: Final = (
    ("shards-max", "automatic splits stop here; 0: no limit"),
    ("split-bytes", "a shard larger than this is split; 0: never"),
    ("split-operations-a-second", "a shard busier than this is split; 0: never"),
    ("merge-bytes", "neighbours that together are smaller are merged; 0: never"),
)
BOTH: Final = (("replication", ""),)
RING: Final = tuple(
    (name, "") for name in ("read-quorum", "write-quorum", "rule", "siblings", "strict")
)
QUOTAS: Final = (
    ("quota-bytes", "of keys and values; 0: no limit"),
    ("quota-keys", "0: no limit"),
    ("quota-operations-a-second", "0: no limit"),
    ("quota-watchers", "0: no limit"),
)


class KeyspaceCommand:
    name = "keyspace"
    help = "keyspaces: namespaces with options and quotas of their own"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        below = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

        def action(name: str, text: str, *, named: bool = True) -> argparse.ArgumentParser:
            made = below.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
            remote.add_connection(made)
            if named:
                made.add_argument("keyspace", metavar="NAME")
            return made

        action("list", "print all keyspaces", named=False)
        action("show", "print a keyspace with its options")
        create = action("create", "make a keyspace")
        create.add_argument("--regime", choices=("strong", LEADERLESS), default="strong")
        create.add_argument("--shards", type=remote.number, default=1, metavar="K")
        _add_options(create)
        _add_options(action("alter", "change options of a keyspace; those not given stay"))
        drop = action("drop", "drop a keyspace with all its keys")
        drop.add_argument("--yes", action="store_true", help="needed: nothing brings it back")

    def run(self, args: argparse.Namespace) -> int:
        actions: dict[str, Callable[[argparse.Namespace, Client], Awaitable[int]]] = {
            "list": _list,
            "show": _show,
            "create": _create,
            "alter": _alter,
            "drop": _drop,
        }
        if args.action == "drop" and not args.yes:
            remote.complain(f"this deletes all keys of {args.keyspace}; say --yes if that is meant")
            return 2
        return remote.run(args, partial(actions[args.action], args))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        *("-n", "--replication"),
        type=remote.number,
        metavar="N",
        help="copies, of each shard or (leaderless) of each key; default 3",
    )
    strong = parser.add_argument_group("strong keyspaces")
    for name, text in (*OPTIONS, *QUOTAS):
        strong.add_argument(f"--{name}", type=remote.number, metavar="N", help=text)
    ring = parser.add_argument_group("leaderless keyspaces")
    for short, name, text in (
        ("-r", "read-quorum", "nodes that a read waits for; default a majority of N"),
        ("-w", "write-quorum", "nodes that a write waits for; default a majority of N"),
    ):
        ring.add_argument(short, f"--{name}", type=remote.number, metavar="N", help=text)
    ring.add_argument(
        "--rule",
        choices=MERGE_RULES,
        help="what becomes of concurrent versions (default siblings: all are kept)",
    )
    ring.add_argument(
        "--siblings", type=remote.number, metavar="N", help="that a write may leave; default 50"
    )
    ring.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="only owners of a key count, no stand-ins",
    )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    def given(names: tuple[tuple[str, str], ...], prefix: str = "") -> dict[str, Any]:
        found = {
            name.removeprefix(prefix).replace("-", "_"): getattr(args, name.replace("-", "_"))
            for name, _ in names
        }
        return {name: value for name, value in found.items() if value is not None}

    options, quotas = given((*BOTH, *OPTIONS, *RING)), given(QUOTAS, "quota-")
    return {**options, "quotas": quotas} if quotas else options


async def _list(args: argparse.Namespace, client: Client) -> int:
    found = await client.admin("GET", PATH)
    if args.json:
        emit_json(found)
    else:
        rows = [
            (
                each["name"],
                each["regime"],
                "-" if each["regime"] == LEADERLESS else each["shards"],
                each["options"]["replication"],
                _says(each["options"]) if each["regime"] == LEADERLESS else "-",
            )
            for each in found["keyspaces"]
        ]
        emit(table(("KEYSPACE", "REGIME", "SHARDS", "COPIES", "QUORUM"), rows, right=_RIGHT))
    return 0


def _says(options: dict[str, Any]) -> str:
    strict = ", strict" if options["strict"] else ""
    return f"R {options['read_quorum']}, W {options['write_quorum']}, {options['rule']}{strict}"


async def _show(args: argparse.Namespace, client: Client) -> int:
    return _print(args, await client.admin("GET", f"{PATH}/{args.keyspace}"))


async def _create(args: argparse.Namespace, client: Client) -> int:
    wanted = {"name": args.keyspace, "regime": args.regime, "shards": args.shards}
    made = await client.admin("POST", PATH, {**wanted, "options": _options(args)})
    return _print(args, made)


async def _alter(args: argparse.Namespace, client: Client) -> int:
    return _print(args, await client.admin("PATCH", f"{PATH}/{args.keyspace}", _options(args)))


async def _drop(args: argparse.Namespace, client: Client) -> int:
    done = await client.admin("DELETE", f"{PATH}/{args.keyspace}")
    if args.json:
        emit_json(done)
    else:
        emit("dropped")
    return 0


def _print(args: argparse.Namespace, found: dict[str, Any]) -> int:
    if args.json:
        emit_json(found)
        return 0
    options = found["options"]
    quotas = options.pop("quotas")
    rows: list[tuple[str, object]] = [
        *((name, found[name]) for name in ("name", "regime", "state")),
        ("replication", options["replication"]),
    ]
    if found["regime"] == LEADERLESS:
        rows += [(name.replace("-", "_"), options[name.replace("-", "_")]) for name, _ in RING]
    else:
        rows.append(("shards", found["shards"]))
        rows += [(name.replace("-", "_"), options[name.replace("-", "_")]) for name, _ in OPTIONS]
        rows += [(f"quota {name}", value or "none") for name, value in quotas.items()]
    emit(table(("OPTION", "VALUE"), [(name, str(value)) for name, value in rows]))
    return 0
