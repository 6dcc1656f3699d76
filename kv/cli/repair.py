"""`januskv repair`: every node of a leaderless cluster is compared with all others, now."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from kv.cli import remote
from kv.cli.progress import Progress
from kv.cli.remote import EXIT_NO, emit, emit_json
from kv.cli.show import size, table
from kv.errors import WrongRegimeError

if TYPE_CHECKING:
    from kv.client import LeaderlessClient

_HEAD = ("NODE", "EXCHANGES", "EQUAL", "FETCHED", "PUSHED", "BYTES", "NOT DONE WITH")


class RepairCommand:
    name = "repair"
    help = "bring all copies of a leaderless keyspace up to date, now"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Let one node after the other compare what it has with all others, by hash trees, and "
            "exchange what differs. It happens by itself once an hour; this is for now. Exit code "
            "1: some exchange did not come to its end."
        )
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        return remote.run(args, None, partial(_repair, args))


async def _repair(args: argparse.Namespace, client: LeaderlessClient) -> int:
    try:
        return await _repair_all(args, client)
    except WrongRegimeError as error:
        remote.complain(str(error))
        return EXIT_NO


async def _repair_all(args: argparse.Namespace, client: LeaderlessClient) -> int:
    cluster = await client.cluster()
    nodes = [node for node in cluster.nodes if node.status == "alive"]
    progress = Progress(len(nodes))
    rows: list[tuple[object, ...]] = []
    documents = []
    whole = True
    try:
        for node in nodes:
            done = await client.repair(node.address)
            whole &= not done.broken_off and not done.failed
            progress.advance(1, f"{node.name} is repaired")
            documents.append((node.name, done))
            rows.append(
                (
                    node.name,
                    done.exchanges,
                    done.equal,
                    done.fetched,
                    done.pushed,
                    size(done.transferred_bytes),
                    ", ".join(f"{name}: {why}" for name, why in done.broken_off.items()) or "-",
                )
            )
    finally:
        progress.finish()
    if args.json:
        import msgspec

        emit_json({name: msgspec.to_builtins(done) for name, done in documents})
    else:
        emit(table(_HEAD, rows, right="EXCHANGES EQUAL FETCHED PUSHED"))
    return 0 if whole else EXIT_NO
