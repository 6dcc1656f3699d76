"""A keyspace of eight shards on three real processes: every kind of call, splits under it, restart
and kill."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kv.cli.main import main
from kv.client.sync import Client
from raftgroups.meta.view import even_ranges
from tests.integration.calls import RECOVERY_S, call, key_path, put_until_done
from tests.integration.test_cluster_command import Running, free_base_port

pytestmark = [pytest.mark.integration]

KEYS = [f"{chr(letter)}{number}" for letter in range(0x30, 0x7B, 3) for number in range(4)]
SHARDS = 8


def listed(url: str, limit: int, reverse: bool = False) -> list[str]:
    found: list[str] = []
    cursor = ""
    while True:
        target = f"/api/v1/keys?limit={limit}" + ("&reverse=true" if reverse else "")
        status, page = call(url, "GET", target + (f"&cursor={cursor}" if cursor else ""))
        assert status == 200, page
        found += [each["key"] for each in page["keys"]]
        if not page["has_more"]:
            return found
        cursor = page["cursor"]


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, list[str]]]:
    data = tmp_path_factory.mktemp("shards") / "data"
    cluster = Running(data, free_base_port(), 3, "--shards", str(SHARDS))
    try:
        ready = cluster.wait_ready()
        found = [each["url"] for each in ready]
        for place, key in enumerate(KEYS):
            put_until_done(found[place % 3], key, f"v{place}")
        yield cluster, found
    finally:
        if cluster.process.poll() is None:
            cluster.stop()


def shards_of(url: str, keyspace: str | None = "default") -> list[dict[str, Any]]:
    of = "" if keyspace is None else f"?of={keyspace}"
    status, found = call(url, "GET", "/api/v1/admin/shards" + of)
    assert status == 200
    shards: list[dict[str, Any]] = found["shards"]
    return shards


def test_it_begins_with_even_ranges(urls: tuple[Running, list[str]]) -> None:
    edges = [(each["start"].encode(), each["end"]) for each in shards_of(urls[1][0])]
    wanted = [(low, None if high is None else high.decode()) for low, high in even_ranges(SHARDS)]
    assert edges == wanted


def test_every_kind_of_call(urls: tuple[Running, list[str]]) -> None:
    _, (a, b, c) = urls
    for place, key in enumerate(KEYS):
        status, found = call(c, "GET", key_path(key))
        assert (status, found["value"]) == (200, f"v{place}")
    assert listed(a, 7) == sorted(KEYS)
    assert listed(b, 5, reverse=True) == sorted(KEYS, reverse=True)
    assert call(b, "GET", "/api/v1/count")[1]["count"] == len(KEYS)
    status, many = call(a, "POST", "/api/v1/batch/get", {"keys": [*KEYS, "none"]})
    assert status == 200
    assert [each["key"] for each in many["results"]] == [*KEYS, "none"]
    assert [each["found"] for each in many["results"]] == [True] * len(KEYS) + [False]
    operations = [{"key": key, "value": "w"} for key in KEYS[:9]]
    assert call(b, "POST", "/api/v1/batch/put", {"operations": operations})[1]["success_count"] == 9
    assert call(a, "POST", f"{key_path('z-counter')}/incr", {"delta": 5})[1]["value"] == 5
    version = call(a, "GET", key_path(KEYS[0]))[1]["version"]
    cas = {"expected_version": version, "new_value": "x"}
    assert call(b, "POST", f"{key_path(KEYS[0])}/cas", cas)[1]["success"] is True
    assert call(c, "DELETE", key_path("z-counter"))[1]["deleted"] is True


def test_what_cannot_be_right_is_refused(urls: tuple[Running, list[str]]) -> None:
    _, (a, b, _) = urls
    puts = [{"requestPut": {"key": key, "value": "MQ=="}} for key in ("MA==", "eg==")]
    for url, path, body in (
        (b, "/v3/kv/txn", {"success": puts}),
        (b, "/v3/kv/range", {"key": "AA==", "range_end": "AA=="}),
        (b, "/v3/kv/deleterange", {"key": "AA==", "range_end": "AA=="}),
        (a, "/v3/kv/compaction", {"revision": 2}),
        (a, "/v3/maintenance/hash", {}),
    ):
        status, answer = call(url, "POST", path, body)
        assert status == 400, (path, answer)
        assert "/api/v1/" in answer["message"], (path, answer)
    status, answer = call(a, "GET", "/api/v1/keys?revision=2")
    assert (status, answer["error"]) == (400, "invalid_query")
    status, answer = call(a, "GET", "/api/v1/watch?prefix=&from=7&poll=1")
    assert (status, answer["error"]) == (400, "cross_shard")
    assert "cursor" in answer["message"]
    lease = call(a, "POST", "/api/v1/leases", {"ttl": 30})[1]["id"]
    both = [{"op": "put", "key": "0", "value": "1", "lease": lease}, {"op": "delete", "key": "z"}]
    status, answer = call(a, "POST", "/api/v1/txn", {"then": both})
    assert (status, answer["error"]) == (400, "cross_shard")


def test_a_lease_has_keys_in_many_shards(urls: tuple[Running, list[str]]) -> None:
    _, (a, b, c) = urls
    keys = ["!first", "5x", "Kx", "zx"]
    lease = call(a, "POST", "/api/v1/leases", {"ttl": 60})[1]["id"]
    for key, url in zip(keys, (a, b, c, b), strict=True):
        status, answer = call(url, "PUT", key_path(key), {"value": "v", "lease": lease})
        assert status == 200, answer
    shard = next(each for each in shards_of(a) if each["end"] is None)
    split = f"/api/v1/admin/shards/{shard['shard']}/split"
    assert call(a, "POST", split, {"key": "zx"})[0] == 200
    assert call(c, "GET", f"/api/v1/leases/{lease}?keys=true")[1]["keys"] == keys
    assert call(b, "POST", f"/api/v1/leases/{lease}/keepalive")[1]["ttl"] == 60
    assert call(b, "DELETE", f"/api/v1/leases/{lease}")[0] == 200
    status, answer = call(b, "PUT", key_path("zx"), {"value": "w", "lease": lease})
    assert (status, answer["error"]) == (404, "lease_not_found")
    gone_in_time(a, keys)
    short = call(a, "POST", "/api/v1/leases", {"ttl": 2})[1]["id"]
    granted_s = time.monotonic()
    assert call(c, "PUT", key_path("zx"), {"value": "v", "lease": short})[0] == 200
    gone_in_time(b, ["zx"])
    assert time.monotonic() - granted_s > 1.5
    held = call(c, "POST", "/api/v1/locks/zx", {"ttl": 30})
    assert held[0] == 200, held
    assert call(a, "POST", "/api/v1/locks/zx", {"ttl": 30})[0] == 409
    assert call(a, "DELETE", f"/api/v1/locks/zx?lease={held[1]['lease']}")[1]["released"] is True


def gone_in_time(url: str, keys: list[str]) -> None:
    until_s = time.monotonic() + RECOVERY_S
    for key in keys:
        while call(url, "GET", key_path(key))[0] != 404:
            assert time.monotonic() < until_s, key
            time.sleep(0.05)


def test_a_batch_and_a_transaction_over_shards_are_atomic(
    urls: tuple[Running, list[str]],
) -> None:
    """Transfers through all nodes, while sums are read; one of the shards is split meanwhile."""
    _, nodes = urls
    accounts = ["1acc", "Dacc", "iacc", "yacc"]
    first = [{"key": key, "value": "100"} for key in accounts]
    status, done = call(
        nodes[0], "POST", "/api/v1/batch/put", {"atomic": True, "operations": first}
    )
    assert (status, done["success_count"]) == (200, 4)
    gets = {"then": [{"op": "get", "key": key} for key in accounts]}
    for turn in range(12):
        url = nodes[turn % 3]
        if turn == 5:
            shard = next(
                each for each in shards_of(url) if each["start"] <= "yacc" < (each["end"] or "~~")
            )
            split = call(
                url, "POST", f"/api/v1/admin/shards/{shard['shard']}/split", {"key": "yac"}
            )
            assert split[0] in (200, 202), split
        status, seen = call(url, "POST", "/api/v1/txn", gets)
        assert status == 200, seen
        held = {each["key"]: each for each in seen["results"]}
        assert sum(int(each["value"]) for each in held.values()) == 400
        giver, taker = accounts[turn % 4], accounts[(turn + 1) % 4]
        moved = {giver: int(held[giver]["value"]) - turn, taker: int(held[taker]["value"]) + turn}
        versions = [(giver, held[giver]["version"]), (taker, held[taker]["version"] + turn % 2)]
        transfer = {
            "compare": [
                {"key": key, "target": "version", "op": "=", "operand": version}
                for key, version in versions
            ],
            "then": [
                {"op": "put", "key": key, "value": str(value)} for key, value in moved.items()
            ],
        }
        status, answer = call(url, "POST", "/api/v1/txn", transfer)
        assert (status, answer.get("succeeded")) == (200, turn % 2 == 0), answer
        if answer["succeeded"]:
            version = call(nodes[(turn + 1) % 3], "GET", key_path(taker))[1]["version"]
            assert version == answer["results"][1]["version"]
    for key in accounts:
        call(nodes[0], "DELETE", key_path(key))


def test_within_a_shard_the_gateway_is_etcd(urls: tuple[Running, list[str]]) -> None:
    _, (a, b, _) = urls
    put = {"key": "YWI=", "value": "MQ==", "prev_kv": True}
    first = call(a, "POST", "/v3/kv/put", put)[1]
    second = call(b, "POST", "/v3/kv/put", put)[1]
    assert "header" in second, (first, second)
    assert int(second["header"]["revision"]) == int(first["header"]["revision"]) + 1
    found = call(b, "POST", "/v3/kv/range", {"key": "YWI="})[1]
    assert found["kvs"][0]["version"] == "2"
    assert call(a, "POST", "/v3/kv/deleterange", {"key": "YWI="})[1]["deleted"] == "1"


def test_listings_and_watches_are_exact_while_shards_split(urls: tuple[Running, list[str]]) -> None:
    _, (a, b, c) = urls
    wrong: list[str] = []
    failed: list[object] = []
    written: dict[str, list[str]] = {}
    stop = threading.Event()
    client = Client([c, a])
    watch = client.watch(prefix="").begun()
    before = len(shards_of(a))

    def look() -> None:
        while not stop.is_set():
            found = [key for key in listed(b, 3) if key in KEYS]
            if found != sorted(KEYS):
                wrong.append(str(found))

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            key, value = KEYS[number % len(KEYS)], f"y{number}"
            status, answer = call(c, "PUT", key_path(key), {"value": value})
            written.setdefault(key, []).append(value)
            if status != 200:
                failed.append(answer)

    threads = [threading.Thread(target=look), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    try:
        for key in ("5", "H", "c", "p", "y"):
            shard = next(
                each
                for each in shards_of(a)
                if each["start"] < key and (each["end"] is None or key < each["end"])
            )
            path = f"/api/v1/admin/shards/{shard['shard']}/split"
            status, answer = call(a, "POST", path, {"key": key})
            assert status == 200, answer
            assert answer["right"]["start"] == key
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert not failed
    assert len(shards_of(a)) == before + 5
    seen: dict[str, list[str]] = {}
    with client, watch:
        while seen != written:
            change = watch.next(RECOVERY_S)
            for event in change.events:
                assert event.value is not None
                of_key = seen.setdefault(event.key.decode(), [])
                of_key.append(event.value.decode())
                assert of_key == written[event.key.decode()][: len(of_key)]
    assert change.cursor


def test_neighbours_merge_under_load(urls: tuple[Running, list[str]]) -> None:
    _, (a, b, c) = urls
    failed: list[object] = []
    stop = threading.Event()

    def write(url: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            key = KEYS[number % len(KEYS)]
            for method, body in (("PUT", {"value": f"m{number}"}), ("GET", None)):
                status, answer = call(url, method, key_path(key), body)
                if status != 200:
                    failed.append(answer)

    before = shards_of(a)
    left, right = before[2], before[3]
    threads = [threading.Thread(target=write, args=(url,)) for url in (b, c)]
    for thread in threads:
        thread.start()
    try:
        path = f"/api/v1/admin/shards/{left['shard']}/merge"
        status, answer = call(a, "POST", path, {"right": before[4]["shard"]})
        assert (status, answer["error"]) == (400, "invalid_shards"), answer
        status, answer = call(a, "POST", path, {"right": right["shard"]})
        assert status == 200, answer
        assert (answer["merged"]["start"], answer["merged"]["end"]) == (left["start"], right["end"])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    after = shards_of(b)
    assert len(after) == len(before) - 1
    assert listed(c, 7) == sorted(set(listed(a, 50)))
    last = f"/api/v1/admin/shards/{after[-1]['shard']}/merge"
    status, answer = call(a, "POST", last, {})
    assert (status, answer["error"]) == (400, "invalid_shards"), answer
    status, answer = call(b, "DELETE", last)
    assert (status, answer["error"]) == (400, "invalid_shards"), "it is not being merged"
    status, answer = call(b, "DELETE", "/api/v1/admin/shards/999/merge")
    assert (status, answer["error"]) == (404, "no_such_shard"), answer
    assert not any("operation" in each for each in after), "nothing is under way"


def test_a_split_of_nothing_is_refused(urls: tuple[Running, list[str]]) -> None:
    _, (a, *_) = urls
    split = "/api/v1/admin/shards/%s/split"
    assert call(a, "POST", split % 9999, {"key": "x"})[0] == 404
    assert call(a, "POST", split % "x", {"key": "x"})[0] == 400
    first = shards_of(a)[0]
    status, answer = call(a, "POST", split % first["shard"], {"key": "zzz"})
    assert (status, answer["error"]) == (400, "invalid_shards")
    status, answer = call(a, "POST", split % first["shard"], {"key": "!/6d5a91c24f0017ab"})
    assert (status, answer["error"]) == (400, "invalid_shards"), answer
    assert "split at b'!/'" in answer["message"]


def test_keyspaces_are_apart_and_go(urls: tuple[Running, list[str]]) -> None:
    _, (a, b, _) = urls
    status, made = call(a, "POST", "/api/v1/admin/keyspaces", {"name": "other", "shards": 3})
    assert (status, made["shards"]) == (200, 3)
    assert call(a, "POST", "/api/v1/admin/keyspaces", {"name": "other"})[0] == 409
    put_until_done(b, "k", "default's")
    until_s = time.monotonic() + RECOVERY_S
    path = key_path("k") + "?keyspace=other"
    while call(b, "PUT", path, {"value": "other's"})[0] != 200:
        assert time.monotonic() < until_s
        time.sleep(0.05)
    assert call(a, "GET", path)[1]["value"] == "other's"
    assert call(a, "GET", key_path("k"))[1]["value"] == "default's"
    assert [each["key"] for each in call(b, "GET", "/api/v1/keys?keyspace=other")[1]["keys"]] == [
        "k"
    ]
    altered = call(b, "PATCH", "/api/v1/admin/keyspaces/other", {"shards_max": 9})[1]
    assert altered["options"]["shards_max"] == 9
    assert call(b, "DELETE", "/api/v1/admin/keyspaces/other")[0] == 200
    while call(a, "GET", "/api/v1/admin/keyspaces/other")[0] != 404:
        assert time.monotonic() < until_s
        time.sleep(0.05)
    assert call(a, "GET", path)[0] == 404
    assert call(a, "DELETE", "/api/v1/admin/keyspaces/default")[0] == 400


def test_every_node_tells_what_was_done_on_another(urls: tuple[Running, list[str]]) -> None:
    _, nodes = urls
    assert call(nodes[0], "POST", "/api/v1/admin/keyspaces", {"name": "told"})[0] == 200
    for number in range(1, 13):
        done, asked = nodes[number % 3], nodes[(number + 1) % 3]
        status, altered = call(
            done, "PATCH", "/api/v1/admin/keyspaces/told", {"shards_max": number}
        )
        assert status == 200, (altered, "it did not know of the change before")
        found = call(asked, "GET", "/api/v1/admin/keyspaces/told")[1]
        assert found["options"]["shards_max"] == number
    assert call(nodes[1], "DELETE", "/api/v1/admin/keyspaces/told")[0] == 200
    status, found = call(nodes[2], "GET", "/api/v1/admin/keyspaces/told")
    assert status == 404 or found["state"] == "dropping"
    states = {each["state"] for each in shards_of(nodes[0], None) if each["keyspace"] == "told"}
    assert states <= {"retired"}


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Merge:
    """Somebody asks for one and waits until it gathers."""

    def __init__(self, url: str, keyspace: str, left: int) -> None:
        self.answer: tuple[int, Any] = (0, None)
        self.path = f"/api/v1/admin/shards/{left}/merge"
        self._thread = threading.Thread(target=self._ask, args=(url,))
        self._thread.start()
        until_s = time.monotonic() + RECOVERY_S
        while True:
            found = next(each for each in shards_of(url, keyspace) if each["shard"] == left)
            if found.get("operation", {}).get("step") == "gather":
                break
            assert time.monotonic() < until_s, found
            time.sleep(0.02)

    def _ask(self, url: str) -> None:
        self.answer = call(url, "POST", self.path, {})

    def told(self) -> tuple[int, Any]:
        self._thread.join(RECOVERY_S)
        return self.answer


def test_a_merge_that_waits_for_a_node_is_ended(
    urls: tuple[Running, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    """Replicas of shards of one copy have to come together, and the node of one is away."""
    cluster, (a, *_) = urls
    wanted = {"name": "single", "shards": 3, "options": {"replication": 1}}
    assert call(a, "POST", "/api/v1/admin/keyspaces", wanted)[0] == 200
    for key in "0Kz":
        put_until_done(a, key, "before", "single")
    members = call(a, "GET", "/api/v1/admin/cluster/nodes")[1]["nodes"]
    process = {each["name"]: each for each in json.loads(cluster.ready_file.read_text())}
    node = {each["node_id"]: process[each["name"]] for each in members}
    planner = call(a, "GET", "/api/v1/admin/cluster/moves")[1]["planner"]
    left, right = shards_of(a, "single")[:2]
    assert left["replicas"] != right["replicas"], "each is on a node of its own"
    away, there = (left, right) if right["replicas"] == [planner] else (right, left)
    key_there, key_away = (each["start"] or "0" for each in (there, away))
    url = next(node[n]["url"] for n in node if n not in away["replicas"])
    with stopped(node[away["replicas"][0]]["pid"]):
        merge = Merge(url, "single", left["shard"])
        busy = call(url, "POST", merge.path, {})
        assert (busy[0], busy[1]["error"]) == (409, "shard_busy"), busy
        assert call(url, "PUT", key_path(key_there, "single"), {"value": "meanwhile"})[0] == 200
        status, done = call(url, "DELETE", merge.path)
        assert status == 200, done
        pair = [left["shard"], right["shard"]]
        assert (done["ended"]["step"], done["ended"]["shards"]) == ("gather", pair)
        status, answer = merge.told()
        assert (status, answer["error"], answer["outcome"]) == (503, "unavailable", "none"), answer
        assert not any("operation" in each for each in shards_of(url, "single"))
        assert call(url, "DELETE", merge.path)[1]["error"] == "invalid_shards", "it is over"
        merge = Merge(url, "single", left["shard"])
        words = ["shard", "merge", str(right["shard"]), "--end", "--endpoints", url]
        assert main(words) == 0, "by either of the two"
        assert f"shards {pair[0]} and {pair[1]} stay two" in capfd.readouterr().out
        assert merge.told()[0] == 503
        assert main(words) == 2
        assert "is not being merged" in capfd.readouterr().err
    for key in (key_there, key_away):
        put_until_done(url, key, "after", "single")
        assert call(a, "GET", key_path(key, "single"))[1]["value"] == "after"
    assert [each["shard"] for each in shards_of(a, "single")][:2] == pair


def test_killed_and_restarted_it_has_everything(urls: tuple[Running, list[str]]) -> None:
    cluster, (a, b, c) = urls
    ready = json.loads(cluster.ready_file.read_text())
    shards = [(shard["shard"], shard["start"], shard["end"]) for shard in shards_of(b)]
    os.kill(ready[2]["pid"], signal.SIGKILL)
    for key in KEYS[::9]:
        put_until_done(a, key, "after the kill")
    assert listed(b, 11)[-1] == sorted([*KEYS, "k"])[-1]
    cluster.stop()
    data = Path(cluster.ready_file).parent / "data"
    again = Running(data, int(a.rsplit(":", 1)[1]), 3)
    try:
        again.wait_ready()
        assert sorted(set(KEYS) - set(listed(c, 50))) == []
        for key in KEYS[::9]:
            assert call(c, "GET", key_path(key))[1]["value"] == "after the kill"
        found = [(shard["shard"], shard["start"], shard["end"]) for shard in shards_of(b)]
        assert found == shards
    finally:
        again.stop()
