"""When to compact by itself: a rule over the revisions seen at past moments.

History is kept for `max_age_s` and for `max_revisions`, whichever is reached first. The age of a
revision is not stored anywhere; the leader samples (now, revision) and remembers about SAMPLES of
them over the age. After a change of leader the samples begin anew, so history is then kept longer,
never shorter.

Compaction is not worth an entry of the log for every revision, so a target is only named once it
is a twentieth of `max_revisions`, or a sample interval of age, beyond the last compaction.

This file reads no clock: `now_s` is an argument and only differences of it mean something.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

SAMPLES: Final = 60


@dataclass(frozen=True, slots=True)
class CompactionPolicy:
    """None switches a bound off; both None is `auto_compaction = "off"`."""

    max_age_s: float | None = 3600.0
    max_revisions: int | None = 100_000


OFF: Final = CompactionPolicy(None, None)


class AutoCompaction:
    """Invariant: samples rise strictly in time and never fall in revision, and are bounded."""

    __slots__ = ("_policy", "_samples")

    def __init__(self, policy: CompactionPolicy) -> None:
        self._policy = policy
        self._samples: deque[tuple[float, int]] = deque(maxlen=2 * SAMPLES)

    def sample(self, now_s: float, revision: int) -> None:
        """Tell which revision the shard has now. Call it about once a second or more rarely; what
        comes too early after the last sample is ignored."""
        max_age_s = self._policy.max_age_s
        if max_age_s is None:
            return
        if not self._samples or now_s - self._samples[-1][0] >= max_age_s / SAMPLES:
            self._samples.append((now_s, revision))

    def target(self, now_s: float, revision: int, compact_revision: int) -> int | None:
        """The revision to compact to now, or None."""
        best = compact_revision
        max_revisions = self._policy.max_revisions
        if max_revisions is not None:
            by_count = revision - max_revisions
            if by_count - compact_revision >= max(max_revisions // 20, 1):
                best = by_count
        max_age_s = self._policy.max_age_s
        if max_age_s is not None:
            for sampled_s, sampled in self._samples:
                if now_s - sampled_s < max_age_s:
                    break
                best = max(best, min(sampled, revision))
        return best if best > max(compact_revision, 0) else None
