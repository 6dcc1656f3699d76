"""The same bytes to a server with the fast lane and to one without: same answers, same fate.

Directed cases first (each a way in which two readers of HTTP are known to disagree), then splits at
every byte, then random ones made of the same pieces.
"""

from __future__ import annotations

import json
from base64 import b64encode
from random import Random
from typing import Any

import pytest

from kv.api.guard import Access

Pair = Any


def text(raw: bytes) -> str:
    return b64encode(raw).decode()


def request(
    method: str = "POST",
    target: str | bytes = "/v3/kv/range",
    body: bytes | None = b'{"key":"YQ=="}',
    *headers: bytes,
    version: bytes = b"HTTP/1.1",
    host: bytes | None = b"127.0.0.1:7400",
    length: bytes | None = None,
) -> bytes:
    raw = target.encode() if isinstance(target, str) else target
    lines = [b"%b %b %b" % (method.encode(), raw, version)]
    if host is not None:
        lines.append(b"Host: " + host)
    lines += headers
    if length is not None:
        lines.append(b"Content-Length: " + length)
    elif body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def put(key: bytes = b"a", value: bytes = b"1", **fields: Any) -> bytes:
    body = {"key": text(key), "value": text(value), **fields}
    return request("POST", "/v3/kv/put", json.dumps(body).encode())


def get(key: bytes = b"a", *headers: bytes) -> bytes:
    return request("GET", b"/api/v1/keys/" + key, None, *headers)


def write(key: bytes = b"a", value: str = "v", *headers: bytes, **fields: Any) -> bytes:
    body = json.dumps({"value": value, **fields}).encode()
    return request("PUT", b"/api/v1/keys/" + key, body, *headers)


def of_keyspace(name: str) -> bytes:
    """Each kind of call, of one keyspace."""
    query = b"?keyspace=" + name.encode()
    return (
        request("PUT", b"/api/v1/keys/a" + query, b'{"value":"1"}')
        + request("GET", b"/api/v1/keys/a" + query, None)
        + request("POST", b"/api/v1/keys/a/cas" + query, b'{"expected_version":0,"new_value":"2"}')
        + request("DELETE", b"/api/v1/keys/a" + query, None)
        + request("GET", b"/api/v1/keys/a" + query, None)
    )


def cas(key: bytes, *headers: bytes, **fields: Any) -> bytes:
    return request("POST", b"/api/v1/keys/" + key + b"/cas", json.dumps(fields).encode(), *headers)


RANGE = request()
METRICS = request("GET", "/version", None)
CHUNKED = b"Transfer-Encoding: chunked"
TXN = {
    "compare": [{"key": text(b"a"), "target": "VALUE", "value": text(b"1")}],
    "success": [{"request_put": {"key": text(b"a"), "value": text(b"2")}}],
    "failure": [{"request_range": {"key": text(b"a")}}],
}


def call(path: str, body: Any) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request("POST", path, raw)


GATEWAY = {
    "put": put(),
    "put prev": put() + put(value=b"2", prev_kv=True),
    "range": put() + RANGE,
    "range of nothing": RANGE,
    "range all": put() + put(b"b") + call("/v3/kv/range", {"key": "AA==", "range_end": "AA=="}),
    "serializable": call("/v3/kv/range", {"key": text(b"a"), "serializable": True}),
    "past": put() + put() + call("/v3/kv/range", {"key": text(b"a"), "revision": 2}),
    "future": call("/v3/kv/range", {"key": text(b"a"), "revision": 99}),
    "delete": put() + call("/v3/kv/deleterange", {"key": text(b"a"), "prev_kv": True}) + RANGE,
    "txn": put() + call("/v3/kv/txn", TXN) + call("/v3/kv/txn", TXN),
    "empty txn": call("/v3/kv/txn", {}),
    "compaction": put() + put() + call("/v3/kv/compaction", {"revision": 2}),
    "no key": call("/v3/kv/put", {}),
    "bad json": call("/v3/kv/put", b'{"key":'),
    "bad base64": call("/v3/kv/put", {"key": "?", "value": ""}),
    "unknown field": call("/v3/kv/range", {"key": "YQ==", "nope": 1}),
    "not an object": call("/v3/kv/range", b"[]"),
    "empty body": call("/v3/kv/range", b""),
    "nul in body": call("/v3/kv/range", b"\x00"),
    "deep": call("/v3/kv/txn", b"[" * 5_000),
    "unknown lease": put(lease="77"),
    "large value": put(value=b"x" * 12_000),
    "too large": put(value=b"x" * 25_000),
    "far too large": put(value=b"x" * 60_000),
    "key too long": put(key=b"k" * 500),
    "beta": call("/v3beta/kv/put", {"key": "YQ=="}),
    "unknown call": call("/v3/kv/nothing", {}),
    "with a query": request(target="/v3/kv/range?a=b"),
    "with a fragment": request(target="/v3/kv/range#a"),
    "double slash": request(target="/v3//kv/range"),
    "trailing slash": request(target="/v3/kv/range/"),
    "percent": request(target="/v3/kv/%72ange"),
    "get": request("GET", body=None),
    "lower case method": request("post"),
    "odd method": request("BREW"),
    "options": request("OPTIONS", body=None),
    "head": request("HEAD", body=None),
    "absolute": request(target="http://127.0.0.1:7400/v3/kv/range"),
    "asterisk": request("OPTIONS", "*", None),
    "authority": request("CONNECT", "a:80", None),
    "status": call("/v3/maintenance/status", {}),
    "lease": call("/v3/lease/grant", {"TTL": 60, "ID": 7}) + put(lease="7"),
    "unknown": request("GET", "/nowhere", None),
}

