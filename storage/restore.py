"""A checkpoint put back as a data directory, whole or not at all, also against kill -9.

    1. verify the checkpoint; refuse a target that holds anything
    2. lock the target; remove what an interrupted restore left there
    3. copy into TARGET/restoring/: each file hashed again on its way, synced, then its directories
    4. rename restoring/strong and restoring/leaderless into TARGET
    5. THE STAMP, marked restored, so that the next open takes a new incarnation
    6. restoring/ away

Before step 5 TARGET is no data directory: whoever opens it is told that a restore was interrupted,
and the next restore into it begins again. After it nothing is missing. Steps 3 to 6 stay inside the
target, so that it may be the root of a mounted volume.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

from storage import files
from storage.checkpoint import (
    FileEntry,
    Manifest,
    Progress,
    read_chunks,
    require_whole,
    silent,
)
from storage.datadir import (
    NEGLIGIBLE_NAMES,
    RESTORING_NAME,
    STAMP_NAME,
    Identity,
    is_id,
    take_lock,
    write_identity,
)
from storage.environment import ENGINE_DIRECTORY_NAME, write_environment_stamp
from storage.errors import DamagedCheckpointError, DataDirectoryError, InvalidOptionError

_RESTORE: Final = "restore into"


def restore(
    checkpoint: Path, target: Path, *, node_id: str | None = None, progress: Progress = silent
) -> Manifest:
    """`node_id` makes it the directory of another node; otherwise it is that of the one that was
    backed up, in a new incarnation."""
    if node_id is not None and not is_id(node_id):
        raise InvalidOptionError(f"the node id {node_id!r} is not one; choose another")
    manifest = require_whole(checkpoint, progress)
    _check_target(checkpoint, target)
    _check_space(target, manifest)
    try:
        if not target.exists():
            target.mkdir(mode=0o700, exist_ok=True)
            files.sync_directory(target.parent)
        lock = take_lock(target)
        try:
            # Somebody may have been quicker.
            _check_target(checkpoint, target)
            _put_back(checkpoint, target, manifest, node_id or manifest.node_id, progress)
        finally:
            os.close(lock)
    except OSError as error:
        raise files.directory_error(_RESTORE, target, error.errno, str(error)) from error
    return manifest


def _check_target(checkpoint: Path, target: Path) -> None:
    if target.resolve().is_relative_to(checkpoint.resolve()):
        raise DataDirectoryError(
            f"cannot {_RESTORE} {target}: it lies inside the checkpoint; name another directory"
        )
    try:
        names = {entry.name for entry in os.scandir(target)}
    except FileNotFoundError:
        if target.parent.is_dir():
            return
        raise DataDirectoryError(
            f"cannot {_RESTORE} {target}: {target.parent} does not exist; make it first"
        ) from None
    except OSError as error:
        raise files.directory_error(_RESTORE, target, error.errno, str(error)) from error
    interrupted = RESTORING_NAME in names and STAMP_NAME not in names
    held = sorted(names - NEGLIGIBLE_NAMES)
    if held and not interrupted:
        raise DataDirectoryError(
            f"cannot {_RESTORE} {target}: it holds {held[0]}; name a new or empty directory"
        )


def _check_space(target: Path, manifest: Manifest) -> None:
    free = files.free_bytes(target if target.exists() else target.parent)
    if free < manifest.size_bytes:
        raise DataDirectoryError(
            f"cannot {_RESTORE} {target}: the checkpoint has {manifest.size_bytes} bytes and "
            f"{free} are free there; free some space or name another disk"
        )


def _put_back(
    checkpoint: Path, target: Path, manifest: Manifest, node_id: str, progress: Progress
) -> None:
    _clean(target)
    staging = target / RESTORING_NAME
    staging.mkdir(mode=0o700)
    files.sync_directory(target)
    try:
        for regime, engine_name in manifest.engines.items():
            environment = staging / regime.value
            (environment / ENGINE_DIRECTORY_NAME).mkdir(parents=True)
            write_environment_stamp(environment, regime, engine_name)
        done = 0
        for entry in manifest.files:
            _copy(checkpoint / entry.path, _place(staging, entry), entry)
            done += entry.size_bytes
            progress("restore", done, manifest.size_bytes)
        for folder, _, _ in os.walk(staging, topdown=False):
            files.sync_directory(Path(folder))
        for regime in manifest.engines:
            os.rename(staging / regime.value, target / regime.value)
        files.sync_directory(target)
        identity = Identity(
            cluster_id=manifest.cluster_id,
            node_id=node_id,
            incarnation=manifest.incarnation,
            created_by=manifest.created_by,
            restored=True,
        )
        write_identity(target, identity)
    except BaseException:
        _clean(target)
        raise
    staging.rmdir()
    files.sync_directory(target)


def _clean(target: Path) -> None:
    """What an attempt left: nothing else can be there (`_check_target`). The stamp goes first and
    restoring/ last, so that a cleaning that is killed is still seen as an interrupted restore."""
    rank = {STAMP_NAME: 0, RESTORING_NAME: 2}
    for entry in sorted(os.scandir(target), key=lambda entry: rank.get(entry.name, 1)):
        if entry.name in NEGLIGIBLE_NAMES:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
        files.sync_directory(target)


def _place(staging: Path, entry: FileEntry) -> Path:
    regime, _, rest = entry.path.partition("/")
    return staging / regime / ENGINE_DIRECTORY_NAME / rest


def _copy(source: Path, place: Path, entry: FileEntry) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open(place, "xb") as file:
        for chunk in read_chunks(source):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != entry.sha256:
        raise DamagedCheckpointError(
            f"{source} changed while it was restored; leave the checkpoint alone and try again",
            (f"damaged: {entry.path}",),
        )
