"""All metrics of one node: what it measures, and the page that Prometheus scrapes.

    hot path       endpoint.ended(200, 0.0004), proposals.ended(result)   instruments, resolved once
    scrape time    sources.host(), sources.link(), ... (scrape.py)        status objects, read then
    render()       both, in the text format 0.0.4

What some part keeps in its status anyway is read at the scrape and costs the hot path nothing.
Pure: clocks and disks are behind the sources. All of it is used on the node's one loop.

Invariant: every name in `definitions()` is on every page, with its help and type.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, TypeVar

from kv.metrics import catalogue
from kv.metrics.exposition import Page
from kv.metrics.instruments import (
    Counter,
    Definition,
    Family,
    Gauge,
    Histogram,
    Labels,
    Reading,
    Value,
)
from kv.metrics.scrape import DEFINITIONS, Scraper, Sources
from raftgroups.outcomes import Applied, ProposeResult, Refused

T = TypeVar("T", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What the node says of itself, in labels."""

    version: str
    python: str
    node_id: str
    name: str
    cluster_id: str
    mode: str


class Endpoint:
    """One route, method and level, resolved: call `began` and `ended` once for each request. A
    stream (a watch) has ended, for this, with its first bytes: its life is no latency.

    Both together take 0.32 us (measured as in instruments.py). Whoever ends many at one moment puts
    when they began into `leaving` and calls `left`: one look at the clock and into the buckets."""

    __slots__ = ("_at", "_codes", "_levels", "_make", "_seconds", "in_flight", "leaving")

    def __init__(
        self,
        seconds: Histogram,
        in_flight: Gauge,
        codes: dict[int, Counter],
        make: Callable[[int], Counter],
        at: Callable[[str], Endpoint],
    ) -> None:
        self._at = at
        self._levels: dict[str, Endpoint] = {}
        self._seconds = seconds
        self.in_flight = in_flight
        """`in_flight.value += 1` is `began`, for whoever counts every call."""
        self.leaving: list[float] = []
        """When requests began whose answers, with 200, are about to leave."""
        self._codes = codes
        self._make = make

    def at(self, level: str) -> Endpoint:
        """The same route and method at another level of consistency."""
        found = self._levels.get(level)
        if found is None:
            found = self._levels[level] = self._at(level)
        return found

    def began(self) -> None:
        self.in_flight.value += 1

    def ended(self, code: int, seconds: float) -> None:
        """However it ended; 499 if the client went away before its answer."""
        self.in_flight.value -= 1
        histogram = self._seconds
        histogram.counts[bisect_left(histogram.bounds, seconds)] += 1  # `observe`, without a call
        histogram.total += seconds
        self._counter(code).value += 1

    def left(self, now_s: float) -> None:
        """All that were `leaving` have left."""
        leaving, self.leaving = self.leaving, []
        count = len(leaving)
        self.in_flight.value -= count
        histogram = self._seconds
        counts, bounds = histogram.counts, histogram.bounds
        slot = bisect_left(bounds, now_s - min(leaving))
        if slot == bisect_left(bounds, now_s - max(leaving)):
            counts[slot] += count
        else:
            for began_s in leaving:
                counts[bisect_left(bounds, now_s - began_s)] += 1
        histogram.total += count * now_s - sum(leaving)
        self._counter(200).value += count

    def _counter(self, code: int) -> Counter:
        counter = self._codes.get(code)
        if counter is None:
            counter = self._codes[code] = self._make(code)
        return counter


class Proposals(NamedTuple):
    applied: Counter
    refused: Counter
    unknown: Counter

    def ended(self, result: ProposeResult) -> None:
        if isinstance(result, Applied):
            self.applied.value += 1
        elif isinstance(result, Refused):
            self.refused.value += 1
        else:
            self.unknown.value += 1


class Forwarded(NamedTuple):
    """Operations that came to this node and went on to a leader, by how they ended."""

    done: Counter
    refused: Counter
    unknown: Counter

    def ended(self, result: ProposeResult, count: int = 1) -> None:
        if isinstance(result, Applied):
            self.done.value += count
        elif isinstance(result, Refused):
            self.refused.value += count
        else:
            self.unknown.value += count


