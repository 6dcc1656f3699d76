"""`januskv cluster`: a local cluster, one process a node, for trying things out and for tests.

Node i (from 0) is called n1, n2, ...; it listens for clients on base+10*i and for its peers on
base+10*i+1, keeps its data in DIR/nI/data, its configuration in DIR/nI/januskv.toml and its log in
DIR/nI/log. A restart on the same directory resumes. SIGINT or SIGTERM stops all of them in good
order. A node that ends by itself is reported, and the others go on: start it again with
`januskv serve --config DIR/nI/januskv.toml`.

Exit codes: 0 stopped; 1 a node could not start, or all of them ended; 2 the call is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kv import leash
from kv.cli.command import whole_number
from kv.cli.progress import Progress
from kv.config.sections import LEADERLESS, MODES, STRONG
from raftgroups.meta.view import SHARDS_MAX
from storage.errors import InvalidOptionError
from storage.system_clock import SystemClock

START_S: Final = 60.0
STOP_S: Final = 20.0
POLL_S: Final = 0.05
STATE_NAME: Final = "cluster.json"
_CLOCK: Final = SystemClock()


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    home: Path
    client: str
    peer: str

    @property
    def url(self) -> str:
        return f"http://{self.client}"

    @property
    def config(self) -> Path:
        return self.home / "januskv.toml"

    @property
    def log(self) -> Path:
        return self.home / "log"


class ClusterCommand:
    name = "cluster"
    help = "run a local cluster of several nodes, one process each"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--nodes", type=whole_number(1, 99), default=3, metavar="N")
        parser.add_argument(
            "--data",
            type=Path,
            default=Path("januskv-cluster"),
            metavar="DIR",
            help="for all nodes",
        )
        parser.add_argument(
            "--base-port",
            type=whole_number(1, 65_000),
            default=7400,
            metavar="PORT",
            help="node i serves clients on PORT+10*i and peers on PORT+10*i+1 (default 7400)",
        )
        parser.add_argument("--mode", choices=MODES, default="strong")
        parser.add_argument(
            "--engine", choices=("lmdb", "rocksdb", "memory"), help="of the regime of --mode"
        )
        parser.add_argument(
            "--shards",
            type=whole_number(1, SHARDS_MAX),
            default=1,
            metavar="K",
            help="ranges that the keyspace default begins with (first run only; default 1)",
        )
        parser.add_argument(
            "--ready-file",
            type=Path,
            metavar="FILE",
            help="write JSON [{name, url, pid}] here once every node serves",
        )

    def run(self, args: argparse.Namespace) -> int:
        members = plan(args.data, args.nodes, args.base_port)
        prepare(args.data, members, mode=args.mode, engine=args.engine, shards=args.shards)
        return Local(members, args.ready_file, args.mode).run()


def curl_lines(members: Sequence[Member], mode: str) -> list[str]:
    """Calls that work as printed, on different nodes."""
    first, second, third = (members[number % len(members)].url for number in range(3))
    if mode == LEADERLESS:
        return [
            f'curl -X PUT {first}/api/v1/keys/greeting -d \'{{"value": "hello"}}\'',
            f'curl -X PUT {third}/api/v1/keys/greeting -d \'{{"value": "hallo"}}\'',
            f"curl {second}/api/v1/keys/greeting   # both: write again with their context",
            f"curl -X POST {third}/api/v1/keys/visits/incr -d '{{\"delta\": 1}}'",
        ]
    return [
        f'curl -X PUT {first}/api/v1/keys/greeting -d \'{{"value": "hello"}}\'',
        f"curl {second}/api/v1/keys/greeting",
        f"curl -X POST {third}/api/v1/keys/visits/incr -d '{{\"delta\": 1}}'",
        f"curl '{second}/api/v1/watch?prefix=greet&from=1' --max-time 2",
        f'curl -X POST {first}/v3/kv/range -d \'{{"key": "Z3JlZXRpbmc="}}\'',
    ]


def plan(data: Path, nodes: int, base_port: int) -> list[Member]:
    if base_port + 10 * (nodes - 1) + 1 > 65_535:
        raise InvalidOptionError(
            f"{nodes} nodes from port {base_port} on need ports up to "
            f"{base_port + 10 * (nodes - 1) + 1}; give a lower --base-port"
        )
    return [
        Member(
            f"n{number + 1}",
            data / f"n{number + 1}",
            f"127.0.0.1:{base_port + 10 * number}",
            f"127.0.0.1:{base_port + 10 * number + 1}",
        )
        for number in range(nodes)
    ]


def prepare(
    data: Path, members: Sequence[Member], *, mode: str, engine: str | None, shards: int = 1
) -> None:
    """Write the configurations. The cluster's id, size and mode stay what they were at first."""
    state_path = data / STATE_NAME
    data.mkdir(parents=True, exist_ok=True)
    if state_path.exists():
        try:
            state = json.loads(state_path.read_text())
            cluster_id, size = str(state["id"]), int(state["nodes"])
            was = str(state.get("mode", STRONG))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidOptionError(
                f"{state_path} is damaged ({error}); name another --data directory"
            ) from error
        if was != mode:
            raise InvalidOptionError(
                f"{data} holds a {was} cluster, whose keys a {mode} one would not show; give "
                f"--mode {was}, or another --data"
            )
        if size != len(members):
            raise InvalidOptionError(
                f"{data} holds a cluster of {size} nodes; give --nodes {size}, or another --data"
            )
    elif any(data.iterdir()):
        raise InvalidOptionError(
            f"{data} is not empty and holds no cluster of ours; name another --data directory"
        )
    else:
        cluster_id = f"local-{secrets.token_hex(4)}"
        state = {"id": cluster_id, "nodes": len(members), "mode": mode}
        state_path.write_text(json.dumps(state) + "\n")
    for member in members:
        member.home.mkdir(exist_ok=True)
        member.config.write_text(_config(member, members, cluster_id, mode, engine, shards))


