"""Transport: methods, paths, prefixes, content types, the side endpoints."""

from __future__ import annotations

from .steps import PUT, RANGE, Conversation, call, keys, put

_A = '{"key":"YQ=="}'

CONVERSATIONS = (
    Conversation(
        "methods-and-paths",
        "POST only, exact paths, /v3beta is /v3, /v3alpha is gone.",
        (
            put("a", "1"),
            *(call(RANGE, method=method) for method in ("GET", "HEAD", "DELETE", "PATCH")),
            call(RANGE, _A, method="PUT"),
            call(RANGE, method="OPTIONS"),
            call(RANGE, method="OPTIONS", Origin="http://example.com"),
            call(RANGE, _A, Origin="http://example.com"),
            call(RANGE + "/", _A),
            call("/v3/kv//range", _A),
            call("/v3/kv/Range", _A),
            call("/v3/kv/rang", _A),
            call("/v3/kv", _A),
            call("/v3/", _A),
            call("/v3", _A),
            call("/", _A),
            call("/nothing", method="GET"),
            call("/v3/nothing", method="GET"),
            call("/v3beta/kv/range", _A),
            call("/v3beta/kv/put", '{"key":"Yg=="}'),
            call("/v3beta/kv/range", method="GET"),
            call("/v3beta/nothing", _A),
            call("/v3alpha/kv/range", _A),
            call("/v4/kv/range", _A),
            call(RANGE + "?key=YQ==", "{}"),
            call(RANGE + "?limit=1", _A),
            call("/v3/kv/r%61nge", _A),
        ),
    ),
    Conversation(
        "content-types",
        "The request's content type is not looked at.",
        (
            call(PUT, '{"key":"YQ==","value":"MQ=="}', Content_Type="text/plain"),
            call(RANGE, _A, Content_Type="application/x-www-form-urlencoded"),
            call(RANGE, _A, Content_Type="application/json; charset=utf-8"),
            call(RANGE, _A, Content_Type="application/grpc"),
            call(RANGE, _A, Content_Type="nonsense"),
            call(RANGE, _A, Accept="text/html"),
            call(RANGE, _A, Accept_Encoding="gzip"),
        ),
    ),
    Conversation(
        "side-endpoints",
        "Version and health, by GET and otherwise.",
        (
            call("/version", method="GET"),
            call("/version"),
            call("/version/", method="GET"),
            call("/health", method="GET"),
            call("/health"),
            call("/health?serializable=true", method="GET"),
            call("/livez", method="GET"),
            call("/readyz", method="GET"),
            call(RANGE, keys("a")),
        ),
    ),
)
