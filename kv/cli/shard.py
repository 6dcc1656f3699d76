"""`januskv shard ACTION`: list, split."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from kv.cli import remote
from kv.cli.remote import emit, emit_json
from kv.cli.show import table

if TYPE_CHECKING:
    from kv.client import Client

PATH: Final = "/api/v1/admin/shards"


class ShardCommand:
    name = "shard"
    help = "shards: the ranges that a keyspace is cut into"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        below = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

        def action(name: str, text: str) -> argparse.ArgumentParser:
            made = below.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
            remote.add_connection(made)
            return made

        listing = action("list", "print ranges, replicas and leaders")
        listing.add_argument("--keyspace", metavar="NAME", help="only its shards")
        split = action("split", "cut a shard in two at a key; no data moves")
        split.add_argument("shard", metavar="SHARD", type=remote.number)
        split.add_argument("key", metavar="KEY", help="the first key of the right half")

    def run(self, args: argparse.Namespace) -> int:
        actions: dict[str, Callable[[argparse.Namespace, Client], Awaitable[int]]] = {
            "list": _list,
            "split": _split,
        }
        return remote.run(args, partial(actions[args.action], args))


async def _list(args: argparse.Namespace, client: Client) -> int:
    of = f"?of={quote(args.keyspace)}" if args.keyspace else ""
    found = await client.admin("GET", PATH + of)
    if args.json:
        emit_json(found)
    else:
        _print(found["shards"])
    return 0


async def _split(args: argparse.Namespace, client: Client) -> int:
    done = await client.admin("POST", f"{PATH}/{args.shard}/split", {"key": args.key})
    if args.json:
        emit_json(done)
    else:
        _print([done["left"], done["right"]])
    return 0


def _print(shards: list[dict[str, Any]]) -> None:
    rows = [
        (
            each["shard"],
            each["keyspace"],
            each["start"] or "-",
            "-" if each["end"] is None else each["end"],
            each["epoch"],
            each["leader"] or "?",
            len(each["replicas"]),
        )
        for each in shards
    ]
    head = ("SHARD", "KEYSPACE", "FROM", "TO", "EPOCH", "LEADER", "REPLICAS")
    emit(table(head, rows, right="SHARD EPOCH REPLICAS"))
