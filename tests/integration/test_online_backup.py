"""A backup of a running node, put back as a cluster of its own when the old one is gone."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

JANUSKV = [sys.executable, "-m", "kv.cli.main"]
WAIT_S = 60.0


class Serving:
    def __init__(self, data: Path) -> None:
        self.log = data.with_name(data.name + ".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*JANUSKV, "serve", "--data", str(data), "--listen", "127.0.0.1:0"],
                stdin=subprocess.DEVNULL,
                stderr=log,
                stdout=log,
            )
        try:
            self.url = self._url()
        except BaseException:
            self.process.kill()
            self.process.wait(WAIT_S)
            raise

    def _url(self) -> str:
        until = time.monotonic() + WAIT_S
        while True:
            found = re.search(r"serves on (http://\S+),", self.log.read_text())
            if found:
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.02)

    def call(self, method: str, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(WAIT_S) == 0, self.log.read_text()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    started: list[Serving] = []

    def start(name: str) -> Serving:
        started.append(Serving(tmp_path / name))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def run(*arguments: str) -> str:
    done = subprocess.run([*JANUSKV, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_backup_of_a_running_node_comes_back_alone(tmp_path: Path, serve: Any) -> None:
    node = serve("first")
    for number in range(50):
        node.call("PUT", f"/api/v1/keys/k{number:02}", {"value": f"v{number}"})
    answer = node.call("POST", "/v3/maintenance/snapshot", {})
    node.call("PUT", "/api/v1/keys/k00", {"value": "later"})
    parts = [json.loads(line)["result"] for line in answer.splitlines()]
    remaining = [int(part.get("remaining_bytes", 0)) for part in parts]
    assert remaining == sorted(remaining, reverse=True)
    assert remaining[-1] == 0
    stream = io.BytesIO(b"".join(base64.b64decode(part["blob"]) for part in parts))
    with tarfile.open(fileobj=stream) as archive:
        for member in archive:
            assert member.isreg() or member.isdir(), member.name
            assert not {"", "..", "/"} & set(Path(member.name).parts), member.name
        archive.extractall(tmp_path / "backup")
    assert not list((tmp_path / "first").glob("backup-*")), "the copy is gone"
    assert "is whole" in run("backup", str(tmp_path / "backup"), "--verify")
    node.stop()

    # Without --alone it would wait for its old cluster: nobody there can add it again.
    out = run("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "second"), "--alone")
    assert "a cluster of its own" in out
    again = serve("second")
    assert json.loads(again.call("GET", "/api/v1/keys/k00"))["value"] == "v0"
    assert json.loads(again.call("GET", "/api/v1/count?prefix=k"))["count"] == 50
    written = json.loads(again.call("PUT", "/api/v1/keys/new", {"value": "x"}))
    assert written["version"] == 52
    again.stop()


def test_a_restored_node_that_is_not_alone_serves_nothing_and_says_why(
    tmp_path: Path, serve: Any
) -> None:
    node = serve("first")
    node.call("PUT", "/api/v1/keys/k", {"value": "v"})
    node.stop()
    run("backup", str(tmp_path / "backup"), "--data", str(tmp_path / "first"))
    run("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "second"))
    again = serve("second")
    with pytest.raises(urllib.error.HTTPError) as refused:
        again.call("GET", "/readyz")
    refused.value.close()
    assert refused.value.code == 503
    assert "do not vote any more" in again.log.read_text()
    again.stop()
