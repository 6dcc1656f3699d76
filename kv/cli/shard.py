"""`januskv shard ACTION`: list, split, merge, move, transfer."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from kv.cli import remote
from kv.cli.progress import Progress
from kv.cli.remote import emit, emit_json
from kv.cli.show import size, table
from kv.division.words import GATHER

if TYPE_CHECKING:
    from kv.client import Client

PATH: Final = "/api/v1/admin/shards"
STATUS: Final = "/api/v1/admin/cluster/status"
MOVES: Final = "/api/v1/admin/cluster/moves"
POLL_S: Final = 0.25


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
        merge = action("merge", "make one of a shard and its right neighbour")
        merge.add_argument("shard", metavar="LEFT", type=remote.number)
        merge.add_argument("right", metavar="RIGHT", type=remote.number, nargs="?",
                           help="its right neighbour, to be sure that it is meant")  # fmt: skip
        merge.add_argument("--end", action="store_true",
                           help="end a merge that still brings replicas together")  # fmt: skip

        move = action(
            "move",
            "move a replica from one node to another; where that makes nodes uneven, another "
            "replica is moved afterwards to even them out",
        )
        move.add_argument("shard", metavar="SHARD", type=remote.number)
        move.add_argument("source", metavar="FROM", help="a node: its id, name or address")
        move.add_argument("target", metavar="TO", help="an active node without a replica")
        move.add_argument("--no-wait", action="store_true", help="do not wait until it has moved")
        transfer = action("transfer", "let another replica lead a shard")
        transfer.add_argument("shard", metavar="SHARD", type=remote.number)
        transfer.add_argument("target", metavar="NODE", help="its id, name or address")

    def run(self, args: argparse.Namespace) -> int:
        actions: dict[str, Callable[[argparse.Namespace, Client], Awaitable[int]]] = {
            "list": _list,
            "split": _split,
            "merge": _merge,
            "move": _move,
            "transfer": _transfer,
        }
        return remote.run(args, partial(actions[args.action], args))


async def _list(args: argparse.Namespace, client: Client) -> int:
    of = f"?of={quote(args.keyspace)}" if args.keyspace else ""
    found = await client.admin("GET", PATH + of)
    if args.json:
        emit_json(found)
    else:
        state = await client.admin("GET", STATUS)
        carried = {each["shard"]: each for each in state.get("shards", ())}
        names = {each["node_id"]: each["name"] for each in state.get("nodes", ())}
        _print(found["shards"], names, carried)
        for sentence in state.get("advice", ()):
            emit(sentence)
    return 0


async def _names(client: Client) -> dict[str, str]:
    """Of the nodes, by id; a node that cannot be asked has none here."""
    return {each.node_id: each.name for each in (await client.cluster()).nodes}


async def _split(args: argparse.Namespace, client: Client) -> int:
    done = await client.admin("POST", f"{PATH}/{args.shard}/split", {"key": args.key})
    if args.json:
        emit_json(done)
    else:
        _print([done["left"], done["right"]], await _names(client))
    return 0


async def _merge(args: argparse.Namespace, client: Client) -> int:
    """Longer than a request lasts where replicas have to come together first: then it waits on."""
    if args.end:
        return await _end_merge(args, client)
    wanted = {} if args.right is None else {"right": args.right}
    done = await client.admin("POST", f"{PATH}/{args.shard}/merge", wanted)
    if args.json:
        emit_json(done)
    else:
        _print([done["merged"]], await _names(client))
    return 0


async def _end_merge(args: argparse.Namespace, client: Client) -> int:
    done = await client.admin("DELETE", f"{PATH}/{args.shard}/merge")
    if args.json:
        emit_json(done)
    else:
        pair = " and ".join(map(str, done["ended"]["shards"]))
        emit(f"shards {pair} stay two; replicas that were moved stay where they are")
    return 0


async def _move(args: argparse.Namespace, client: Client) -> int:
    wanted = {"source": args.source, "target": args.target}
    begun = await client.admin("POST", f"{PATH}/{args.shard}/move", wanted)
    if not args.no_wait:
        await _await_move(client, args.shard, begun["target"])
    if args.json:
        emit_json(begun)
    else:
        done = "is moving" if args.no_wait else "moved"
        emit(f"shard {args.shard} {done} from {begun['source']} to {begun['target']}")
    return 0


async def _await_move(client: Client, shard: int, target: str) -> None:
    """The bar shows the snapshot; what comes after it is short."""
    progress, total = None, 0
    try:
        while True:
            shown = await client.admin("GET", PATH)
            here = next((s for s in shown["shards"] if s["shard"] == shard), None)
            if here is None or target in here["replicas"]:
                return
            moves = await client.admin("GET", MOVES)
            for each in moves["moves"]:
                if each["shard"] == shard and each["rows_expected"]:
                    if progress is None:
                        total = each["rows_expected"]
                        progress = Progress(total)
                    rows = min(total, each["rows"])
                    progress.advance(max(0, rows - progress.done), f"{each['bytes'] / 1e6:.0f} MB")
            await asyncio.sleep(POLL_S)
    finally:
        if progress is not None:
            progress.finish()


async def _transfer(args: argparse.Namespace, client: Client) -> int:
    wanted = {"target": args.target}
    done = await client.admin("POST", f"{PATH}/{args.shard}/transfer", wanted)
    if args.json:
        emit_json(done)
    else:
        emit(f"shard {args.shard} is led by {done['leader']}")
    return 0


def _carried(state: dict[str, Any] | None) -> tuple[str, str, str]:
    """(size, operations a second, hottest key)"""
    if state is None or state["size_bytes"] is None:
        return "?", "?", "-"
    hot = state["hot_keys"][0]["key"] if state["hot_keys"] else "-"
    return size(state["size_bytes"]), f"{state['operations_a_second']:.0f}", hot


def _print(
    shards: list[dict[str, Any]],
    names: Mapping[str, str],
    carried: dict[int, dict[str, Any]] | None = None,
) -> None:
    rows = [
        (
            each["shard"],
            each["keyspace"],
            each["start"] or "-",
            "-" if each["end"] is None else each["end"],
            each["epoch"],
            names.get(each["leader"], each["leader"]) or "?",
            len(each["replicas"]),
            *(() if carried is None else _carried(carried.get(each["shard"]))),
        )
        for each in shards
    ]
    head = ["SHARD", "KEYSPACE", "FROM", "TO", "EPOCH", "LEADER", "REPLICAS"]
    head += [] if carried is None else ["SIZE", "OPS/S", "HOTTEST"]
    emit(table(head, rows, right="SHARD EPOCH REPLICAS SIZE OPS/S"))
    under_way = {each["operation"]["operation"]: each["operation"]
                 for each in shards if "operation" in each}  # fmt: skip
    for number, each in sorted(under_way.items()):
        emit(_told(number, each))


def _told(number: int, operation: dict[str, Any]) -> str:
    pair = " and ".join(map(str, operation["shards"]))
    since = datetime.fromtimestamp(operation["stepped_ms"] / 1000, UTC).strftime("%H:%M:%S UTC")
    what = f"shard {pair}: {operation['kind']}, {operation['step']} since {since}"
    if operation["step"] == GATHER:
        what += ": replicas come together; januskv shard merge --end " + str(operation["shards"][0])
        what += " ends it"
    note = f": {operation['note']}" if operation["note"] else ""
    return f"{what} (operation {number}{note})"
