"""`januskv serve`: one node in this process, until it is told to stop.

With no arguments it is an embedded single node on 127.0.0.1:7400 with its data in ./januskv-data.
SIGTERM and SIGINT stop it in good order; a second one ends it at once. Exit codes: 0 stopped, 2 it
could not start (the line printed says why), 70 a write failed, 71 a write hung, 72 a task died.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Final

from kv import logs
from kv.app import App
from kv.config.reading import load_config
from kv.config.sections import MODES, Config

LAST_LINES_S: Final = 0.5
GC_ALLOCATIONS: Final = 50_000
SWITCH_S: Final = 0.0005
"""How long a thread keeps the interpreter while another one waits for it. The loop asks for it back
after each sync and each wait, and beside a fold (storage/logged_engine.py) that took up to the
usual 5 ms: of writes that met a fold on a memory disk, one in a hundred took 12 to 15 ms, now 9."""


class ServeCommand:
    name = "serve"
    help = "run one node; with no arguments a single one on 127.0.0.1:7400"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file")
        parser.add_argument("--name", metavar="NAME", help="a label for people [node.name]")
        parser.add_argument("--data", metavar="DIR", help="the data directory [node.data]")
        parser.add_argument("--listen", metavar="HOST:PORT", help="for clients [node.listen]")
        parser.add_argument(
            "--mode", choices=MODES, help="the regime of the default keyspace [mode]"
        )

    def run(self, args: argparse.Namespace) -> int:
        options = {
            "node.name": args.name,
            "node.data": args.data,
            "node.listen": args.listen,
            "mode": args.mode,
        }
        given = {path: value for path, value in options.items() if value is not None}
        config = load_config(args.config, os.environ, given)
        installed = logs.install(config.log, config.node.name)
        try:
            with asyncio.Runner(loop_factory=make_loop) as runner:
                return runner.run(serve(config, installed))
        finally:
            installed.close()


def make_loop() -> asyncio.AbstractEventLoop:
    """uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def serve(config: Config, installed: logs.Logs) -> int:
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()

    def end_with_log(code: int, why: str) -> None:
        installed.flush(LAST_LINES_S)
        end_at_once(code, why)

    app = App(config, loop=loop, on_fatal=end_with_log)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, partial(_stop, told_to_stop))
    try:
        starting = loop.create_task(app.start())
        stopping = loop.create_task(told_to_stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            spare_the_collector()
            sys.setswitchinterval(SWITCH_S)
            sys.stderr.write(f"januskv: {app.describe()}\n")
            await told_to_stop.wait()
        else:
            starting.cancel()
            await asyncio.wait((starting,))
        stopping.cancel()
    finally:
        await app.stop("this node is told to stop")
    return 0


def spare_the_collector() -> None:
    """What stands now stands for good, and what requests make dies by itself: three to six percent
    more puts and gets a second, measured in turn."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)


def _stop(told_to_stop: asyncio.Event) -> None:
    if told_to_stop.is_set():
        end_at_once(130, "told to stop twice")
    told_to_stop.set()


def end_at_once(code: int, why: str) -> None:
    """Whatever else is going on: nothing may be acknowledged any more."""
    sys.stderr.write(f"januskv: {why}\n")
    sys.stderr.flush()
    os._exit(code)
