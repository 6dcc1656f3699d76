"""`python -m chaos.toxics`: the toxics server as a process of its own.

    python -m chaos.toxics [--listen HOST:PORT] [--config FILE] [--seed N]

FILE is what toxiproxy takes: a JSON list of {"name", "listen", "upstream", "enabled"}. Upstreams
are resolved at each connection, so they need not be there yet. SIGTERM and SIGINT end it.

Whoever reaches the API can open connections from this machine, so it listens on loopback unless
--insecure says that the network is trusted.

Exit codes: 0 told to stop, 2 it could not start (the line printed says why).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from chaos.toxics.proxy import split_address
from chaos.toxics.server import running
from kv.cluster.reach import is_loopback
from storage.errors import InvalidOptionError, InvalidRequestError
from storage.system_clock import SystemClock

DEFAULT_LISTEN: Final = "127.0.0.1:8474"
EXIT_WRONG: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    seed = int.from_bytes(os.urandom(8), "big") if args.seed is None else args.seed
    try:
        listen = split_address(args.listen)
        if not (is_loopback(listen[0]) or args.insecure):
            raise InvalidOptionError(
                f"--listen {args.listen}: whoever reaches this API can open connections from this "
                "machine; use 127.0.0.1, or add --insecure where the network is trusted"
            )
        asyncio.run(serve(listen, read_proxies(args.config), seed))
    except (InvalidOptionError, InvalidRequestError) as error:
        sys.stderr.write(f"chaos.toxics: {error}\n")
        return EXIT_WRONG
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m chaos.toxics",
        description="TCP proxies that break connections on demand, with toxiproxy's HTTP API.",
    )
    made.add_argument(
        "--listen", default=DEFAULT_LISTEN, metavar="HOST:PORT", help=f"the API ({DEFAULT_LISTEN})"
    )
    made.add_argument("--config", type=Path, metavar="FILE", help="proxies to begin with, as JSON")
    made.add_argument("--seed", type=int, metavar="N", help="of jitter and toxicity (random)")
    made.add_argument(
        "--insecure", action="store_true", help="allow an API address beyond loopback"
    )
    return made


def read_proxies(path: Path | None) -> list[dict[str, Any]]:
    """Raises InvalidOptionError."""
    if path is None:
        return []
    try:
        proxies = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidOptionError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(proxies, list) or not all(isinstance(each, dict) for each in proxies):
        raise InvalidOptionError(
            f'--config {path} is no list of proxies; write [{{"name": "a", "listen": "HOST:PORT", '
            '"upstream": "HOST:PORT"}]'
        )
    return proxies


async def serve(listen: tuple[str, int], proxies: list[dict[str, Any]], seed: int) -> None:
    """Until a signal says so."""
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_stop.set)
    rng = random.Random(seed)
    async with running(listen, proxies, clock=SystemClock(), rng=rng) as (server, address):
        sys.stderr.write(
            f"chaos.toxics: API on http://{address[0]}:{address[1]}, "
            f"{len(server.proxies)} proxies, seed {seed}\n"
        )
        sys.stderr.flush()
        await told_to_stop.wait()


if __name__ == "__main__":
    raise SystemExit(main())
