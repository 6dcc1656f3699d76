"""One node of a cluster of real processes: asked, signalled, ordered to fail. Synchronous."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import quote

from chaos.http import NO_HEADERS
from chaos.raftcluster import StuckError
from kv.cli.cluster import Member

READY_ANSWER_S: Final = 2.0
PREPARED: Final = "prepared"
"""A line of a node whose program is loaded (prepared.py)."""


class Server:
    """One node, running or not."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.name = member.name
        self.host, _, port = member.client.partition(":")
        self.port = int(port)
        self.process: subprocess.Popen[bytes] | None = None
        self.frozen = False
        self.control: tuple[str, int] | None = None
        """Where it takes orders to fail (kv/faulty.py)."""

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number is signal.SIGSTOP:
            self.frozen = True
        elif number is signal.SIGCONT:
            self.frozen = False

    def ask(
        self,
        path: str,
        body: object = None,
        *,
        method: str = "POST",
        timeout_s: float = 2.0,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> tuple[int, Any] | None:
        """(status, JSON) of a GET, or of a POST if there is a body; None if nobody answers."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            if body is None:
                connection.request("GET", path, headers=dict(headers))
            else:
                connection.request(method, path, json.dumps(body), dict(headers))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def listing(self) -> str | None:
        """A digest of all keys, values and versions that the node's own replicas hold."""
        digest, count, cursor = blake2b(digest_size=8), 0, ""
        while True:
            path = f"/api/v1/keys?limit=1000&values=true{cursor}"
            answer = self.ask(path, headers={"Consistency-Level": "EVENTUAL"}, timeout_s=10.0)
            if answer is None or answer[0] != 200:
                return None
            for each in answer[1]["keys"]:
                digest.update(repr((each["key"], each["version"], each["value"])).encode())
                count += 1
            if not answer[1]["has_more"]:
                return f"{digest.hexdigest()} of {count} keys"
            cursor = f"&cursor={quote(answer[1]['cursor'], safe='')}"

    def drain(self, path: str, body: object, *, timeout_s: float) -> int:
        """POST, read the answer to its end, and count its bytes; -1 if there was none."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        size_bytes = 0
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            while part := answer.read(1 << 16):
                size_bytes += len(part)
        except (OSError, http.client.HTTPException):
            return -1
        finally:
            connection.close()
        return size_bytes

    def order(self, order: Mapping[str, Any]) -> None:
        """Make it fail. A node that loses its power does not answer."""
        assert self.control is not None, "this node takes no orders"
        try:
            with socket.create_connection(self.control, 2.0) as connection:
                connection.sendall(json.dumps(order).encode() + b"\n")
                answer = connection.makefile("rb").readline()
        except OSError:
            return
        if answer and (told := json.loads(answer)):
            raise StuckError(f"{self.name} does not take {order}: {told}")

    def ready(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=READY_ANSWER_S)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def status(self) -> dict[str, Any] | None:
        """Of a node that serves."""
        answer = self.ask("/api/v1/status")
        return answer[1] if answer is not None and answer[0] == 200 else None
