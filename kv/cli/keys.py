"""`januskv get`, `put`, `del`, `cas` and `incr`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kv.cli import leaderless_keys, remote
from kv.cli.remote import EXIT_NO, argument_bytes, emit, emit_json
from kv.cli.show import named, printable
from storage.errors import InvalidOptionError

if TYPE_CHECKING:
    from kv.client import Client
    from kv.client.records import Entry, Record

LEVELS = ("linearizable", "session", "eventual")
ROWS_AT_ONCE = 500


class GetCommand:
    name = "get"
    help = "read a key, or all keys with a prefix"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Read a key and print its value, or with --prefix all keys that begin with KEY. What "
            "is not printable is escaped (see --raw). Exit code 1: the key does not exist."
        )
        parser.add_argument("key", metavar="KEY", help='with --prefix it may be ""')
        parser.add_argument("--prefix", action="store_true", help="all keys that begin with KEY")
        parser.add_argument("--keys-only", action="store_true", help="print no values")
        parser.add_argument(
            "--limit", type=remote.number, metavar="N", help="at most N keys (with --prefix)"
        )
        parser.add_argument(
            "--revision", type=remote.number, metavar="N", help="as of this revision of the past"
        )
        leaderless_keys.add_level(parser, reads=True)
        parser.add_argument(
            "--raw", action="store_true", help="write the value's bytes and nothing else"
        )
        remote.add_keyspace(parser)
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        if args.limit is not None and (not args.prefix or args.limit < 1):
            raise InvalidOptionError("--limit is for --prefix, and at least 1")
        if args.raw and (args.prefix or args.json or args.keys_only):
            raise InvalidOptionError(
                "--raw writes one value as it is; it goes with no --prefix, --json or --keys-only"
            )
        if args.prefix:
            return remote.run(
                args, partial(_get_many, args), partial(leaderless_keys.get_many, args)
            )
        return remote.run(args, partial(_get_one, args), partial(leaderless_keys.get_one, args))


async def _get_one(args: argparse.Namespace, client: Client) -> int:
    key = argument_bytes(args.key)
    record = await client.get(key, revision=args.revision, level=args.level or LEVELS[0])
    if record is None:
        if args.json:
            emit_json({**named("key", key), "found": False})
        else:
            remote.complain(f"{printable(key)} does not exist")
        return EXIT_NO
    if args.raw:
        remote.emit_bytes(record.value)
    elif args.json:
        emit_json(_record(record, values=not args.keys_only))
    else:
        emit(printable(record.key if args.keys_only else record.value))
    return 0


def _record(record: Record, *, values: bool) -> dict[str, Any]:
    return {
        **named("key", record.key),
        "found": True,
        **(named("value", record.value) if values else {}),
        "version": record.version,
        "timestamp": record.timestamp_ms,
        "ttl_remaining": record.ttl_remaining_s,
        "lease": None if record.lease is None else str(record.lease),
    }


async def _get_many(args: argparse.Namespace, client: Client) -> int:
    found = client.list(
        argument_bytes(args.key),
        limit=args.limit,
        values=not args.keys_only,
        revision=args.revision,
        level=args.level or LEVELS[0],
    )
    waiting: list[Entry] = []
    async for entry in found:
        if args.json:
            value = {} if entry.value is None else named("value", entry.value)
            emit_json({**named("key", entry.key), **value, "version": entry.version})
        elif entry.value is None:
            emit(printable(entry.key))
        else:
            waiting.append(entry)
            if len(waiting) == ROWS_AT_ONCE:
                _emit_rows(waiting)
    _emit_rows(waiting)
    return 0


def _emit_rows(waiting: list[Entry]) -> None:
    if waiting:
        rows = [(printable(entry.key), printable(entry.value or b"")) for entry in waiting]
        width = max(len(key) for key, _ in rows)
        emit("\n".join(f"{key:<{width}}  {value}".rstrip() for key, value in rows))
        waiting.clear()


class PutCommand:
    name = "put"
    help = "write a key"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Write a key. Exit code 1: --if-version or --if-absent did not hold, or there is no "
            "such lease; nothing was written."
        )
        parser.add_argument("key", metavar="KEY")
        parser.add_argument("value", metavar="VALUE", nargs="?", help="- is standard input")
        parser.add_argument("--file", type=Path, metavar="FILE", help="the value's bytes")
        parser.add_argument(
            "--ttl", type=remote.positive_seconds, metavar="SECONDS", help="delete it after this"
        )
        parser.add_argument(
            "--lease", type=remote.number, metavar="ID", help="delete it when this lease ends"
        )
        parser.add_argument(
            "--if-version",
            type=remote.number,
            metavar="N",
            help="only if this is its version (0: it does not exist)",
        )
        parser.add_argument("--if-absent", action="store_true", help="only if it does not exist")
        leaderless_keys.add_level(parser, reads=False)
        leaderless_keys.add_context(parser)
        remote.add_keyspace(parser)
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        remote.one_of({"VALUE": args.value is not None, "--file": args.file is not None})
        value = value_of(args.value, args.file)
        return remote.run(
            args, partial(_put, args, value), partial(leaderless_keys.put, args, value)
        )


def value_of(text: str | None, file: Path | None) -> bytes:
    if file is not None:
        try:
            return file.read_bytes()
        except OSError as error:
            raise InvalidOptionError(
                f"{file} cannot be read ({error.strerror}); give another --file"
            ) from error
    assert text is not None
    return remote.input_bytes() if text == "-" else argument_bytes(text)


async def _put(args: argparse.Namespace, value: bytes, client: Client) -> int:
    key = argument_bytes(args.key)
    done = await client.put(
        key,
        value,
        ttl=args.ttl,
        lease=args.lease,
        if_version=args.if_version,
        if_absent=args.if_absent,
    )
    status = "created" if done.created else "updated"
    if args.json:
        document = {"version": done.version, "status": status, "timestamp": done.timestamp_ms}
        emit_json({**named("key", key), **document})
    else:
        emit(f"{status}, version {done.version}")
    return 0


class DeleteCommand:
    name = "del"
    help = "delete a key, or all keys with a prefix"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Delete a key, or with --prefix all keys that begin with KEY, as one revision. Exit "
            "code 1: there was nothing to delete, or --if-version did not hold."
        )
        parser.add_argument("key", metavar="KEY")
        parser.add_argument("--prefix", action="store_true", help="all keys that begin with KEY")
        parser.add_argument(
            "--if-version", type=remote.number, metavar="N", help="only if this is its version"
        )
        leaderless_keys.add_level(parser, reads=False)
        leaderless_keys.add_context(parser)
        remote.add_keyspace(parser)
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        if args.prefix and args.if_version is not None:
            raise InvalidOptionError("--if-version is of one key; leave --prefix away")
        return remote.run(args, partial(_delete, args), partial(leaderless_keys.delete, args))


async def _delete(args: argparse.Namespace, client: Client) -> int:
    key = argument_bytes(args.key)
    if args.prefix:
        count = await client.delete_prefix(key)
        if args.json:
            emit_json({**named("prefix", key), "deleted": count})
        else:
            emit(f"{count} {'key' if count == 1 else 'keys'} deleted")
        return 0 if count else EXIT_NO
    done = await client.delete(key, if_version=args.if_version)
    if args.json:
        emit_json({**named("key", key), "deleted": done.deleted, "version": done.version})
    elif done.deleted:
        emit(f"deleted, revision {done.version}")
    else:
        remote.complain(f"{printable(key)} does not exist")
    return 0 if done.deleted else EXIT_NO


class CasCommand:
    name = "cas"
    help = "write a key if it is what you think (compare and set)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Write a key only if it has the version or value that is expected; 0 is the version of "
            "a key that does not exist. Exit code 1: it has not, and nothing was written."
        )
        parser.add_argument("key", metavar="KEY")
        parser.add_argument("value", metavar="NEW_VALUE", nargs="?", help="- is standard input")
        parser.add_argument("--delete", action="store_true", help="delete it instead")
        parser.add_argument("--expect-version", type=remote.number, metavar="N")
        parser.add_argument("--expect-value", metavar="VALUE")
        parser.add_argument("--ttl", type=remote.positive_seconds, metavar="SECONDS")
        parser.add_argument("--lease", type=remote.number, metavar="ID")
        remote.add_keyspace(parser)
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        remote.one_of({"NEW_VALUE": args.value is not None, "--delete": args.delete})
        if args.expect_version is None and args.expect_value is None:
            raise InvalidOptionError("give --expect-version or --expect-value, or both")
        return remote.run(args, partial(_cas, args))


async def _cas(args: argparse.Namespace, client: Client) -> int:
    key = argument_bytes(args.key)
    done = await client.cas(
        key,
        None if args.delete else value_of(args.value, None),
        expected_version=args.expect_version,
        expected_value=None if args.expect_value is None else argument_bytes(args.expect_value),
        ttl=args.ttl,
        lease=args.lease,
    )
    if args.json:
        emit_json({**named("key", key), "success": done.success, "version": done.version})
    elif done.success:
        emit("deleted" if args.delete else f"written, version {done.version}")
    else:
        now = f"has version {done.version}" if done.version else "does not exist"
        remote.complain(f"lost: {printable(key)} {now}; read it again and decide anew")
    return 0 if done.success else EXIT_NO


class IncrementCommand:
    name = "incr"
    help = "add to a number, atomically"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Add DELTA (default 1, may be negative) to the decimal number that a key holds, and "
            "print the sum. A key that does not exist counts as 0."
        )
        parser.add_argument("key", metavar="KEY")
        parser.add_argument("delta", metavar="DELTA", nargs="?", type=remote.number, default=1)
        leaderless_keys.add_level(parser, reads=False)
        remote.add_keyspace(parser)
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        return remote.run(args, partial(_increment, args), partial(leaderless_keys.increment, args))


async def _increment(args: argparse.Namespace, client: Client) -> int:
    key = argument_bytes(args.key)
    done = await client.incr(key, args.delta)
    if args.json:
        emit_json({**named("key", key), "value": done.value, "version": done.version})
    else:
        emit(str(done.value))
    return 0
