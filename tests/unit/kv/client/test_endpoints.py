"""Which endpoint is asked: stay, leave alone for a while, try again once."""

from __future__ import annotations

import pytest

from kv.client.endpoints import OPEN_FIRST_S, OPEN_MAX_S, Endpoints, parse_endpoints
from kv.client.failures import InvalidEndpointError

A, B, C = "http://a:1", "http://b:1", "http://c:1"


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        ("127.0.0.1", ("http://127.0.0.1:7400",)),
        ("a:1, b:2 ,,a:1", ("http://a:1", "http://b:2")),
        (["https://h:1/", "[::1]:9"], ("https://h:1", "http://[::1]:9")),
        ("HTTP://Host:80", ("http://host:80",)),
    ],
)
def test_addresses_become_urls(given: str | list[str], urls: tuple[str, ...]) -> None:
    assert parse_endpoints(given) == urls


@pytest.mark.parametrize(
    "given",
    [
        "",
        " , ",
        "ftp://a",
        "http://a/path",
        "a:port",
        "a:99999",
        "http://u:p@a",
        "a b",
        "http://a?x",
    ],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(InvalidEndpointError, match="give"):
        parse_endpoints(given)


def test_a_client_stays_with_who_answered() -> None:
    all_of_them = Endpoints([A, B, C])
    assert all_of_them.choose(0.0) == A
    all_of_them.failed(A, 0.0)
    assert all_of_them.choose(0.0) == B
    all_of_them.worked(B)
    assert all_of_them.choose(99.0) == B


def test_what_a_call_has_tried_comes_last() -> None:
    all_of_them = Endpoints([A, B, C])
    assert all_of_them.choose(0.0, {A}) == B
    assert all_of_them.choose(0.0, {A, B}) == C
    assert all_of_them.choose(0.0, {A, B, C}) == A


def test_a_dead_endpoint_gets_one_try_after_a_while_and_longer_each_time() -> None:
    pair = Endpoints([A, B])
    pair.failed(A, 0.0)
    pair.failed(B, 0.0)
    pair.failed(B, 0.0)
    assert pair.is_open(A, OPEN_FIRST_S / 2)
    assert pair.choose(OPEN_FIRST_S) == A
    assert pair.is_open(A, OPEN_FIRST_S)  # that one try is under way
    pair.failed(A, OPEN_FIRST_S)
    assert pair.is_open(A, OPEN_FIRST_S + OPEN_FIRST_S * 1.5)
    assert pair.choose(2 * OPEN_FIRST_S) == B
    pair.worked(B)
    assert not pair.is_open(B, 2 * OPEN_FIRST_S)
    for _ in range(20):
        pair.failed(A, 0.0)
    assert pair.is_open(A, OPEN_MAX_S - 0.1)
    assert not pair.is_open(A, OPEN_MAX_S + 0.1)


def test_with_all_of_them_down_the_next_to_come_back_is_tried() -> None:
    pair = Endpoints([A, B])
    pair.failed(A, 0.0)
    pair.failed(A, 0.0)
    pair.failed(B, 0.0)
    assert pair.choose(0.1) == B


def test_who_answers_but_cannot_help_is_left_without_a_breaker() -> None:
    pair = Endpoints([A, B])
    pair.leave(A)
    assert pair.choose(0.0) == B
    assert not pair.is_open(A, 0.0)
