"""The same load as REST: requests to /api/v1/keys/{key}, and what a good answer has. Pure.

A request is a head (method and path up to the key) and a tail (key, host, body). With QUORUM an
answer counts only if it names two replicas at least: so many were really awaited.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from kv.load.plan import Load, Operation, Speech
from storage.clock import Rng

METHODS: Final = {Operation.PUT: b"PUT", Operation.GET: b"GET"}
FRESH_KEYS: Final = 100_000_000
_TWO_REPLICAS: Final = re.compile(rb'"replicas":\["[^"]+","[^"]+"')
_VALUE: Final = b'"value":"'
_VERSION: Final = b'"version":'


def path_of(number: int) -> bytes:
    return b"bench%%2F%010d" % number


def make_head(operation: Operation) -> bytes:
    return b"%b /api/v1/keys/" % METHODS[operation]


def make_tails(load: Load, rng: Rng) -> Iterator[bytes]:
    """For ever. Values are text, as JSON has it."""
    values = [rng.randbytes(load.value_bytes).hex()[: load.value_bytes] for _ in range(256)]
    puts = load.operation is Operation.PUT
    while True:
        number = rng.randrange(0, FRESH_KEYS if puts and load.fresh else load.keys)
        head = b"%b HTTP/1.1\r\nHost: 127.0.0.1\r\n" % path_of(number)
        if puts:
            body = b'{"value":"%b"}' % values[number & 255].encode()
            yield b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
        else:
            yield head + b"\r\n"


def check_of(load: Load) -> Callable[[bytes], bool]:
    """Whether the body of a 200 says that the work was done."""
    if load.operation is Operation.GET:
        if load.speech is Speech.QUORUM:
            return lambda body: _VALUE in body and _TWO_REPLICAS.search(body) is not None
        return lambda body: _VALUE in body
    if load.speech is Speech.QUORUM:
        return lambda body: _TWO_REPLICAS.search(body) is not None
    return lambda body: _VERSION in body
