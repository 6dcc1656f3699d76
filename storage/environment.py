"""The environment of a regime inside a data directory, and the one place that picks an engine.

    DATA/strong/environment.json    the stamp: regime, engine, created by, whether there is a log
    DATA/strong/engine/             the engine's own files
    DATA/strong/engine/log/         its write-ahead log (LMDB)

The stamp is written once the engine has made its files, so where it stands there is data; if the
files are gone then, somebody removed them, and starting empty under the old identity would break
what the node promised to others. An environment is only opened as what it was written as.

A memory engine keeps nothing: each open after the first is a new incarnation, unless a checkpoint
was restored there, which it starts from (a new incarnation all the same).

Engines are imported when they are asked for: none of them should cost a node that does not use it.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from storage import files, stamps
from storage.clock import Clock
from storage.datadir import DataDirectory, RegimeName, read_directory_stamp
from storage.engine import Engine, WritePressure
from storage.errors import DataDirectoryError, ForeignDirectoryError, InvalidOptionError
from storage.lmdb_file import LOG_DIRECTORY_NAME, OWN_NAMES
from storage.rocks_options import RocksOptions
from storage.upgrades import forget_leaves

if TYPE_CHECKING:
    from storage.rocks_engine import BlockCache

ENVIRONMENT_FORMAT: Final = 3
"""1 has no log; 2 says that there is one, which whoever knows only 1 would pass over; 3, only of
the leaderless regime, that digests stand in the token index, and no sums beside it, which whoever
knows only 2 would go by."""
ENVIRONMENT_FORMAT_WITHOUT_DIGESTS: Final = 2
ENVIRONMENT_FORMAT_WITHOUT_LOG: Final = 1
ENVIRONMENT_STAMP_NAME: Final = "environment.json"
ENGINE_DIRECTORY_NAME: Final = "engine"
MEMORY: Final = "memory"
LMDB: Final = "lmdb"
ROCKSDB: Final = "rocksdb"
ENGINE_NAMES: Final = (MEMORY, LMDB, ROCKSDB)


class _Stamp(NamedTuple):
    engine: str
    logged: bool
    digests: bool
    """Of the leaderless regime: they stand in the token index."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    lmdb_map_size_bytes: int | None = None
    """None leaves LMDB's default."""
    rocks: RocksOptions = field(default_factory=RocksOptions)


def open_engine(
    directory: DataDirectory,
    regime: RegimeName,
    engine_name: str,
    *,
    clock: Clock,
    settings: EngineSettings | None = None,
    rocks_cache: BlockCache | None = None,
) -> Engine:
    """`rocks_cache` may be shared by the environments of a node."""
    check_engine_name(engine_name)
    environment = directory.environment_path(regime)
    stamp_path = environment / ENVIRONMENT_STAMP_NAME
    home = environment / ENGINE_DIRECTORY_NAME
    begun = stamp_path.exists()
    logged, current = False, True
    digests = regime is RegimeName.LEADERLESS
    if begun:
        stamp = _check_stamp(environment, regime, engine_name)
        logged, current = stamp.logged, stamp.digests == digests
        if engine_name != MEMORY and not _names_in(home):
            raise DataDirectoryError(
                f"the {regime} data in {home} is gone, and this node promised to keep it; restore "
                f"a backup, or remove {directory.path} and let the node join as a new one"
            )
        if logged and not _names_in(home / LOG_DIRECTORY_NAME):
            raise DataDirectoryError(
                f"the log of the {regime} data in {home / LOG_DIRECTORY_NAME} is gone, and the "
                "newest writes with it; restore a backup, or remove "
                f"{directory.path} and let the node join as a new one"
            )
    elif engine_name == LMDB and (strangers := _names_in(home) - OWN_NAMES):
        raise ForeignDirectoryError(
            f"cannot open the engine in {home}: it holds {min(strangers)}, which is not LMDB's; "
            "name another data directory"
        )
    files.make_directory(environment, "open the environment in")
    engine = _open(home, engine_name, clock, settings or EngineSettings(), rocks_cache)
    try:
        if digests and not current:
            forget_leaves(engine)
        if not begun or not current or (engine_name == LMDB and not logged):
            write_environment_stamp(
                environment, regime, engine_name, logged=engine_name == LMDB, digests=digests
            )
        elif engine_name == MEMORY:
            directory.new_incarnation()
    except BaseException:
        engine.close()
        raise
    return engine


