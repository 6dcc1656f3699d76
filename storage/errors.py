"""The base of the one error tree.

Every error that JanusKV raises on purpose descends from JanusError and carries three facts that the
outer edges translate by one table each:

- code: a short stable word that programs may match on;
- retryable: whether the same call may succeed later without a change by the caller;
- outcome: NONE (surely nothing was done) or UNKNOWN (it may have taken effect). An error whose
  outcome is not known must never say NONE.

The message says what happened, which limit or file, and what to do.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, NamedTuple


class Outcome(StrEnum):
    NONE = "none"
    UNKNOWN = "unknown"


class JanusError(Exception):
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    outcome: ClassVar[Outcome] = Outcome.NONE


class InvalidRequestError(JanusError):
    """The caller's fault: the same call will never succeed."""

    code = "invalid_request"


class KeyTooLongError(InvalidRequestError):
    code = "key_too_long"


class EmptyKeyError(InvalidRequestError):
    code = "empty_key"


class ValueTooLargeError(InvalidRequestError):
    code = "value_too_large"


class InvalidOptionError(InvalidRequestError):
    """A setting that cannot be meant or cannot work. The message names it."""

    code = "invalid_option"


class CompactedError(InvalidRequestError):
    """The revision asked for was compacted away."""

    code = "compacted"

    def __init__(self, message: str, compact_revision: int) -> None:
        super().__init__(message)
        self.compact_revision = compact_revision


class FutureRevisionError(InvalidRequestError):
    code = "future_revision"


class KeyRange(NamedTuple):
    """What a shard holds: start <= key < end (None: unbounded), as of its epoch, which rises with
    each split and merge. While `frozen` it holds nothing: it is about to be merged into its left
    neighbour, or to go on as it was."""

    start: bytes
    end: bytes | None
    epoch: int
    frozen: bool = False


class WrongShardError(JanusError):
    """The shard asked does not hold the whole of the keys named; its range may have changed.
    `place` is its range now, None if that is not known."""

    code = "wrong_shard"
    retryable = True

    def __init__(self, message: str, place: KeyRange | None = None) -> None:
        super().__init__(message)
        self.place = place


class SnapshotExpiredError(JanusError):
    """A snapshot outlived its maximum age; open a new one and resume from the last key read."""

    code = "snapshot_expired"
    retryable = True


class TooManySnapshotsError(JanusError):
    """Every reader slot of the engine is taken."""

    code = "too_many_snapshots"
    retryable = True


class NoSpaceError(JanusError):
    """Refused before the disk is full; nothing was written. Deletes and compaction still work."""

    code = "no_space"
    retryable = True


class StorageError(JanusError):
    """The base of everything that is wrong below: disk, files, format."""

    code = "storage"


class WriteFailedError(StorageError):
    """A commit failed: whether it reached the disk is not known. The engine takes no more writes;
    the process must stop, and recovery decides at the next start."""

    code = "write_failed"
    outcome = Outcome.UNKNOWN


class KernelSyncUnavailableError(StorageError):
    """The kernel's workers cannot sync for this process, and why. A thread does it instead."""


class ReadFailedError(StorageError):
    """The disk or the engine could not read. Nothing is known to be damaged."""

    code = "read_failed"
    retryable = True


class WriteStalledError(StorageError):
    """The engine's background work is too far behind and it took no write for as long as a write
    may wait. Nothing was written; the engine goes on by itself once it has caught up."""

    code = "write_stalled"
    retryable = True


class DamagedFilesError(StorageError):
    """The engine's own files are damaged or missing. The message names the file."""

    code = "damaged_files"


class DamagedCheckpointError(StorageError):
    """A backup that is not what was written. `problems` has one line for each file."""

    code = "damaged_checkpoint"

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class EngineClosedError(StorageError):
    code = "engine_closed"


class CorruptRecordError(StorageError):
    """A record failed its checksum. The message names the key; no value is ever returned for it."""

    code = "corrupt_record"

    def __init__(self, message: str, key: bytes) -> None:
        super().__init__(message)
        self.key = key


class UnknownFormatError(StorageError):
    """A record or directory of a format version that this code does not read."""

    code = "unknown_format"


class DataDirectoryError(StorageError):
    """The data directory cannot be used as asked. Nothing was changed."""

    code = "data_directory"


class DirectoryInUseError(DataDirectoryError):
    code = "directory_in_use"


class ForeignDirectoryError(DataDirectoryError):
    code = "foreign_directory"


class UnknownDirectoryFormatError(DataDirectoryError):
    """Written by a version of JanusKV that this one does not read."""

    code = "unknown_format"


class UnfinishedRestoreError(DataDirectoryError):
    """A restore into this directory was interrupted: what lies there is not whole."""

    code = "unfinished_restore"
