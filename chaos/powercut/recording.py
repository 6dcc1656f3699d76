"""A recording: what a process did to the files of one directory, as plain values. Pure.

Every call holds two positions in one total order over all threads of all traced processes: where it
was entered and where it was left. A call may have had its effect from `entered` on and has surely
had it from `left` on; so a sync covers exactly the calls left before it was entered, and it counts
from its own `left` on. The recorder keeps causal order: a thread that was woken by another one is
seen after it.

Files are numbers, never reused: a path that is replaced names another file. Directories are files.
The root directory is ROOT. Only calls that succeeded are recorded, and calls that never returned
(`left` is None: the process died inside them).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

FileId = int
ROOT: Final[FileId] = 0


class Entry(NamedTuple):
    """A name in a directory."""

    directory: FileId
    name: str


@dataclass(frozen=True, slots=True)
class Write:
    file: FileId
    offset: int
    data: bytes
    synced: bool
    """Through an O_DSYNC or O_SYNC descriptor (or RWF_DSYNC): durable once the call is left."""


@dataclass(frozen=True, slots=True)
class Resize:
    """truncate, ftruncate, an opening with O_TRUNC, a fallocate that grows."""

    file: FileId
    size: int


@dataclass(frozen=True, slots=True)
class Zero:
    """fallocate with PUNCH_HOLE or ZERO_RANGE, within the file's size."""

    file: FileId
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Sync:
    """fsync or fdatasync of a file or directory; None: everything (sync, syncfs). Of one that the
    kernel's workers made the call spans from its io_submit to the io_getevents that told of it."""

    file: FileId | None
    by_kernel: bool = False


@dataclass(frozen=True, slots=True)
class Create:
    file: FileId
    entry: Entry
    directory: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    file: FileId
    entry: Entry


@dataclass(frozen=True, slots=True)
class Remove:
    """unlink or rmdir."""

    file: FileId
    entry: Entry


@dataclass(frozen=True, slots=True)
class Rename:
    file: FileId
    source: Entry
    target: Entry
    replaced: FileId | None


@dataclass(frozen=True, slots=True)
class Scribble:
    """The file was mapped shared and writable: from here on its content cannot be known. Only
    files that the caller declared volatile may be; their images hold anything."""

    file: FileId


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """A write to the writer's standard output: the world was told. What it promises must hold from
    `entered` on, since the engine had returned before."""

    text: bytes


NameChange = Create | Link | Remove | Rename
Effect = Write | Resize | Zero | Sync | NameChange | Scribble | Acknowledge


@dataclass(frozen=True, slots=True)
class Call:
    entered: int
    left: int | None
    effect: Effect
    thread: int = 0


@dataclass(frozen=True, slots=True)
class InitialFile:
    """A file that was there, and durable, when the recording began."""

    file: FileId
    entry: Entry
    content: bytes | None
    """None for a directory."""


@dataclass(frozen=True, slots=True)
class Recording:
    calls: tuple[Call, ...]
    """Sorted by `entered`."""
    initial: tuple[InitialFile, ...] = ()
    """Directories stand before what they hold."""
    call_counts: Mapping[str, int] = field(default_factory=dict)
    """How often each system call that the recorder watches was made."""

    @property
    def end(self) -> int:
        """The first position after everything."""
        return max((max(call.entered, call.left or 0) for call in self.calls), default=-1) + 1

    def acknowledgements(self) -> Iterator[tuple[int, bytes]]:
        """(position from which it holds, text)"""
        for call in self.calls:
            if isinstance(call.effect, Acknowledge):
                yield call.entered, call.effect.text

    def without_syncs(self, lost: Callable[[Call], bool] = lambda call: True) -> Recording:
        """The same process on a machine that loses these syncs, by default all: a canary."""
        kept: list[Call] = []
        for call in self.calls:
            if isinstance(call.effect, Sync) and lost(call):
                continue
            if isinstance(call.effect, Write) and call.effect.synced and lost(call):
                call = replace(call, effect=replace(call.effect, synced=False))
            kept.append(call)
        return replace(self, calls=tuple(kept))

    def describe(self, first: int = 0, last: int | None = None) -> str:
        """The calls entered in [first, last), one a line, for people."""
        names = {item.file: item.entry.name for item in self.initial}
        lines = []
        for call in self.calls:
            effect = call.effect
            if isinstance(effect, Create | Link):
                names[effect.file] = effect.entry.name
            elif isinstance(effect, Rename):
                names[effect.file] = effect.target.name
            if call.entered >= first and (last is None or call.entered < last):
                left = "never" if call.left is None else call.left
                lines.append(f"{call.entered:>6} {left:>6} {_effect_text(effect, names)}")
        return "\n".join(lines)

    def summary(self) -> Counter[str]:
        return Counter(type(call.effect).__name__ for call in self.calls)


def _effect_text(effect: Effect, names: Mapping[FileId, str]) -> str:
    def name(file: FileId | None) -> str:
        return (
            "everything" if file is None else names.get(file, "." if file == ROOT else f"#{file}")
        )

    match effect:
        case Write():
            kind = "write+sync" if effect.synced else "write"
            return f"{kind} {name(effect.file)} at {effect.offset} size {len(effect.data)}"
        case Resize():
            return f"resize {name(effect.file)} to {effect.size}"
        case Zero():
            return f"zero {name(effect.file)} at {effect.offset} size {effect.length}"
        case Rename():
            return f"rename {effect.source.name} to {effect.target.name}"
        case Acknowledge():
            return f"acknowledge {effect.text.decode(errors='replace').strip()}"
        case Sync() | Create() | Link() | Remove() | Scribble():
            return f"{type(effect).__name__.lower()} {name(effect.file)}"