KEYS = {
    "a head that only looks like one of a key": get() + get()[:4] + get()[get().index(b"HTTP/") :],
    "of another keyspace": of_keyspace("other"),
    "of default by its name": of_keyspace("default") + get(),
    "of no keyspace": of_keyspace("none") + get(),
    "keyspace and more": get(b"a?keyspace=other&revision=1"),
    "keyspace twice": get(b"a?keyspace=other&keyspace=other"),
    "keyspace without a name": get(b"a?keyspace="),
    "keyspace encoded": get(b"a?keyspace=oth%65r"),
    "keyspace beside a plain one": write() + of_keyspace("other") + get(),
    "a mark and nothing": get(b"a?"),
    "cas of a keyspace, cut": request("POST", b"/api/v1/keys/a?keyspace=other/cas", b"{}"),
    "get nothing": get(),
    "put and get": write() + get(),
    "put twice": write() + write(),
    "delete": write() + request("DELETE", "/api/v1/keys/a", None) + get(),
    "delete nothing": request("DELETE", "/api/v1/keys/a", None),
    "cas": write() + cas(b"a", expected_version=2, new_value="n") + get(),
    "cas lost": write() + cas(b"a", expected_version=9, new_value="n"),
    "cas of nothing": cas(b"a", expected_version=0, new_value="n"),
    "cas deletes": write() + cas(b"a", expected_value="v", delete=True) + get(),
    "cas without": cas(b"a", new_value="n"),
    "cas with a condition": cas(b"a", b"If-Match: 9", expected_version=0, new_value="n"),
    "slashes": write(b"a/b/c") + get(b"a/b/c"),
    "a key called cas": write(b"a/cas") + get(b"a/cas") + cas(b"a/cas", expected_version=0),
    "cas twice": cas(b"a/cas", expected_version=0, new_value="n") + get(b"a/cas"),
    "encoded cas": cas(b"a%2Fcas", expected_version=0, new_value="n") + get(b"a/cas"),
    "only cas": request("POST", "/api/v1/keys/cas", b"{}"),
    "nothing before cas": request("POST", "/api/v1/keys//cas", b"{}"),
    "other suffixes": write(b"a/ttl") + get(b"a/ttl") + get(b"a/incr") + write(b"a/incr"),
    "post without suffix": request("POST", "/api/v1/keys/a", b"{}"),
    "incr": request("POST", "/api/v1/keys/a/incr", b"{}"),
    "no key": get(b""),
    "percent": write(b"%61%2Fb") + get(b"a/b") + get(b"%61/b") + get(b"a%2fb"),
    "any byte": write(b"%00%FF%20") + get(b"%00%ff%20"),
    "not percent": get(b"%zz") + get(b"%6") + get(b"%"),
    "dots": get(b".") + get(b"..") + get(b"a/../b") + get(b"a/./b") + get(b"%2e%2e") + get(b"a.b"),
    "names with dots": write(b".a")
    + get(b".a")
    + write(b"a/.b/..c")
    + get(b"a/.b/..c")
    + write(b"...")
    + get(b"...")
    + get(b".a/../b")
    + get(b".a/")
    + get(b".a//b")
    + get(b"a/."),
    "climbing": get(b"../../../version") + get(b"%2e%2e/%2e%2e/%2e%2e/version"),
    "double slashes": write(b"a//b") + get(b"a//b") + get(b"/a"),
    "odd characters": get(b"a:b@c!$&'()*+,;=d") + get(b'a"b') + get(b"a<b>") + get(b"a[b]{c}|^`\\"),
    "utf-8": write("\u00fc".encode()) + get("\u00fc".encode()) + get(b"%C3%BC"),
    "latin-1": get(b"\xfc"),
    "long key": get(b"k" * 432) + get(b"k" * 433) + write(b"k" * 433),
    "query": write() + get(b"a?revision=2") + get(b"a?") + get(b"a?nope=1"),
    "fragment": get(b"a#b"),
    "keyspace": get(b"a?keyspace=nope"),
    "base64": write(b"a", "AP8=", encoding="base64") + get(),
    "bad base64": write(b"a", "?", encoding="base64"),
    "ttl": write(b"a", ttl=60) + get(),
    "lease": write(b"a", lease="12"),
    "if not exists": write(if_not_exists=True) + write(if_not_exists=True),
    "bad body": request("PUT", "/api/v1/keys/a", b"{") + request("PUT", "/api/v1/keys/a", b"[]"),
    "no body": request("PUT", "/api/v1/keys/a", b""),
    "unknown field": write(b"a", nope=1),
    "large": write(b"a", "x" * 15_000) + get(),
    "too large": write(b"a", "x" * 25_000),
    "value too large": write(b"a", "x" * 19_000),
    "get with a body": request("GET", "/api/v1/keys/a", b"{}") + get(),
    "get with an empty body": request("GET", "/api/v1/keys/a", b"") + get(),
    "delete with a body": request("DELETE", "/api/v1/keys/a", b"{}"),
    "put without length": request("PUT", "/api/v1/keys/a", None),
    "head": write() + request("HEAD", "/api/v1/keys/a", None),
    "patch": request("PATCH", "/api/v1/keys/a", b"{}"),
    "level": get(b"a", b"Consistency-Level: EVENTUAL") + get(b"a", b"consistency-level: session"),
    "bad level": get(b"a", b"Consistency-Level: QUORUM")
    + write(b"a", "v", b"Consistency-Level: x"),
    "level on a write": write(b"a", "v", b"Consistency-Level: EVENTUAL"),
    "session": get(b"a", b"Session-Token: 3:1,4:9") + write(b"a", "v", b"Session-Token: 4:9"),
    "bad session": get(b"a", b"Session-Token: x") + write(b"a", "v", b"Session-Token: 1"),
    "session and error": write(b"k" * 433, "v", b"Session-Token: 4:9")
    + cas(b"a", b"Session-Token: 4:9"),
    "timeout": get(b"a", b"Request-Timeout: 1.5") + get(b"a", b"Request-Timeout: 0"),
    "idempotency": write(b"a", "v", b"Idempotency-Key: c:1")
    + write(b"a", "v", b"Idempotency-Key: c:1"),
    "bad idempotency": write(b"a", "v", b"Idempotency-Key: c"),
    "if match": write() + write(b"a", "w", b'If-Match: "2"') + write(b"a", "w", b'If-Match: "2"'),
    "if none match": write(b"a", "w", b"If-None-Match: *") + write(b"a", "w", b"If-None-Match: *"),
    "both conditions": write(b"a", "w", b"If-None-Match: *", b'If-Match: "2"'),
    "bad conditions": write(b"a", "w", b"If-Match: 2") + get(b"a", b"If-None-Match: *"),
    "not modified": write() + get(b"a", b'If-None-Match: "2"') + get(b"a", b'If-None-Match: "1"'),
    "delete on condition": write() + request("DELETE", "/api/v1/keys/a", None, b'If-Match: "1"'),
    "delete if absent": request("DELETE", "/api/v1/keys/a", None, b"If-None-Match: *"),
    "listing": write() + request("GET", "/api/v1/keys", None),
    "raw": write() + request("GET", "/v1/kv/a", None),
    "status of nothing": request("GET", "/api/v1/nothing", None),
}

