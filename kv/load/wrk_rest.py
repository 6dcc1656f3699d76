"""The REST load as a script of wrk: requests made as they go, each answer looked at. Pure.

wrk counts statuses by itself; a 200 without what the work must have said (two replicas, a value) is
counted here, in each thread, and added to the errors at the end.
"""

from __future__ import annotations

from typing import Final

from kv.load.plan import Load, Operation, Speech
from kv.load.rest import FRESH_KEYS

SCRIPT: Final = r"""
local hosts, made, threads = %(hosts)s, 0, {}
function setup(thread)
  local host = hosts[made %% #hosts + 1]
  made = made + 1
  thread.addr = wrk.lookup(host[1], host[2])[1]
  thread:set("number", made)
  thread:set("bad", 0)
  table.insert(threads, thread)
end
local values = {}
function init(args)
  math.randomseed(%(seed)d + number)
  wrk.headers["Host"] = "127.0.0.1"
  for at = 1, 256 do
    local text = {}
    for place = 1, %(value_bytes)d do text[place] = string.char(math.random(97, 122)) end
    values[at] = '{"value":"' .. table.concat(text) .. '"}'
  end
end
function request()
  local path = string.format("/api/v1/keys/bench%%%%2F%%010d", math.random(0, %(keys)d - 1))
  if %(puts)s then return wrk.format("PUT", path, nil, values[math.random(256)]) end
  return wrk.format("GET", path)
end
function response(status, headers, body)
  if status == 200 and not (%(good)s) then bad = bad + 1 end
end
%(delay)s
function done(summary, latency, all)
  local percentiles, lacking = {}, 0
  for _, percent in ipairs({%(percents)s}) do
    percentiles[#percentiles + 1] = string.format("%%d", latency:percentile(percent))
  end
  for _, thread in ipairs(threads) do lacking = lacking + thread:get("bad") end
  local errors = { string.format('"not awaited":%%d', lacking) }
  for name, count in pairs(summary.errors) do
    errors[#errors + 1] = string.format('"%%s":%%d', name, count)
  end
  print(string.format(
    '%(mark)s{"requests":%%d,"bytes":%%d,"us":%%d,"errors":{%%s},"percentiles":[%%s]}',
    summary.requests, summary.bytes, summary.duration, table.concat(errors, ","),
    table.concat(percentiles, ",")))
end
"""
_TWO: Final = """body:find('"replicas":%["[^"]+","[^"]+"')"""
_GOOD: Final = {
    (Operation.GET, Speech.REST): """body:find('"value":"', 1, true)""",
    (Operation.PUT, Speech.REST): """body:find('"version":', 1, true)""",
    (Operation.GET, Speech.QUORUM): f"""body:find('"value":"', 1, true) and {_TWO}""",
    (Operation.PUT, Speech.QUORUM): _TWO,
}


def rest_script(load: Load, mark: str, percents: str) -> str:
    hosts = ", ".join(f'{{"{host}", {port}}}' for host, port in load.endpoints)
    puts = load.operation is Operation.PUT
    pause = f"function delay() return {load.pause_ms:.3f} end" if load.pause_ms else ""
    return SCRIPT % {
        "hosts": f"{{{hosts}}}",
        "seed": load.seed,
        "keys": FRESH_KEYS if puts and load.fresh else load.keys,
        "puts": "true" if puts else "false",
        "value_bytes": load.value_bytes,
        "good": _GOOD[load.operation, load.speech],
        "delay": pause,
        "percents": percents,
        "mark": mark,
    }
