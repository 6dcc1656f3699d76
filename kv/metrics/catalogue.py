"""The names of what a node measures itself, and their buckets. Pure. Names of what is read from
status objects stand with the code that reads them (from_*.py)."""

from __future__ import annotations

from typing import Final

from kv.metrics.instruments import counter, gauge, histogram

LATENCY_BUCKETS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip
SYNC_BUCKETS_S: Final = tuple(0.000125 * 2**power for power in range(17))
"""From 125 us to 8.192 s: etcd's own bounds (1, 2, 4, ... ms) and three below them."""
BATCH_BUCKETS: Final = tuple(float(2**power) for power in range(11))
SIZE_BUCKETS_BYTES: Final = tuple(float(256 * 4**power) for power in range(9))

REQUEST_SECONDS: Final = histogram(
    "januskv_request_duration_seconds",
    "From a request's last byte to its answer, by route, method and level of consistency.",
    "seconds", "route", "method", "level",
)  # fmt: skip
REQUESTS: Final = counter(
    "januskv_requests_total", "Requests that ended, by route, method and status.", "requests",
    "route", "method", "code",
)  # fmt: skip
IN_FLIGHT: Final = gauge(
    "januskv_requests_in_flight", "Requests that have begun and not ended.", "requests"
)
REFUSALS: Final = counter(
    "januskv_requests_refused_total", "Requests refused early (429), by what was full.", "requests",
    "reason",
)  # fmt: skip
PROPOSALS: Final = counter(
    "januskv_proposals_total", "Tries of writes that came to this node, by outcome.", "proposals",
    "outcome",
)  # fmt: skip
PROPOSAL_SECONDS: Final = histogram(
    "januskv_proposal_duration_seconds", "From proposing an operation to its outcome.", "seconds"
)
FORWARDED: Final = counter(
    "januskv_forwarded_operations_total", "Operations forwarded to a leader, by outcome.",
    "operations", "outcome",
)  # fmt: skip
FORWARD_BATCH: Final = histogram(
    "januskv_forward_batch_operations", "Operations in a batch forwarded to a leader.", "operations"
)
SYNC_SECONDS: Final = histogram(
    "januskv_sync_duration_seconds", "Synced writes of the engine.", "seconds", "regime"
)
COMMIT_SECONDS: Final = histogram(
    "januskv_commit_duration_seconds",
    "From the end of a turn's work until all were told that it is on the disk.",
    "seconds", "regime",
)  # fmt: skip
COMMIT_BYTES: Final = histogram(
    "januskv_commit_size_bytes", "Bytes of keys and values in a commit.", "bytes", "regime"
)
LOOP_LAG: Final = histogram(
    "januskv_event_loop_lag_seconds", "How late the event loop was, asked once a second.", "seconds"
)
SCRAPE_FAILURES: Final = counter(
    "januskv_scrape_failures_total", "Figures left out of a page because their source failed.",
    "failures", "source",
)  # fmt: skip
BUILD: Final = gauge(
    "januskv_build_info", "1; the labels say what runs.", "flag", "version", "python"
)
NODE: Final = gauge(
    "januskv_node_info", "1; the labels say which node this is.", "flag", "node", "name", "cluster",
    "mode",
)  # fmt: skip