FRAMING = {
    "no host": request(host=None),
    "two hosts": request("POST", "/v3/kv/range", b"{}", b"Host: 127.0.0.1:7400"),
    "empty host": request(host=b""),
    "foreign host": request(host=b"evil.example"),
    "localhost": request(host=b"localhost"),
    "host in capitals": request(host=b"LOCALHOST:80"),
    "ipv6 host": request(host=b"[::1]:7400"),
    "host with a space": request(host=b"127.0.0.1 evil"),
    "two names in host": request(host=b"127.0.0.1, evil.example"),
    "origin": request("POST", "/v3/kv/range", b"{}", b"Origin: https://evil.example"),
    "same origin": request("POST", "/v3/kv/range", b"{}", b"Origin: http://127.0.0.1:7400"),
    "null origin": request("POST", "/v3/kv/range", b"{}", b"Origin: null"),
    "origin on a key": get(b"a", b"Origin: https://evil.example"),
    "authorization": request("POST", "/v3/kv/range", b"{}", b"Authorization: token"),
    "close": request("POST", "/v3/kv/range", b"{}", b"Connection: close") + RANGE,
    "keep-alive": request("POST", "/v3/kv/range", b"{}", b"Connection: keep-alive") + RANGE,
    "Keep-Alive": request("POST", "/v3/kv/range", b"{}", b"Connection: Keep-Alive") + RANGE,
    "close, te": request("POST", "/v3/kv/range", b"{}", b"Connection: close, te") + RANGE,
    "two connections": request(
        "POST", "/v3/kv/range", b"{}", b"Connection: keep-alive", b"Connection: close"
    )
    + RANGE,
    "1.0": request(version=b"HTTP/1.0") + RANGE,
    "1.0 keep-alive": request(
        "POST", "/v3/kv/range", b"{}", b"Connection: keep-alive", version=b"HTTP/1.0"
    )
    + RANGE,
    "1.0 without host": request(version=b"HTTP/1.0", host=None),
    "1.2": request(version=b"HTTP/1.2"),
    "2.0": request(version=b"HTTP/2.0"),
    "http": request(version=b"http/1.1"),
    "no version": b"POST /v3/kv/range\r\n\r\n",
    "preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "noise": b"\x00\xff\xfe\r\n\r\n",
    "empty lines first": b"\r\n\r\n" + RANGE,
    "empty lines between": RANGE + b"\r\n" + RANGE,
    "many empty lines": RANGE + b"\r\n\r\n\r\n" + RANGE,
    "expect": request("POST", "/v3/kv/range", b"{}", b"Expect: 100-continue"),
    "expect else": request("POST", "/v3/kv/range", b"{}", b"Expect: nothing"),
    "chunked": request("POST", "/v3/kv/range", None, b"Transfer-Encoding: chunked")
    + b"2\r\n{}\r\n0\r\n\r\n"
    + RANGE,
    "chunked with trailer": request("POST", "/v3/kv/range", None, b"Transfer-Encoding: chunked")
    + b"2\r\n{}\r\n0\r\nA: b\r\n\r\n"
    + RANGE,
    "bad chunk": request("POST", "/v3/kv/range", None, b"Transfer-Encoding: chunked")
    + b"zz\r\n{}\r\n0\r\n\r\n",
    "chunk extension": request("POST", "/v3/kv/range", None, b"Transfer-Encoding: chunked")
    + b"2;a=b\r\n{}\r\n0\r\n\r\n",
    "negative chunk": request("POST", "/v3/kv/range", None, b"Transfer-Encoding: chunked")
    + b"-2\r\n{}\r\n0\r\n\r\n",
    "TE and CL": request("POST", "/v3/kv/range", b"0\r\n\r\n", b"Transfer-Encoding: chunked")
    + RANGE,
    "TE and CL, CL first": request("POST", "/v3/kv/range", None, b"Content-Length: 5", CHUNKED)
    + b"0\r\n\r\n"
    + put(),
    "TE identity": request("POST", "/v3/kv/range", b"{}", b"Transfer-Encoding: identity"),
    "TE xchunked": request("POST", "/v3/kv/range", b"{}", b"Transfer-Encoding: xchunked"),
    "TE twice": request(
        "POST", "/v3/kv/range", b"{}", b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"
    ),
    "TE with a tab": request("POST", "/v3/kv/range", b"{}", b"Transfer-Encoding:\tchunked"),
    "TE before colon": request("POST", "/v3/kv/range", b"{}", b"Transfer-Encoding : chunked"),
    "TE folded": request("POST", "/v3/kv/range", b"{}", b"X: y\r\n Transfer-Encoding: chunked"),
    "CL twice, same": request("POST", "/v3/kv/range", b"{}", b"Content-Length: 2"),
    "CL twice, other": request("POST", "/v3/kv/range", b"{}", b"Content-Length: 40") + put(),
    "CL list": request("POST", "/v3/kv/range", b"{}", length=b"2, 2"),
    "CL plus": request("POST", "/v3/kv/range", b"{}", length=b"+2"),
    "CL minus": request("POST", "/v3/kv/range", b"{}", length=b"-2"),
    "CL hex": request("POST", "/v3/kv/range", b"{}", length=b"0x2"),
    "CL zeros": request("POST", "/v3/kv/range", b"{}", length=b"0002") + RANGE,
    "CL spaces": request("POST", "/v3/kv/range", b"{}", length=b"2 ") + RANGE,
    "CL inner space": request("POST", "/v3/kv/range", b"{}", length=b"2 2"),
    "CL empty": request("POST", "/v3/kv/range", b"{}", length=b""),
    "CL letters": request("POST", "/v3/kv/range", b"{}", length=b"two"),
    "CL huge": request("POST", "/v3/kv/range", b"{}", length=b"9" * 25),
    "CL large": request("POST", "/v3/kv/range", b"{}", length=b"61000"),
    "CL large on a key": request("PUT", "/api/v1/keys/a", b"{}", length=b"20001"),
    "CL short": request("POST", "/v3/kv/range", b'{"key":"YQ=="}', length=b"2") + RANGE,
    "CL long": request("POST", "/v3/kv/range", b"{}", length=b"300") + RANGE,
    "CL other digits": request(
        "POST", "/v3/kv/range", b"{}", "Content-Length: \u0662".encode(), length=b"2"
    ),
    "no CL": request("POST", "/v3/kv/range", None) + RANGE,
    "nul in a header": request("POST", "/v3/kv/range", b"{}", b"X: a\x00b"),
    "nul in a name": request("POST", "/v3/kv/range", b"{}", b"X\x00: a"),
    "nul in the target": request(target=b"/v3/kv/range\x00"),
    "nul in a key": get(b"a\x00b"),
    "ctl in a header": request("POST", "/v3/kv/range", b"{}", b"X: a\x01b"),
    "del in a header": request("POST", "/v3/kv/range", b"{}", b"X: a\x7fb"),
    "high bytes": request("POST", "/v3/kv/range", b"{}", b"X: \xff\xfe"),
    "bare CR": request("POST", "/v3/kv/range", b"{}", b"X: a\rY: b"),
    "bare CR smuggles": request("POST", "/v3/kv/range", b"{}", b"X: a\rTransfer-Encoding: chunked"),
    "bare LF": request("POST", "/v3/kv/range", b"{}", b"X: a\nY: b"),
    "LF smuggles": request("POST", "/v3/kv/range", b"{}", b"X: a\nTransfer-Encoding: chunked"),
    "only LF": RANGE.replace(b"\r\n", b"\n") + b"\r\n\r\n",
    "LF ends the head": RANGE.replace(b"\r\n\r\n", b"\r\n\n") + b"\r\n\r\n" + RANGE,
    "LF LF": b"POST /v3/kv/range HTTP/1.1\nHost: a\n\nPOST /v3/kv/put HTTP/1.1\r\n\r\n",
    "CR CR LF": RANGE.replace(b"\r\n\r\n", b"\r\r\n\r\n"),
    "folded": request("POST", "/v3/kv/range", b"{}", b"X: a\r\n b"),
    "folded first": request("POST", "/v3/kv/range", b"{}", host=b"127.0.0.1\r\n\tx: y"),
    "space before colon": request("POST", "/v3/kv/range", b"{}", b"X : a"),
    "no colon": request("POST", "/v3/kv/range", b"{}", b"X"),
    "no name": request("POST", "/v3/kv/range", b"{}", b": a"),
    "empty value": request("POST", "/v3/kv/range", b"{}", b"X:"),
    "spaces around": request("POST", "/v3/kv/range", b"{}", b"X:   a   "),
    "odd name": request("POST", "/v3/kv/range", b"{}", b"X@y: a"),
    "bracket name": request("POST", "/v3/kv/range", b"{}", b"X[y]: a"),
    "two spaces": RANGE.replace(b" /v3", b"  /v3"),
    "tab": RANGE.replace(b" /v3", b"\t/v3"),
    "space at the end": RANGE.replace(b"HTTP/1.1\r", b"HTTP/1.1 \r"),
    "space in the target": request(target="/v3/kv/range x"),
    "space in a key": get(b"a b"),
    "a version in a key": get(b"a HTTP/1.1\r\nHost: evil"),
    "space first": b" " + RANGE,
    "huge header": request("POST", "/v3/kv/range", b"{}", b"X: " + b"a" * 3_000),
    "huge target": get(b"k" * 3_000),
    "header at the limit": request("POST", "/v3/kv/range", b"{}", b"X: " + b"a" * 1_990),
    "long head": request(
        "POST", "/v3/kv/range", b"{}", *[b"X%d: %b" % (n, b"a" * 90) for n in range(60)]
    ),
    "many headers": request("POST", "/v3/kv/range", b"{}", *[b"X%d: a" % n for n in range(150)]),
    "headers at the limit": request(
        "POST", "/v3/kv/range", b"{}", *[b"X%d: a" % n for n in range(126)]
    ),
    "gzip": request("POST", "/v3/kv/range", b"\x1f\x8b", b"Content-Encoding: gzip"),
    "identity": request("POST", "/v3/kv/range", b"{}", b"Content-Encoding: identity"),
    "upgrade": request("POST", "/v3/kv/range", b"{}", b"Connection: upgrade", b"Upgrade: h2c")
    + RANGE,
    "upgrade alone": request("POST", "/v3/kv/range", b"{}", b"Upgrade: websocket") + RANGE,
    "websocket": request(
        "GET",
        "/api/v1/keys/a",
        None,
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Key: x",
    )
    + RANGE,
    "no end": RANGE[:-20],
    "no body yet": request("POST", "/v3/kv/range", None, length=b"14"),
    "half a head": RANGE[:30],
    "half of nothing hot": METRICS[:10],
    "half a bad head": b"POST /v3/kv/range HTTP/1.1\r\nHost: a\x00b\r\n",
    "half a bad line": b"POST /v3/kv/range HTTP/9\r\n",
    "accept": request(
        "POST", "/v3/kv/range", b"{}", b"Accept: text/html", b"Accept-Encoding: gzip"
    ),
    "content type": request("POST", "/v3/kv/range", b"{}", b"Content-Type: text/plain"),
    "cookie": request("POST", "/v3/kv/range", b"{}", b"Cookie: a=b"),
}

