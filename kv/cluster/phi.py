"""Phi-accrual failure detection: how surprising is it that nothing was heard for so long?

Arrivals of a peer's heartbeats give a mean interval. If arrivals came at random with that mean, a
silence of t seconds would have the probability e^(-t/mean); phi is minus its decimal logarithm:

    phi(t) = t / mean * log10(e)          phi 5: one silence in 100,000; phi 8: one in 100,000,000

The exponential law is the cautious choice, on purpose. A normal law, fitted to intervals of one
second, calls the third lost heartbeat impossible, although with 5% loss it comes every two hours.
Silences are never longer-tailed than exponential here: each further second needs a further loss.
With one heartbeat a second, 5% of them lost, phi passes 8 after about 19 s: nineteen losses in a
row, which no cluster sees by chance. Requests do not wait for that, they have time-outs and
stand-ins; what hangs on `down` is moving hints and asking nobody in vain.

    alive < 5 <= suspicious < 8 <= down, and never later than 10 s and 30 s of silence

Rules
- an interval counts for at most the suspicious ceiling, and the time that a peer was down for
  nothing, so an outage does not teach the detector to wait for outages;
- the mean is never below the interval at which heartbeats are sent, and begins at twice that;
- if this process itself stood still (a freeze, a suspended machine), it has heard nobody: `tick`
  notices and moves all last arrivals by the pause.

`down` is this node's own judgement of a peer, nothing more: it moves no data (membership.py). This
file is pure: `now_s` is a monotonic clock's reading.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from raftgroups.transport import NodeId

_LOG10_E: Final = math.log10(math.e)
_PRIOR_WEIGHT: Final = 3


class Health(IntEnum):
    ALIVE = 0
    SUSPICIOUS = 1
    DOWN = 2


@dataclass(frozen=True, slots=True)
class PhiOptions:
    suspicious_phi: float = 5.0
    down_phi: float = 8.0
    suspicious_ceiling_s: float = 10.0
    down_ceiling_s: float = 30.0
    interval_s: float = 1.0
    """How often a node sends heartbeats."""
    window: int = 1_000
    """Arrivals that are remembered."""
    pause_s: float = 3.0
    """Ticks further apart than this mean that this process stood still."""


@dataclass(slots=True)
class _Peer:
    """Invariant: `total_s` is the sum of `intervals_s`."""

    last_s: float
    intervals_s: deque[float] = field(default_factory=deque)
    total_s: float = 0.0


class PhiDetector:
    def __init__(self, options: PhiOptions | None = None) -> None:
        self._options = options or PhiOptions()
        self._peers: dict[NodeId, _Peer] = {}
        self._ticked_s: float | None = None
        self.pauses = 0

    def heard(self, peer: NodeId, now_s: float) -> None:
        """A heartbeat that is newer than all before it, directly or through others."""
        known = self._peers.get(peer)
        if known is None:
            self._peers[peer] = _Peer(now_s)
            return
        interval_s = now_s - known.last_s
        known.last_s = now_s
        options = self._options
        if interval_s >= options.down_ceiling_s:
            return
        interval_s = min(interval_s, options.suspicious_ceiling_s)
        known.intervals_s.append(interval_s)
        known.total_s += interval_s
        if len(known.intervals_s) > options.window:
            known.total_s -= known.intervals_s.popleft()

    def forget(self, peer: NodeId) -> None:
        self._peers.pop(peer, None)

    def tick(self, now_s: float) -> None:
        """Called about once an interval."""
        if self._ticked_s is not None:
            lasted_s = now_s - self._ticked_s
            if lasted_s > self._options.pause_s:
                self.pauses += 1
                for known in self._peers.values():
                    known.last_s = min(now_s, known.last_s + lasted_s)
        self._ticked_s = now_s

    def mean_s(self, peer: NodeId) -> float:
        """The mean interval between arrivals, as far as it is known."""
        options, known = self._options, self._peers.get(peer)
        total_s = 2 * options.interval_s * _PRIOR_WEIGHT
        count = _PRIOR_WEIGHT
        if known is not None:
            total_s += known.total_s
            count += len(known.intervals_s)
        return max(options.interval_s, total_s / count)

    def phi(self, peer: NodeId, now_s: float) -> float:
        """0 for a peer heard just now or never."""
        known = self._peers.get(peer)
        if known is None:
            return 0.0
        return max(0.0, now_s - known.last_s) / self.mean_s(peer) * _LOG10_E

    def health(self, peer: NodeId, now_s: float) -> Health:
        """A peer that was never heard of is down: nothing should wait for it."""
        known = self._peers.get(peer)
        if known is None:
            return Health.DOWN
        options = self._options
        silent_s, phi = now_s - known.last_s, self.phi(peer, now_s)
        if phi >= options.down_phi or silent_s >= options.down_ceiling_s:
            return Health.DOWN
        if phi >= options.suspicious_phi or silent_s >= options.suspicious_ceiling_s:
            return Health.SUSPICIOUS
        return Health.ALIVE
