"""One scrape: every source is asked once, and what it says becomes readings. Pure.

A source that raises is left out of that page, counted, and logged once: a page that says what is
missing helps more than none. The etcd names are made of the same answers, so that they never
contradict the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final, TypeVar

from kv.metrics import (
    from_etcd,
    from_leaderless,
    from_link,
    from_process,
    from_raft,
    from_storage,
    from_store,
)
from kv.metrics.from_leaderless import LeaderlessFigures
from kv.metrics.from_link import LinkFigures
from kv.metrics.from_process import ProcessFigures
from kv.metrics.from_storage import CommitterFigures
from kv.metrics.from_store import ShardFigures
from kv.metrics.instruments import Counter, Definition, Family, Histogram, Reading
from kv.watch.roster import HubStatistics
from raftgroups.status import GroupStatus, HostStatus
from storage.engine import EngineStatistics
from storage.space import SpaceGuard

_logger = logging.getLogger(__name__)

DEFINITIONS: Final[tuple[Definition, ...]] = (
    *from_raft.DEFINITIONS,
    *from_link.DEFINITIONS,
    *from_store.DEFINITIONS,
    *from_storage.DEFINITIONS,
    *from_leaderless.DEFINITIONS,
    *from_process.DEFINITIONS,
    *from_etcd.DEFINITIONS,
)

STRONG: Final = "strong"

A = TypeVar("A")


@dataclass(slots=True)
class Sources:
    """Where a scrape reads. The composition root names what its node has; None has no lines."""

    host: Callable[[], HostStatus] | None = None
    groups: Callable[[], Iterable[GroupStatus]] | None = None
    link: Callable[[], LinkFigures] | None = None
    shards: Callable[[], Iterable[ShardFigures]] | None = None
    hubs: Callable[[], Mapping[int, HubStatistics]] | None = None
    """Watch hubs by shard."""
    engines: Callable[[], Mapping[str, EngineStatistics]] | None = None
    """By regime ("strong", "leaderless"), like the next two."""
    space: Callable[[], Mapping[str, SpaceGuard]] | None = None
    committers: Callable[[], Mapping[str, CommitterFigures]] | None = None
    leaderless: Callable[[], LeaderlessFigures] | None = None
    process: Callable[[], ProcessFigures] | None = None
    etcd_shard: Callable[[], int | None] | None = None
    """The shard that `/v3` serves, if this node has it: the one that the etcd names speak of."""


class Scraper:
    def __init__(
        self,
        sources: Sources,
        failures: Family[Counter],
        failed_proposals: Callable[[], float],
        strong_sync: Callable[[], Histogram],
    ) -> None:
        self._sources = sources
        self._failures = failures
        self._failed_proposals = failed_proposals
        self._strong_sync = strong_sync
        for each in fields(sources):
            failures.labels(each.name)

    def _ask(self, name: str, source: Callable[[], A] | None) -> A | None:
        if source is None:
            return None
        try:
            return source()
        except Exception as error:  # noqa: BLE001 - one part's trouble must not hide all others
            failures = self._failures.labels(name)
            if not failures.value:
                _logger.warning(
                    "the metrics of %s are missing, their source failed: %r "
                    "(logged once; januskv_scrape_failures_total counts them)",
                    name,
                    error,
                )
            failures.add()
            return None

    def _ask_all(self, name: str, source: Callable[[], Iterable[A]] | None) -> list[A]:
        return [] if source is None else self._ask(name, lambda: list(source())) or []

    def read(self) -> Iterator[Reading]:
        sources = self._sources
        host = self._ask("host", sources.host)
        groups = self._ask_all("groups", sources.groups)
        link = self._ask("link", sources.link)
        shards = self._ask_all("shards", sources.shards)
        hubs = self._ask("hubs", sources.hubs) or {}
        engines = self._ask("engines", sources.engines) or {}
        process = self._ask("process", sources.process)
        if host is not None:
            yield from from_raft.host_readings(host)
        yield from from_raft.group_readings(groups)
        if link is not None:
            yield from from_link.link_readings(link)
        yield from from_store.shard_readings(shards)
        yield from from_store.hub_readings(hubs)
        yield from from_storage.engine_readings(engines)
        yield from from_storage.space_readings(self._ask("space", sources.space) or {})
        committers = self._ask("committers", sources.committers) or {}
        yield from from_storage.committer_readings(committers)
        leaderless = self._ask("leaderless", sources.leaderless)
        if leaderless is not None:
            yield from from_leaderless.leaderless_readings(leaderless)
        if process is not None:
            yield from from_process.process_readings(process)
        number = self._ask("etcd_shard", sources.etcd_shard)
        shard = next((each for each in shards if each.shard == number), None)
        if shard is not None:
            yield from self._aliases(shard, groups, link, hubs, engines)

    def _aliases(
        self,
        shard: ShardFigures,
        groups: list[GroupStatus],
        link: LinkFigures | None,
        hubs: Mapping[int, HubStatistics],
        engines: Mapping[str, EngineStatistics],
    ) -> Iterator[Reading]:
        for group in groups:
            if group.group_id == shard.group:
                yield from from_etcd.group_aliases(group, self._failed_proposals())
        yield from from_etcd.disk_aliases(engines.get(STRONG), self._strong_sync())
        yield from from_etcd.shard_aliases(shard, hubs.get(shard.shard))
        if link is not None:
            yield from from_etcd.link_aliases(link)
