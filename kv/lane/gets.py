"""Gets of one key through the gateway, nearly all reads there are, as runs.

    request --> strong.get(key, operation, give) --(a read point)--> give: encoded in one go
            --> flush: written in one loop (Connection.write_gets)

What is no such get, or comes to something else than a record or none, goes the way of any call
(operation.py). A get is `alone` on its connection, so nothing waits before or behind it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from kv.etcd.errors import encode_error
from kv.etcd.hot import GetCall
from kv.regime import Give
from storage.errors import JanusError
from storage.mvcc_records import Fields

if TYPE_CHECKING:
    from kv.lane.operation import Operation

_log = logging.getLogger(__name__)


class Gets:
    """Those of one call."""

    __slots__ = ("_encode_each", "give", "key_of", "other", "strong")

    def __init__(self, call: GetCall) -> None:
        self.strong: Final = call.strong
        self.key_of: Final = call.key_of
        self.other: Final = call.other
        self._encode_each: Final = call.encode_each
        self.give: Final[Give] = self._give

    def _give(
        self,
        operations: Sequence[Operation],
        found: Sequence[Fields | None] | JanusError,
        revision: int,
        term: int,
    ) -> None:
        """kv/regime.py Give."""
        try:
            if not isinstance(found, JanusError):
                bodies = self._encode_each(found, revision, term)
                operations[0].connection.lane.give(operations, bodies)
                return
            status, body = encode_error(found)
            for operation in operations:
                operation.etcd(status, body)
        except Exception:  # noqa: BLE001 - the last edge: logged, and answered as a defect
            _log.exception("a defect in answers of the fast lane")
            for operation in operations:
                operation.failed()
