"""The rows of watches, leases, locks and administration; table.py has the others."""

from __future__ import annotations

from typing import Final

from kv.api import admin_bodies, bodies, live_bodies
from kv.api.leasing import LEASES_MAX
from kv.api.route import (
    CURSOR,
    END,
    IDEMPOTENCY_HEADER,
    KEY_ENCODING,
    KEYSPACE,
    PREFIX,
    READ_HEADERS,
    START,
    TIMEOUT_HEADER,
    WRITE_HEADERS,
    Param,
    Route,
)
from kv.api.routes import admin, leases, locks, watch
from raftgroups.lease import LEASE_MAX

WATCH_ROUTES: Final = (
    Route(
        "GET",
        "/api/v1/watch",
        "watch",
        "Watch keys: NDJSON, server-sent events or long poll",
        watch.watch,
        "watch",
        (
            KEYSPACE,
            Param("key", "bytes", "This one key."),
            PREFIX,
            START,
            END,
            Param("from", "integer", "Begin with this revision; 0: with the next one.", 0),
            Param("cursor", "text", "Go on behind the line that had this cursor."),
            Param("prev", "flag", "Give the previous record, too.", False),
            Param("filter", "choice", "Only these events.", choices=("put", "delete")),
            Param("progress", "flag", "Say now and then that nothing has happened.", False),
            Param(
                "poll",
                "seconds",
                "Answer once, after the first event or this time.",
                high=bodies.WAIT_MAX_S,
            ),
        ),
        (
            Param(
                "Last-Event-ID",
                "text",
                "Go on behind this event.",
                pattern="^[0-9A-Za-z_-]{1,16384}$",
            ),
        ),
        replies={200: live_bodies.PollReply},
        errors=(410,),
        streams=live_bodies.WatchLine,
        sees_data=False,
    ),
)

_LEASE: Final = "/api/v1/leases/{id}"
LEASE_ROUTES: Final = (
    Route(
        "POST",
        "/api/v1/leases",
        "grantLease",
        "Make a lease",
        leases.grant,
        "leases",
        (KEYSPACE,),
        WRITE_HEADERS,
        body=live_bodies.LeaseBody,
        replies={200: live_bodies.LeaseReply},
        errors=(409, 507),
    ),
    Route(
        "GET",
        "/api/v1/leases",
        "listLeases",
        "All leases, page by page",
        leases.list_all,
        "leases",
        (
            KEYSPACE,
            CURSOR,
            Param("limit", "integer", "Leases a page.", 100, low=1, high=LEASES_MAX),
        ),
        READ_HEADERS,
        replies={200: live_bodies.LeasesReply},
    ),
    Route(
        "GET",
        _LEASE,
        "getLease",
        "A lease, what is left of it, and its keys",
        leases.get,
        "leases",
        (KEYSPACE, KEY_ENCODING, Param("keys", "flag", "Give its keys, too.", False)),
        READ_HEADERS,
        replies={200: live_bodies.LeaseState},
    ),
    Route(
        "POST",
        _LEASE + "/keepalive",
        "keepLeaseAlive",
        "Begin its time anew",
        leases.keep_alive,
        "leases",
        (KEYSPACE,),
        WRITE_HEADERS,
        replies={200: live_bodies.LeaseReply},
        errors=(409,),
    ),
    Route(
        "DELETE",
        _LEASE,
        "revokeLease",
        "End a lease and delete its keys",
        leases.revoke,
        "leases",
        (KEYSPACE,),
        WRITE_HEADERS,
        replies={200: live_bodies.RevokeReply},
        errors=(409,),
    ),
)

_LOCK: Final = "/api/v1/locks/{name}"
LOCK_ROUTES: Final = (
    Route(
        "POST",
        _LOCK,
        "acquireLock",
        "Hold a lock, or wait for it",
        locks.acquire,
        "locks",
        (KEYSPACE,),
        WRITE_HEADERS,
        body=live_bodies.LockBody,
        body_required=False,
        replies={200: live_bodies.LockReply},
        errors=(409, 507),
    ),
    Route(
        "GET",
        _LOCK,
        "getLock",
        "Who holds a lock, and how many wait",
        locks.state,
        "locks",
        (KEYSPACE,),
        READ_HEADERS,
        replies={200: live_bodies.LockState},
    ),
    Route(
        "DELETE",
        _LOCK,
        "releaseLock",
        "Let a lock go, by key or by lease",
        locks.release,
        "locks",
        (
            KEYSPACE,
            Param("key", "bytes", "The answer's key: deleted."),
            Param("lease", "integer", "The answer's lease: revoked.", low=1, high=LEASE_MAX),
        ),
        (IDEMPOTENCY_HEADER, *READ_HEADERS),
        replies={200: live_bodies.UnlockReply},
        errors=(409,),
    ),
)

ADMIN_ROUTES: Final = (
    Route(
        "GET",
        "/api/v1/status",
        "nodeStatus",
        "This node",
        admin.status,
        "admin",
        replies={200: admin_bodies.NodeStatus},
        sees_data=False,
    ),
    Route(
        "GET",
        "/api/v1/admin/cluster/status",
        "clusterStatus",
        "All nodes and shards",
        admin.cluster_status,
        "admin",
        replies={200: admin_bodies.ClusterState},
        sees_data=False,
    ),
    Route(
        "POST",
        "/api/v1/admin/leader/transfer",
        "transferLeader",
        "Let another node lead",
        admin.transfer_leader,
        "admin",
        headers=(TIMEOUT_HEADER,),
        body=admin_bodies.TransferBody,
        body_required=False,
        replies={200: admin_bodies.TransferReply},
        sees_data=False,
    ),
    Route(
        "POST",
        "/api/v1/admin/compact",
        "compact",
        "Give up history before a revision",
        admin.compact,
        "admin",
        (KEYSPACE,),
        WRITE_HEADERS,
        body=admin_bodies.CompactBody,
        replies={200: admin_bodies.CompactReply},
        errors=(409, 410),
    ),
)
