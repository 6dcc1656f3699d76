"""What one run of load is and what came of it: values that travel between processes. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from kv.load.histogram import Histogram

PREFIX: Final = b"bench/"
PREFIX_END: Final = b"bench0"
VALUE_MAX_BYTES: Final = 32 * 1024
"""A request must fit into a socket's buffer."""


class Operation(StrEnum):
    PUT = "put"
    GET = "get"


class Speech(StrEnum):
    """What the requests are, and what a good answer is."""

    ETCD = "etcd"
    """Calls of the etcd gateway."""
    REST = "rest"
    """/api/v1/keys/{key}."""
    QUORUM = "quorum"
    """The same, and the answer must name two replicas at least."""


PATHS: Final = {Operation.PUT: "/v3/kv/put", Operation.GET: "/v3/kv/range"}
MARKS: Final = {Operation.PUT: b'"revision":', Operation.GET: b'"kvs":[{'}
"""What stands in an answer that did the work: a get of a key that exists must return it."""


@dataclass(frozen=True, slots=True)
class Load:
    operation: Operation
    endpoints: tuple[tuple[str, int], ...]
    connections: int
    """Requests in flight, spread over the endpoints. With fewer than there are endpoints, each
    request goes to the next endpoint in turn, on a connection that was there before."""
    seconds: float
    warm_up_s: float
    keys: int
    value_bytes: int
    seed: int = 1
    speech: Speech = Speech.ETCD
    fresh: bool = False
    """Puts go to new keys (as good as always), so that none of them overwrites anything."""
    pause_ms: float = 0.0
    """Before each request of a connection: for less than all that the servers can do."""
    core: int | None = None
    """The only core that the generator may use; None leaves it to the system."""

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        return cls(
            **{
                **document,
                "operation": Operation(document["operation"]),
                "speech": Speech(document["speech"]),
                "endpoints": tuple((host, port) for host, port in document["endpoints"]),
            }
        )


@dataclass(slots=True)
class Outcome:
    """What the generator saw. `histogram` has the latency of every request answered well that was
    under way in the measured time; `answered` counts those answered within it."""

    answered: int = 0
    seconds: float = 0.0
    acknowledged: int = 0
    """All good answers, also of the warm-up and after the end: what must have happened."""
    unsettled: int = 0
    """Requests of which the generator cannot tell whether they happened, at most."""
    errors: dict[str, int] = field(default_factory=dict)
    answer_bytes: float = 0.0
    """Mean size of an answer, head and body, in the measured time."""
    cpu_s: float = 0.0
    """Of the generator, in the measured time."""
    histogram: Histogram = field(default_factory=Histogram)

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    def count_error(self, what: str) -> None:
        self.errors[what] = self.errors.get(what, 0) + 1

    def merge(self, other: Outcome) -> None:
        """Of another process that ran at the same time."""
        answered = self.answered + other.answered
        if answered:
            both = self.answer_bytes * self.answered + other.answer_bytes * other.answered
            self.answer_bytes = both / answered
        self.answered = answered
        self.seconds = max(self.seconds, other.seconds)
        self.acknowledged += other.acknowledged
        self.unsettled += other.unsettled
        for what, count in other.errors.items():
            self.errors[what] = self.errors.get(what, 0) + count
        self.cpu_s += other.cpu_s
        self.histogram.merge(other.histogram)

    def as_json(self) -> dict[str, Any]:
        return {
            "answered": self.answered,
            "seconds": self.seconds,
            "acknowledged": self.acknowledged,
            "unsettled": self.unsettled,
            "errors": self.errors,
            "answer_bytes": self.answer_bytes,
            "cpu_s": self.cpu_s,
            "histogram": self.histogram.pairs(),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        return cls(**{**document, "histogram": Histogram(document["histogram"])})