def _config(
    member: Member,
    members: Sequence[Member],
    cluster_id: str,
    mode: str,
    engine: str | None,
    shards: int,
) -> str:
    initial = ",\n".join(f'    {{name = "{each.name}", peer = "{each.peer}"}}' for each in members)
    engine_lines = f'\n[{mode}]\nengine = "{engine}"\n' if engine else ""
    return f"""# Written by januskv cluster at each start.
mode = "{mode}"

[node]
name = "{member.name}"
data = {json.dumps(str(member.home.resolve() / "data"))}
listen = "{member.client}"
peer_listen = "{member.peer}"

[cluster]
id = "{cluster_id}"
shards = {shards}
initial = [
{initial},
]
{engine_lines}"""


class Local:
    """The processes of one run. Whatever happens, none of them outlives it (kv/leash.py)."""

    def __init__(
        self, members: Sequence[Member], ready_file: Path | None, mode: str = STRONG
    ) -> None:
        self._members = members
        self._mode = mode
        self._ready_file = ready_file
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = False

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._told_to_stop)
        if self._ready_file is not None:
            self._ready_file.unlink(missing_ok=True)
        with ExitStack() as ending:
            ending.callback(self._end)
            for member in self._members:
                self._children[member.name] = self._start(member)
            if not self._wait_until_ready():
                return 0 if self._stopping else 1
            self._announce()
            return self._watch()

    def _told_to_stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _start(self, member: Member) -> subprocess.Popen[bytes]:
        with member.log.open("ab") as log:
            arguments = ["serve", "--config", str(member.config)]
            return leash.start("kv.cli.main", arguments, stdout=log, stderr=log)

    def _wait_until_ready(self) -> bool:
        waiting = list(self._members)
        until_s = _CLOCK.monotonic() + START_S
        progress = Progress(len(waiting))
        try:
            while waiting and not self._stopping:
                for member in list(waiting):
                    code = self._children[member.name].poll()
                    if code is not None:
                        self._complain(member, f"ended with code {code}")
                        return False
                    if _is_ready(member.url):
                        waiting.remove(member)
                        progress.advance(1, f"{member.name} serves")
                if _CLOCK.monotonic() > until_s:
                    self._complain(waiting[0], f"did not serve within {START_S:.0f} s")
                    return False
                time.sleep(POLL_S)
        finally:
            progress.finish()
        return not self._stopping

    def _complain(self, member: Member, what: str) -> None:
        tail = member.log.read_text(errors="replace").splitlines()[-8:]
        lines = "".join(f"  {line}\n" for line in tail)
        sys.stderr.write(f"januskv: node {member.name} {what}; the end of {member.log}:\n{lines}")

    def _announce(self) -> None:
        out = sys.stdout
        out.write(f"{'node':<6}{'clients':<26}{'peers':<18}{'pid':<9}log\n")
        for member in self._members:
            pid = self._children[member.name].pid
            out.write(f"{member.name:<6}{member.url:<26}{member.peer:<18}{pid:<9}{member.log}\n")
        out.write("\ntry it, from another terminal:\n")
        out.writelines(f"  {line}\n" for line in curl_lines(self._members, self._mode))
        out.write("\nready; ctrl-C stops all of them\n")
        out.flush()
        if self._ready_file is not None:
            ready = [
                {"name": each.name, "url": each.url, "pid": self._children[each.name].pid}
                for each in self._members
            ]
            temporary = self._ready_file.with_name(self._ready_file.name + ".tmp")
            temporary.write_text(json.dumps(ready) + "\n")
            os.replace(temporary, self._ready_file)

    def _watch(self) -> int:
        """Until told to stop, or until nothing runs any more."""
        running = dict(self._children)
        while not self._stopping:
            for name, child in list(running.items()):
                code = child.poll()
                if code is not None:
                    del running[name]
                    member = next(each for each in self._members if each.name == name)
                    self._complain(member, f"ended with code {code}")
                    sys.stderr.write(
                        f"januskv: start it again with: januskv serve --config {member.config}\n"
                    )
            if not running:
                sys.stderr.write("januskv: no node runs any more\n")
                return 1
            time.sleep(POLL_S)
        return 0

    def _end(self) -> None:
        """All at once: draining one after the other would move the leadership through all."""
        alive = [child for child in self._children.values() if child.poll() is None]
        for child in alive:
            child.terminate()
        until_s = _CLOCK.monotonic() + STOP_S
        for child in alive:
            try:
                child.wait(max(0.1, until_s - _CLOCK.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._ready_file is not None:
            self._ready_file.unlink(missing_ok=True)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
