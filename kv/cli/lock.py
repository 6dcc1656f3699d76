"""`januskv lock NAME -- COMMAND...`: run a command while holding a lock.

The command gets JANUSKV_LOCK_NAME, JANUSKV_LOCK_TOKEN (the fencing token), JANUSKV_LOCK_KEY and
JANUSKV_LOCK_LEASE. When the lock is lost meanwhile the command is asked to end (SIGTERM) and, if it
does not, ended: two of them must not run at once.

Exit codes: the command's (128 + n if signal n ended it); 1 somebody else had the lock for as long
as --wait; 75 the lock was lost; 126, 127 the command cannot be started, as shells have it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from kv.cli import remote
from kv.cli.remote import argument_bytes, emit, emit_json
from kv.cli.show import named, printable
from storage.errors import InvalidOptionError

if TYPE_CHECKING:
    from kv.client import Client, Lock

EXIT_LOST: Final = 75
EXIT_NOT_RUNNABLE: Final = 126
EXIT_NOT_FOUND: Final = 127
GRACE_S: Final = 5.0
DEFAULT_TTL_S: Final = 10.0


class LockCommand:
    name = "lock"
    help = "run a command while holding a lock"
    runs_another = True
    """main.py gives what stands behind `--` as `args.another`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Wait for a lock, run a command while it is held, and let it go. The command gets the "
            "fencing token as JANUSKV_LOCK_TOKEN. Without a command the lock is held until ctrl-C. "
            "Exit codes: the command's; 1: another one held the lock longer than --wait; 75: the "
            "lock was lost, and the command ended."
        )
        parser.usage = "januskv lock NAME [OPTION...] [-- COMMAND [ARGUMENT...]]"
        parser.add_argument("lock_name", metavar="NAME")
        parser.add_argument(
            "--ttl",
            type=remote.positive_seconds,
            default=DEFAULT_TTL_S,
            metavar="SECONDS",
            help="how long it stays locked if this process dies (default 10)",
        )
        parser.add_argument(
            "--wait",
            type=_wait,
            metavar="SECONDS",
            help="give up after this; 0: do not wait (default: wait as long as it takes)",
        )
        parser.add_argument("--owner", help="for others to see (default host and process id)")
        remote.add_keyspace(parser)
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        if args.json and args.another:
            raise InvalidOptionError("--json is for a lock without a command")
        return remote.run(args, partial(_hold, args))


def _wait(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else remote.positive_seconds(text)


async def _hold(args: argparse.Namespace, client: Client) -> int:
    lock = client.lock(
        argument_bytes(args.lock_name),
        ttl=args.ttl,
        wait_s=args.wait,
        owner=args.owner or f"{os.uname().nodename} process {os.getpid()}",
        cancel_on_loss=False,
    )
    async with lock:
        if args.another:
            return await _run(args.another, lock)
        _emit_held(args, lock)
        await lock.wait_lost()
        return _lost(lock)


def _emit_held(args: argparse.Namespace, lock: Lock) -> None:
    info = lock.info
    if args.json:
        held = {"token": info.token, "lease": str(info.lease)}
        emit_json({**named("name", info.name), **named("key", info.key), **held})
    else:
        emit(f"locked, token {info.token}; ctrl-C lets it go")


def _lost(lock: Lock) -> int:
    remote.complain(
        f"the lock {printable(lock.name)} was lost: its lease could not be renewed in time, or "
        "somebody has revoked it"
    )
    return EXIT_LOST


async def _run(words: list[str], lock: Lock) -> int:
    info = lock.info
    try:
        child = await asyncio.create_subprocess_exec(
            *words,
            env={
                **os.environb,
                b"JANUSKV_LOCK_NAME": info.name,
                b"JANUSKV_LOCK_KEY": info.key,
                b"JANUSKV_LOCK_TOKEN": b"%d" % info.token,
                b"JANUSKV_LOCK_LEASE": b"%d" % info.lease,
            },
        )
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        remote.complain(f"{words[0]} cannot be run: {why}")
        return EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_RUNNABLE
    with _signals_to(child):
        lost = asyncio.ensure_future(lock.wait_lost())
        ended = asyncio.ensure_future(child.wait())
        try:
            await asyncio.wait((lost, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return _code(ended.result())
            await _end(child, ended)
            return _lost(lock)
        finally:
            lost.cancel()
            if not ended.done():  # we are ended ourselves
                await _end(child, ended)


def _code(code: int) -> int:
    return code if code >= 0 else 128 - code


async def _end(child: asyncio.subprocess.Process, ended: asyncio.Future[int]) -> None:
    for send in (child.terminate, child.kill):
        with suppress(ProcessLookupError):
            send()
        await asyncio.wait((ended,), timeout=GRACE_S)
        if ended.done():
            return


@contextmanager
def _signals_to(child: asyncio.subprocess.Process) -> Iterator[None]:
    """They go on to the command, which decides; ctrl-C on a terminal reaches it by itself."""

    def tell(number: signal.Signals) -> None:
        if number is signal.SIGTERM or not sys.stdin.isatty():
            with suppress(ProcessLookupError):
                child.send_signal(number)

    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, tell, signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, tell, signal.SIGINT)
    except (ValueError, RuntimeError, NotImplementedError):  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)
