"""Reaching out: one dial at a time for each peer that has an address and no connection.

A dial is a task until TCP, and TLS where there is any, are there; then it is a Connection that
shakes hands, and the link tells how that ends (`ended`). A dial that fails is tried again after a
backoff with jitter, for as long as the peer has an address.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from kv.cluster.link_config import Address, LinkConfig
from kv.cluster.link_connection import Connection
from kv.cluster.link_peer import PeerRecord
from kv.cluster.link_tls import LinkTls
from kv.cluster.tasks import TaskOwner
from raftgroups.transport import NodeId
from storage.clock import Scheduler


class Dialer:
    def __init__(
        self,
        config: LinkConfig,
        tls: LinkTls | None,
        make: Callable[[NodeId, int], Connection],
        on_problem: Callable[[NodeId, str, str], None],
        *,
        loop: asyncio.AbstractEventLoop,
        tasks: TaskOwner,
        scheduler: Scheduler,
    ) -> None:
        self._config = config
        self._tls = tls
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
        connection = record.dialing = self._make(record.node_id, number)
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
        tls = self._tls
        try:
            async with asyncio.timeout(self._config.connect_timeout_s):
                await self._loop.create_connection(
                    lambda: connection,
                    host,
                    port,
                    ssl=tls.client if tls else None,
                    server_hostname=(tls.server_hostname or host) if tls else None,
                )
            return
        except ssl.SSLError as error:
            reason = "tls"
            sentence = (
                f"the TLS handshake with {host}:{port} failed ({error}); is TLS configured on both "
                "sides, and is the certificate signed by the cluster's authority?"
            )
        except TimeoutError:
            reason = "unreachable"
            sentence = f"{host}:{port} did not answer in {self._config.connect_timeout_s:g} s"
        except OSError as error:
            reason = "unreachable"
            sentence = f"{host}:{port} cannot be reached: {error}"
        if record.dialing is connection:
            self._on_problem(record.node_id, reason, sentence)
            self.ended(record, connection)