PIPELINES = {
    "puts": b"".join(put(value=b"%d" % n) for n in range(50)),
    "reads": put() + RANGE * 20,
    "turns": b"".join(put(value=b"%d" % n) + RANGE for n in range(10)),
    "keys": b"".join(write(b"a%d" % (n % 3)) + get(b"a0") for n in range(10)),
    "errors between": put() + call("/v3/kv/put", b"{") + put() + call("/v3/kv/range", b"{") + put(),
    "elsewhere in between": put() + put() + METRICS + put() + RANGE + METRICS,
    "bad at the end": put() + put() + b"NONSENSE\r\n\r\n",
    "bad in the middle": put() + b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n" + put(),
    "bad and then hot": RANGE + request("POST", "/v3/kv/range", b"{}", b"X: a\x00") + put() + RANGE,
    "close in the middle": put()
    + request("POST", "/v3/kv/put", b"{}", b"Connection: close")
    + put(),
    "large bodies": put(value=b"x" * 9_000) * 3 + RANGE,
    "txn between": put() + call("/v3/kv/txn", TXN) + put() + call("/v3/kv/txn", TXN),
    "chunked between": put()
    + request("POST", "/v3/kv/put", None, b"Transfer-Encoding: chunked")
    + b"2\r\n{}\r\n0\r\n\r\n"
    + put()
    + RANGE,
}

