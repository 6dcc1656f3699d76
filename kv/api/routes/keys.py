"""One key: get, head, put, delete, cas, ttl, incr; and the same as raw bytes under /v1/kv."""

from __future__ import annotations

from kv.api import hot, writes
from kv.api.call import Call
from kv.api.headers import read_condition, write_conditions
from kv.api.queries import KeyQuery, RawKeyQuery
from kv.api.reply import Reply
from raftgroups.commands import Put


async def get(call: Call) -> Reply:
    return await call.read(
        KeyQuery(
            call.argument, call.query["revision"], read_condition(call.request.headers), call.forms
        )
    )


async def head(call: Call) -> Reply:
    reply = await call.read(
        RawKeyQuery(call.argument, call.query["revision"], read_condition(call.request.headers))
    )
    return reply._replace(body=b"", headers=())


async def put(call: Call) -> Reply:
    conditions = write_conditions(call.request.headers)
    options = call.write_options
    command, conditions = hot.put_command(
        call.argument, await call.body(), conditions, options.token is not None
    )
    result = await call.write(command, options)
    return hot.put_reply(
        call.argument, result, conditions, call.forms, call.api.shard(call.argument)
    )


async def delete(call: Call) -> Reply:
    conditions = write_conditions(call.request.headers)
    result = await call.write(hot.delete_command(call.argument, conditions))
    return hot.delete_reply(
        call.argument, result, conditions, call.forms, call.api.shard(call.argument)
    )


async def cas(call: Call) -> Reply:
    command = hot.cas_command(call.argument, await call.body())
    return hot.cas_reply(await call.write(command), call.api.shard(call.argument))


async def set_ttl(call: Call) -> Reply:
    result = await call.write(writes.ttl_command(call.argument, await call.body()))
    return writes.ttl_reply(call.argument, result, call.forms, call.api.shard(call.argument))


async def increment(call: Call) -> Reply:
    result = await call.write(writes.increment_command(call.argument, await call.body()))
    return writes.increment_reply(call.argument, result, call.forms, call.api.shard(call.argument))


async def get_raw(call: Call) -> Reply:
    return await call.read(
        RawKeyQuery(call.argument, call.query["revision"], read_condition(call.request.headers))
    )


async def put_raw(call: Call) -> Reply:
    conditions = write_conditions(call.request.headers)
    options = call.write_options
    value = await call.body()
    put = Put(call.argument, value, ttl_ms=hot.ttl_ms_of(call.query["ttl"]))
    command = hot.conditional_put(put, conditions, options.token is not None)
    result = await call.write(command, options)
    return hot.put_reply(
        call.argument, result, conditions, call.forms, call.api.shard(call.argument)
    )
