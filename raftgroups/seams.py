"""Every name of pysyncobj that JanusKV replaces, reaches into or relies on. The only such file.

pysyncobj is the Raft core: roles, terms, votes, the log check of AppendEntries, match indexes,
commit evaluation. Everything at its edges is ours, because stock it is neither safe nor live
(raftgroups/ARCHITECTURE.md has the list). The seams, all checked by `verify` at import and by
tests/contract/test_pysyncobj_seams.py:

1. Names of module pysyncobj.syncobj, looked up at call time: journal, serializer, pickle, clock,
   dice, poller. They are replaced once, for the process; clock and dice go to whoever is active.
2. Private methods of SyncObj, found on the object by their mangled names: `Core` overrides them
   and passes them on to `Hooks`.
3. Private attributes: raftgroups/raftcore.py reads and writes them, with names and types; nobody
   else knows their names.

What is switched off altogether: sockets, threads, pickle, compaction and dumps, its command queue
and callbacks, VERSION entries, forwarding of commands, and its own membership changes (two
configurations of ours in the log would be two truths; see raftgroups/membership.py).

One pysyncobj call never runs inside another one: raftcore names the active environment on entry.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, Protocol

from pysyncobj import syncobj as _module
from pysyncobj.node import Node
from pysyncobj.syncobj import SyncObj

from raftgroups.records import NOOP, Entry
from raftgroups.transport import NodeId
from storage.clock import Clock, Rng

VERSION: Final = "0.3.17"
FOLLOWER: Final = 0
CANDIDATE: Final = 1
LEADER: Final = 2

MODULE_NAMES: Final = (
    "createJournal",
    "Serializer",
    "pickle",
    "monotonicTime",
    "random",
    "createPoller",
    "PIPE_NOTIFIER_ENABLED",
    "globalDnsResolver",
)
METHOD_NAMES: Final = (
    "_SyncObj__connectedToAnyone",
    "_SyncObj__getCurrentLogIndex",
    "_SyncObj__getCurrentLogTerm",
    "_SyncObj__getEntries",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__sendNextNodeIdx",
    "_SyncObj__applyLogEntries",
    "_SyncObj__tryLogCompaction",
    "_SyncObj__loadDumpFile",
    "_SyncObj__doApplyCommand",
    "_SyncObj__doChangeCluster",
    "_SyncObj__onMessageReceived",
    "_SyncObj__setState",
    "_SyncObj__onBecomeLeader",
    "_SyncObj__generateRaftTimeout",
    "_checkCommandsToApply",
    "_applyCommand",
    "_onTick",
)
ATTRIBUTE_NAMES: Final = (
    "_SyncObj__raftState",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftLeader",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__lastResponseTime",
    "_SyncObj__otherNodes",
    "_SyncObj__readonlyNodes",
    "_SyncObj__noopIDx",
    "_SyncObj__needLoadDumpFile",
    "_SyncObj__transferInProgress",
    "_SyncObj__raftLog",
)


class SeamMovedError(Exception):
    """pysyncobj is not the one that this file was written for."""


def missing_names() -> list[str]:
    """What `verify` would complain of; instance attributes are checked by the contract test."""
    missing = [f"module name {name}" for name in MODULE_NAMES if not hasattr(_module, name)]
    return missing + [f"method {name}" for name in METHOD_NAMES if not hasattr(SyncObj, name)]


def verify() -> None:
    found = importlib.metadata.version("pysyncobj")
    missing = missing_names()
    if found != VERSION or missing:
        raise SeamMovedError(
            f"pysyncobj {found} is installed and raftgroups/seams.py was written for {VERSION}"
            f"{'; gone: ' + ', '.join(missing) if missing else ''}. Install {VERSION}, or read the "
            "new source, correct seams.py and run the contract test, the hazards and the simulation"
        )


# --- 1. names of the module -------------------------------------------------------------------


class Environment(Protocol):
    @property
    def clock(self) -> Clock: ...

    @property
    def rng(self) -> Rng: ...


_active: Environment | None = None


def activate(environment: Environment) -> None:
    """The clock and the dice of every pysyncobj call until the next one."""
    global _active
    _active = environment
    _module.monotonicTime = environment.clock.monotonic


def _monotonic() -> float:
    raise AssertionError("pysyncobj was called past raftgroups.raftcore.Raft")


class _Dice:
    """Stands in for the module `random`."""

    @staticmethod
    def random() -> float:
        assert _active is not None, "pysyncobj was called past raftgroups.raftcore.Raft"
        return _active.rng.random()


class _NoPickle:
    """Stands in for the module `pysyncobj.pickle`: hazard j."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"pickle.{name} was asked for; nothing is pickled here")


class _NoPoller:
    def poll(self, timeout: float) -> None:
        pass


