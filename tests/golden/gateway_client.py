"""Plays one conversation (etcd_conversations/steps.py) against any etcd gateway and notes answers.

It knows HTTP and nothing of etcd: the recorder gives it a fresh etcd's port, a replay gives it
another server's. Chunked answers are read chunk by chunk, because one message a chunk is part of
the protocol; hence the own reading of chunk sizes on http.client's buffered file. Every wait has a
deadline; every connection is closed at the end, also on failure.
"""

from __future__ import annotations

import http.client
import json
import time
from base64 import b64encode
from contextlib import suppress
from typing import Any

from tests.golden.etcd_conversations.steps import Conversation, Step
from tests.golden.normalise import fill_in, normalise

HEADERS = (
    "Content-Type",
    "Grpc-Metadata-Content-Type",
    "Access-Control-Allow-Origin",
    "Transfer-Encoding",
    "Allow",
    "Location",
)
DEADLINE_SECONDS = 10.0
# What requests may name instead of spelling it out.
CONSTANTS = {
    name: b64encode(bytes(size)).decode()
    for name, size in (("mebi", 2**20), ("mebi and a half", 3 * 2**19), ("2 mebi", 2**21))
}
QUIET_SECONDS = 0.3  # how long a stream must say nothing to be called quiet


class Player:
    """A server's port, what its answers taught about its ids, and the calls under way."""

    def __init__(self, port: int, known: dict[str, str] | None = None) -> None:
        self._port = port
        self._known = dict(known or {})
        self._calls: dict[str, http.client.HTTPConnection] = {}
        self._answers: dict[str, http.client.HTTPResponse] = {}

    def play(self, conversation: Conversation) -> dict[str, Any]:
        try:
            steps = [self._step(step) for step in conversation.steps]
        finally:
            self.close()
        return {"name": conversation.name, "about": conversation.about, "steps": steps}

    def close(self) -> None:
        for answer in self._answers.values():
            answer.close()
        for connection in self._calls.values():
            connection.close()
        self._answers.clear()
        self._calls.clear()

    def _step(self, step: Step) -> Step:
        if "open" in step:
            return step | self._open(step["open"], step)
        if "read" in step:
            return step | {"body": self._read(step["read"], step)}
        if "close" in step:
            return step | {"then": self._end(step["close"])}
        if "begin" in step:
            self._calls[step["begin"]] = self._send(step["request"])
            return step
        if "finish" in step:
            connection = self._calls.pop(step["finish"])
            return step | self._whole(connection.getresponse(), connection, step)
        if "abandon" in step:
            self._calls.pop(step["abandon"]).close()
            return step
        return step | self._call(step)

    def _send(self, request: Step) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE_SECONDS)
        body = fill_in(request["body"], CONSTANTS | self._known).encode()
        connection.request(
            request["method"], request["path"], body=body, headers=request.get("headers", {})
        )
        return connection

    def _call(self, step: Step) -> Step:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            connection = self._send(step["request"])
            answer = self._whole(connection.getresponse(), connection, step)
            if "until" not in step or step["until"] in answer["body"]:
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"never answered {step['until']!r}, last: {answer['body']}")
            time.sleep(0.02)  # the next look of a poll with a deadline

    def _whole(
        self, answer: http.client.HTTPResponse, connection: http.client.HTTPConnection, step: Step
    ) -> Step:
        try:
            text = answer.read().decode()
        finally:
            connection.close()
        self._catch(text, step)
        return self._head(answer) | {"body": normalise(text, self._known)}

    def _open(self, name: str, step: Step) -> Step:
        connection = self._calls[name] = self._send(step["request"])
        answer = self._answers[name] = connection.getresponse()
        return self._head(answer) | {"body": self._read(name, step)}

    def _read(self, name: str, step: Step) -> list[str]:
        chunks = []
        for number in range(step["chunks"]):
            chunk = _chunk(self._answers[name])
            if chunk is None:
                raise EOFError(f"stream {name} ended before chunk {number + 1} of {step['chunks']}")
            self._catch(chunk, step)
            chunks.append(normalise(chunk, self._known))
        return chunks

    def _end(self, name: str) -> str:
        connection = self._calls.pop(name)
        answer = self._answers.pop(name)
        try:
            if connection.sock is not None:
                connection.sock.settimeout(QUIET_SECONDS)
            chunk = _chunk(answer)
        except TimeoutError:
            return "quiet"
        finally:
            answer.close()
            connection.close()
        if chunk is not None:
            raise AssertionError(f"stream {name} had more to say: {chunk}")
        return "ended"

    def _head(self, answer: http.client.HTTPResponse) -> Step:
        named = {name: answer.headers[name] for name in HEADERS if name in answer.headers}
        return {"status": answer.status, "headers": named}

    def _catch(self, text: str, step: Step) -> None:
        for name, path in step.get("catch", {}).items():
            found: Any = json.loads(text)
            for part in path.split("."):
                with suppress(ValueError):
                    part = int(part)
                found = found[part]
            self._known[name] = found


def _chunk(answer: http.client.HTTPResponse) -> str | None:
    """The next chunk of a chunked answer, or None at its end."""
    size = int(answer.fp.readline().split(b";")[0], 16)
    data = answer.fp.read(size)
    answer.fp.readline()
    return data.decode() if size else None
