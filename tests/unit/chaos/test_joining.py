"""The configuration of a node that joins, and what an operator does to nodes, on doubles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from chaos.faults import members
from chaos.faults.stage import BusyError, Stage
from chaos.joining import joining
from chaos.links import Links
from chaos.scenarios.parsing import parse_scenario
from chaos.scenarios.scenario import Fault
from chaos.servers import Servers
from kv.cli.cluster import plan, prepare
from kv.config.reading import parse_config

SCENARIO = """
name = "s"
about = "a"
sizes = {strong = [4]}
shards = 4
[[load]]
kind = "register"
[[fault]]
kind = "KIND"
"""


def test_a_joining_node_differs_from_a_founder_in_its_names_and_in_how_it_begins(
    tmp_path: Path,
) -> None:
    founders = plan(tmp_path, 3, 20_000)
    prepare(tmp_path, founders, mode="strong", engine="lmdb", shards=4)
    text = founders[0].config.read_text() + '[cluster.peer_addresses]\n"n2" = "127.0.0.1:9"\n'
    given = joining(
        text, [founders[0].peer], name="n4", data="/d", listen="127.0.0.1:1",
        peer_listen="127.0.0.1:2",
    )  # fmt: skip
    config = parse_config(given)
    assert (config.node.name, str(config.node.data)) == ("n4", "/d")
    assert config.cluster.join == (("127.0.0.1", 20_001),)
    assert config.cluster.initial == ()
    assert config.cluster.id == parse_config(text).cluster.id
    assert config.cluster.peer_addresses == {"n2": ("127.0.0.1", 9)}
    assert joining(given, [founders[0].peer]) == given, "one that joins again"


class Cluster:
    """Four nodes and a guest; each change takes one look until it is done."""

    def __init__(self) -> None:
        self.states = dict.fromkeys(("n1", "n2", "n3", "n4"), "active")
        self.calls: list[str] = []
        self.loses = ""
        self.nodes = dict.fromkeys(self.states, self)
        self.guests = {"n5": self}
        self.running, self.frozen = True, False

    def ask(self, path: str, body: Any = None, *, method: str = "POST", timeout_s: float) -> Any:
        what = path.rpartition("/")[2]
        if body is None:
            nodes = [
                {"name": name, "node_id": f"id-{name}", "state": state,
                 "replicas": [1] if state == "active" else []}
                for name, state in self.states.items()
            ]  # fmt: skip
            return 200, {"nodes": nodes}
        name = body.get("node_address", "").removeprefix("id-")
        self.calls.append(f"{method} {what} {name}".strip())
        if method == "DELETE":
            self.states.pop(name)
            return 200, {"state": "removed"}
        if what in ("drain", "undrain"):
            self.states[name] = "draining" if what == "drain" else "active"
        return None if self.loses == what else (200, {})

    def begin_anew(self, name: str) -> None:
        self.calls.append(f"begin {name}")
        self.states[name] = "active"

    def kill(self, name: str) -> None:
        self.calls.append(f"kill {name}")

    def wait_ended(self, name: str) -> None:
        self.calls.append(f"{name} ended")


@contextmanager
def begun(kind: str, cluster: Cluster) -> Iterator[str]:
    fault: Fault = parse_scenario(SCENARIO.replace("KIND", kind), "test").faults[0]
    stage = Stage(cast(Servers, cluster), cast(Links, None), lambda name: "follower")
    with getattr(members, kind)(stage, fault, Random(1)) as what:
        stage.over.set()
        with pytest.raises(BusyError), members.join(stage, fault, Random(2)):
            raise AssertionError("two at once")
        yield what
    with stage.claim([members.PLACEMENT, *stage.names]):
        pass  # everything was given back


def test_who_joins_leaves_again_in_order() -> None:
    cluster = Cluster()
    with begun("join", cluster) as what:
        assert what == "n5 joined"
        assert cluster.states["n5"] == "active"
    assert cluster.calls == [
        "begin n5", "POST drain n5", "DELETE nodes n5", "n5 ended",
    ]  # fmt: skip
    assert "n5" not in cluster.states


def test_a_drain_is_taken_back_even_if_its_answer_was_lost() -> None:
    cluster = Cluster()
    with begun("drain", cluster) as what:
        drained = what.removeprefix("drained ")
        assert cluster.states[drained] == "draining"
    assert set(cluster.states.values()) == {"active"}
    cluster.loses = "drain"
    with pytest.raises(BusyError), begun("drain", cluster):
        raise AssertionError("nobody knows whether it is drained")
    assert set(cluster.states.values()) == {"active"}


def test_who_lost_its_disk_is_removed_by_its_old_id_before_it_comes_back() -> None:
    cluster = Cluster()
    with begun("replace", cluster) as what:
        name = what.removeprefix("lost the disk of ")
        assert cluster.calls == [f"kill {name}"]
    assert cluster.calls == [f"kill {name}", f"DELETE nodes {name}", f"begin {name}"]


def test_a_replica_moves_only_to_a_node_without_it() -> None:
    cluster = Cluster()
    with pytest.raises(BusyError), begun("move", cluster):
        raise AssertionError("every node has one")
    cluster.states["n3"] = "joining"
    with pytest.raises(BusyError), begun("move", cluster):
        raise AssertionError("who joins is no target yet")
    assert cluster.calls == []