class Metrics:
    def __init__(self, info: NodeInfo | None = None) -> None:
        self.sources: Final = Sources()
        self._families: list[Family[Counter] | Family[Gauge] | Family[Histogram]] = []
        self._codes: dict[tuple[str, str], dict[int, Counter]] = {}

        latency = catalogue.LATENCY_BUCKETS_S
        self.request_seconds: Final = self._histograms(catalogue.REQUEST_SECONDS, latency)
        self.requests: Final = self._family(catalogue.REQUESTS, Counter)
        self.requests_in_flight: Final = self._family(catalogue.IN_FLIGHT, Gauge).labels()
        self.refusals: Final = self._family(catalogue.REFUSALS, Counter)
        """Resolve with `labels(reason)`: which queue or limit was full."""

        proposals = self._family(catalogue.PROPOSALS, Counter)
        self.proposals: Final = Proposals(*map(proposals.labels, Proposals._fields))
        self.proposal_seconds: Final = self._histograms(
            catalogue.PROPOSAL_SECONDS, latency
        ).labels()
        forwarded = self._family(catalogue.FORWARDED, Counter)
        self.forwarded: Final = Forwarded(*map(forwarded.labels, Forwarded._fields))
        self.forward_batch: Final = self._histograms(
            catalogue.FORWARD_BATCH, catalogue.BATCH_BUCKETS
        ).labels()
        """Operations in each batch sent to a leader."""

        sync = catalogue.SYNC_BUCKETS_S
        self.sync_seconds: Final = self._histograms(catalogue.SYNC_SECONDS, sync)
        self.commit_seconds: Final = self._histograms(catalogue.COMMIT_SECONDS, sync)
        self.commit_bytes: Final = self._histograms(
            catalogue.COMMIT_BYTES, catalogue.SIZE_BUCKETS_BYTES
        )
        self.loop_lag: Final = self._histograms(catalogue.LOOP_LAG, sync).labels()
        failures = self._family(catalogue.SCRAPE_FAILURES, Counter)
        build, node = self._family(catalogue.BUILD, Gauge), self._family(catalogue.NODE, Gauge)
        if info is not None:
            build.labels(info.version, info.python).set(1)
            node.labels(info.node_id, info.name, info.cluster_id, info.mode).set(1)
        self._scraper = Scraper(self.sources, failures, self._failed_proposals, self._strong_sync)
        self._page = Page(self.definitions())

    def _family(self, definition: Definition, make: Callable[[], T]) -> Family[T]:
        family = Family(definition, make)
        self._families.append(family)
        return family

    def _histograms(self, definition: Definition, bounds: tuple[float, ...]) -> Family[Histogram]:
        return self._family(definition, lambda: Histogram(bounds))

    # --- for those who measure -----------------------------------------------------------

    def endpoint(self, route: str, method: str, level: str) -> Endpoint:
        """`route` is the pattern (`/v1/kv/{key}`), never the path that a client sent; `level` is
        what was met (linearizable, session, eventual, ...), and "" where a route has none or
        nothing was read. Make it once and keep it."""

        def make(code: int) -> Counter:
            return self.requests.labels(route, method, str(code))

        codes = self._codes.setdefault((route, method), {})
        seconds = self.request_seconds.labels(route, method, level)
        at = partial(self.endpoint, route, method)
        return Endpoint(seconds, self.requests_in_flight, codes, make, at)

    def commit_observer(self, regime: str) -> Callable[[float, float, int], None]:
        """For `Committer.on_commit`."""
        sync, whole = self.sync_seconds.labels(regime), self.commit_seconds.labels(regime)
        size = self.commit_bytes.labels(regime)
        place = bisect_left

        def observe(sync_s: float, whole_s: float, size_bytes: int) -> None:
            sync.counts[place(sync.bounds, sync_s)] += 1  # `observe`, without three calls a commit
            sync.total += sync_s
            whole.counts[place(whole.bounds, whole_s)] += 1
            whole.total += whole_s
            size.counts[place(size.bounds, size_bytes)] += 1
            size.total += size_bytes

        return observe

    # --- the page ------------------------------------------------------------------------

    def definitions(self) -> tuple[Definition, ...]:
        return (*(family.definition for family in self._families), *DEFINITIONS)

    def render(self) -> bytes:
        """The page for `/metrics`, to be sent as exposition.CONTENT_TYPE."""
        lines: dict[str, list[tuple[Labels, Value]]] = {}
        for definition, labels, value in self._readings():
            lines.setdefault(definition.name, []).append((labels, value))
        return self._page.render((each, lines.get(each.name, ())) for each in self.definitions())

    def _readings(self) -> Iterator[Reading]:
        readings = list(self._scraper.read())  # first: it counts its failures in a family
        for family in self._families:
            children: Iterable[tuple[Labels, Value | Counter | Gauge]] = family.children()
            for labels, child in children:
                value = child.value if isinstance(child, Counter | Gauge) else child
                yield family.definition, labels, value
        yield from readings

    def _failed_proposals(self) -> float:
        return self.proposals.refused.value + self.proposals.unknown.value

    def _strong_sync(self) -> Histogram:
        return self.sync_seconds.labels("strong")
