"""From the name of a load to the workload that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chaos.workloads.always import CartWork, CounterWork, DeleteWork, ValueWork
from chaos.workloads.bank import BankWork
from chaos.workloads.feed import FeedWork
from chaos.workloads.growing import ListWork, SetWork
from chaos.workloads.holding import LeaseWork, LockWork
from chaos.workloads.register import RegisterWork
from chaos.workloads.watch import WatchWork
from chaos.workloads.work import Work

TABLE: Final[Mapping[str, type[Work]]] = {
    work.kind: work
    for work in (
        RegisterWork, SetWork, ListWork, BankWork, LockWork, LeaseWork, WatchWork,
        FeedWork, ValueWork, DeleteWork, CartWork, CounterWork,
    )
}  # fmt: skip
