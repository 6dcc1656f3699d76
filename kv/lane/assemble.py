"""The lane over the faces of a node: what they share goes to both lanes from one place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp.http import SERVER_SOFTWARE

from kv.api.context import Api
from kv.api.guard import cors_headers
from kv.etcd.context import GatewayContext
from kv.etcd.gateway import Gateway
from kv.etcd.http import Heads as EtcdHeads
from kv.lane.answers import Answers
from kv.lane.heads import Heads, ParserLimits
from kv.lane.keys import KeyCalls
from kv.lane.lane import Lane, LaneLimits
from kv.metrics.metrics import Endpoint


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
    sample = server()
    etcd_heads = EtcdHeads(context)
    return Lane(
        loop=loop,
        clock=api.clock,
        server=server,
        heads=Heads(
            loop=loop,
            access=api.settings.access,
            parser=ParserLimits(sample.max_line_size, sample.max_field_size, sample.max_headers),
            etcd=gateway.hot.by_path,
            etcd_body_max_bytes=context.limits.body_bytes,
            keys=KeyCalls(api.strong, api.shard).by_method,
            key_body_max_bytes=api.settings.request_max_bytes,
            endpoint=endpoint,
        ),
        answers=Answers(
            server=SERVER_SOFTWARE,
            good=etcd_heads.headers_of(200),
            bad=etcd_heads.headers_of(400),
            shared=cors_headers(api.settings.access, None),
        ),
        limits=limits,
    )
