"""The newest view of the meta group that this node knows: what requests are routed by.

It only grows newer. Whoever learns a view hands it in (`learn`): the machine of group 0 if there is
a replica here, else the mail. Listeners are called with each newer one, in the order in which they
came, from the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from raftgroups.meta.view import MetaView

_log = logging.getLogger(__name__)

Listener = Callable[[MetaView], None]


class ClusterMap:
    def __init__(self) -> None:
        self.view = MetaView()
        self._listeners: list[Listener] = []

    @property
    def known(self) -> bool:
        """The cluster has begun, or what is here implies it (beginning.py)."""
        return bool(self.view.keyspaces)

    def on_change(self, listener: Listener) -> None:
        """Also called at once if there is a view already."""
        self._listeners.append(listener)
        if self.known:
            listener(self.view)

    def learn(self, view: MetaView) -> bool:
        """True: it is newer than what was known."""
        if self.known and view.version <= self.view.version:
            return False
        self.view = view
        for listener in self._listeners:
            try:
                listener(view)
            except Exception:  # noqa: BLE001 - one's defect must not hide it from the others
                _log.exception("a listener of the cluster map failed")
        return True
