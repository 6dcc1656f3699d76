"""What the commands that talk to a cluster share: where it is, how to ask, how to print.

The client is imported when a command runs, so that `januskv --help` stays quick.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from storage.errors import InvalidOptionError, JanusError

if TYPE_CHECKING:
    from kv.client import Client, LeaderlessClient

ENDPOINTS_VARIABLE: Final = "JANUSKV_ENDPOINTS"
DEFAULT_ENDPOINTS: Final = "127.0.0.1:7400"
EXIT_NO: Final = 1
NOBODY_S: Final = 2.0
NO_CODES: Final = frozenset(
    {
        "key_not_found",
        "lease_not_found",
        "lease_exists",
        "key_exists",
        "version_mismatch",
        "lock_held",
    }
)
"""Errors that are an answer: the state is not what was asked for."""

STRONG: Final = "strong"
KEYSPACES: Final = "/api/v1/admin/keyspaces"

Work = Callable[["Client"], Awaitable[int]]
LeaderlessWork = Callable[["LeaderlessClient"], Awaitable[int]]


def add_connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--endpoints",
        metavar="URL[,URL]",
        help=f"nodes to ask, as host:port or URLs (default {ENDPOINTS_VARIABLE}, else "
        f"{DEFAULT_ENDPOINTS})",
    )
    group.add_argument(
        "--timeout",
        type=positive_seconds,
        metavar="SECONDS",
        help="for each call with all its retries (default 10)",
    )
    group.add_argument(
        "--cacert", metavar="FILE", help="trust https endpoints whose certificates it signed (PEM)"
    )
    group.add_argument("--cert", metavar="FILE", help="our certificate, for nodes that want one")
    group.add_argument("--key-file", metavar="FILE", help="its key (default: in --cert)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def add_keyspace(parser: argparse.ArgumentParser) -> None:
    """For commands about keys."""
    parser.add_argument(
        "--keyspace",
        dest="in_keyspace",
        metavar="NAME",
        help="the keyspace; its regime decides what the other options mean (default: default)",
    )


def positive_seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f"{text} seconds is not a time; give more than 0")
    return number


def number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def run(
    args: argparse.Namespace, work: Work | None, leaderless: LeaderlessWork | None = None
) -> int:
    """Run it with a client. An error that is an answer ("no") becomes exit code 1. `leaderless` is
    done instead if the keyspace is leaderless, or if there is no other work."""
    from kv.client import Client, LeaderlessClient

    options: dict[str, Any] = {"refused_s": NOBODY_S}
    if args.timeout is not None:
        options.update(timeout_s=args.timeout, refused_s=args.timeout)

    options["tls"] = trust(args.cacert, args.cert, args.key_file)
    keyspace = options["keyspace"] = getattr(args, "in_keyspace", None)

    async def with_client() -> int:
        if work is not None:
            async with Client(endpoints(args), **options) as client:
                if leaderless is None or await _regime(client, keyspace) == STRONG:
                    return await work(client)
        assert leaderless is not None, "there is one of the two"
        async with LeaderlessClient(endpoints(args), **options) as other:
            return await leaderless(other)

    try:
        return asyncio.run(with_client())
    except JanusError as error:
        if error.code not in NO_CODES:
            raise
        complain(str(error))
        return EXIT_NO


async def _regime(client: Client, keyspace: str | None) -> str:
    if keyspace is None:
        return (await client.status()).mode
    found = await client.admin("GET", f"{KEYSPACES}/{quote(keyspace, safe='')}")
    return str(found["regime"])


def trust(cacert: str | None, cert: str | None, key_file: str | None) -> ssl.SSLContext | None:
    """None: what this machine trusts. Raises InvalidOptionError."""
    if key_file is not None and cert is None:
        raise InvalidOptionError("--key-file is of a certificate; give --cert, too")
    if cacert is None and cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=cacert)
        if cert is not None:
            context.load_cert_chain(cert, key_file)
    except OSError as error:  # also ssl.SSLError
        files = ", ".join(name for name in (cacert, cert, key_file) if name is not None)
        raise InvalidOptionError(
            f"cannot use {files} ({error.strerror or error}); give PEM files that belong together"
        ) from error
    return context


def endpoints(args: argparse.Namespace) -> str:
    return args.endpoints or os.environ.get(ENDPOINTS_VARIABLE) or DEFAULT_ENDPOINTS


def argument_bytes(text: str) -> bytes:
    """What was typed, byte for byte."""
    return os.fsencode(text)


def input_bytes() -> bytes:
    return sys.stdin.buffer.read()


def emit(text: str) -> None:
    """A line, at once: readers of a stream wait for it."""
    print(text, flush=True)


def emit_json(document: Any) -> None:
    emit(json.dumps(document, ensure_ascii=False))


def emit_bytes(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def complain(text: str) -> None:
    sys.stderr.write(f"januskv: {text}\n")


def one_of(chosen: dict[str, bool]) -> None:
    """Raises InvalidOptionError unless exactly one was given."""
    if sum(chosen.values()) != 1:
        names = list(chosen)
        raise InvalidOptionError(f"give exactly one of {', '.join(names[:-1])} and {names[-1]}")
