"""Reaching out: one dial at a time for each peer that has an address and no connection.

A dial is a task until TCP is there; then it is a Connection that shakes hands, and the link tells
how that ends (`ended`). A dial that fails is tried again after a
backoff with jitter, for as long as the peer has an address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kv.cluster.link_config import Address, LinkConfig
from kv.cluster.link_connection import Connection
from kv.cluster.link_peer import PeerRecord
from kv.cluster.tasks import TaskOwner
from raftgroups.transport import NodeId
from storage.clock import Scheduler


class Dialer:
    def __init__(
        self,
        config: LinkConfig,
        make: Callable[[NodeId, int, str], Connection],
        on_problem: Callable[[NodeId, str, str], None],
        *,
        loop: asyncio.AbstractEventLoop,
        tasks: TaskOwner,
        scheduler: Scheduler,
    ) -> None:
        self._config = config
        self._make = make
        self._on_problem = on_problem
        self._loop = loop
        self._tasks = tasks
        self._scheduler = scheduler
        self.running = False

    def dial(self, record: PeerRecord) -> None:
        """Unless there is a connection, or a dial, or no need."""
        if record.retry is not None:
            record.retry.cancel()
            record.retry = None
        if not self.running or record.address is None or not record.pair.may_dial():
            return
        number = record.pair.begin_dial()
        try:
            connection = self._make(record.node_id, number, record.address[0])
        except (ValueError, TypeError) as error:  # no certificate is for such a name
            record.pair.dial_ended(number)
            record.failed_dials += 1
            self._on_problem(record.node_id, "unreachable", f"{record.address[0]!r}: {error}")
            self.dial_later(record)
            return
        record.dialing = connection
        record.dial_task = self._tasks.spawn(
            self._reach(record, connection, record.address), f"dial {record.node_id}"
        )

    def dial_later(self, record: PeerRecord) -> None:
        if self.running and record.address is not None and record.retry is None:
            record.retry = self._scheduler.call_later(record.backoff.next_s(), self.dial, record)

    def ended(self, record: PeerRecord, connection: Connection) -> None:
        """The dial came to nothing."""
        if record.dialing is not connection:
            return
        assert connection.dial is not None
        record.pair.dial_ended(connection.dial)
        record.dialing = record.dial_task = None
        record.failed_dials += 1
        self.dial_later(record)

    async def _reach(self, record: PeerRecord, connection: Connection, address: Address) -> None:
        host, port = address
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                await self._loop.create_connection(lambda: connection, host, port)
            return
        except TimeoutError:
            sentence = f"{host}:{port} did not answer in {self._config.connect_timeout_s:g} s"
        except (OSError, ValueError, OverflowError) as error:  # the last two: of a strange address
            sentence = f"{host}:{port} cannot be reached: {error}"
        except asyncio.CancelledError:
            self._over(connection)
            raise
        if record.dialing is connection:
            self._on_problem(record.node_id, "unreachable", sentence)
        self._over(connection)
        self.ended(record, connection)

    @staticmethod
    def _over(connection: Connection) -> None:
        """A dial may end after `connection_made` and before we are told that it succeeded; then a
        loop may close the transport and tell nobody (uvloop does)."""
        connection.abort()
        connection.connection_lost(None)
