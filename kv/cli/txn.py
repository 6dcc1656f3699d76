"""`januskv txn`: a transaction from a file or standard input, as text (txn_text.py) or as JSON."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kv.cli import remote
from kv.cli.keys import value_of
from kv.cli.remote import EXIT_NO, emit, emit_json
from kv.cli.show import named, printable
from storage.errors import InvalidRequestError

if TYPE_CHECKING:
    from kv.client import Client, Entry, Txn
    from kv.client.records import TxnResult, TxnStepResult

EXAMPLE = """\
The text form, a step a line, words quoted as in a shell:

  if stock version = 17          also: != < >, create, value, lease; if KEY exists | absent
  put stock 4                    put KEY VALUE [ttl=SECONDS] [lease=ID]
  get stock                      also: del KEY, del-prefix PREFIX, range PREFIX [limit=N]
  else
  get stock

The JSON form is the body of POST /api/v1/txn: {"compare": [...], "then": [...], "else": [...]}.
"""


class TxnCommand:
    name = "txn"
    help = "compare, then do this or that, as one revision"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.description = (
            "Do a transaction: if all conditions hold, the first steps, otherwise those after "
            "`else`, in order and as one revision. Exit code 1: a condition did not hold."
        )
        parser.epilog = EXAMPLE
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument(
            "file", metavar="FILE", nargs="?", default="-", help="default: standard input"
        )
        remote.add_keyspace(parser)
        remote.add_connection(parser)

    def run(self, args: argparse.Namespace) -> int:
        file = None if args.file == "-" else Path(args.file)
        text = value_of("-", file).decode("utf-8", "surrogateescape")
        return remote.run(args, partial(_txn, args, read_txn(text)))


def read_txn(text: str) -> Txn:
    """Raises InvalidTxnTextError, InvalidRequestError."""
    from kv.cli.txn_text import parse
    from kv.client.txn import Txn

    if not text.lstrip().startswith("{"):
        return parse(text)
    import msgspec

    from kv.api.bodies import TxnBody

    try:
        msgspec.json.decode(text.encode(), type=TxnBody)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidRequestError(
            f"the transaction is not what POST /api/v1/txn takes: {error}; see januskv txn --help"
        ) from error
    return Txn.of_fields(json.loads(text))


async def _txn(args: argparse.Namespace, txn: Txn, client: Client) -> int:
    done = await client.txn(txn)
    if args.json:
        results = [_document(each) for each in done.results]
        emit_json({"succeeded": done.succeeded, "revision": done.revision, "results": results})
    else:
        _print(done)
    return 0 if done.succeeded else EXIT_NO


def _print(done: TxnResult) -> None:
    branch = "the conditions held" if done.succeeded else "a condition did not hold"
    emit(f"{branch}, revision {done.revision}")
    for each in done.results:
        for line in _lines(each):
            emit(f"  {line}")


def _lines(result: TxnStepResult) -> list[str]:
    from kv.client.records import TxnDelete, TxnGet, TxnPut

    if isinstance(result, TxnPut):
        return [f"put {printable(result.key)}"]
    if isinstance(result, TxnDelete):
        return [f"deleted {result.deleted} {'key' if result.deleted == 1 else 'keys'}"]
    if isinstance(result, TxnGet):
        record = result.record
        key = printable(result.key)
        if record is None:
            return [f"{key} does not exist"]
        return [f"{key} = {printable(record.value)}  (version {record.version})"]
    lines = [_entry_line(entry) for entry in result.entries]
    return [*lines, f"... {result.total} in all"] if result.more else lines or ["no keys"]


def _entry_line(entry: Entry) -> str:
    value = "" if entry.value is None else f" = {printable(entry.value)}"
    return f"{printable(entry.key)}{value}  (version {entry.version})"


def _document(result: TxnStepResult) -> dict[str, Any]:
    from kv.client.records import TxnDelete, TxnGet, TxnPut

    if isinstance(result, TxnPut):
        return {"op": "put", **named("key", result.key), "version": result.version}
    if isinstance(result, TxnDelete):
        return {"op": "delete", "deleted": result.deleted}
    if isinstance(result, TxnGet):
        found = result.record
        value = {} if found is None else {**named("value", found.value), "version": found.version}
        return {"op": "get", **named("key", result.key), "found": found is not None, **value}
    return {
        "op": "range",
        "keys": [_entry(entry) for entry in result.entries],
        "has_more": result.more,
        "count": result.total,
    }


def _entry(entry: Entry) -> dict[str, Any]:
    value = {} if entry.value is None else named("value", entry.value)
    return {**named("key", entry.key), **value, "version": entry.version}
