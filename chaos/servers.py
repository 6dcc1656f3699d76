"""A local cluster of real `januskv serve` processes, each of which can be killed, frozen, started.

The configurations are those that `januskv cluster` writes. Synchronous on purpose, as
raftcluster.py: what it waits for happens in other processes; asyncio programs call it in a thread.

Invariant: `close` ends every process that was started, by its id, also a frozen one and also after
a failure; where this program is itself killed, the kernel ends them (kv/leash.py). Logs stay in the
directory (`logs` gives their ends).
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from chaos.joining import joining
from chaos.links import Door, Links
from chaos.raftcluster import StuckError, wait_for
from chaos.server import PREPARED, Server
from kv import leash
from kv.cli.cluster import plan, prepare
from kv.config.sections import STRONG
from kv.peers.cluster import free_ports
from storage.system_clock import SystemClock

CLOCK: Final = SystemClock()
POLL_S: Final = 0.05
START_S: Final = 120.0
"""Long: a machine with much else to do is no reason to give up."""
STOP_S: Final = 30.0
SETTLE_S: Final = 90.0
EQUAL_S: Final = 60.0
LOG_BYTES: Final = 6_000

T = TypeVar("T")


class Servers:
    """A context: the nodes run and serve inside, and none of them outlives it."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        mode: str = STRONG,
        extra: str = "",
        links: Links | None = None,
        faulty: bool = False,
        shards: int = 1,
        guests: int = 0,
    ) -> None:
        """`extra`: sections added to each node's configuration. `faulty`: their disks and clocks
        fail when they are told to. With `links` the nodes reach each other through those.
        `guests`: nodes beside them that do not run yet, and join when they are invited."""
        offsets = [10 * number + port for number in range(nodes + guests) for port in (0, 1, 2)]
        members = plan(directory / "data", nodes + guests, free_ports(offsets))
        prepare(directory / "data", members[:nodes], mode=mode, engine=None, shards=shards)
        if links is not None:
            links.connect(members)
        self.links = links
        self.nodes = {member.name: Server(member) for member in members[:nodes]}
        self.guests = {member.name: Server(member) for member in members[nodes:]}
        for guest in self.guests.values():
            guest.member.home.mkdir()
            self._let_join(guest, members[0].config.read_text())
        for server in self.all.values():
            parts = [extra]
            if links is not None:
                routes = links.routes(server.member).items()
                lines = [f'"{name}" = "{address}"' for name, address in routes]
                parts.append("\n".join(["[cluster.peer_addresses]", *lines]))
            if faulty:
                server.control = (server.host, server.port + 2)
                address = f"{server.host}:{server.port + 2}"
                parts.append(f'[testing]\ncontrol = "{address}"\ndata_loss_is_meant = true')
            with server.member.config.open("a") as file:
                file.write("\n".join(["", *parts, ""]))

    @property
    def all(self) -> dict[str, Server]:
        return {**self.nodes, **self.guests}

    def __enter__(self) -> Servers:
        try:
            self.start(*self.nodes)
            self.wait_ready(*self.nodes)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        running = [server for server in self.all.values() if server.running]
        for server in running:
            if server.frozen:
                server.signal(signal.SIGCONT)
            server.signal(signal.SIGTERM)
        end = CLOCK.monotonic() + STOP_S
        for server in running:
            assert server.process is not None
            try:
                server.process.wait(max(0.1, end - CLOCK.monotonic()))
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()

    # --- one node -------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        for name in names:
            server = self.all[name]
            assert not server.running, f"{name} runs already"
            arguments = ["serve", "--config", str(server.member.config)]
            with server.member.log.open("ab") as log:
                server.process = leash.start("kv.cli.main", arguments, stdout=log, stderr=log)

    def prepare(self, server: Server) -> None:
        """Load its program; it begins with `begin`."""
        arguments = ["serve", "--config", str(server.member.config)]
        with server.member.log.open("ab") as log:
            server.process = leash.start(
                "chaos.prepared", arguments, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        log_text = server.member.log.read_text
        self.wait(lambda: PREPARED in log_text(), f"{server.name} is loaded", START_S)

    def begin(self, server: Server) -> None:
        """One that was prepared: from here on as if it had been started."""
        assert server.process is not None
        assert server.process.stdin is not None
        with server.process.stdin as lines:
            lines.write(b"\n")

    def wait_ready(self, *names: str) -> None:
        """Each of them serves: it could answer a read of the regime's usual strength now. (That
        it knows a leader says less, and a node without a replica knows none.)"""
        for name in names:
            self.wait(lambda name=name: self._serves(self.nodes[name]), f"{name} serves", START_S)  # type: ignore[misc]

    def wait_started(self, *names: str) -> None:
        """Each of them listens; a node that is cut off from the others gets no further."""
        for name in names:
            self.wait(lambda name=name: self._listens(self.nodes[name]), f"{name} starts", START_S)  # type: ignore[misc]

    def is_ready(self, name: str) -> bool:
        return self.nodes[name].running and self.nodes[name].ready()

    def _serves(self, server: Server) -> bool:
        return self._listens(server) and server.ready()

    def _listens(self, server: Server) -> bool:
        if not server.running:
            raise StuckError(f"{server.name} ended while it started\n{self.logs()}")
        return server.ask("/api/v1/status") is not None

    def kill(self, *names: str) -> None:
        """kill -9: all are gone when it returns."""
        for name in names:
            self.nodes[name].signal(signal.SIGKILL)
        for name in names:
            server = self.nodes[name]
            assert server.process is not None
            server.process.wait()
            server.frozen = False

    def wait_ended(self, name: str) -> int:
        """It ends by itself. Returns the exit code."""
        process = self.all[name].process
        assert process is not None
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise StuckError(f"{name} did not end within {STOP_S:g} s\n{self.logs()}") from None

    def stop(self, name: str) -> int:
        """SIGTERM, and wait for the end. Returns the exit code."""
        self.nodes[name].signal(signal.SIGTERM)
        return self.wait_ended(name)

    # --- nodes that join --------------------------------------------------------------------

    def begin_anew(self, name: str) -> None:
        """With an empty disk: it joins the others under a new id."""
        server = self.all[name]
        shutil.rmtree(server.member.home / "data", ignore_errors=True)
        self._let_join(server, server.member.config.read_text())
        self.start(name)

    def _let_join(self, server: Server, text: str) -> None:
        member = server.member
        routes = {} if self.links is None else self.links.routes(member)
        peers = [
            routes.get(name, other.member.peer)
            for name, other in self.nodes.items()
            if other is not server
        ]
        member.config.write_text(
            joining(
                text,
                peers,
                name=member.name,
                data=str(member.home.resolve() / "data"),
                listen=member.client,
                peer_listen=member.peer,
            )
        )

    # --- all of them ------------------------------------------------------------------------

    def wait(self, probe: Callable[[], T | None], what: str, deadline_s: float = 30.0) -> T:
        try:
            return wait_for(probe, what, deadline_s, poll_s=POLL_S)
        except StuckError as error:
            raise StuckError(f"{error}\n{self.logs()}") from None

    def leader(self, among: Sequence[str] = ()) -> str:
        """The node that says that it leads, in the highest term; waits until there is one."""

        def probe() -> str | None:
            terms: dict[int, str] = {}
            for name in among or self.nodes:
                status = self.nodes[name].status()
                if status is not None and status["role"] == "leader":
                    terms[status["term"]] = name
            return terms[max(terms)] if terms else None

        return self.wait(probe, "a node leads")

    def doors(self) -> list[Door]:
        """Where clients go: to the proxies, if there are any."""
        return [
            Door(name, server.host, server.port) if self.links is None else self.links.door(name)
            for name, server in self.nodes.items()
        ]

    def others(self, name: str) -> list[str]:
        return [each for each in self.nodes if each != name]

    def equal_digests(self) -> str:
        """Wait until all nodes stand at one applied index while nothing is written, then compare
        what they hold. Returns the common digest; raises AssertionError if they differ."""

        def probe() -> dict[str, tuple[int, int, str]] | None:
            found = {name: self._digest(server) for name, server in self.nodes.items()}
            settled = {name: digest for name, digest in found.items() if digest is not None}
            if len(settled) < len(self.nodes):
                return None
            return settled if len({digest[:2] for digest in settled.values()}) == 1 else None

        digests = self.wait(probe, "all nodes stand at one applied index", EQUAL_S)
        if len(set(digests.values())) != 1:
            raise AssertionError(f"replicas differ at equal applied index: {digests}")
        applied_index, revision, digest = next(iter(digests.values()))
        return f"{digest} at index {applied_index}, revision {revision}"

    def settled(self) -> None:
        """Wait until every shard has all its replicas, where they belong. Raises AssertionError."""
        found: dict[str, Any] = {}

        def probe() -> bool:
            for server in self.nodes.values():
                answer = server.ask("/api/v1/admin/cluster/moves", timeout_s=5.0)
                if answer is not None and answer[0] == 200:
                    found.update(answer[1])
                    return bool(found["settled"]) and not found["short"] and not found["stuck"]
            return False

        try:
            self.wait(probe, "the placement of replicas comes to rest", SETTLE_S)
        except StuckError:
            raise AssertionError(f"replicas are not where they belong: {found}") from None

    def equal_listings(self) -> str:
        """The same where a hash of everything is not to be had, because the keyspace is split: what
        each node lists from its own replicas, with values and versions."""
        found: dict[str, str] = {}

        def probe() -> bool:
            for name, server in self.nodes.items():
                found[name] = server.listing() or f"{name} does not answer"
            return len(set(found.values())) == 1

        try:
            self.wait(probe, "all nodes list the same", EQUAL_S)
        except StuckError:
            raise AssertionError(f"replicas differ: {found}") from None
        return f"{next(iter(found.values()))} listed at each node"

    def _digest(self, server: Server) -> tuple[int, int, str] | None:
        """(applied index, revision, digest), if nothing was applied meanwhile."""
        before = server.status()
        answer = server.ask("/v3/maintenance/hashkv", {}, timeout_s=10.0)
        after = server.status()
        if before is None or after is None or answer is None or answer[0] != 200:
            return None
        if before["applied_index"] != after["applied_index"] or before["lag"] or after["lag"]:
            return None
        digest = answer[1]
        return after["applied_index"], int(digest["hash_revision"]), str(digest["hash"])

    def logs(self) -> str:
        parts = []
        for server in self.all.values():
            text = ""
            with contextlib.suppress(OSError):
                text = server.member.log.read_bytes()[-LOG_BYTES:].decode(errors="replace")
            code = None if server.process is None else server.process.poll()
            state = "runs" if server.running else f"ended ({code})"
            parts.append(f"--- {server.name}, {state}: the end of its log ---\n{text}")
        return "\n".join(parts)


def pause(seconds: float) -> None:
    """Let the load run on; nothing is synchronised by it."""
    time.sleep(seconds)
