"""Small JSON files that say what a directory is: written whole or not at all, checked when read.

A stamp is one JSON object, indented, ASCII, with a newline at its end. Its last member `sha256` is
the hash of the others: of their compact JSON (sorted names, no spaces), in hexadecimal. `product`
and `format` come first, and `format` is judged before anything else, so that a newer version may
change every other rule.

Written as NAME.tmp, synced, renamed over NAME, the directory synced: after a power cut there is the
old one or the new one. A left NAME.tmp means nothing.

Raises OSError where the disk refuses and StampError where the content is wrong; who the reader is
knows which sentence that needs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from storage import files

PRODUCT: Final = "januskv"
TEMPORARY_SUFFIX: Final = ".tmp"


class StampError(ValueError):
    """What is wrong with it, to be put into a sentence that names the file."""


class ForeignStampError(StampError):
    """Not of this product."""


class NewerStampError(StampError):
    """Of a format that this version does not read."""


def created_by() -> str:
    return f"{PRODUCT} {version(PRODUCT)}"


def write_stamp(path: Path, format_version: int, members: Mapping[str, Any]) -> None:
    stamp = {"product": PRODUCT, "format": format_version, **members}
    stamp["sha256"] = _digest(stamp)
    data = json.dumps(stamp, indent=2).encode("ascii") + b"\n"
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    files.sync_directory(path.parent)


def read_stamp(path: Path, format_version: int) -> dict[str, Any]:
    """The members besides product, format and hash."""
    try:
        stamp = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise StampError(f"it is no JSON ({error})") from error
    if not isinstance(stamp, dict):
        raise StampError("it is no JSON object")
    if stamp.get("product") != PRODUCT:
        raise ForeignStampError(f"it is of {stamp.get('product')!r}, not of {PRODUCT}")
    found = stamp.get("format")
    if type(found) is not int or found < 1:
        raise StampError(f"its format is {found!r}, which is no version")
    if found > format_version:
        writer = stamp.get("created_by", "an unnamed version")
        raise NewerStampError(
            f"it is of format {found}, written by {writer}, and this version reads up to format "
            f"{format_version}"
        )
    digest = stamp.pop("sha256", None)
    if digest != _digest(stamp):
        raise StampError("its hash does not match its content")
    del stamp["product"], stamp["format"]
    return stamp


def _digest(stamp: Mapping[str, Any]) -> str:
    compact = json.dumps(stamp, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(compact.encode("ascii")).hexdigest()
