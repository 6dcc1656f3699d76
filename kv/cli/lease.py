"""`januskv lease ACTION`: grant, revoke, keepalive, ttl, list."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from kv.cli import remote
from kv.cli.remote import EXIT_NO, emit, emit_json
from kv.cli.show import named, printable, table

if TYPE_CHECKING:
    from kv.client import Client
    from kv.client.records import LeaseInfo

KEEPALIVES: Final = 3
"""In a lease's time."""


class LeaseCommand:
    name = "lease"
    help = "leases: keys that are deleted together, unless somebody keeps them alive"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        below = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

        def action(name: str, text: str) -> argparse.ArgumentParser:
            made = below.add_parser(name, help=text, description=text[:1].upper() + text[1:] + ".")
            remote.add_keyspace(made)
            remote.add_connection(made)
            return made

        grant = action("grant", "make a lease and print its id")
        grant.add_argument("ttl", metavar="TTL", type=remote.positive_seconds, help="seconds")
        grant.add_argument(
            "--id", type=remote.number, help="chosen by you; exit code 1 if there is one"
        )
        revoke = action("revoke", "end a lease and delete its keys; exit code 1 if there is none")
        revoke.add_argument("id", metavar="ID", type=remote.number)
        keep = action("keepalive", "keep a lease alive until ctrl-C; exit code 1 when it is gone")
        keep.add_argument("id", metavar="ID", type=remote.number)
        keep.add_argument("--once", action="store_true", help="once, not again and again")
        left = action("ttl", "print what is left of a lease; exit code 1 if there is none")
        left.add_argument("id", metavar="ID", type=remote.number)
        left.add_argument("--keys", action="store_true", help="print its keys, too")
        action("list", "print all leases")

    def run(self, args: argparse.Namespace) -> int:
        actions: dict[str, Callable[[argparse.Namespace, Client], Awaitable[int]]] = {
            "grant": _grant,
            "revoke": _revoke,
            "keepalive": _keep_alive,
            "ttl": _ttl,
            "list": _list,
        }
        return remote.run(args, partial(actions[args.action], args))


async def _grant(args: argparse.Namespace, client: Client) -> int:
    made = await client.grant_only(args.ttl, lease=args.id)
    if args.json:
        emit_json({"id": str(made.id), "ttl": made.ttl_s})
    else:
        emit(str(made.id))
    return 0


async def _revoke(args: argparse.Namespace, client: Client) -> int:
    revoked = await client.revoke(args.id)
    if args.json:
        emit_json({"id": str(args.id), "revoked": revoked})
    elif revoked:
        emit("revoked")
    else:
        remote.complain(f"there is no lease {args.id}")
    return 0 if revoked else EXIT_NO


async def _keep_alive(args: argparse.Namespace, client: Client) -> int:
    while True:
        kept = await client.keep_alive(args.id)
        if args.json:
            emit_json({"id": str(kept.id), "ttl": kept.ttl_s})
        else:
            emit(f"lease {kept.id} lives {kept.ttl_s} s from now")
        if args.once:
            return 0
        await asyncio.sleep(kept.ttl_s / KEEPALIVES)


async def _ttl(args: argparse.Namespace, client: Client) -> int:
    found = await client.lease(args.id, keys=args.keys)
    if found is None:
        remote.complain(f"there is no lease {args.id}; it has ended, or was never granted")
        return EXIT_NO
    if args.json:
        keys = {} if found.keys is None else {"keys": [named("key", key) for key in found.keys]}
        emit_json({**_document(found), **keys})
        return 0
    emit(f"{found.remaining_s:.1f} s of {found.ttl_s} s left")
    for key in found.keys or ():
        emit(printable(key))
    return 0


async def _list(args: argparse.Namespace, client: Client) -> int:
    found = [each async for each in client.leases()]
    if args.json:
        emit_json({"leases": [_document(each) for each in found]})
    elif found:
        rows = [(each.id, each.ttl_s, f"{each.remaining_s:.1f}") for each in found]
        emit(table(("LEASE", "TTL_S", "LEFT_S"), rows, right="TTL_S LEFT_S"))
    return 0


def _document(found: LeaseInfo) -> dict[str, object]:
    return {"id": str(found.id), "ttl": found.ttl_s, "ttl_remaining": found.remaining_s}
