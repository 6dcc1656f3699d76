"""The client SDK of JanusKV: `Client` (asyncio), and `kv.client.sync.Client` for everybody else."""

from kv.client.client import Client
from kv.client.failures import (
    ClientClosedError,
    InvalidEndpointError,
    LeaseLostError,
    MalformedReplyError,
    UnknownServerError,
    WatchEndedError,
)
from kv.client.leaderless import LeaderlessClient
from kv.client.leaderless_records import KeyState, SiblingsError
from kv.client.leases import Lease
from kv.client.locks import Lock
from kv.client.many_operations import BatchDelete, BatchPut
from kv.client.records import Change, Entry, Event, Record
from kv.client.txn import Txn
from kv.client.watches import Watch
from kv.errors import OutcomeUnknownError, OverloadedError, UnavailableError
from kv.model import Level

__all__ = [
    "BatchDelete",
    "BatchPut",
    "Change",
    "Client",
    "ClientClosedError",
    "Entry",
    "Event",
    "InvalidEndpointError",
    "KeyState",
    "LeaderlessClient",
    "Lease",
    "LeaseLostError",
    "Level",
    "Lock",
    "MalformedReplyError",
    "OutcomeUnknownError",
    "OverloadedError",
    "Record",
    "SiblingsError",
    "Txn",
    "UnavailableError",
    "UnknownServerError",
    "Watch",
    "WatchEndedError",
]
