"""Stands in for `januskv cluster`: the same words, a ready file, and three ports that speak as much
of the JSON gateway as a measurement needs, over one dictionary in one process. Node 2 answers in
chunks.

    python gateway_standin.py [--fault lose|refuse|leave|mute] cluster --nodes 3 --data DIR ...

A watch sees every put outside `bench/`, whatever it asks for. Faults: `lose` acknowledges every
tenth put without doing it, `refuse` answers every hundredth request with 503, `leave` ends before
it serves, `mute` writes a ready file that is none, `deaf` keeps the tenth event from one watcher.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from base64 import b64decode
from pathlib import Path
from typing import Any


class Store:
    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.values: dict[str, str] = {}
        self.revision = 1
        self.asked = 0
        self.watchers: list[asyncio.StreamWriter] = []
        self.events = 0

    def answer(self, member: int, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        header = {"member_id": str(member), "revision": str(self.revision)}
        match path:
            case "/v3/kv/put":
                if self.fault != "lose" or self.asked % 10:
                    self._put(body)
            case "/v3/kv/txn":
                for operation in body["success"]:
                    self._put(operation["request_put"], bump=False)
                self.revision += 1
                return {"header": header, "succeeded": True}
            case "/v3/kv/range" if body.get("count_only"):
                return {"header": header, "count": str(len(self.values))}
            case "/v3/kv/range":
                found = {"key": body["key"], "value": self.values[body["key"]]}
                return {"header": header, "kvs": [found], "count": "1"}
            case "/v3/maintenance/status":
                return {"header": header, "leader": "1"}
            case "/health":
                return {"health": "true"}
        return {"header": header}

    def _put(self, put: dict[str, Any], bump: bool = True) -> None:
        self.values[put["key"]] = put["value"]
        self.revision += bump
        if not b64decode(put["key"]).startswith(b"bench/"):
            self._tell(put)

    def watch(self, writer: asyncio.StreamWriter) -> None:
        self.watchers.append(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(_chunk({"header": {}, "created": True}))

    def _tell(self, put: dict[str, Any]) -> None:
        self.events += 1
        event = {"kv": {**put, "mod_revision": str(self.revision)}}
        chunk = _chunk({"header": {"revision": str(self.revision)}, "events": [event]})
        for at, watcher in enumerate(self.watchers):
            if not (self.fault == "deaf" and at == 0 and self.events == 10):
                watcher.write(chunk)


def _chunk(result: dict[str, Any]) -> bytes:
    text = json.dumps({"result": result}, separators=(",", ":")).encode() + b"\n"
    return b"%x\r\n%s\r\n" % (len(text), text)


async def serve(store: Store, member: int, reader: Any, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = head.lower().partition("content-length: ")[2].partition("\r")[0]
            body = await reader.readexactly(int(length or 0))
            if store.fault == "refuse" and store.asked > 100 and store.asked % 100 == 0:
                store.asked += 1
                writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
                continue
            if "/v3/watch" in head:
                store.watch(writer)
                continue
            answer = store.answer(member, head.split(" ")[1], json.loads(body or b"{}"))
            text = json.dumps(answer, separators=(",", ":")).encode()
            if member == 2:
                framing = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
            else:
                framing = b"Content-Length: %d\r\n\r\n%s"
            writer.write(b"HTTP/1.1 200 OK\r\n" + framing % (len(text), text))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", default="")
    parser.add_argument("command", choices=["cluster"])
    for name in ("--nodes", "--data", "--base-port", "--ready-file"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    if args.fault == "leave":
        raise SystemExit("the stand-in leaves, as it was told")
    store = Store(args.fault)
    nodes = []
    for at in range(int(args.nodes)):
        port = int(args.base_port) + 10 * at

        async def connected(reader: Any, writer: Any, member: int = at + 1) -> None:
            await serve(store, member, reader, writer)

        await asyncio.start_server(connected, "127.0.0.1", port)
        nodes.append({"name": f"n{at}", "url": f"http://127.0.0.1:{port}", "pid": os.getpid()})
    write(args.ready_file, "[{}]" if args.fault == "mute" else json.dumps(nodes))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
