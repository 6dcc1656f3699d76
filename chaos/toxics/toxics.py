"""The toxics: what each one is told (attributes, checked) and what it does to a stream. Pure.

A stream is one direction of one connection. For every piece of data that was read, the toxics of
the stream are asked in the order in which they were added, and each may turn the piece into
several, put off the moment it may leave, swallow it, or end the connection:

    latency      latency, jitter (ms)          each piece leaves that much later, order kept
    bandwidth    rate (KiB/s)                  a piece leaves when the line has carried it
    slow_close   delay (ms)                    the end of the stream is passed on later
    timeout      timeout (ms; 0 = never)       nothing passes; the connection ends after the time,
                                               or when the toxic is removed
    reset_peer   timeout (ms)                  the connection is reset (RST) after the time
    slicer       average_size, size_variation (bytes), delay (us)   small pieces, a pause between
    limit_data   bytes                         so many bytes pass, then the connection ends

`toxicity` is the probability that a toxic takes hold of a connection; the dice are rolled once a
connection and toxic. Times are seconds in here; attributes keep the units of the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final

from storage.clock import Rng
from storage.errors import InvalidRequestError

ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "latency": ("latency", "jitter"),
    "bandwidth": ("rate",),
    "slow_close": ("delay",),
    "timeout": ("timeout",),
    "reset_peer": ("timeout",),
    "slicer": ("average_size", "size_variation", "delay"),
    "limit_data": ("bytes",),
}
STREAMS: Final = ("upstream", "downstream")
KIBIBYTE: Final = 1024


@dataclass(frozen=True, slots=True)
class Toxic:
    name: str
    type: str
    stream: str
    toxicity: float
    attributes: Mapping[str, int]

    @staticmethod
    def parse(body: Mapping[str, Any]) -> Toxic:
        """A toxic as the wire describes it; names and defaults are toxiproxy's."""
        kind = body.get("type")
        if not isinstance(kind, str) or kind not in ATTRIBUTES:
            raise InvalidRequestError(f"invalid toxic type {kind!r}; one of {sorted(ATTRIBUTES)}")
        stream = body.get("stream") or "downstream"
        if stream not in STREAMS:
            raise InvalidRequestError(
                f"stream was invalid, can be either upstream or downstream: {stream!r}"
            )
        toxic = Toxic(
            name=str(body.get("name") or f"{kind}_{stream}"),
            type=kind,
            stream=stream,
            toxicity=1.0,
            attributes=dict.fromkeys(ATTRIBUTES[kind], 0),
        )
        return toxic.updated({"toxicity": 1.0, **body})

    def updated(self, body: Mapping[str, Any]) -> Toxic:
        """The same toxic with another toxicity or other attributes; what is not named stays."""
        toxicity = body.get("toxicity", self.toxicity)
        if not isinstance(toxicity, int | float) or not 0.0 <= toxicity <= 1.0:
            raise InvalidRequestError(f"toxicity must be between 0 and 1, not {toxicity!r}")
        given = body.get("attributes") or {}
        if not isinstance(given, Mapping):
            raise InvalidRequestError("attributes must be an object of whole numbers")
        attributes = dict(self.attributes)
        for name, value in given.items():
            if name not in attributes:
                raise InvalidRequestError(
                    f"{self.type} has no attribute {name!r}; it has {sorted(attributes)}"
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise InvalidRequestError(f"{name} must be a number of at least 0, not {value!r}")
            attributes[name] = int(value)
        return replace(self, toxicity=float(toxicity), attributes=attributes)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "type": self.type,
            "stream": self.stream,
            "toxicity": self.toxicity,
            "attributes": dict(self.attributes),
        }


class Ending(Enum):
    """How a connection is ended by a toxic."""

    CLOSE = "close"
    RESET = "reset"


@dataclass(slots=True)
class Piece:
    """Data that may leave at a moment, not earlier."""

    data: bytes
    leave_at: float


@dataclass(slots=True)
class StreamState:
    """What the toxics of one stream remember of it."""

    rng: Rng
    hold: dict[str, bool] = field(default_factory=dict)
    """toxic name -> whether it took hold of this connection."""
    seen_at: dict[str, float] = field(default_factory=dict)
    """toxic name -> when this stream first met it: timeouts count from there."""
    passed: dict[str, int] = field(default_factory=dict)
    """limit_data: bytes that went through."""
    line_free_at: float = 0.0
    """bandwidth: when the line has carried everything before."""
    last_leave_at: float = 0.0
    """Order is kept: nothing leaves before what was read earlier."""

    def holds(self, toxic: Toxic) -> bool:
        if toxic.name not in self.hold:
            self.hold[toxic.name] = self.rng.random() < toxic.toxicity
        return self.hold[toxic.name]


