"""What `januskv shard list` says of a split or a merge that is under way."""

from __future__ import annotations

from typing import Any

import pytest

from kv.cli.shard import _told


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            "shard 2 and 3: merge, gather since 00:01:40 UTC: replicas come together; januskv "
            "shard merge --end 2 ends it (operation 7)",
        ),
        (
            {"step": "join", "note": "n2 is behind"},
            "shard 2 and 3: merge, join since 00:01:40 UTC (operation 7: n2 is behind)",
        ),
    ],
)
def test_what_is_said_of_it(changes: dict[str, Any], said: str) -> None:
    operation = {"kind": "merge", "step": "gather", "shards": [2, 3], "note": "", **changes}
    assert _told(7, {**operation, "stepped_ms": 100_000}) == said