ALL = {
    **{f"gateway: {name}": raw for name, raw in GATEWAY.items()},
    **{f"keys: {name}": raw for name, raw in KEYS.items()},
    **{f"framing: {name}": raw for name, raw in FRAMING.items()},
    **{f"pipeline: {name}": raw for name, raw in PIPELINES.items()},
}


async def test_directed(make_pair: Any) -> None:
    pair = await make_pair()
    for name, raw in ALL.items():
        try:
            await pair.same(raw)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


async def test_the_good_ones_are_answered_by_the_lane(make_pair: Any) -> None:
    """Else the comparison would compare aiohttp with itself."""
    pair = await make_pair()
    hot = [
        put() + RANGE,
        put() + call("/v3/kv/deleterange", {"key": text(b"a")}),
        call("/v3/kv/txn", TXN),
        write() + get() + request("DELETE", "/api/v1/keys/a", None),
        cas(b"a", expected_version=0, new_value="n"),
        write(b"a%2Fb/c.d", "v", b"Idempotency-Key: c:1") + get(b"a/b/c.d", b"Session-Token: 3:1"),
        PIPELINES["errors between"],
        GATEWAY["bad json"],
        put(value=b"x" * 12_000),
        of_keyspace("other"),
    ]
    for raw in hot:
        outcome = await pair.same(raw)
        assert outcome.answers.startswith(b"HTTP/1.1 ")
        wire = pair.with_lane.connect()
        wire.protocol.data_received(raw)
        assert pair.with_lane.lane is not None
        pair.with_lane.lane.begin_for_turn()
        assert type(wire.protocol).__name__ == "Connection", raw
        wire.abort()


