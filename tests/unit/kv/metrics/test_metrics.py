"""The page as Prometheus reads it: nothing missing, nothing twice, true values."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kv.metrics import Metrics
from kv.metrics.instruments import Kind
from kv.metrics.scrape import Sources
from raftgroups.outcomes import Applied, Refused, Unknown
from storage.errors import JanusError

Read = Callable[[Metrics], dict[tuple[str, tuple[tuple[str, str], ...]], float]]


def test_every_name_is_there_once_with_help_type_and_unit(metrics: Metrics) -> None:
    page = metrics.render().decode()
    names = [each.name for each in metrics.definitions()]
    assert len(names) == len(set(names))
    assert [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")] == names
    for definition in metrics.definitions():
        assert f"# HELP {definition.name} {definition.help}\n" in page
        assert f"# TYPE {definition.name} {definition.kind}\n" in page
        assert definition.unit
        assert definition.help.endswith(".")
        ours = definition.name.startswith("januskv_")
        assert ours or definition.name.startswith(("etcd_", "process_"))
        if ours and definition.kind is not Kind.COUNTER:
            assert not definition.name.endswith("_total")


def test_every_name_has_a_value_when_every_source_speaks(metrics: Metrics, read: Read) -> None:
    silent = {each.name for each in metrics.definitions()}
    for name, _ in read(metrics):
        for suffix in ("", "_bucket", "_sum", "_count"):
            silent.discard(name.removesuffix(suffix))
    # What the sources of the fixture leave out on purpose.
    assert silent == {
        "januskv_lmdb_page_bytes",
        "januskv_lmdb_last_transaction",
        "januskv_lmdb_stale_readers_cleared_total",
        "januskv_log_syncs_total",
        "januskv_log_kernel_syncs_total",
        "process_virtual_memory_bytes",
        "process_start_time_seconds",
        "process_max_fds",
        "januskv_process_anonymous_memory_bytes",
        "januskv_process_threads",
    }


def test_the_values_are_those_of_the_sources(metrics: Metrics, read: Read) -> None:
    lines = read(metrics)
    group, peer = ("group", "1"), ("peer", "b")
    place = (("keyspace", "default"), ("shard", "5"))
    engine = (("engine", "lmdb"), ("regime", "strong"))
    expected = {
        ("januskv_raft_turns_total", ()): 70,
        ("januskv_raft_messages_dropped_total", (("reason", "no-such-group"),)): 3,
        ("januskv_raft_term", (group,)): 7,
        ("januskv_raft_role", (group, ("role", "leader"))): 1,
        ("januskv_raft_role", (group, ("role", "follower"))): 0,
        ("januskv_raft_apply_lag_entries", (group,)): 2,
        ("januskv_raft_peer_lag_entries", (group, peer)): 10,
        ("januskv_raft_peer_match_index", (group, peer)): 90,
        ("januskv_raft_leader_changes_total", (group,)): 6,
        ("januskv_link_connected", (peer,)): 1,
        ("januskv_link_queued_bytes", (("channel", "raft"), peer)): 300,
        (
            "januskv_link_dropped_frames_total",
            (("channel", "raft"), peer, ("reason", "full")),
        ): 2,
        ("januskv_watchers", (("shard", "5"), ("state", "victim"))): 3,
        ("januskv_watch_held_bytes", (("shard", "5"),)): 500,
        ("januskv_store_keys", place): 9,
        ("januskv_leases", place): 2,
        ("januskv_keys_with_ttl", place): 6,
        ("januskv_store_revision", place): 33,
        ("januskv_store_compact_revision", place): 12,
        ("januskv_engine_disk_bytes", engine): 8192,
        ("januskv_engine_disk_free_bytes", engine): 10**12,
        ("januskv_lmdb_map_size_bytes", (("regime", "strong"),)): 2**40,
        ("januskv_lmdb_pages", (("kind", "leaf"), ("regime", "strong"))): 3,
        ("januskv_space_alarm", (("regime", "strong"),)): 0,
        ("januskv_commits_total", (("regime", "strong"),)): 60,
        ("januskv_commit_size_bytes_sum", (("regime", "strong"),)): 700,
        ("januskv_requests_refused_total", (("reason", "proposals"),)): 1,
        ("process_cpu_seconds_total", ()): 1.5,
        ("januskv_build_info", (("python", "3.11"), ("version", "0.1.0"))): 1,
    }
    assert {key: lines.get(key) for key in expected} == expected


def test_the_etcd_names_say_what_etcd_would(metrics: Metrics, read: Read) -> None:
    lines = read(metrics)
    expected = {
        "etcd_server_has_leader": 1,
        "etcd_server_is_leader": 1,
        "etcd_server_leader_changes_seen_total": 6,
        "etcd_server_proposals_committed_total": 99,
        "etcd_server_proposals_applied_total": 97,
        "etcd_server_proposals_pending": 4,
        "etcd_mvcc_db_total_size_in_bytes": 8192,
        "etcd_mvcc_db_total_size_in_use_in_bytes": 7000,
        "etcd_debugging_mvcc_current_revision": 33,
        "etcd_debugging_mvcc_keys_total": 9,
        "etcd_debugging_mvcc_watcher_total": 26,
        "etcd_debugging_mvcc_slow_watcher_total": 5,
        "etcd_disk_wal_fsync_duration_seconds_count": 1,
        "etcd_disk_wal_fsync_duration_seconds_sum": 0.001,
    }
    assert {name: lines.get((name, ())) for name in expected} == expected
    assert lines["etcd_network_peer_sent_bytes_total", (("To", "b"),)] == 1_000


def test_a_node_without_the_etcd_shard_says_nothing_of_it(metrics: Metrics, read: Read) -> None:
    metrics.sources.etcd_shard = lambda: None
    assert not [name for name, _ in read(metrics) if name.startswith("etcd_")]


def test_nothing_is_known_before_the_sources_are_named(read: Read) -> None:
    assert {name for name, _ in read(Metrics()) if name.startswith(("etcd_", "process_"))} == set()


@pytest.mark.parametrize("began_s", [[5.0], [5.0, 5.0001], [5.0, 4.2, 3.1, 5.0]])
def test_requests_that_leave_together_count_as_if_each_had_ended(
    metrics: Metrics, began_s: list[float]
) -> None:
    one, other = (metrics.endpoint("/v1", "GET", level) for level in ("a", "b"))
    for each in began_s:
        one.began()
        one.ended(200, 5.2 - each)
        other.began()
        other.leaving.append(each)
    assert metrics.requests_in_flight.value == len(began_s)
    other.left(5.2)
    assert other.leaving == []
    assert metrics.requests_in_flight.value == 0
    alone, together = (metrics.request_seconds.labels("/v1", "GET", level) for level in ("a", "b"))
    assert alone.counts == together.counts
    assert alone.total == pytest.approx(together.total)
    assert metrics.requests.labels("/v1", "GET", "200").value == 2 * len(began_s)


def test_a_request_is_counted_by_route_and_code(metrics: Metrics, read: Read) -> None:
    read_level = metrics.endpoint("/v1/kv/{key}", "GET", "eventual")
    read_level.began()
    assert metrics.requests_in_flight.value == 1
    read_level.ended(503, 0.25)
    read_level.began()
    read_level.ended(200, 11.0)
    lines = read(metrics)
    route, method = ("route", "/v1/kv/{key}"), ("method", "GET")
    codes = {
        code: lines["januskv_requests_total", (("code", code), method, route)]
        for code in ("200", "503")
    }
    assert codes == {"200": 2, "503": 1}, "levels share the counters of their route"
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in lines.items()
        if name == "januskv_request_duration_seconds_bucket" and ("level", "eventual") in labels
    }
    assert (buckets["0.1"], buckets["0.25"], buckets["10"], buckets["+Inf"]) == (0, 1, 1, 2)
    assert lines["januskv_requests_in_flight", ()] == 0


def test_proposals_are_counted_by_outcome(metrics: Metrics, read: Read) -> None:
    metrics.proposals.ended(Applied(1, None))
    metrics.proposals.ended(Applied(2, None))
    metrics.proposals.ended(Refused("busy"))
    metrics.proposals.ended(Unknown("gone"))
    lines = read(metrics)
    outcomes = {
        dict(labels)["outcome"]: value
        for (name, labels), value in lines.items()
        if name == "januskv_proposals_total"
    }
    assert outcomes == {"applied": 2, "refused": 1, "unknown": 1}
    assert lines["etcd_server_proposals_failed_total", ()] == 2


def test_a_source_that_fails_hides_no_other(
    metrics: Metrics, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> dict[str, object]:
        raise JanusError("the engine is closed")

    metrics.sources.engines = broken  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        read(metrics)
        lines = read(metrics)
    assert lines["januskv_scrape_failures_total", (("source", "engines"),)] == 2
    assert ("januskv_raft_turns_total", ()) in lines
    assert not [name for name, _ in lines if name.startswith("januskv_engine_")]
    assert caplog.text.count("the engine is closed") == 1


@pytest.mark.parametrize("name", Sources.__dataclass_fields__)
def test_each_source_may_fail_alone(metrics: Metrics, read: Read, name: str) -> None:
    def broken() -> object:
        raise JanusError("not now")

    setattr(metrics.sources, name, broken)
    assert read(metrics)["januskv_scrape_failures_total", (("source", name),)] == 1


def test_a_counter_is_typed_as_one(metrics: Metrics) -> None:
    types = {
        family.name: family.type
        for family in text_string_to_metric_families(metrics.render().decode())
    }
    assert types["januskv_requests"] == "counter"
    assert types["januskv_request_duration_seconds"] == "histogram"
    assert types["etcd_server_proposals_committed_total"] == "gauge"
