"""The engines that the proof is about, as a child process opens them (see opening.py).

`lmdb`, `logged` (LMDB behind its log) and `rocksdb` are the engine alone; `kernel_synced` is the
logged one behind a node's writer, for syncs that the kernel's workers make. The nodes' ones stand
in a data directory with its lock, its stamp and its environment: a power cut in a node's first
second must not matter either.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from chaos.powercut.campaign import Subject
from storage.datadir import DataDirectory, RegimeName
from storage.engine import DEFAULT_SNAPSHOT_MAX_AGE_S, Batch, Engine, EngineStatistics, Snapshot
from storage.environment import EngineSettings, open_engine
from storage.kernel_sync import KernelSync
from storage.rocks_options import RocksOptions
from storage.system_clock import SystemClock
from storage.writers import AdaptiveWriter, KernelSyncs

# So small that the workload makes it flush and compact.
_ROCKS: Final = RocksOptions(write_buffer_bytes=64 * 1024)
# Lock tables live in a shared mapping; LMDB makes them anew whenever nobody has the file open.
_LOCK_TABLES: Final = frozenset({"lock.mdb", "data.mdb.new-lock"})


class Wrapped:
    """Another engine, all of whose calls go through."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner

    def write(self, batch: Batch, *, sync: bool) -> None:
        self.inner.write(batch, sync=sync)

    def snapshot(self, *, max_age_s: float = DEFAULT_SNAPSHOT_MAX_AGE_S) -> Snapshot:
        return self.inner.snapshot(max_age_s=max_age_s)

    def expire_snapshots(self) -> int:
        return self.inner.expire_snapshots()

    def checkpoint(self, directory: Path) -> None:
        self.inner.checkpoint(directory)

    def statistics(self) -> EngineStatistics:
        return self.inner.statistics()

    def close(self) -> None:
        self.inner.close()


class _OfNode(Wrapped):
    def __init__(self, path: Path, regime: RegimeName, engine_name: str) -> None:
        self._directory = DataDirectory.open(path, create=True, cluster_id="test", node_id="a")
        try:
            settings = EngineSettings(rocks=_ROCKS)
            super().__init__(
                open_engine(
                    self._directory, regime, engine_name, clock=SystemClock(), settings=settings
                )
            )
        except BaseException:
            self._directory.close()
            raise

    def close(self) -> None:
        super().close()
        self._directory.close()


def lmdb(path: Path) -> Engine:
    from storage.lmdb_engine import LmdbEngine

    return LmdbEngine(path, clock=SystemClock())


def logged(path: Path) -> Engine:
    """With folds and segments so small that the workload has dozens of each."""
    from storage.lmdb_engine import LmdbEngine
    from storage.logged_engine import LoggedEngine

    tree = LmdbEngine(path, clock=SystemClock())
    return LoggedEngine(tree, fold_bytes=24 * 1024, segment_bytes=32 * 1024)


class ByWriter(Wrapped):
    """Synced writes go through the writer of a node: large ones are written by this thread and
    synced by the kernel's workers."""

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner)
        clock = SystemClock()
        self._callbacks: dict[int, Callable[..., object]] = {}
        kernel = KernelSyncs(clock, KernelSync(), self)
        self._writer = AdaptiveWriter(clock, self._post, sync_apart=True, kernel=kernel)
        self._posted: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def write(self, batch: Batch, *, sync: bool) -> None:
        if not sync:
            self.inner.write(batch, sync=False)
            return
        ended: list[BaseException | None] = []
        self._writer.submit(self.inner, batch, lambda failure, _: ended.append(failure))
        while not ended:
            self._pass()
        if ended[0] is not None:
            raise ended[0]

    def _pass(self) -> None:
        """One pass of a very small loop."""
        with suppress(Empty):
            self._posted.get_nowait()()
        for descriptor in select.select(list(self._callbacks), [], [], 0.01)[0]:
            self._callbacks[descriptor]()

    def _post(self, callback: Callable[..., object], *arguments: Any) -> None:
        self._posted.put(partial(callback, *arguments))

    def add_reader(self, descriptor: int, callback: Callable[..., object], /, *_: Any) -> None:
        self._callbacks[descriptor] = callback

    def remove_reader(self, descriptor: int, /) -> None:
        del self._callbacks[descriptor]

    def close(self) -> None:
        self._writer.close()
        super().close()


def kernel_synced(path: Path) -> Engine:
    return ByWriter(logged(path))


def rocksdb(path: Path) -> Engine:
    from storage.rocks_engine import RocksEngine

    return RocksEngine(path, clock=SystemClock(), options=_ROCKS)


def strong_node(path: Path) -> Engine:
    return _OfNode(path, RegimeName.STRONG, "lmdb")


def leaderless_node(path: Path) -> Engine:
    return _OfNode(path, RegimeName.LEADERLESS, "rocksdb")


LMDB: Final = Subject("lmdb", f"{__name__}:lmdb", volatile=_LOCK_TABLES)
LOGGED: Final = Subject("logged", f"{__name__}:logged", volatile=_LOCK_TABLES)
KERNEL_SYNCED: Final = Subject("kernel-synced", f"{__name__}:kernel_synced", volatile=_LOCK_TABLES)
ROCKSDB: Final = Subject("rocksdb", f"{__name__}:rocksdb")
STRONG_NODE: Final = Subject("strong-node", f"{__name__}:strong_node", volatile=_LOCK_TABLES)
LEADERLESS_NODE: Final = Subject("leaderless-node", f"{__name__}:leaderless_node")