@pytest.mark.parametrize(
    "name",
    [
        "gateway: put",
        "keys: put and get",
        "framing: TE and CL",
        "framing: bare CR smuggles",
        "framing: LF ends the head",
        "framing: empty lines between",
        "pipeline: elsewhere in between",
        "pipeline: bad in the middle",
    ],
)
async def test_split_at_every_byte(make_pair: Any, name: str) -> None:
    pair = await make_pair()
    raw = ALL[name]
    for at in range(1, len(raw)):
        await pair.same(raw[:at], raw[at:], seed=at)


async def test_byte_by_byte(make_pair: Any) -> None:
    pair = await make_pair()
    for name in ("keys: cas", "framing: 1.0", "framing: folded", "pipeline: bad in the middle"):
        await pair.same(*(bytes([byte]) for byte in ALL[name]))


@pytest.mark.parametrize(
    ("access", "cors_any"),
    [
        (Access(origins=("https://app.example",)), False),
        (Access(cors="any"), True),
        (Access(hosts=("evil.example",)), False),
        (Access(hosts=("*",)), False),
    ],
)
async def test_guard_and_cors(make_pair: Any, access: Access, *, cors_any: bool) -> None:
    pair = await make_pair(access=access, cors_any=cors_any)
    for name in ("origin", "same origin", "foreign host", "close", "origin on a key"):
        await pair.same(FRAMING[name])
    listed = b"Origin: https://app.example"
    await pair.same(put() + RANGE + write() + get() + get(b"nope") + GATEWAY["bad json"])
    await pair.same(get(b"a", listed) + write(b"a", "v", listed) + get())


