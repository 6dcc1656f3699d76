"""Transactions, written down step by step. Pure.

    Txn().if_version("stock", 17).put("stock", "4").put("sold/9", "me").otherwise().get("stock")

All conditions must hold, then the steps are done in order as one revision; otherwise those after
`otherwise()`. One call of the client sends it: `await client.txn(...)`.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from kv.client.forms import Bytes, as_bytes, named
from storage.errors import InvalidOptionError

Comparison = Literal["=", "!=", "<", ">"]
Target = Literal["version", "create", "value", "lease"]


class Txn:
    def __init__(self) -> None:
        self._compare: list[dict[str, Any]] = []
        self._then: list[dict[str, Any]] = []
        self._else: list[dict[str, Any]] = []
        self._steps = self._then

    # --- conditions ---

    def compare(self, key: Bytes, target: Target, op: Comparison, operand: int | Bytes) -> Self:
        """`target`: "version" (of the last write, 0: absent), "create" (of the first one), "value"
        or "lease"."""
        wanted: dict[str, Any] = {**_key(key), "target": target, "op": op}
        if target == "value":
            if isinstance(operand, int):
                raise InvalidOptionError("a value is compared with bytes or text, not a number")
            wanted.update(named("operand", as_bytes(operand), "encoding"))
        elif isinstance(operand, int):
            wanted["operand"] = str(operand) if target == "lease" else operand
        else:
            raise InvalidOptionError(f"{target} is compared with a number, not {operand!r}")
        self._compare.append(wanted)
        return self

    def if_version(self, key: Bytes, version: int) -> Self:
        return self.compare(key, "version", "=", version)

    def if_value(self, key: Bytes, value: Bytes) -> Self:
        return self.compare(key, "value", "=", value)

    def if_absent(self, key: Bytes) -> Self:
        return self.compare(key, "version", "=", 0)

    def if_exists(self, key: Bytes) -> Self:
        return self.compare(key, "version", ">", 0)

    # --- steps ---

    def otherwise(self) -> Self:
        """Steps from here on are done if a condition does not hold."""
        self._steps = self._else
        return self

    def put(
        self, key: Bytes, value: Bytes, *, ttl: float | None = None, lease: int | None = None
    ) -> Self:
        step: dict[str, Any] = {"op": "put", **_key(key)}
        step.update(named("value", as_bytes(value), "encoding"))
        if ttl is not None:
            step["ttl"] = ttl
        if lease is not None:
            step["lease"] = str(lease)
        return self._add(step)

    def delete(self, key: Bytes) -> Self:
        return self._add({"op": "delete", **_key(key)})

    def delete_prefix(self, prefix: Bytes) -> Self:
        return self._add({"op": "delete", **named("prefix", as_bytes(prefix), "key_encoding")})

    def get(self, key: Bytes, revision: int = 0) -> Self:
        step: dict[str, Any] = {"op": "get", **_key(key)}
        if revision:
            step["revision"] = revision
        return self._add(step)

    def range(
        self,
        prefix: Bytes,
        *,
        limit: int | None = None,
        reverse: bool = False,
        values: bool = True,
        revision: int = 0,
    ) -> Self:
        """All keys with a prefix, up to `limit`."""
        step: dict[str, Any] = {"op": "range", **named("prefix", as_bytes(prefix), "key_encoding")}
        step.update({"reverse": reverse, "values": values, "revision": revision})
        if limit is not None:
            step["limit"] = limit
        return self._add(step)

    def _add(self, step: dict[str, Any]) -> Self:
        self._steps.append(step)
        return self

    # --- as it goes out ---

    @property
    def only_reads(self) -> bool:
        return all(step["op"] in ("get", "range") for step in (*self._then, *self._else))

    @classmethod
    def of_fields(cls, fields: dict[str, Any]) -> Self:
        """Of a body of POST /api/v1/txn; what is wrong with it says the server."""
        made = cls()
        made._compare = list(fields.get("compare") or [])
        made._then = list(fields.get("then") or [])
        made._else = list(fields.get("else") or [])
        made._steps = made._then
        return made

    def fields(self) -> dict[str, Any]:
        return {"compare": self._compare, "then": self._then, "else": self._else}


def _key(key: Bytes) -> dict[str, Any]:
    return named("key", as_bytes(key), "key_encoding")