class _NoSerializer:
    """Hazard h: no dumps. Snapshots are raftgroups/snapshot.py's."""

    def __init__(self, *settings: object) -> None:
        pass


class _NoResolver:
    def setTimeouts(self, *times: object) -> None:  # noqa: N802 - pysyncobj's name
        pass

    def setPreferredAddrFamily(self, family: object) -> None:  # noqa: N802 - pysyncobj's name
        pass


class NoTransport:
    """Everything is sent by the overrides below or picked up here (`sent`)."""

    ready = True

    def __init__(self, send: Callable[[Node, dict[str, Any]], None]) -> None:
        self.send = send

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("setOn"):
            return lambda *_: None
        raise AttributeError(name)

    def destroy(self) -> None:
        pass


def _patch() -> None:
    verify()
    _module.createJournal = lambda journal: journal
    _module.Serializer = _NoSerializer
    _module.pickle = _NoPickle()
    _module.monotonicTime = _monotonic
    _module.random = _Dice
    _module.createPoller = lambda kind: _NoPoller()
    _module.PIPE_NOTIFIER_ENABLED = False
    _module.globalDnsResolver = _NoResolver


_patch()
assert bytes((_module._COMMAND_TYPE.NO_OP,)) == NOOP, "pysyncobj's no-op is ours"


# --- 2. methods -------------------------------------------------------------------------------


class Hooks(Protocol):
    """What pysyncobj asks or tells; raftgroups/replica.py answers."""

    def may_stand(self) -> bool:
        """The election deadline has passed: may this replica stand now? (the election gate)"""
        ...

    def heartbeat_is_due(self) -> float:
        """Heartbeats are to be sent; returns when the next ones are due."""
        ...

    def apply_committed(self) -> None: ...

    def request_votes(self, node: NodeId, term: int, last_index: int, last_term: int) -> None: ...

    def grant_vote(self, node: NodeId, term: int) -> None: ...

    def acknowledge(
        self, node: NodeId, *, reset: bool, next_index: int | None, success: bool
    ) -> None: ...

    def role_changed(self, old: int, new: int) -> None: ...


class PeerNode(int, Node):  # type: ignore[misc]
    """A node as a number made of its identity: equal exactly where the identities are, with a hash
    that does not depend on the process (sets have one order everywhere), and both are numbers'
    own, no methods: a lone write cost a leader thirty calls of them."""

    def __new__(cls, node: NodeId) -> PeerNode:
        return super().__new__(cls, int.from_bytes(b"\x01" + node.encode(), "big"))

    def __init__(self, node: NodeId) -> None:
        Node.__init__(self, node)
        self.node = node

    id = property(attrgetter("node"))
    """Not a method either."""


class Core(SyncObj):  # type: ignore[misc]
    """No properties and no public names: SyncObj's constructor walks over all of them."""

    _hooks: Hooks

    def _SyncObj__connectedToAnyone(self) -> bool:  # noqa: N802
        return self._hooks.may_stand()

    # The log by its own names: through its face of a list each of these was four calls and more.

    def _SyncObj__getCurrentLogIndex(self) -> int:  # noqa: N802
        index: int = self._SyncObj__raftLog.last_index
        return index

    def _SyncObj__getCurrentLogTerm(self) -> int:  # noqa: N802
        term: int = self._SyncObj__raftLog.last_term
        return term

    def _SyncObj__getEntries(  # noqa: N802
        self,
        fromIDx: int | None,  # noqa: N803
        count: int | None = None,
        maxSizeBytes: int | None = None,  # noqa: N803
    ) -> list[Entry]:
        assert maxSizeBytes is None, "what is sent is chosen by raftgroups/replication.py"
        if fromIDx is None:
            return []
        entries: list[Entry] = self._SyncObj__raftLog.entries(fromIDx, count)
        return entries

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        self._SyncObj__newAppendEntriesTime = self._hooks.heartbeat_is_due()

    def _SyncObj__sendNextNodeIdx(  # noqa: N802
        self,
        node: Node,
        reset: bool = False,
        nextNodeIdx: int | None = None,  # noqa: N803
        success: bool = False,
    ) -> None:
        self._hooks.acknowledge(node.id, reset=reset, next_index=nextNodeIdx, success=success)

    def _SyncObj__applyLogEntries(self) -> bool:  # noqa: N802
        self._hooks.apply_committed()
        return False

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        pass

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        pass

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:  # noqa: N802, N803
        raise AssertionError("pysyncobj loads no dumps here")

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:  # noqa: N802
        raise AssertionError("pysyncobj applies nothing here")

    def _SyncObj__doChangeCluster(  # noqa: N802
        self, request: object, reverse: bool = False
    ) -> None:
        raise AssertionError("pysyncobj changes no membership here")
