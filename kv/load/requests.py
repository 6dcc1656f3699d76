"""The requests of a load, as bytes: calls of the etcd v3 JSON gateway, or REST (rest.py).

A request is a head (its node: path and Host) and a tail (its key: length and body), both made
before the run. Keys are drawn at random among `keys`, with one seed: every contestant gets the same
requests in the same order.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Final

from kv.load.plan import PATHS, PREFIX, Load, Operation
from storage.clock import Rng

DRAWN_LEAST: Final = 1 << 12
"""Draws before the sequence repeats itself; with many keys, twice as many as there are keys."""


def key(number: int) -> bytes:
    return b"%s%010d" % (PREFIX, number)


def make_value(rng: Rng, value_bytes: int) -> bytes:
    """Random, so that nothing compresses it."""
    return rng.randbytes(value_bytes)


def make_head(operation: Operation, host: str, port: int) -> bytes:
    return (
        f"POST {PATHS[operation]} HTTP/1.1\r\nHost: {host}:{port}\r\n"
        "Content-Type: application/json\r\n"
    ).encode()


def make_body(operation: Operation, number: int, value: bytes) -> bytes:
    name = b64encode(key(number))
    if operation is Operation.GET:
        return b'{"key":"%s"}' % name
    return b'{"key":"%s","value":"%s"}' % (name, b64encode(value))


def make_each(load: Load, rng: Rng) -> list[bytes]:
    """What follows the head, for each key."""
    tails = []
    for number in range(load.keys):
        body = make_body(load.operation, number, make_value(rng, load.value_bytes))
        tails.append(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    return tails


def make_tails(load: Load, rng: Rng) -> list[bytes]:
    """The same, drawn among the keys."""
    tails = make_each(load, rng)
    return [tails[rng.randrange(0, load.keys)] for _ in range(max(DRAWN_LEAST, 2 * load.keys))]
