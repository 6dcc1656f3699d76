"""The lane over the faces of a node: what they share goes to both lanes from one place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from aiohttp.http import SERVER_SOFTWARE

from kv.api.context import Api
from kv.api.guard import cors_headers
from kv.api.leaderless.face import Face
from kv.etcd.context import GatewayContext
from kv.etcd.gateway import Gateway
from kv.etcd.hot import HotCall
from kv.etcd.http import Heads as EtcdHeads
from kv.lane.answers import Answers
from kv.lane.heads import Heads, ParserLimits
from kv.lane.keys import KeyCall, KeyCalls, ParseOptions, parse_options
from kv.lane.lane import Lane, LaneLimits
from kv.lane.leaderless_keys import LeaderlessKeyCalls
from kv.lane.leaderless_keys import parse_options as parse_leaderless_options
from kv.lane.named_keys import calls_of_keyspace
from kv.metrics.metrics import Endpoint

NONE: Mapping[str, str] = {}


def make_lane(
    *,
    loop: asyncio.AbstractEventLoop,
    api: Api,
    gateway: Gateway,
    context: GatewayContext,
    server: Callable[[], Any],
    endpoint: Callable[[str, str], Endpoint],
    limits: LaneLimits,
) -> Lane:
    """`server` makes aiohttp's handlers; its parser's limits are the lane's."""
    etcd_heads = EtcdHeads(context)
    return _make_lane(
        loop=loop,
        api=api,
        server=server,
        endpoint=endpoint,
        limits=limits,
        etcd=gateway.hot.by_path,
        etcd_body_max_bytes=context.limits.body_bytes,
        etcd_headers=(etcd_heads.headers_of(200), etcd_heads.headers_of(400)),
        keys=KeyCalls(api.strong, api.shard).by_method,
        parse=parse_options,
    )


def make_leaderless_lane(
    *,
    loop: asyncio.AbstractEventLoop,
    api: Api,
    face: Face,
    server: Callable[[], Any],
    endpoint: Callable[[str, str], Endpoint],
    limits: LaneLimits,
) -> Lane:
    """As `make_lane`, for a node whose keys are leaderless: there is no etcd gateway."""
    return _make_lane(
        loop=loop,
        api=api,
        server=server,
        endpoint=endpoint,
        limits=limits,
        etcd={},
        etcd_body_max_bytes=0,
        etcd_headers=(NONE, NONE),
        keys=LeaderlessKeyCalls(face).by_method,
        parse=parse_leaderless_options,
    )


def _make_lane(
    *,
    loop: asyncio.AbstractEventLoop,
    api: Api,
    server: Callable[[], Any],
    endpoint: Callable[[str, str], Endpoint],
    limits: LaneLimits,
    etcd: Mapping[str, HotCall],
    etcd_body_max_bytes: int,
    etcd_headers: tuple[Mapping[str, str], Mapping[str, str]],
    keys: Mapping[str, KeyCall],
    parse: ParseOptions,
) -> Lane:
    sample = server()
    good, bad = etcd_headers
    return Lane(
        loop=loop,
        clock=api.clock,
        server=server,
        heads=Heads(
            loop=loop,
            access=api.settings.access,
            parser=ParserLimits(sample.max_line_size, sample.max_field_size, sample.max_headers),
            etcd=etcd,
            etcd_body_max_bytes=etcd_body_max_bytes,
            keys=keys,
            parse=parse,
            keys_of=partial(calls_of_keyspace, api),
            key_body_max_bytes=api.settings.request_max_bytes,
            endpoint=endpoint,
        ),
        answers=Answers(
            server=SERVER_SOFTWARE,
            good=good,
            bad=bad,
            shared=cors_headers(api.settings.access, None),
        ),
        limits=limits,
    )
