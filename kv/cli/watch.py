"""`januskv watch`: changes as they happen, a line each."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from kv.cli import leaderless_keys, remote
from kv.cli.remote import argument_bytes, emit, emit_json
from kv.cli.show import named, printable
from storage.errors import InvalidOptionError

if TYPE_CHECKING:
    from kv.client import Change, Client, Event, LeaderlessClient
    from kv.client.leaderless_records import KeyState


class WatchCommand:
    name = "watch"
    help = "print changes of keys as they happen, until ctrl-C"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Print every change of a key, or with --prefix of all keys that begin with KEY: "
            "revision, put or delete, key, value. With --json a line is a revision, whole. Lost "
            "connections are resumed without a gap. Of a leaderless keyspace a line is a key as it "
            "is now, all its siblings, at least once. Ctrl-C ends it, with exit code 130."
        )
        parser.add_argument("key", metavar="KEY", help='with --prefix it may be ""')
        parser.add_argument("--prefix", action="store_true", help="all keys that begin with KEY")
        parser.add_argument(
            "--from",
            dest="start",
            type=remote.number,
            default=0,
            metavar="REVISION",
            help="begin with this revision of the past (default: with what comes next)",
        )
        parser.add_argument("--prev", action="store_true", help="print what was there before, too")
        parser.add_argument("--only", choices=("put", "delete"), help="no other events")
        parser.add_argument(
            "--max", type=remote.number, metavar="N", help="end after N events (whole revisions)"
        )
        parser.add_argument(
            "--cursor",
            default="",
            help="go on behind the line of --json that had this cursor (shards, leaderless)",
        )
        remote.add_keyspace(parser)
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        if args.start < 0 or (args.max is not None and args.max < 1):
            raise InvalidOptionError("--from is 0 or more, and --max 1 or more")
        return remote.run(args, partial(_watch, args), partial(_watch_leaderless, args))


async def _watch(args: argparse.Namespace, client: Client) -> int:
    if args.cursor and args.start:
        raise InvalidOptionError("give --from or --cursor, not both: each says where to begin")
    key = argument_bytes(args.key)
    which: dict[str, Any] = {"prefix": key} if args.prefix else {"key": key}
    seen = 0
    async with client.watch(
        **which,
        from_revision=args.start,
        cursor=args.cursor,
        previous=args.prev,
        only=args.only,
    ) as watch:
        async for change in watch:
            _emit(args, change)
            seen += len(change.events)
            if args.max is not None and seen >= args.max:
                break
    return 0


async def _watch_leaderless(args: argparse.Namespace, client: LeaderlessClient) -> int:
    leaderless_keys.refuse(args, **{"from": args.start, "prev": args.prev})
    key = argument_bytes(args.key)
    which: dict[str, Any] = {"prefix": key} if args.prefix else {"key": key}
    seen = 0
    async with client.watch(**which, cursor=args.cursor, only=args.only) as watch:
        async for change in watch:
            if args.json:
                states = [leaderless_keys.document(each, values=True) for each in change.states]
                emit_json({"cursor": change.cursor, "events": states})
            else:
                for state in change.states:
                    emit(_line_of_state(state))
            seen += len(change.states)
            if args.max is not None and seen >= args.max:
                break
    return 0


def _line_of_state(state: KeyState) -> str:
    """`|` stands between siblings."""
    values = " | ".join(printable(each.value) for each in state.siblings)
    words = ["put   " if values or state.siblings else "delete", printable(state.key), values]
    return "  ".join(words).rstrip()


def _emit(args: argparse.Namespace, change: Change) -> None:
    if args.json:
        events = [_document(event) for event in change.events]
        cursor = {"cursor": change.cursor} if change.cursor else {}
        emit_json({"revision": change.revision, **cursor, "events": events})
        return
    for event in change.events:
        emit(_line(change.revision, event, args.prev))


def _line(revision: int, event: Event, with_previous: bool) -> str:
    words = [str(revision), f"{event.type:<6}", printable(event.key)]
    if event.value is not None:
        words.append(printable(event.value))
    if with_previous:
        before = event.previous
        words.append("(was absent)" if before is None else f"(was {printable(before.value)})")
    return "  ".join(words)


def _document(event: Event) -> dict[str, Any]:
    document: dict[str, Any] = {"type": event.type, **named("key", event.key)}
    if event.value is not None:
        document.update(named("value", event.value))
    document.update({"version": event.version, "timestamp": event.timestamp_ms})
    if event.lease is not None:
        document["lease"] = str(event.lease)
    if event.previous is not None:
        before = event.previous
        document["prev"] = {**named("value", before.value), "version": before.version}
    return document
