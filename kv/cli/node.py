"""`januskv node`: members of the cluster: list, add, drain, remove.

The words are the same for both regimes. A drain waits until no replica of a strong shard is left
on the node and it has left the ring of the leaderless keyspaces; the removal of a dead node waits
until its replicas are elsewhere and the ring goes on without it (`list` shows what the others lack
of its part then). Both show how far they are; the work goes on if this command is interrupted, and
the same call waits again. Exit code 1: it was not finished within --timeout seconds (default: as
long as it takes).
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kv.cli import remote
from kv.cli.progress import Progress
from kv.cli.remote import EXIT_NO, emit, emit_json
from kv.cli.show import table
from storage.system_clock import SystemClock

if TYPE_CHECKING:
    from kv.client import Client

CLUSTER: Final = "/api/v1/admin/cluster"
NODES: Final = CLUSTER + "/nodes"
POLL_S: Final = 0.25
_HEAD: Final = ("NODE", "NAME", "STATE", "ADDRESS", "PEERS", "RACK", "REPLICAS", "LEADS", "RING")


class NodeCommand:
    name = "node"
    help = "the nodes of the cluster: list, add, drain, undrain, remove"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        chosen = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
        listed = chosen.add_parser("list", help="members, where they are, what they hold")
        listed.set_defaults(work=_list)
        added = chosen.add_parser(
            "add", help="wait for a node that was started with [cluster] join to be a member"
        )
        added.add_argument("node", metavar="HOST:PORT", help="where it serves other nodes")
        added.add_argument(
            "--wait", action="store_true", help="then wait until replicas have been evened out"
        )
        added.set_defaults(work=_add)
        for name, text, work in (
            ("drain", "move its replicas to the others, and leave the ring", _drain),
            ("undrain", "let it keep and get replicas again, and stay on the ring", _undrain),
            ("remove", "remove a node that was drained, or, with --dead, that is lost", _remove),
        ):
            made = chosen.add_parser(name, help=text)
            made.add_argument("node", metavar="NODE", help="its id, name or address")
            made.set_defaults(work=work)
            if name != "undrain":
                made.add_argument(
                    "--no-wait", action="store_true", help="do not wait for replicas to move"
                )
            if name == "remove":
                made.add_argument(
                    "--dead",
                    action="store_true",
                    help="it never comes back: make its replicas anew, let others own its part "
                    "of the ring",
                )
                made.add_argument(
                    "--force",
                    action="store_true",
                    help="with --dead: also if shards lose the majority of their replicas by that, "
                    "and what they hold",
                )
        for each in chosen.choices.values():
            remote.add_connection(each)

    def run(self, args: argparse.Namespace) -> int:
        return remote.run(args, partial(args.work, args))


async def _list(args: argparse.Namespace, client: Client) -> int:
    reply = await client.admin("GET", NODES)
    if args.json:
        emit_json(reply)
    else:
        emit(table(_HEAD, [_row(node) for node in reply["nodes"]], right="REPLICAS LEADS"))
    return 0


def _row(node: dict[str, Any]) -> tuple[object, ...]:
    state = node["state"] if node["reachable"] is not False else f"{node['state']}, away"
    place = "/".join(part for part in (node["dc"], node["rack"]) if part) or "-"
    leading = "-" if node["leading"] is None else node["leading"]
    return (
        node["node_id"],
        node["name"],
        state,
        node["address"],
        node["peer_address"],
        place,
        len(node["replicas"]),
        leading,
        _of_ring(node["ring"]),
    )


def _of_ring(ring: dict[str, Any] | None) -> str:
    if ring is None:
        return "-"
    lacking = f", lacks {100 * ring['lacking']:.1f} %" if ring["lacking"] else ""
    return f"{ring['standing']}{lacking}"


def _say(args: argparse.Namespace, node: dict[str, Any]) -> int:
    if args.json:
        emit_json(node)
    else:
        emit(f"{node['name']} ({node['node_id']}) is {node['state']}")
    return 0


async def _add(args: argparse.Namespace, client: Client) -> int:
    node = await client.admin("POST", NODES, {"node_address": args.node})
    if args.wait:
        return await _until_even(args, client, node)
    return _say(args, node)


async def _until_even(args: argparse.Namespace, client: Client, node: dict[str, Any]) -> int:
    """Until the planner has nothing left to do. The bar counts what it told at most."""
    clock = SystemClock()
    until_s = float("inf") if args.timeout is None else clock.monotonic() + args.timeout
    most, progress = 0, None
    try:
        while not (moves := await client.admin("GET", CLUSTER + "/moves"))["settled"]:
            if clock.monotonic() > until_s:
                remote.complain(f"{node['name']} is a member; replicas are still being moved")
                return EXIT_NO
            left = len(moves["moves"]) + moves["waiting"]
            if left > most:
                most, progress = left, Progress(left)
            if progress is not None:
                progress.advance(most - left - progress.done, _told(moves))
            await asyncio.sleep(POLL_S)
    finally:
        if progress is not None:
            progress.finish()
    return _say(args, node)


async def _undrain(args: argparse.Namespace, client: Client) -> int:
    body = {"node_address": args.node}
    return _say(args, await client.admin("POST", CLUSTER + "/undrain", body))


async def _drain(args: argparse.Namespace, client: Client) -> int:
    async def look() -> dict[str, Any]:
        return await client.admin("POST", CLUSTER + "/drain", {"node_address": args.node})

    return await _until(args, client, look, _is_drained)


async def _remove(args: argparse.Namespace, client: Client) -> int:
    async def look() -> dict[str, Any]:
        body = {"node_address": args.node, "dead": args.dead, "force": args.force}
        return await client.admin("DELETE", NODES, body)

    return await _until(args, client, look, _is_removed)


def _is_drained(node: dict[str, Any]) -> bool:
    ring = node["ring"]
    return not node["replicas"] and (ring is None or ring["standing"] == "left")


def _is_removed(node: dict[str, Any]) -> bool:
    return str(node["state"]) == "removed"


async def _until(
    args: argparse.Namespace,
    client: Client,
    look: Callable[[], Awaitable[dict[str, Any]]],
    is_done: Callable[[dict[str, Any]], bool],
) -> int:
    """Asks again, which does no harm, until it is done."""
    clock = SystemClock()
    node = await look()
    if args.no_wait:
        return _say(args, node)
    total = len(node["replicas"]) + (node["ring"] is not None)
    until_s = float("inf") if args.timeout is None else clock.monotonic() + args.timeout
    progress = Progress(total)
    try:
        while not is_done(node):
            if clock.monotonic() > until_s:
                remote.complain(_left(node))
                return EXIT_NO
            await asyncio.sleep(POLL_S)
            node = await look()
            left = len(node["replicas"]) + (not is_done(node) and node["ring"] is not None)
            progress.advance(total - left - progress.done, await _moving(client, node))
    finally:
        progress.finish()
    return _say(args, node)


def _left(node: dict[str, Any]) -> str:
    """What is not done yet."""
    found = [f"{len(node['replicas'])} replicas"] if node["replicas"] else []
    ring = node["ring"]
    if ring is not None and ring["standing"] != "left":
        found.append(
            f"its part of the ring ({ring['standing']}; {ring['hints']} hints and "
            f"{ring['foreign']} copies to hand over)"
        )
    return f"{node['name']} still has {' and '.join(found) or 'its place in the map'}"


async def _moving(client: Client, node: dict[str, Any]) -> str:
    found = []
    if node["replicas"]:
        found.append(_told(await client.admin("GET", CLUSTER + "/moves")))
    if node["ring"] is not None:
        nodes = (await client.admin("GET", NODES))["nodes"]
        lacks = max((each["ring"]["lacking"] for each in nodes if each["ring"]), default=0.0)
        found.append(f"the others lack {100 * lacks:.1f} % of what they take over on the ring")
    return "; ".join(found) or "nothing is left to move"


def _told(moves: dict[str, Any]) -> str:
    copied = sum(move["bytes"] for move in moves["moves"]) / 1e6
    return f"{len(moves['moves'])} replicas being filled ({copied:.0f} MB), {moves['waiting']} wait"
