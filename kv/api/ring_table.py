"""The rows of the ring, on which leaderless keyspaces are; table.py has the others."""

from __future__ import annotations

from typing import Final

from kv.api import admin_bodies
from kv.api.route import Route
from kv.api.routes import admin

RING_ROUTES: Final = (
    Route(
        "POST",
        "/api/v1/admin/repair",
        "repair",
        "Compare this node with all others, and bring both up to date; answers when it is done",
        admin.repair,
        "admin",
        replies={200: admin_bodies.RepairReply},
        sees_data=False,
    ),
    Route(
        "GET",
        "/api/v1/admin/ring",
        "ring",
        "Who owns what",
        admin.ring,
        "admin",
        replies={200: admin_bodies.RingState},
        sees_data=False,
    ),
)
