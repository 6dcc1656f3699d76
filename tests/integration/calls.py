"""Calls of the REST face of a node that is a process, as plain as http.client makes them."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any
from urllib.parse import quote

RECOVERY_S = 20.0


def call(url: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def key_path(key: str, keyspace: str = "") -> str:
    return f"/api/v1/keys/{quote(key, safe='')}" + (f"?keyspace={keyspace}" if keyspace else "")


def put_until_done(url: str, key: str, value: str, keyspace: str = "") -> None:
    until_s = time.monotonic() + RECOVERY_S
    while True:
        status, answer = call(url, "PUT", key_path(key, keyspace), {"value": value})
        if status == 200:
            return
        assert status in (503, 504), answer  # a put of the same value may be made again
        assert time.monotonic() < until_s, answer
        time.sleep(0.1)
