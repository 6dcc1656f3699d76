"""One file between the page cache and the disk: what is durable, what is pending. Pure.

A file is cut into sectors of 512 bytes, the unit that a disk writes whole or not at all. Pending
changes are kept per sector, in the order in which the calls were entered. A sector on the disk is
always the page cache's sector at some moment since the last sync, so it holds a prefix of its own
pending changes; different sectors hold prefixes of their own (torn and reordered writes). With a
tear unit of 4096 the eight sectors of a page share one moment.

The length is a value of its own with pending steps: it may be on the disk without the data (the
sectors then read as zeros) and the data without it (then they are not seen). A step made by a
write may be taken in part, at a multiple of the tear unit. Cutting a file orders data and length:
- if a cut is on the disk, every change of data before it is (the cut zeroes what it drops);
- if it is not, no change of data after it is (those blocks were allocated anew).

Invariant: `durable` up to `durable_length` is what a power cut at this moment leaves at the least.
What `durable` holds beyond is on the disk too, but seen only with a later length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from chaos.powercut.errors import RecordingError

SECTOR_BYTES: Final = 512
PAGE_BYTES: Final = 4096
FILE_MAX_BYTES: Final = 1 << 30
NEVER: Final = 1 << 62


class Dice(Protocol):
    """The part of random.Random that images are drawn with."""

    def random(self) -> float: ...

    def randrange(self, start: int, stop: int, /) -> int: ...

    def randbytes(self, n: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Mood:
    """How a drawn image treats what was not yet synced."""

    keep: float
    """The chance that a sector, a length or a name is as late as it can be; else it is any age."""
    tear_bytes: int = SECTOR_BYTES
    as_of: int | None = None
    """If given, no dice: everything entered up to this position is on the disk, nothing later."""

    def taken(self, orders: list[int], dice: Dice) -> int:
        """How many of the pending changes with these orders are on the disk."""
        if self.as_of is not None:
            return sum(order <= self.as_of for order in orders)
        if dice.random() < self.keep:
            return len(orders)
        return dice.randrange(0, len(orders) + 1)


class Piece(NamedTuple):
    """The part of a change that falls into one sector."""

    order: int
    left: int
    start: int
    """In the file."""
    data: bytes


class Step(NamedTuple):
    """A change of the length."""

    order: int
    left: int
    before: int
    after: int
    by_write: bool

    @property
    def cuts(self) -> bool:
        return self.after < self.before


class FileState:
    def __init__(self, content: bytes = b"") -> None:
        self.durable = bytearray(content)
        self.durable_length = len(content)
        self.length = len(content)
        """The length that a reader of the page cache sees."""
        self.pieces: dict[int, list[Piece]] = {}
        self.steps: list[Step] = []
        self.volatile = False

    # --- what calls do to the page cache ---

    def write(self, order: int, left: int, offset: int, data: bytes) -> None:
        end = offset + len(data)
        _check_length(end)
        self._add_pieces(order, left, offset, data)
        if end > self.length:
            self.steps.append(Step(order, left, self.length, end, by_write=True))
            self.length = end

    def resize(self, order: int, left: int, size: int) -> None:
        _check_length(size)
        if size == self.length:
            return
        if size < self.length:
            self.zero(order, left, size, max(self.length, len(self.durable)) - size)
        self.steps.append(Step(order, left, self.length, size, by_write=False))
        self.length = size

    def zero(self, order: int, left: int, offset: int, length: int) -> None:
        self._add_pieces(order, left, offset, bytes(length))

    def _add_pieces(self, order: int, left: int, offset: int, data: bytes) -> None:
        end = offset + len(data)
        at = offset
        while at < end:
            sector = at // SECTOR_BYTES
            stop = min(end, (sector + 1) * SECTOR_BYTES)
            piece = Piece(order, left, at, data[at - offset : stop - offset])
            self.pieces.setdefault(sector, []).append(piece)
            at = stop

    # --- what syncs make durable ---

    def sync(self, before: int) -> None:
        """Every change left before this position is durable now."""
        for sector in list(self.pieces):
            self._settle(sector, before, own=-1)
        waiting = []
        for step in self.steps:
            if step.left < before:
                self.durable_length = step.after
            else:
                waiting.append(step)
        self._keep_steps(waiting)

    def sync_range(self, before: int, own: int, offset: int, end: int) -> None:
        """A write through an O_DSYNC descriptor was left: its own sectors are durable with all that
        was written to them before, and the length as far as the write itself needs it."""
        for sector in range(offset // SECTOR_BYTES, (end - 1) // SECTOR_BYTES + 1):
            self._settle(sector, before, own)
        last_cut = -1
        for index, step in enumerate(self.steps):
            if step.cuts and step.left < before:
                last_cut = index
        if last_cut >= 0:
            self.durable_length = self.steps[last_cut].after
        self.durable_length = max(self.durable_length, end)
        self._keep_steps(self.steps[last_cut + 1 :])

    def _settle(self, sector: int, before: int, own: int) -> None:
        pieces = self.pieces.pop(sector, None)
        if pieces is None:
            return
        waiting = []
        for piece in pieces:
            if piece.left < before or piece.order == own:
                _put(self.durable, piece)
            else:
                waiting.append(piece)
        if waiting:
            self.pieces[sector] = waiting

    def _keep_steps(self, steps: list[Step]) -> None:
        """Growth within what is durable already is no step any more."""
        durable = self.durable_length
        self.steps = [
            step if step.cuts else step._replace(before=max(step.before, durable))
            for step in steps
            if step.cuts or step.after > durable
        ]

    # --- images ---

    def content(self, dice: Dice, mood: Mood) -> bytes:
        """What a power cut at this moment may leave of the file, drawn with dice."""
        if self.volatile:
            return self._anything(dice)
        length, floor, ceiling = self._draw_length(dice, mood)
        image = bytearray(self.durable[:length])
        image.extend(bytes(length - len(image)))
        for piece in self._draw_pieces(dice, mood, floor, ceiling):
            if piece.start < length:
                _put(image, piece)
        del image[length:]
        return bytes(image)

    def latest(self) -> bytes:
        """What a reader of the page cache sees."""
        image = bytearray(self.durable)
        for pieces in self.pieces.values():
            for piece in pieces:
                _put(image, piece)
        del image[self.length :]
        image.extend(bytes(self.length - len(image)))
        return bytes(image)

    def _draw_length(self, dice: Dice, mood: Mood) -> tuple[int, int, int]:
        """(length, order up to which all data is there, order from which none is)"""
        taken = mood.taken([step.order for step in self.steps], dice) if self.steps else 0
        length = self.durable_length
        if taken:
            last = self.steps[taken - 1]
            length = last.after
            if last.by_write and mood.as_of is None and dice.random() >= mood.keep:
                length = _partial_length(last, dice, mood.tear_bytes)
        cuts_before = [step.order for step in self.steps[:taken] if step.cuts]
        cuts_after = [step.order for step in self.steps[taken:] if step.cuts]
        return length, max(cuts_before, default=-1), min(cuts_after, default=NEVER)

    def _draw_pieces(self, dice: Dice, mood: Mood, floor: int, ceiling: int) -> Iterator[Piece]:
        for pieces in self._units(mood.tear_bytes):
            forced = sum(piece.order <= floor for piece in pieces)
            free = [piece for piece in pieces[forced:] if piece.order < ceiling]
            yield from pieces[:forced]
            if not free:
                continue
            taken = mood.taken([piece.order for piece in free], dice)
            yield from free[:taken]
            for piece in free[taken:] if taken else ():
                if piece.order != free[taken - 1].order:
                    break
                yield piece

    def _units(self, tear_bytes: int) -> Iterator[list[Piece]]:
        """The pending pieces of each tear unit, in order, the parts of one call side by side."""
        if tear_bytes == SECTOR_BYTES:
            for sector in sorted(self.pieces):
                yield self.pieces[sector]
            return
        units: dict[int, list[Piece]] = {}
        for sector, pieces in self.pieces.items():
            units.setdefault(sector * SECTOR_BYTES // tear_bytes, []).extend(pieces)
        for unit in sorted(units):
            yield sorted(units[unit])

    def _anything(self, dice: Dice) -> bytes:
        kind = dice.randrange(0, 4)
        if kind == 0:
            return b""
        if kind == 1:
            return bytes(self.length)
        if kind == 2:
            return dice.randbytes(self.length)
        return self.latest()


def _put(image: bytearray, piece: Piece) -> None:
    end = piece.start + len(piece.data)
    if end > len(image):
        image.extend(bytes(end - len(image)))
    image[piece.start : end] = piece.data


def _partial_length(step: Step, dice: Dice, unit: int) -> int:
    """A multiple of the unit strictly inside the step, or its end if there is none."""
    first = step.before // unit + 1
    stop = (step.after - 1) // unit + 1
    return dice.randrange(first, stop) * unit if first < stop else step.after


def _check_length(size: int) -> None:
    if size > FILE_MAX_BYTES:
        raise RecordingError(
            f"a file of {size} bytes is over the {FILE_MAX_BYTES} that images are built of in "
            "memory; record a smaller workload"
        )
