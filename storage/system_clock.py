"""The operating system's clock: the only file that may call `time.time` and `time.monotonic`.

Composition roots make one and hand it on; everything else takes a storage.clock.Clock.
"""

from __future__ import annotations

import time


class SystemClock:
    """storage.clock.Clock in production."""

    monotonic = staticmethod(time.monotonic)
    """Not a method of our own around it: an operation asks several times."""
    wall = staticmethod(time.time)
