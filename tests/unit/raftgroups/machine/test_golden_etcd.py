"""What the real etcd 3.5.1 answered to commands, one after the other from an empty store.

Each line of the file is [command, answer]: the command as msgspec writes it, and etcd's answer over
its JSON gateway, reduced to what a machine's result says (lists: kind, revision, ...). Keys and
values are base64. Lines with # name what follows.

Left out are two commands at which etcd 3.5.1 ends: an unknown sort target, and a put that keeps the
value of a key that the same transaction has deleted. test_txn.py has our answers.
"""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftgroups.commands import Command, Range
from raftgroups.results import (
    REFUSALS,
    CompactResult,
    DeleteResult,
    Failure,
    LeaseResult,
    PutResult,
    RangeAnswer,
    TxnResult,
)
from storage.mvcc_records import KeyValue

GOLDEN = Path(__file__).parents[3] / "golden" / "etcd-machine.txt"


def record(kv: KeyValue) -> list[Any]:
    key, create, mod, version, lease, value, _ = kv
    return [b64encode(key).decode(), create, mod, version, lease, b64encode(value).decode()]


def reduced(result: Any, nested: bool = False) -> list[Any]:
    at = result.revision
    match result:
        case PutResult():
            return ["put", at, record(result.previous) if result.previous else None]
        case DeleteResult():
            return ["del", at, result.deleted, [record(kv) for kv in result.previous]]
        case RangeAnswer():
            return ["range", at, result.count, result.more, [record(kv) for kv in result.items]]
        case TxnResult():  # a nested one has no revision in etcd
            inner = [reduced(response, True) for response in result.responses]
            return ["txn", 0 if nested else at, result.succeeded, inner]
        case CompactResult():
            return ["compact", at]
        case LeaseResult():
            return ["grant" if result.ttl_s else "revoke", at]
        case Failure():
            return ["fail", result.code]
    raise AssertionError(result)


@pytest.mark.parametrize("turn_every", [1, 7, 10_000])
def test_every_answer_is_that_of_etcd(rig: Any, turn_every: int) -> None:
    decode = msgspec.json.Decoder(Command | Range).decode
    chapter, lines = "", 0
    for number, line in enumerate(GOLDEN.read_text().splitlines(), 1):
        if line.startswith("#"):
            chapter = line
            continue
        raw, expected = json.loads(line)
        command = decode(json.dumps(raw))
        if isinstance(command, Range):
            try:
                answer = reduced(rig.machine.range(command))
            except REFUSALS as refused:
                answer = ["fail", refused.code]
        else:
            answer = reduced(rig.do(command))
        assert answer == expected, f"line {number} {chapter}: {command}"
        lines += 1
        if lines % turn_every == 0:
            rig.turn()
    assert lines > 400
