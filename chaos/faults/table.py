"""From the name of a fault to what it does. Each is a context: in force inside, then healed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from random import Random
from typing import Final

from chaos.faults import machines, members, network, processes, upkeep
from chaos.faults.stage import Stage
from chaos.scenarios.scenario import Fault

FaultContext = Callable[[Stage, Fault, Random], AbstractContextManager[str]]
"""What it gives tells what was done, to whom. Raises BusyError where it cannot be now."""

TABLE: Final[Mapping[str, FaultContext]] = {
    "kill": processes.kill,
    "freeze": processes.freeze,
    "power-cut": processes.power_cut,
    "rolling-restart": processes.rolling_restart,
    "partition": network.partition,
    "latency": network.latency,
    "lost-connections": network.lost_connections,
    "slow-links": network.slow_links,
    "slow-disk": machines.slow_disk,
    "full-disk": machines.full_disk,
    "broken-disk": machines.broken_disk,
    "clock": machines.clock,
    "leader-transfer": upkeep.leader_transfer,
    "compact": upkeep.compact,
    "split": upkeep.split,
    "merge": upkeep.merge,
    "backup": upkeep.backup,
    "flood": upkeep.flooded,
    "join": members.join,
    "drain": members.drain,
    "replace": members.replace,
    "move": members.move,
}
