"""The same load from wrk, where it is installed: what its users would compare with.

wrk plays one address a thread, so there is a thread for each node, and needs a connection a thread:
with fewer connections than nodes it cannot spread a load, and our own generator takes that part.
Threads get the same number of connections each: 64 over three nodes are 63.

It looks at statuses only. So the warm-up is our own generator's, which reads every answer, and in
the measured time the answers must have the size of those that were read. It does not wait for what
is under way when the time is over: those requests are `unsettled`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from kv.load import worker
from kv.load.histogram import Histogram
from kv.load.plan import Load, Outcome, Speech
from kv.load.requests import make_each, make_head
from kv.load.worker import GRACE_S, Child, GeneratorFailedError, Waiting
from kv.load.wrk_rest import rest_script

MARK: Final = "januskv-outcome "
TIMEOUT_S: Final = 10
DIGITS: Final = 8
"""Of the length before each request in a file of them."""
PLAYED_MAX: Final = 100_000
"""Keys of a thread: of more it plays so many, drawn anew for each, to fit into its memory."""
SIZE_TOLERANCE: Final = 0.02
"""Revisions and versions grow by a digit."""
PERCENTS: Final = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)

SCRIPT: Final = r"""
local hosts, made = %(hosts)s, 0
function setup(thread)
  local host = hosts[made %% #hosts + 1]
  made = made + 1
  thread.addr = wrk.lookup(host[1], host[2])[1]
  thread:set("number", made)
end
local requests = {}
function init(args)
  math.randomseed(%(seed)d + number)
  local file = assert(io.open("%(requests)s." .. number, "rb"))
  local data = file:read("*a")
  file:close()
  local at = 1
  while at <= #data do
    local behind = at + %(digits)d + tonumber(data:sub(at, at + %(digits)d - 1))
    requests[#requests + 1] = data:sub(at + %(digits)d, behind - 1)
    at = behind
  end
end
function request() return requests[math.random(#requests)] end
function done(summary, latency, all)
  local percentiles = {}
  for _, percent in ipairs({%(percents)s}) do
    percentiles[#percentiles + 1] = string.format("%%d", latency:percentile(percent))
  end
  local errors = {}
  for name, count in pairs(summary.errors) do
    errors[#errors + 1] = string.format('"%%s":%%d', name, count)
  end
  print(string.format(
    '%(mark)s{"requests":%%d,"us":%%d,"bytes":%%d,"errors":{%%s},"percentiles":[%%s]}',
    summary.requests, summary.duration, summary.bytes, table.concat(errors, ","),
    table.concat(percentiles, ",")))
end
"""


def wrk_binary() -> str | None:
    return shutil.which("wrk")


def can_play(load: Load) -> bool:
    return load.connections >= len(load.endpoints)


def run(binary: str, load: Load, waiting: Waiting) -> Outcome:
    """The figures of the warm-up are left out, its work is counted."""
    assert can_play(load)
    warm_up = Outcome()
    if load.warm_up_s:
        looked_at = replace(load, seconds=load.warm_up_s, warm_up_s=0.0)
        warm_up = worker.run(looked_at, 1, waiting)
    outcome = _run(binary, load, load.seconds, waiting)
    check_size(outcome, warm_up)
    outcome.acknowledged += warm_up.acknowledged
    outcome.unsettled += warm_up.unsettled
    for what, count in warm_up.errors.items():
        outcome.errors[what] = outcome.errors.get(what, 0) + count
    return outcome


def check_size(outcome: Outcome, looked_at: Outcome) -> None:
    """Count it as an error if these answers cannot be such as were looked at."""
    wanted, found = looked_at.answer_bytes, outcome.answer_bytes
    if wanted and outcome.answered and abs(found - wanted) > SIZE_TOLERANCE * wanted:
        outcome.count_error(f"wrk: answers of {found:.0f} bytes, those looked at had {wanted:.0f}")


def _run(binary: str, load: Load, seconds: float, waiting: Waiting) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="januskv-wrk-") as directory:
        script, requests = Path(directory, "load.lua"), Path(directory, "requests")
        script.write_text(script_of(load, requests))
        if load.speech is Speech.ETCD:
            write_requests(load, requests)
        host, port = load.endpoints[0]
        command = [
            binary,
            f"--threads={len(load.endpoints)}",
            f"--connections={load.connections}",
            f"--duration={max(1, round(seconds))}s",
            f"--timeout={TIMEOUT_S}s",
            f"--script={script}",
            f"http://{host}:{port}",
        ]
        before_s = _children_s()
        with Child(command) as child:
            child.begin("")
            outcome = outcome_of(child.output(seconds + GRACE_S, waiting), load)
        outcome.cpu_s = _children_s() - before_s
        return outcome


def _children_s() -> float:
    """Processor time of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def write_requests(load: Load, path: Path) -> None:
    """A file for each thread, which plays one node. Made here, because wrk starts a thread as soon
    as its own script is ready, and counts: scripts that made them took a core, a third of a second
    each, while the threads before were already measuring."""
    rng = random.Random(load.seed)
    tails = make_each(load, rng)
    for number, (host, port) in enumerate(load.endpoints, 1):
        head = make_head(load.operation, host, port)
        played = rng.sample(tails, PLAYED_MAX) if len(tails) > PLAYED_MAX else tails
        requests = [head + tail for tail in played]
        path.with_name(f"{path.name}.{number}").write_bytes(
            b"".join(b"%0*d%b" % (DIGITS, len(request), request) for request in requests)
        )


def script_of(load: Load, requests: Path) -> str:
    """`requests`: where write_requests has put them."""
    percents = ", ".join(map(str, PERCENTS))
    if load.speech is not Speech.ETCD:
        return rest_script(load, MARK, percents)
    hosts = ", ".join(f'{{"{host}", {port}}}' for host, port in load.endpoints)
    return SCRIPT % {
        "hosts": f"{{{hosts}}}",
        "seed": load.seed,
        "requests": requests,
        "digits": DIGITS,
        "percents": percents,
        "mark": MARK,
    }


def outcome_of(output: str, load: Load) -> Outcome:
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if not lines:
        raise GeneratorFailedError(f"wrk printed no outcome: {output.strip()[-200:]}")
    said = json.loads(lines[-1][len(MARK) :])
    errors = {f"wrk: {name}": count for name, count in said["errors"].items() if count}
    refused = said["errors"].get("status", 0) + said["errors"].get("not awaited", 0)
    good = said["requests"] - refused
    return Outcome(
        answered=good,
        seconds=said["us"] / 1e6,
        acknowledged=good,
        unsettled=load.connections + sum(errors.values()),
        errors=errors,
        answer_bytes=said["bytes"] / said["requests"] if said["requests"] else 0.0,
        histogram=_histogram(said["percentiles"], good),
    )


def _histogram(percentiles: list[int], answers: int) -> Histogram:
    """With the same percentiles as wrk's own; what lies between them is not known here."""
    histogram = Histogram()
    seen = 0
    for percent, us in zip(PERCENTS, percentiles, strict=True):
        upto = -(-round(answers * percent * 10) // 1_000)
        histogram.add(us, upto - seen)
        seen = upto
    return histogram
