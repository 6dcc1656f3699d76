"""A backup of a node that runs: a checkpoint as one tar stream, made while it serves.

    checkpoint (storage/checkpoint.py, in a thread) into DATA/backup-*/ -> tar, part by part -> gone

What comes out is a plain tar of a backup directory: unpack it and `januskv backup --verify` and
`januskv restore` take it. It holds everything that was written when the call began. The parts are
read in the thread as well, so the loop only passes them on. One backup at a time: each one needs
as much room on the disk as the data (RocksDB: hard links).

Whatever ends the stream (done, a client that went away, a node that stops), the copy is removed;
what a killed process left is removed at the next start.
"""

from __future__ import annotations

import asyncio
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from kv.errors import OverloadedError
from storage.checkpoint import write_checkpoint
from storage.clock import Clock
from storage.datadir import DataDirectory, RegimeName
from storage.engine import Engine

T = TypeVar("T")

PREFIX: Final = "backup-"
PART_BYTES: Final = 1024 * 1024
_BLOCK: Final = 512
_END: Final = bytes(2 * _BLOCK)


class Part(NamedTuple):
    remaining_bytes: int
    """After this part."""
    data: bytes


class OnlineBackup:
    def __init__(
        self,
        directory: DataDirectory,
        engine: Engine,
        *,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._directory = directory
        self._engine = engine
        self._clock = clock
        self._loop = loop
        self._busy = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="janus-backup")
        for left in directory.path.glob(f"{PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)

    async def parts(self) -> AsyncIterator[Part]:
        """Raises OverloadedError if another one is under way, and what the disk refuses."""
        if self._busy:
            raise OverloadedError("a backup of this node is under way; wait for its end", 10.0)
        self._busy = True
        home = self._directory.path / f"{PREFIX}{self._directory.boot_id}"
        try:
            await self._run(self._copy, home)
            paths = sorted(path for path in home.rglob("*") if path.is_file())
            remaining = sum(_BLOCK + _padded(path.stat().st_size) for path in paths) + len(_END)
            pieces = _tar(home, paths)
            while (data := await self._run(next, pieces, b"")) != b"":
                remaining -= len(data)
                yield Part(remaining, data)
        finally:
            shutil.rmtree(home, ignore_errors=True)
            self._busy = False

    async def _run(self, call: Callable[..., T], *arguments: Any) -> T:
        return await self._loop.run_in_executor(self._thread, call, *arguments)

    def _copy(self, home: Path) -> None:
        write_checkpoint(
            home,
            self._directory,
            {RegimeName.STRONG: self._engine},
            created_wall_s=self._clock.wall(),
        )

    def close(self) -> None:
        """Waits for what the thread is doing."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _tar(home: Path, paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        entry = tarfile.TarInfo(path.relative_to(home).as_posix())
        size = entry.size = path.stat().st_size
        entry.mode = 0o600
        yield entry.tobuf(tarfile.GNU_FORMAT)
        with path.open("rb") as file:
            while data := file.read(PART_BYTES):
                yield data
        if _padded(size) > size:
            yield bytes(_padded(size) - size)
    yield _END
