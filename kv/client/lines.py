"""Bytes of a stream to lines of JSON. Pure."""

from __future__ import annotations

from typing import Final

from kv.client.failures import MalformedReplyError

LINE_MAX_BYTES: Final = 64 * 1024 * 1024


class LineSplitter:
    """Chunks in, whole lines out. What follows the last line end waits for more."""

    __slots__ = ("_limit", "_parts", "_size")

    def __init__(self, limit: int = LINE_MAX_BYTES) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._limit = limit

    def feed(self, chunk: bytes) -> list[bytes]:
        """Without their line ends; empty ones are left out. Raises MalformedReplyError."""
        first, *rest = chunk.split(b"\n")
        self._parts.append(first)
        self._size += len(first)
        if not rest:
            if self._size > self._limit:
                raise MalformedReplyError(
                    f"a line of a stream is over {self._limit} bytes; watch fewer keys"
                )
            return []
        lines = [b"".join(self._parts), *rest[:-1]]
        self._parts = [rest[-1]]
        self._size = len(rest[-1])
        return [line for line in (each.removesuffix(b"\r") for each in lines) if line]
