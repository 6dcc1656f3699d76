"""Keys in paths: any bytes, written any way; targets and queries as pure functions."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.api.failures import InvalidPathError, InvalidQueryError
from kv.api.target import Target, decode_path, split_query, split_target
from kv.api.text import given as bytes_of
from kv.api.text import shown

from .conftest import Rest

KEYS = [
    b"a/b",
    b"/a",
    b"a/",
    b"//",
    b".",
    b"..",
    b"a/../b",
    b"a/./b",
    b"a%2Fb",
    b"%",
    b"100% sure?",
    b"a+b c",
    b"a?b=c&d#e",
    b"\x00",
    b"\xff",
    b"\r\n",
    b"a\nb",
    "ключ/值".encode(),
    b"cas",
    b"a/cas",
    b"a/ttl/incr",
    b"{key}",
    b"[::1]",
    b"http://x/y",
    bytes(range(256)),
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
@pytest.mark.parametrize("safe", ["", "/", "/:@!$&'()*+,;=~.-_"])
async def test_any_key(rest: Rest, key: bytes, safe: str) -> None:
    path = "/api/v1/keys/" + quote_from_bytes(key, safe=safe)
    put = await rest.ask("PUT", path, {"value": "v"})
    assert put.status == 200, put.body
    assert rest.strong.machine.view.get(key) is not None
    body = (await rest.get(path)).body
    assert bytes_of(body["key"], body.get("key_encoding"), "key") == key
    assert body["value"] == "v"
    encoded = "/api/v1/keys/" + quote_from_bytes(key, safe="")
    cas = await rest.post(encoded + "/cas", {"expected_version": 2, "new_value": "w"})
    assert cas.body["success"] is True
    listed = await rest.get("/api/v1/keys?prefix=" + quote_from_bytes(key, safe=""))
    assert len(listed.body["keys"]) == 1
    assert (await rest.ask("DELETE", path)).body["deleted"] is True
    assert rest.strong.machine.view.get(key) is None


async def test_a_key_that_ends_like_a_call(rest: Rest) -> None:
    """POST means the call; with its slash encoded the same text is a part of the key."""
    await rest.put("/api/v1/keys/n/incr", "5")
    assert rest.strong.machine.view.get(b"n/incr") is not None
    assert (await rest.post("/api/v1/keys/n/incr")).body["key"] == "n"
    assert (await rest.post("/api/v1/keys/n%2Fincr/incr")).body == {
        "key": "n/incr",
        "value": 6,
        "version": 4,
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/keys/", 400, "empty_key"),
        ("PUT", "/api/v1/keys/", 400, "empty_key"),
        ("POST", "/api/v1/keys//cas", 400, "empty_key"),
        ("GET", "/api/v1/keys/%zz", 400, "invalid_path"),
        ("GET", "/api/v1/keys/a%", 400, "invalid_path"),
        ("GET", "/api/v1/keys/" + "k" * 433, 400, "key_too_long"),
        ("DELETE", "/v1/kv/" + "%ff" * 433, 400, "key_too_long"),
        ("POST", "/api/v1/keys/a", 405, "method_not_allowed"),
        ("POST", "/api/v1/keys/a%2Fcas", 405, "method_not_allowed"),
        ("PATCH", "/api/v1/keys/a", 405, "method_not_allowed"),
        ("POST", "/api/v1/keys", 405, "method_not_allowed"),
        ("GET", "/api/v1/key/a", 404, "no_such_route"),
        ("GET", "/api/v1", 404, "no_such_route"),
        ("GET", "/api/", 404, "no_such_route"),
        ("GET", "/v1/kv", 404, "no_such_route"),
        ("GET", "/nothing", 404, "no_such_route"),
        ("GET", "/", 404, "no_such_route"),
        ("POST", "/openapi.json", 405, "method_not_allowed"),
    ],
)
async def test_bad_paths_are_refused(
    rest: Rest, method: str, path: str, status: int, code: str
) -> None:
    body = {"value": "v"} if method == "PUT" else None
    if path.endswith("cas"):
        body = {"expected_version": 0, "new_value": "v"}
    assert await rest.refused(method, path, body) == (status, code)


async def test_a_wrong_path_names_what_is_near(rest: Rest) -> None:
    answer = await rest.get("/api/v1/kyes")
    assert answer.body["near"][0] == "/api/v1/keys"
    assert "/api/v1/keys" in answer.body["message"]
    wrong = await rest.post("/api/v1/keys/a")
    assert wrong.headers["Allow"] == "DELETE, GET, HEAD, PUT"
    assert "POST /api/v1/keys/{key}/cas" in wrong.body["message"]


@given(st.binary(max_size=60), st.sampled_from(["", "/", "/:@!$&'()*+,;=~.-_"]))
def test_a_key_comes_back_from_its_path(key: bytes, safe: str) -> None:
    target = split_target("/api/v1/keys/" + quote_from_bytes(key, safe=safe) + "?x=1")
    assert decode_path(target.path.removeprefix(b"/api/v1/keys/")) == key
    assert target.query == b"x=1"


@given(st.binary(max_size=60))
def test_raw_bytes_of_a_target_come_through(raw: bytes) -> None:
    """As aiohttp reads them: UTF-8, with surrogates for what is none."""
    text = "/" + raw.decode("utf-8", "surrogateescape")
    path = split_target(text).path
    assert path == (b"/" + raw).partition(b"#")[0].partition(b"?")[0]


@given(st.binary(max_size=60))
def test_targets_never_fail(raw: bytes) -> None:
    target = split_target("/" + raw.decode("utf-8", "surrogateescape"))
    for decode in (decode_path, split_query):
        try:
            decode(target.path)
            decode(target.query)
        except (InvalidPathError, InvalidQueryError):
            pass


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        ("/a?b", Target(b"/a", b"b")),
        ("http://host:80/a?b?c", Target(b"/a", b"b?c")),
        ("http://host", Target(b"/", b"")),
        ("HTTP://user@host/a%2f", Target(b"/a%2f", b"")),
        ("/http://x/y", Target(b"/http://x/y", b"")),
        ("*", Target(b"*", b"")),
    ],
)
def test_forms_of_targets(raw: str, target: Target) -> None:
    assert split_target(raw) == target


def test_queries() -> None:
    assert split_query(b"a=1&b=%FF%2b+x&c&&d=") == {"a": b"1", "b": b"\xff+ x", "c": b"", "d": b""}
    assert split_query(b"") == {}
    for bad in (b"a=1&a=2", b"a=%", b"a=%g1"):
        with pytest.raises(InvalidQueryError):
            split_query(bad)


@given(st.binary(max_size=60), st.booleans())
def test_bytes_come_back_from_what_is_shown(data: bytes, force: bool) -> None:
    text, mark = shown(data, force)
    encoding = "base64" if mark == "base64" else None
    assert bytes_of(text, encoding, "it") == data
    assert (encoding is None) <= (not force)
