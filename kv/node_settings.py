"""A Config as the settings of a node: what kv/config says becomes what kv/node.py takes.

Here the files that a configuration names are read (secret, certificates): a wrong one is an error
that names the setting, before anything is opened.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from kv.cluster.link_tls import LinkTls
from kv.cluster.ring import weighted_vnodes
from kv.config.parts import (
    compaction_policy,
    hint_limits,
    host_config,
    keyspace,
    watch_limits,
)
from kv.config.rocks import rocks_options
from kv.config.sections import LEADERLESS, Config
from kv.config.values import Address
from kv.division.divider import DividerSettings
from kv.division.limits import Pace
from kv.leaderless.environment import LeaderlessSettings
from kv.leaderless.founding import options_of
from kv.leaderless.maintenance import MaintenanceSettings
from kv.leaderless.members import MemberSettings
from kv.leaderless.parts import CoordinatorSettings
from kv.leaderless.replica import ReplicaLimits
from kv.node import NodeSettings
from kv.placement.mover import MoverSettings
from kv.placement.plan import Limits
from kv.size_limits import SizeLimits
from kv.strong.shard import ShardSettings
from raftgroups.meta.records import KeyspaceOptions
from storage.environment import EngineSettings
from storage.errors import InvalidOptionError

SECRET_MAX_BYTES = 64 * 1024


def node_settings(config: Config) -> NodeSettings:
    """Raises InvalidOptionError."""
    node, cluster = config.node, config.cluster
    scheme = "https" if config.tls.client_cert else "http"
    clustered = bool(cluster.initial or cluster.join)
    return NodeSettings(
        data=Path(node.data),
        name=node.name,
        cluster_id=cluster.id or None,
        peer_listen=_pair(node.peer_listen) if clustered else None,
        peer_advertise=_pair(node.peer_advertise) if clustered else None,
        client_url=f"{scheme}://{node.advertise}",
        initial=tuple((member.peer.host, member.peer.port) for member in cluster.initial),
        names={(member.peer.host, member.peer.port): member.name for member in cluster.initial},
        secret=read_secret(cluster.secret_file),
        insecure=config.insecure,
        peer_routes={
            peer: (address.host, address.port) for peer, address in cluster.peer_addresses.items()
        },
        tls=peer_tls(config),
        engine=config.strong.engine,
        engine_settings=EngineSettings(
            lmdb_map_size_bytes=config.storage.lmdb_map_bytes, rocks=rocks_options(config)
        ),
        reserve_bytes=config.storage.reserve_bytes,
        shards=cluster.shards,
        options=keyspace_options(config),
        rack=node.rack,
        datacentre=node.dc,
        weight=node.weight,
        join=tuple(_pair(address) for address in cluster.join),
        mover=MoverSettings(
            Limits(streams=config.strong.moves, balance=config.strong.rebalance),
            dead_after_s=config.strong.dead_after_s,
            dead_on_ring_after_s=config.leaderless.dead_after_s,
        ),
        divider=divider_settings(config),
        host=host_config(config),
        shard=ShardSettings(
            deadline_s=config.strong.propose_timeout_s,
            parked_max=config.limits.queue_operations,
            compaction=compaction_policy(config),
            watch_limits=watch_limits(config),
            sizes=size_limits(config),
        ),
        leaderless=leaderless_settings(config),
        default_leaderless=options_of(keyspace(config)) if config.mode == LEADERLESS else None,
    )


def keyspace_options(config: Config) -> KeyspaceOptions:
    """Of the keyspace `default`, when the cluster is formed."""
    strong = config.strong
    return KeyspaceOptions(
        replication=strong.replication,
        shards_max=strong.shards_max,
        split_bytes=strong.split_bytes,
        split_operations_a_second=strong.split_operations,
        merge_bytes=strong.merge_bytes,
    )


def divider_settings(config: Config) -> DividerSettings:
    strong = config.strong
    pace = Pace(
        apart_s=strong.divide_every_s,
        split_after_s=strong.split_after_s,
        merge_after_s=strong.merge_after_s,
    )
    return DividerSettings(strong.divide, pace, idle_s=min(5.0, strong.divide_every_s))


def size_limits(config: Config) -> SizeLimits:
    limits = config.limits
    return SizeLimits(limits.key_bytes, limits.value_bytes, limits.txn_operations)


def leaderless_settings(config: Config) -> LeaderlessSettings:
    return LeaderlessSettings(
        engine=config.leaderless.engine,
        engine_settings=EngineSettings(
            lmdb_map_size_bytes=config.storage.lmdb_map_bytes, rocks=rocks_options(config)
        ),
        default=keyspace(config),
        vnodes=config.leaderless.vnodes,
        maintenance=MaintenanceSettings(repair_s=config.leaderless.repair_every_s),
        keep_restored=config.leaderless.keep_restored,
        members=MemberSettings(
            vnodes=weighted_vnodes(config.node.weight, config.leaderless.vnodes),
            rack=config.node.rack,
            datacentre=config.node.dc,
            address=str(config.node.peer_advertise),
            client_address=str(config.node.advertise),
        ),
        coordinator=CoordinatorSettings(sizes=size_limits(config)),
        limits=ReplicaLimits(
            pending_max=config.limits.queue_operations,
            pending_max_bytes=config.limits.queue_bytes,
            hints=hint_limits(config),
        ),
    )


def _pair(address: Address) -> tuple[str, int]:
    return address.host, address.port


def read_secret(path: str) -> bytes | None:
    """Without the end of its line. Raises InvalidOptionError."""
    if not path:
        return None
    try:
        with Path(path).open("rb") as file:
            secret = file.read(SECRET_MAX_BYTES + 1).rstrip(b"\r\n")
    except OSError as error:
        raise InvalidOptionError(
            f"cluster.secret_file {path} cannot be read: {error.strerror}"
        ) from error
    if not 0 < len(secret) <= SECRET_MAX_BYTES:
        raise InvalidOptionError(
            f"cluster.secret_file {path} holds {len(secret)} bytes; put 1 to {SECRET_MAX_BYTES} "
            "there"
        )
    return secret


def peer_tls(config: Config) -> LinkTls | None:
    """Mutual: every node shows a certificate of the peers' authority. Raises InvalidOptionError."""
    tls = config.tls
    if not tls.peer_cert:
        return None
    try:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.peer_ca)
        client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.peer_ca)
        for context in (server, client):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.load_cert_chain(tls.peer_cert, tls.peer_key)
        server.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise InvalidOptionError(
            f"tls.peer_cert, tls.peer_key or tls.peer_ca cannot be used: {error}"
        ) from error
    return LinkTls(server, client)


def client_tls(config: Config) -> ssl.SSLContext | None:
    """For the address that clients use. Raises InvalidOptionError."""
    tls = config.tls
    if not tls.client_cert:
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.client_ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(tls.client_cert, tls.client_key)
        if tls.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise InvalidOptionError(
            f"tls.client_cert, tls.client_key or tls.client_ca cannot be used: {error}"
        ) from error
    return context