async def test_random(make_pair: Any, rounds: int) -> None:
    """Requests of the lists above, one after the other, some of them damaged, in random pieces."""
    pair = await make_pair()
    names = sorted(ALL)
    for seed in range(600 * rounds):
        rng = Random(seed)
        raw = b"".join(ALL[rng.choice(names)] for _ in range(rng.randrange(1, 5)))
        if rng.random() < 0.5:
            raw = damaged(raw, rng)
        await pair.same(*pieces(raw, rng), seed=seed)


def damaged(raw: bytes, rng: Random) -> bytes:
    """Some bytes changed, doubled, left out: mostly in the heads, where they mean something."""
    out = bytearray(raw)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(min(len(out), 400))
        what = rng.randrange(4)
        if what == 0:
            out[at] = rng.choice(b"\r\n\x00 :;,/%0Aa\x7f\xff\t")
        elif what == 1:
            del out[at : at + rng.randrange(1, 4)]
        elif what == 2:
            out[at:at] = out[at : at + rng.randrange(1, 40)]
        else:
            out[at:at] = rng.choice([b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\x00", b" ", b"%00"])
        if not out:
            out += b"\r"
    return bytes(out)


def pieces(raw: bytes, rng: Random) -> list[bytes]:
    count = rng.choice([0, 0, 1, 2, 5])
    cuts = sorted({rng.randrange(1, len(raw)) for _ in range(count)}) if len(raw) > 1 else []
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
