"""The checkers are not fooled: a healthy node behind a proxy that lies, and every lie is caught."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from chaos.calling import Books
from chaos.lying import Lie, LyingProxy
from chaos.scenarios.menu import LOADS
from chaos.scenarios.scenario import Load
from chaos.servers import Servers
from chaos.workloads import holding
from chaos.workloads.table import TABLE
from chaos.workloads.work import Setting
from kv.config.sections import LEADERLESS, STRONG

pytestmark = [pytest.mark.integration, pytest.mark.chaos]

CAUGHT = [
    (Lie.STALE_READ, "register", "linearizability: no order"),
    (Lie.STALE_READ, "list", "linearizability: no order"),
    (Lie.LOST_WRITE, "register", "linearizability: no order"),
    (Lie.LOST_WRITE, "set", "set: complete"),
    (Lie.LOST_MEMBER, "set", "set: complete"),
    (Lie.LOST_MONEY, "bank", "totals: total"),
    (Lie.LOST_LOCK, "lock", "fencing: single"),
    (Lie.LOST_LEASE, "lock", "fencing: kept"),
    (Lie.LOST_LEASE, "lease", "leases: gone too early"),
    (Lie.HIDDEN_KEY, "lease", "leases: gone too early"),
    (Lie.LOST_RENEWAL, "lease", "leases: gone too early"),
    (Lie.LOST_REVOKE, "lease", "leases: back"),
    (Lie.UNDEAD_LEASE, "lease", "leases: back"),
    (Lie.STALE_READ, "lease", "leases: back"),
    (Lie.FREE_KEY, "lease", "leases: back"),
    (Lie.HIDDEN_KEY, "register", "linearizability: no order"),
    (Lie.FALSE_GAP, "watch", "watch: gap"),
    (Lie.DOUBLED_EVENT, "watch", "watch: order"),
    (Lie.SWAPPED_ORDER, "watch", "watch: order"),
    (Lie.DROPPED_EVENT, "watch", "watch: complete"),
    (Lie.SPLIT_EVENT, "watch", "watch: order"),
    (Lie.EARLY_BOOKMARK, "watch", "watch: bookmark"),
    (Lie.DOUBLED_EVENT, "feed", "feeds: order"),
    (Lie.DROPPED_EVENT, "feed", "feeds: same"),
    (Lie.LOST_WRITE, "unique", "survival: lost"),
    (Lie.STALE_READ, "unique", "survival: session"),
    (Lie.LOST_DELETE, "deletes", "survival: session"),
    (Lie.LOST_WRITE, "carts", "survival: lost"),
    (Lie.LOST_COUNT, "counters", "counters: "),
]
PREFIXES = (
    "register/",
    "set/",
    "list/",
    "bank/",
    "watch/",
    "feed/",
    "leased/",
    "guarded/",
    "lock-",
)
SECONDS = 0.7
LONG_S = 4.0
"""Longer than a lease lives."""
LEASE_TTL_S = 2
LIES_AT_LEAST = 3


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Servers]]:
    directory: Path = tmp_path_factory.mktemp("healthy")
    with (
        Servers(directory / STRONG, nodes=1) as strong,
        Servers(directory / LEADERLESS, nodes=1, mode=LEADERLESS) as leaderless,
    ):
        yield {STRONG: strong, LEADERLESS: leaderless}


def wipe(servers: Servers) -> None:
    """Each run begins with nothing."""
    for prefix in PREFIXES:
        body = {"then": [{"op": "delete", "prefix": prefix}]}
        assert servers.nodes["n1"].ask("/api/v1/txn", body) is not None


async def run(healthy: dict[str, Servers], kind: str, lie: Lie) -> tuple[int, str]:
    """(how many lies were told, what the checkers say)."""
    (mode,) = LOADS[kind].modes
    servers = healthy[mode]
    if mode == STRONG:
        wipe(servers)
    (door,) = servers.doors()
    proxy = LyingProxy(door, lie, seed=7)
    options = {name: option.default for name, option in LOADS[kind].options.items()}
    if kind == "lease":
        options["ttl_s"] = LEASE_TTL_S
    books = Books()
    async with proxy.running() as lying:
        # A watch needs an honest watcher beside it: the truth is what both were told.
        doors = [lying, door] if kind in ("watch", "feed") else [lying]
        load = Load(kind, 4, options)
        work = TABLE[kind](Setting(load, doors, books, f"{kind}-{lie}"))
        await work.prepare()
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(each) for each in work.clients()]
            end = asyncio.get_running_loop().time() + 20
            await asyncio.sleep(LONG_S if lie is Lie.LOST_RENEWAL else SECONDS)
            while lie is not Lie.NONE and proxy.told < LIES_AT_LEAST:
                assert asyncio.get_running_loop().time() < end, "it hardly lies"
                await asyncio.sleep(0.1)
            work.stopping = True
            await asyncio.wait(clients)
        if kind == "feed":
            proxy.repent()  # what is missing at the end would be waited for
        if kind != "lease" or lie is Lie.NONE:  # else only what it was told while it ran counts
            await work.finish()
    verdict = "\n".join(str(each) for each in work.judge())
    return proxy.told, verdict + "\n".join(books.defects)


@pytest.mark.parametrize(("lie", "kind", "verdict"), CAUGHT)
def test_a_lie_is_caught(
    healthy: dict[str, Servers],
    lie: Lie,
    kind: str,
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if verdict == "leases: back":
        monkeypatch.setattr(holding, "RENEWALS", 2)  # leases that end soon
    told, found = asyncio.run(run(healthy, kind, lie))
    assert told >= LIES_AT_LEAST
    assert verdict in found


@pytest.mark.parametrize("kind", sorted({kind for _, kind, _ in CAUGHT} | {"lease"}))
def test_an_honest_proxy_is_not_accused(healthy: dict[str, Servers], kind: str) -> None:
    assert asyncio.run(run(healthy, kind, Lie.NONE)) == (0, "")
