"""`januskv status` and `januskv health`: every node, as it says of itself.

Asked are the endpoints given and those that the cluster names; a node that does not answer gets a
row that says why.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kv.cli import remote
from kv.cli.remote import EXIT_NO, emit, emit_json
from kv.cli.show import seconds, size, table
from storage.errors import JanusError

if TYPE_CHECKING:
    from kv.api.admin_bodies import ClusterState, NodeStatus
    from kv.client import Client

ASK_S: Final = 3.0
_HEAD: Final = ("ENDPOINT", "NODE", "ROLE", "LEADER", "TERM", "LAG", "REVISION", "SIZE", "UP")


@dataclass(frozen=True, slots=True)
class Answer:
    endpoint: str
    status: NodeStatus | None
    error: str = ""


class StatusCommand:
    name = "status"
    help = "a table of all nodes: leader, term, lag, revision, size"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Ask every node how it is: the endpoints given, and those that the cluster names. LAG "
            "is how many committed entries a node has not applied yet. Exit code 1: a node does "
            "not answer, or has a problem."
        )
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        return remote.run(args, partial(_status, args))


async def _status(args: argparse.Namespace, client: Client) -> int:
    time_s = ASK_S if args.timeout is None else args.timeout
    answers, cluster = await ask_all(client, time_s)
    names = {each.status.node_id: each.status.name for each in answers if each.status}
    if args.json:
        emit_json(_document(answers, cluster))
    else:
        strong = any(each.status is not None and each.status.mode == "strong" for each in answers)
        ring = any(each.status is not None and each.status.leaderless for each in answers)
        if strong or not ring:
            rows = [_row(each, names) for each in answers]
            emit(table(_HEAD, rows, right="TERM LAG REVISION SIZE"))
        if ring:
            emit(("\n" if strong else "") + leaderless_table(answers))
        for sentence in () if cluster is None else cluster.advice:
            emit(sentence)
        for each in answers:
            for problem in each.status.problems if each.status else [each.error]:
                emit(f"{each.endpoint}: {problem}")
    well = all(each.status is not None and not each.status.problems for each in answers)
    return 0 if well else EXIT_NO


async def ask_all(client: Client, time_s: float) -> tuple[list[Answer], ClusterState | None]:
    """One answer a node, in the order of their endpoints; nodes asked twice are shown once."""
    from kv.client.endpoints import parse_endpoint

    given = list(client.endpoints)
    answers = list(await asyncio.gather(*[_ask(client, url, time_s) for url in given]))
    cluster = await _cluster(client, answers, time_s)
    seen = {each.status.node_id for each in answers if each.status is not None}
    secure = any(url.startswith("https:") for url in given)
    others = []
    for node in cluster.nodes if cluster is not None else ():
        if node.node_id not in seen and node.address:
            address = (
                node.address if "//" in node.address or not secure else f"https://{node.address}"
            )
            url = parse_endpoint(address)
            if url not in given:
                others.append(url)
    answers += await asyncio.gather(*[_ask(client, url, time_s) for url in others])
    return _each_once(answers), cluster


def _each_once(answers: list[Answer]) -> list[Answer]:
    found: dict[str, Answer] = {}
    for each in answers:
        found.setdefault(each.endpoint if each.status is None else each.status.node_id, each)
    return sorted(found.values(), key=lambda each: each.endpoint)


async def _ask(client: Client, url: str, time_s: float) -> Answer:
    try:
        return Answer(url, await client.status(url, timeout_s=time_s))
    except JanusError as error:
        return Answer(url, None, str(error))


async def _cluster(client: Client, answers: list[Answer], time_s: float) -> ClusterState | None:
    """As the first node says that answers."""
    for each in answers:
        if each.status is not None:
            try:
                return await client.cluster(each.endpoint, timeout_s=time_s)
            except JanusError:
                continue
    return None


def _row(answer: Answer, names: dict[str, str]) -> tuple[object, ...]:
    status = answer.status
    if status is None:
        return (answer.endpoint, "?", "no answer", *["-"] * 6)
    leader = "none" if status.leader is None else names.get(status.leader, status.leader)
    return (
        answer.endpoint,
        status.name,
        status.role,
        leader,
        status.term,
        status.lag,
        status.revision,
        size(status.data_bytes),
        seconds(status.uptime_s),
    )


_LEADERLESS_HEAD: Final = ("ENDPOINT", "NODE", "SHARE", "UNDER WAY", "REPAIRED", "SIZE", "UP")
_PEER_HEAD: Final = ("NODE", "SEES", "IN REACH", "PHI", "HINTS FOR IT", "BYTES", "OVERFLOWED")


def leaderless_table(answers: list[Answer]) -> str:
    """Nodes, and below them how each sees each other: phi, hints kept, repairs owed."""
    nodes: list[tuple[object, ...]] = []
    peers: list[tuple[object, ...]] = []
    for answer in answers:
        status = answer.status
        if status is None or not status.leaderless:
            nodes.append((answer.endpoint, "?", "no answer", *["-"] * 4))
            continue
        own = status.leaderless
        nodes.append(
            (
                answer.endpoint,
                status.name,
                f"{100 * own.share:.1f} %",
                own.under_way,
                own.counts.get("repaired", 0),
                size(status.data_bytes),
                seconds(status.uptime_s),
            )
        )
        peers += [
            (
                status.name,
                peer.name,
                "yes" if peer.connected else "NO",
                "-" if peer.phi is None else f"{peer.phi:.1f}",
                peer.hints,
                size(peer.hints_bytes),
                peer.overflowed,
            )
            for peer in own.peers
        ]
    shown = table(_LEADERLESS_HEAD, nodes, right="SHARE UNDER WAY REPAIRED SIZE")
    if not peers:
        return shown
    return f"{shown}\n\n{table(_PEER_HEAD, peers, right='PHI BYTES OVERFLOWED')}"


def _document(answers: list[Answer], cluster: ClusterState | None) -> dict[str, Any]:
    import msgspec

    nodes = [
        {
            "endpoint": each.endpoint,
            "answers": each.status is not None,
            **(
                {"message": each.error} if each.status is None else msgspec.to_builtins(each.status)
            ),
        }
        for each in answers
    ]
    return {"nodes": nodes, "cluster": None if cluster is None else msgspec.to_builtins(cluster)}


class HealthCommand:
    name = "health"
    help = "does every endpoint serve? each does a linearizable read"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Let each of the endpoints given do a linearizable read, which needs a leader and a "
            "majority, and print how long it took. Exit code 1: one could not."
        )
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        return remote.run(args, partial(_health, args))


async def _health(args: argparse.Namespace, client: Client) -> int:
    time_s = ASK_S if args.timeout is None else args.timeout
    results = await asyncio.gather(*[_ping(client, url, time_s) for url in client.endpoints])
    if args.json:
        emit_json({"endpoints": results})
    else:
        width = max(len(url) for url in client.endpoints)
        for each in results:
            took = each["seconds"]
            told = (
                f"healthy, {seconds(took)}" if each["healthy"] else f"UNHEALTHY: {each['message']}"
            )
            emit(f"{each['endpoint']:<{width}}  {told}")
    return 0 if all(each["healthy"] for each in results) else EXIT_NO


async def _ping(client: Client, url: str, time_s: float) -> dict[str, Any]:
    try:
        took = await client.ping(url, timeout_s=time_s)
    except JanusError as error:
        return {"endpoint": url, "healthy": False, "seconds": None, "message": str(error)}
    return {"endpoint": url, "healthy": True, "seconds": round(took, 6), "message": ""}
