"""`januskv get`, `put`, `del` and `incr` where keys are leaderless: siblings, contexts, levels."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from kv.cli import remote
from kv.cli.remote import EXIT_NO, argument_bytes, emit, emit_json
from kv.cli.show import named, printable
from storage.errors import InvalidOptionError

if TYPE_CHECKING:
    from kv.client import LeaderlessClient
    from kv.client.leaderless_records import KeyState, Sibling, Written

LEVELS: Final = ("one", "quorum", "all")
STRONG_LEVELS: Final = ("linearizable", "session", "eventual")


def add_level(parser: argparse.ArgumentParser, *, reads: bool) -> None:
    """For both regimes where it reads: which levels there are depends on the cluster."""
    both = (*STRONG_LEVELS, *LEVELS) if reads else LEVELS
    text = "how fresh (default linearizable), or how many replicas answer (leaderless)"
    parser.add_argument(
        "--level",
        choices=both,
        help=text if reads else "leaderless: how many replicas must have it (default: a majority)",
    )


def add_context(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("leaderless keyspaces only")
    group.add_argument(
        "--context",
        metavar="TEXT",
        help="replace what the read with this context showed; without it concurrent values stay",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="read first, and replace all values that are there",
    )


def refuse(args: argparse.Namespace, **given: object) -> None:
    """What only the strong regime can do."""
    for option, value in given.items():
        if value not in (None, False):
            raise InvalidOptionError(
                f"--{option.replace('_', '-')} is for strong keyspaces, and this one is leaderless"
            )


def level_of(args: argparse.Namespace) -> str | None:
    level: str | None = args.level
    if level in STRONG_LEVELS:
        raise InvalidOptionError(
            f"--level {level} is for strong keyspaces, and this one is leaderless; give one of "
            f"{', '.join(LEVELS)}"
        )
    return None if level is None else level.upper()


async def get_one(args: argparse.Namespace, client: LeaderlessClient) -> int:
    refuse(args, revision=args.revision)
    key = argument_bytes(args.key)
    state = await client.get(key, level=level_of(args))
    if state is None:
        if args.json:
            emit_json({**named("key", key), "found": False})
        else:
            remote.complain(f"{printable(key)} does not exist")
        return EXIT_NO
    if args.json:
        emit_json(document(state, values=not args.keys_only))
    elif args.raw:
        remote.emit_bytes(state.value)
    elif args.keys_only:
        emit(printable(key))
    else:
        _show(state)
    return 0


def document(state: KeyState, *, values: bool) -> dict[str, Any]:
    siblings = [
        {
            **(named("value", each.value) if values else {}),
            "timestamp": each.timestamp_ms,
            "ttl_remaining": each.ttl_remaining_s,
        }
        for each in state.siblings
    ]
    return {
        **named("key", state.key),
        "found": True,
        **(siblings[0] if len(siblings) == 1 else {"siblings": siblings}),
        "context": state.context,
        "replicas": state.replicas,
        "fallbacks": state.fallbacks,
        "level": state.level,
    }


def _show(state: KeyState) -> None:
    """One value is printed as it is; siblings so that nobody takes them for one."""
    if len(state.siblings) == 1:
        emit(printable(state.siblings[0].value))
        return
    emit(f"{len(state.siblings)} siblings, written without knowing of each other:")
    for number, each in enumerate(state.siblings, 1):
        emit(f"{number}  {_when(each)}  {printable(each.value)}")
    emit("put what they amount to with --overwrite, or with:")
    emit(f"--context {state.context}")


def _when(sibling: Sibling) -> str:
    moment = datetime.fromtimestamp(sibling.timestamp_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


async def get_many(args: argparse.Namespace, client: LeaderlessClient) -> int:
    refuse(args, revision=args.revision, level=args.level)
    entries = client.list(argument_bytes(args.key), values=not args.keys_only, limit=args.limit)
    async for entry in entries:
        if args.json:
            values = [
                {**named("value", each.value), "timestamp": each.timestamp_ms}
                for each in entry.siblings
            ]
            shown = values[0] if len(values) == 1 else {"siblings": values} if values else {}
            context = {"context": entry.context} if entry.context else {}
            emit_json({**named("key", entry.key), **shown, **context})
        elif len(entry.siblings) > 1:
            for number, each in enumerate(entry.siblings, 1):
                emit(
                    f"{printable(entry.key)}  ({number} of {len(entry.siblings)})  "
                    f"{printable(each.value)}"
                )
        else:
            value = printable(entry.siblings[0].value) if entry.siblings else ""
            emit(f"{printable(entry.key)}  {value}".rstrip())
    return 0


async def put(args: argparse.Namespace, value: bytes, client: LeaderlessClient) -> int:
    refuse(args, lease=args.lease, if_version=args.if_version, if_absent=args.if_absent)
    key = argument_bytes(args.key)
    context = await _context(args, key, client)
    done = await client.put(key, value, context=context, ttl=args.ttl, level=level_of(args))
    _tell(args, key, "written", done)
    return 0


async def delete(args: argparse.Namespace, client: LeaderlessClient) -> int:
    refuse(args, prefix=args.prefix, if_version=args.if_version)
    key = argument_bytes(args.key)
    context = await _context(args, key, client)
    if context is None:
        # "del KEY" means what is there now; only a script with a context means less.
        state = await client.get(key, level=level_of(args))
        if state is None:
            remote.complain(f"{printable(key)} does not exist")
            return EXIT_NO
        context = state.context
    done = await client.delete(key, context=context, level=level_of(args))
    _tell(args, key, "deleted", done)
    return 0


async def _context(args: argparse.Namespace, key: bytes, client: LeaderlessClient) -> str | None:
    if args.context is not None and args.overwrite:
        raise InvalidOptionError("--context and --overwrite are both given; give one")
    if not args.overwrite:
        context: str | None = args.context
        return context
    state = await client.get(key, level=level_of(args))
    return None if state is None else state.context


def _tell(args: argparse.Namespace, key: bytes, what: str, done: Written) -> None:
    if args.json:
        emit_json({**named("key", key), "status": what, **done._asdict()})
        return
    stand_ins = f", {len(done.fallbacks)} of them standing in" if done.fallbacks else ""
    emit(f"{what} on {len(done.replicas)} replicas ({done.level}){stand_ins}")


async def increment(args: argparse.Namespace, client: LeaderlessClient) -> int:
    key = argument_bytes(args.key)
    done = await client.incr(key, args.delta, level=level_of(args))
    if args.json:
        emit_json({**named("key", key), "value": done.value, **done.written._asdict()})
    else:
        emit("added; the sum is not known now" if done.value is None else str(done.value))
    return 0