def shape(
    state: StreamState, toxics: tuple[Toxic, ...], data: bytes, now: float
) -> tuple[list[Piece], Ending | None]:
    """What becomes of data read at `now`: the pieces that leave, and whether the end follows."""
    pieces, ending = [Piece(data, now)], None
    for toxic in toxics:
        if state.holds(toxic):
            pieces, this = _EFFECTS[toxic.type](state, toxic, pieces)
            ending = ending or this
    for piece in pieces:
        state.last_leave_at = piece.leave_at = max(state.last_leave_at, piece.leave_at)
    return pieces, ending


def ends_at(
    state: StreamState, toxics: tuple[Toxic, ...], now: float
) -> tuple[float, Ending] | None:
    """The moment at which a toxic ends the connection by itself, data or not."""
    moments = []
    for toxic in toxics:
        if toxic.type in ("timeout", "reset_peer") and state.holds(toxic):
            since = state.seen_at.setdefault(toxic.name, now)
            after_s = toxic.attributes["timeout"] / 1e3
            if toxic.type == "reset_peer":
                moments.append((since + after_s, Ending.RESET))
            elif after_s:
                moments.append((since + after_s, Ending.CLOSE))
    return min(moments, key=lambda moment: moment[0], default=None)


def close_delay_s(state: StreamState, toxics: tuple[Toxic, ...]) -> float:
    """How much later the end of the stream is passed on."""
    return sum(
        toxic.attributes["delay"] / 1e3
        for toxic in toxics
        if toxic.type == "slow_close" and state.holds(toxic)
    )


def removal_ends(state: StreamState, toxic: Toxic) -> bool:
    """A removed timeout leaves a hole in the stream, so the connection cannot go on."""
    return toxic.type == "timeout" and state.holds(toxic)


Shaped = tuple[list[Piece], Ending | None]


def _latency(state: StreamState, toxic: Toxic, pieces: list[Piece]) -> Shaped:
    jitter = toxic.attributes["jitter"]
    for piece in pieces:
        delay_ms = toxic.attributes["latency"] + state.rng.uniform(-jitter, jitter)
        piece.leave_at += max(0.0, delay_ms) / 1e3
    return pieces, None


def _bandwidth(state: StreamState, toxic: Toxic, pieces: list[Piece]) -> Shaped:
    rate = toxic.attributes["rate"] * KIBIBYTE
    for piece in pieces:
        carried_s = len(piece.data) / rate if rate else float("inf")
        state.line_free_at = max(state.line_free_at, piece.leave_at) + carried_s
        piece.leave_at = state.line_free_at
    return pieces, None


def _slicer(state: StreamState, toxic: Toxic, pieces: list[Piece]) -> Shaped:
    average, variation = toxic.attributes["average_size"], toxic.attributes["size_variation"]
    delay_s = toxic.attributes["delay"] / 1e6
    sliced: list[Piece] = []
    for piece in pieces:
        at, leave_at = 0, piece.leave_at
        while at < len(piece.data):
            wished = average + round(state.rng.uniform(-variation, variation))
            step = max(1, wished) if average else len(piece.data)
            sliced.append(Piece(piece.data[at : at + step], leave_at))
            at += step
            leave_at += delay_s
    return sliced, None


def _limit_data(state: StreamState, toxic: Toxic, pieces: list[Piece]) -> Shaped:
    limit, passed = toxic.attributes["bytes"], state.passed.get(toxic.name, 0)
    kept: list[Piece] = []
    for piece in pieces:
        piece.data = piece.data[: limit - passed]
        passed += len(piece.data)
        if piece.data:
            kept.append(piece)
    state.passed[toxic.name] = passed
    return kept, Ending.CLOSE if passed >= limit else None


def _swallow(state: StreamState, toxic: Toxic, pieces: list[Piece]) -> Shaped:
    return [], None


def _nothing(state: StreamState, toxic: Toxic, pieces: list[Piece]) -> Shaped:
    return pieces, None


_EFFECTS: Final = {
    "latency": _latency,
    "bandwidth": _bandwidth,
    "slicer": _slicer,
    "limit_data": _limit_data,
    "timeout": _swallow,
    "reset_peer": _nothing,
    "slow_close": _nothing,
}
