"""The data directory of a node: one process at a time, stamped with whose it is.

    LOCK                      flock'ed while in use; holds the process id of who has it
    januskv.json              the stamp: format, cluster id, node id, incarnation, created by
    strong/, leaderless/      one environment a regime (storage/environment.py)
    restoring/                only while a restore is under way (storage/checkpoint.py)

Every byte is in storage/FORMAT.md. `open` decides in this order, and until the last step nothing on
the disk is changed, so that a refused directory is left as it was:

    1. what is there: nothing, an empty directory, a stamped one, anything else (refused)
    2. does the stamp fit: format, cluster, node
    3. the lock; then steps 1 and 2 again, since somebody may have been quicker
    4. a new stamp or incarnation if one is due; the process id

Identity. The node id is random and never changes; names and addresses are labels. The incarnation
is a random number below 2**53 (exact in every JSON reader), new for a new directory and whenever
the data may have gone back in time: after a restore (`mark_restored`) and for an engine that keeps
nothing. Whoever mints dots or votes with it then is somebody else. `boot_id` is new at each open.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from storage import files, stamps
from storage.clock import Rng
from storage.errors import (
    DataDirectoryError,
    DirectoryInUseError,
    ForeignDirectoryError,
    InvalidOptionError,
    UnfinishedRestoreError,
    UnknownDirectoryFormatError,
)

DIRECTORY_FORMAT: Final = 1
STAMP_NAME: Final = "januskv.json"
LOCK_NAME: Final = "LOCK"
RESTORING_NAME: Final = "restoring"
INCARNATION_BITS: Final = 53
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OPEN: Final = "open the data directory"
# What may lie in a directory that nobody has begun to use: leavings of a first start that was
# killed, and what file systems put into their root.
NEGLIGIBLE_NAMES: Final = frozenset({LOCK_NAME, STAMP_NAME + stamps.TEMPORARY_SUFFIX, "lost+found"})


class RegimeName(StrEnum):
    STRONG = "strong"
    LEADERLESS = "leaderless"


@dataclass(frozen=True, slots=True)
class Identity:
    """What the stamp says."""

    cluster_id: str | None
    """None until the node forms or joins a cluster."""
    node_id: str
    incarnation: int
    created_by: str
    restored: bool = False
    """The data went back in time: the next open takes a new incarnation."""


class DataDirectory:
    """Invariant: the lock is held from `open` to `close`, and `identity` is what the stamp says."""

    def __init__(self, path: Path, identity: Identity, lock: int, rng: Rng | None) -> None:
        self.path = path
        self.identity = identity
        self.boot_id = _random_bytes(rng, 8).hex()
        self._lock: int | None = lock
        self._rng = rng

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool,
        cluster_id: str | None = None,
        node_id: str | None = None,
        rng: Rng | None = None,
    ) -> DataDirectory:
        """`cluster_id` and `node_id` must be the stamp's where it has them; a new directory and one
        without a cluster take them. Without `rng` the system's secure dice are thrown."""
        for name, given in (("cluster id", cluster_id), ("node id", node_id)):
            if given is not None and not is_id(given):
                raise InvalidOptionError(
                    f"the {name} {given!r} is not 1 to 64 letters, digits, dots, dashes or "
                    "underscores; choose another"
                )
        found = _inspect(path, create, cluster_id, node_id)
        try:
            if not path.exists():
                path.mkdir(mode=0o700, exist_ok=True)
                files.sync_directory(path.parent)
            lock = take_lock(path)
        except OSError as error:
            raise files.directory_error(_OPEN, path, error.errno, str(error)) from error
        try:
            found = _inspect(path, create, cluster_id, node_id)
            identity = found or Identity(
                cluster_id=cluster_id,
                node_id=node_id or _random_bytes(rng, 8).hex(),
                incarnation=_new_incarnation(rng),
                created_by=stamps.created_by(),
            )
            if identity.restored:
                identity = replace(identity, restored=False, incarnation=_new_incarnation(rng))
            if identity.cluster_id is None:
                identity = replace(identity, cluster_id=cluster_id)
            if identity != found:
                write_identity(path, identity)
            with suppress(OSError):
                (path / RESTORING_NAME).rmdir()  # of a restore that was killed after its last step
            _write_pid(lock)
        except OSError as error:
            os.close(lock)
            raise files.directory_error(_OPEN, path, error.errno, str(error)) from error
        except BaseException:
            os.close(lock)
            raise
        return cls(path, identity, lock, rng)

    @staticmethod
    def mark_restored(path: Path) -> None:
        """For data that was put back by other means than storage/checkpoint.py (a copied directory,
        a machine's snapshot): the next open takes a new incarnation."""
        identity = _inspect(path, False, None, None)
        assert identity is not None, "only a stamped directory passes with create=False"
        try:
            lock = take_lock(path)
            try:
                write_identity(path, replace(identity, restored=True))
            finally:
                os.close(lock)
        except OSError as error:
            raise files.directory_error("mark", path, error.errno, str(error)) from error

    def adopt_cluster(self, cluster_id: str) -> None:
        """The node formed or joined this cluster. It never changes afterwards."""
        if self.identity.cluster_id not in (None, cluster_id):
            raise _other("cluster", self.path, self.identity.cluster_id, cluster_id)
        self._change(replace(self.identity, cluster_id=cluster_id))

    def found_cluster(self, cluster_id: str) -> None:
        """The data goes on as a cluster of its own; its old one does not know it any more."""
        self._change(replace(self.identity, cluster_id=cluster_id))

    def new_incarnation(self) -> int:
        """The data went back in time or was lost."""
        self._change(replace(self.identity, incarnation=_new_incarnation(self._rng)))
        return self.identity.incarnation

    def _change(self, identity: Identity) -> None:
        assert self._lock is not None, "the data directory is closed"
        if identity == self.identity:
            return
        try:
            write_identity(self.path, identity)
        except OSError as error:
            raise files.directory_error("stamp", self.path, error.errno, str(error)) from error
        self.identity = identity

    def environment_path(self, regime: RegimeName) -> Path:
        return self.path / regime.value

    def close(self) -> None:
        """Gives the lock back; close the engines first. Safe to call twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> DataDirectory:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# --- what is there ---------------------------------------------------------------------------


def _inspect(
    path: Path, create: bool, cluster_id: str | None, node_id: str | None
) -> Identity | None:
    """The stamp of a directory that may be opened as asked; None if one may be made there."""
    if is_unused(_OPEN, path):
        if not create:
            raise DataDirectoryError(
                f"cannot {_OPEN} {path}: there is none; start a node with this path once, or name "
                "an existing one"
            )
        return None
    identity = read_identity(path)
    if cluster_id is not None and identity.cluster_id not in (None, cluster_id):
        raise _other("cluster", path, identity.cluster_id, cluster_id)
    if node_id is not None and identity.node_id != node_id:
        raise _other("node", path, identity.node_id, node_id)
    return identity


def is_unused(action: str, path: Path) -> bool:
    """Nothing is there, or an empty directory; False for a stamped one. Raises for all else."""
    try:
        names = {entry.name for entry in os.scandir(path)}
    except FileNotFoundError:
        if path.parent.is_dir():
            return True
        raise DataDirectoryError(
            f"cannot {action} {path}: {path.parent} does not exist; make it first"
        ) from None
    except OSError as error:
        raise files.directory_error(action, path, error.errno, str(error)) from error
    if STAMP_NAME in names:
        return False
    if RESTORING_NAME in names:
        raise UnfinishedRestoreError(
            f"cannot {action} {path}: a restore into it was interrupted; run the restore again, or "
            "remove the directory"
        )
    held = sorted(names - NEGLIGIBLE_NAMES)
    if held:
        raise ForeignDirectoryError(
            f"cannot {action} {path}: it holds {held[0]} and no {STAMP_NAME}; name an empty "
            "directory or one that JanusKV made"
        )
    return True


def _other(what: str, path: Path, found: str | None, wanted: str) -> ForeignDirectoryError:
    return ForeignDirectoryError(
        f"{path} belongs to {what} {found}, not to {wanted}; name the directory of {wanted} or "
        f"correct the configured {what} id"
    )


# --- the stamp -------------------------------------------------------------------------------


def read_identity(path: Path) -> Identity:
    members = read_directory_stamp(path / STAMP_NAME, DIRECTORY_FORMAT)
    wrong = [name for name, sound in _SOUND.items() if not sound(members.get(name))]
    wrong += sorted(members.keys() - _SOUND.keys())
    if wrong:
        raise DataDirectoryError(
            f"the stamp {path / STAMP_NAME} is damaged: its member {wrong[0]} is "
            f"{members.get(wrong[0])!r}; restore a backup"
        )
    return Identity(**members)


def is_id(value: object) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


_SOUND: Final[Mapping[str, Callable[[object], bool]]] = {
    "cluster_id": lambda value: value is None or is_id(value),
    "node_id": is_id,
    "incarnation": lambda value: type(value) is int and 0 < value < 1 << INCARNATION_BITS,
    "created_by": lambda value: isinstance(value, str),
    "restored": lambda value: type(value) is bool,
}


def write_identity(path: Path, identity: Identity) -> None:
    stamps.write_stamp(path / STAMP_NAME, DIRECTORY_FORMAT, asdict(identity))


def read_directory_stamp(path: Path, format_version: int) -> dict[str, Any]:
    """A stamp of the directory or of an environment in it, its faults told as sentences."""
    try:
        return stamps.read_stamp(path, format_version)
    except stamps.ForeignStampError as error:
        raise ForeignDirectoryError(
            f"{path} is not ours: {error}; name an empty directory or one that JanusKV made"
        ) from error
    except stamps.NewerStampError as error:
        raise UnknownDirectoryFormatError(
            f"{path} cannot be read: {error}; upgrade JanusKV or name another directory"
        ) from error
    except stamps.StampError as error:
        raise DataDirectoryError(
            f"the stamp {path} is damaged: {error}; restore a backup"
        ) from error
    except OSError as error:
        raise files.directory_error("read", path, error.errno, str(error)) from error


def _random_bytes(rng: Rng | None, count: int) -> bytes:
    return secrets.token_bytes(count) if rng is None else rng.randbytes(count)


def _new_incarnation(rng: Rng | None) -> int:
    return (int.from_bytes(_random_bytes(rng, 8), "big") >> (64 - INCARNATION_BITS)) or 1


# --- the lock --------------------------------------------------------------------------------


def take_lock(path: Path) -> int:
    """The descriptor that holds the lock. The file's content is changed only by `_write_pid`."""
    lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
        os.close(lock)
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise DirectoryInUseError(
            f"the data directory {path} is in use by {who}; stop that process or name another "
            "directory"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _write_pid(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
