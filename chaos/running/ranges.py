"""Into how many shards the keys lie while a run goes on: how often one was cut, how often two
became one, whoever asked for it. Pure.

The maps that nodes show are of different ages. A split leaves the left half the shard's number and
gives the right one a new number, a merge leaves the left one's; both raise the epoch of what keeps
its number. So a map is an older one exactly if a shard in it has an epoch below what was seen.
"""

from __future__ import annotations

from collections.abc import Mapping


class Ranges:
    """Invariant: `shards` has the moments at which their number was seen to change."""

    def __init__(self) -> None:
        self.shards: list[tuple[float, int]] = []
        self.splits = 0
        self.merges = 0
        self._newest: dict[int, int] = {}
        self._ever: set[int] = set()

    def look(self, at: float, epochs: Mapping[int, int]) -> None:
        """What a node shows: of each shard its epoch."""
        if not epochs or any(epochs.get(s, e) < e for s, e in self._newest.items()):
            return
        if self._newest:
            self.splits += len(epochs.keys() - self._ever)
            self.merges += len((self._ever | epochs.keys()) - epochs.keys()) - self._gone
        self._ever.update(epochs)
        self._newest = dict(epochs)
        if not self.shards or self.shards[-1][1] != len(epochs):
            self.shards.append((at, len(epochs)))

    @property
    def _gone(self) -> int:
        """Shards that were absorbed, as far as was seen."""
        return len(self._ever) - len(self._newest)
