"""`januskv ring`: who owns what of a leaderless keyspace, as a picture in text."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Final

from kv.cli import remote
from kv.cli.remote import emit, emit_json
from kv.cli.show import table
from kv.errors import WrongRegimeError

if TYPE_CHECKING:
    from kv.api.admin_bodies import RingState
    from kv.client import LeaderlessClient

COLUMNS: Final = 64
BAR: Final = 30
_HEAD: Final = ("", "NODE", "ID", "SHARE", "TOKENS", "IN REACH", "")


class RingCommand:
    name = "ring"
    help = "draw which node owns which part of the ring (leaderless)"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Draw the ring of a leaderless cluster as one node sees it: each letter is an equal "
            "part of it, from token 0 on, and names the part's first owner; the copies are on the "
            "next different nodes clockwise. SHARE is of all copies."
        )
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        return remote.run(args, None, partial(_ring, args))


async def _ring(args: argparse.Namespace, client: LeaderlessClient) -> int:
    try:
        state = await client.ring()
    except WrongRegimeError as error:
        remote.complain(str(error))
        return remote.EXIT_NO
    if args.json:
        import msgspec

        emit_json(msgspec.to_builtins(state))
    else:
        emit(picture(state))
    return 0


def picture(state: RingState) -> str:
    """Pure."""
    largest = max((member.share for member in state.members), default=0) or 1
    rows = [
        (
            member.letter,
            member.name,
            member.node_id,
            f"{100 * member.share:.1f} %",
            member.tokens,
            "yes" if member.connected else "NO",
            "#" * max(1, round(BAR * member.share / largest)),
        )
        for member in state.members
    ]
    strip = [state.slices[at : at + COLUMNS] for at in range(0, len(state.slices), COLUMNS)]
    total = len(strip)
    lines = [f"{100 * place // total:>3} %  {part}" for place, part in enumerate(strip)]
    copies = min(state.n, len(state.members))
    head = f"ring epoch {state.epoch}, {copies} of {state.n} copies of each key"
    return "\n".join([head, *lines, "", table(_HEAD, rows, right="SHARE TOKENS")])