def check_engine_name(name: str) -> None:
    if name not in ENGINE_NAMES:
        raise InvalidOptionError(
            f"there is no engine {name!r}; choose one of {', '.join(ENGINE_NAMES)}"
        )


def engine_name_of(directory: DataDirectory, regime: RegimeName) -> str:
    """What the environment was written by."""
    return _read_stamp(directory.environment_path(regime), regime).engine


def pressure_of(engine: Engine) -> WritePressure:
    """NONE for an engine without background work. See WritePressure for what to do about others."""
    gauge = getattr(engine, "write_pressure", None)
    return WritePressure.NONE if gauge is None else WritePressure(gauge())


def _open(
    home: Path,
    engine_name: str,
    clock: Clock,
    settings: EngineSettings,
    rocks_cache: BlockCache | None,
) -> Engine:
    if engine_name == LMDB:
        from storage.lmdb_engine import DEFAULT_MAP_SIZE_BYTES, LmdbEngine
        from storage.logged_engine import LoggedEngine

        size_bytes = settings.lmdb_map_size_bytes or DEFAULT_MAP_SIZE_BYTES
        tree = LmdbEngine(home, clock=clock, map_size_bytes=size_bytes)
        return LoggedEngine(tree, rng=random.Random(os.urandom(16)))
    if engine_name == ROCKSDB:
        from storage.rocks_engine import RocksEngine

        return RocksEngine(home, clock=clock, options=settings.rocks, block_cache=rocks_cache)
    from storage.memory import CHECKPOINT_NAME, MemoryEngine

    if (home / CHECKPOINT_NAME).exists():
        return MemoryEngine.load(home, clock=clock)
    return MemoryEngine(clock=clock)


# --- the stamp -------------------------------------------------------------------------------


def write_environment_stamp(
    environment: Path,
    regime: RegimeName,
    engine_name: str,
    *,
    logged: bool = False,
    digests: bool = False,
) -> None:
    """`logged`: engine/log is there, and from now on the tree alone is not all of the data.
    `digests`: no leaves are kept any more."""
    members: dict[str, str | bool] = {
        "regime": regime.value,
        "engine": engine_name,
        "created_by": stamps.created_by(),
    }
    if logged:
        members["log"] = True
    version = ENVIRONMENT_FORMAT_WITHOUT_DIGESTS if logged else ENVIRONMENT_FORMAT_WITHOUT_LOG
    if digests:
        members["digests"] = True
        version = ENVIRONMENT_FORMAT
    try:
        stamps.write_stamp(environment / ENVIRONMENT_STAMP_NAME, version, members)
    except OSError as error:
        raise files.directory_error("stamp", environment, error.errno, str(error)) from error


def _check_stamp(environment: Path, regime: RegimeName, engine_name: str) -> _Stamp:
    stamp = _read_stamp(environment, regime)
    if stamp.engine != engine_name:
        raise ForeignDirectoryError(
            f"the {regime} data in {environment} was written by {stamp.engine} and cannot be "
            f"opened as {engine_name}; configure {stamp.engine} for it or name another data "
            "directory"
        )
    return stamp


def _read_stamp(environment: Path, regime: RegimeName) -> _Stamp:
    path = environment / ENVIRONMENT_STAMP_NAME
    members = read_directory_stamp(path, ENVIRONMENT_FORMAT)
    if members.get("regime") != regime.value:
        raise ForeignDirectoryError(
            f"{environment} holds the data of regime {members.get('regime')}, not of {regime}; put "
            "the directories back under their own names"
        )
    written = members.get("engine")
    if written not in ENGINE_NAMES:
        raise DataDirectoryError(
            f"the stamp {path} is damaged: it names the engine {written!r}; restore a backup"
        )
    return _Stamp(str(written), members.get("log") is True, members.get("digests") is True)


def _names_in(home: Path) -> set[str]:
    return {entry.name for entry in home.iterdir()} if home.is_dir() else set()
