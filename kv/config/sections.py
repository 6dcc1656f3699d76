"""Every setting of a node, once: its name, type, kind, default and help. Pure.

A section of the file is a frozen dataclass here, and a setting is a field of it. Reading, the
environment's names, the commented sample, `to_toml` and the complaints are all made from these
fields (`settings_of`), so there is no second list to keep in step.

The key in the file is the field's name, for times without the unit, since that stands in the value:
the field `heartbeat_s` is written `heartbeat = "100 ms"`.

Every section can be made with no argument and is then what a node without a file uses. Values here
are checked one by one; what they must be to each other stands in kv/config/rules.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kv.config.members import AddressTable, InitialMember, MemberKind
from kv.config.table import Setting, sections_of, setting, settings_of
from kv.config.units import TIB, Duration, Size
from kv.config.values import (
    Address,
    AddressKind,
    Choice,
    Flag,
    ListOf,
    Number,
    Text,
    Whole,
)
from kv.config.web import HostName, Origin
from kv.size_limits import TXN_OPERATIONS_MAX
from raftgroups.meta.keyspace_rules import REPLICATION_MAX
from raftgroups.meta.view import SHARDS_MAX
from storage.codec import KEY_MAX_BYTES, VALUE_MAX_BYTES
from storage.rocks_options import GIB, KIB, MIB, Compaction, Compression, WalRecovery

STRONG: Final = "strong"
LEADERLESS: Final = "leaderless"
MODES: Final = (STRONG, LEADERLESS)
ENGINES: Final = ("lmdb", "rocksdb", "memory")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
ENTRY_MAX_BYTES: Final = 2 * MIB
"""Of one entry of the log (raftgroups/config.py): a request must fit into it."""

_PATH: Final = Text('a path, as "/etc/januskv/file"')


@dataclass(frozen=True, slots=True)
class NodeSection:
    """Who this node is and where it is reached."""

    name: str = setting(
        Text('a short name, as "node-1"', max_length=64),
        "",
        "A label for people; it may change. Empty: node- and the client port.",
    )
    data: str = setting(
        Text('a path, as "./januskv-data"', optional=False),
        "./januskv-data",
        "The data directory, made if it is missing. One process at a time uses it.",
    )
    listen: Address = setting(  # noqa: RUF009  nothing is shared: it is a field
        AddressKind(port_zero=True),
        Address("127.0.0.1", 7400),
        "Where clients are served. Port 0 takes a free one.",
    )
    peer_listen: Address = setting(  # noqa: RUF009  nothing is shared: it is a field
        AddressKind(optional=True, port_zero=True),
        None,
        "Where other nodes are served. Empty: the host of listen, its port + 1.",
    )
    advertise: Address = setting(  # noqa: RUF009  nothing is shared: it is a field
        AddressKind(optional=True, port_zero=True),
        None,
        "The address that clients are told. Empty: listen.",
    )
    peer_advertise: Address = setting(  # noqa: RUF009  nothing is shared: it is a field
        AddressKind(optional=True, port_zero=True),
        None,
        "The address that other nodes are told. Empty: peer_listen.",
    )
    rack: str = setting(
        Text('a name, as "rack-1"', max_length=64), "", "Copies are spread over racks."
    )
    dc: str = setting(
        Text('a name, as "eu-1"', max_length=64), "", "Copies are spread over datacentres first."
    )
    weight: float = setting(
        Number(0.01, 100), 1.0, "The node's share of the data, beside others with 1.0."
    )

    def __post_init__(self) -> None:
        """What was left empty follows from the rest, so that nobody has to ask again."""
        listen, peer_listen = self.listen, _given(self.peer_listen)
        peer = peer_listen or Address(listen.host, _next_port(listen.port))
        derived = {
            "name": self.name or f"node-{self.listen.port}",
            "peer_listen": peer,
            "advertise": _given(self.advertise) or _reachable(listen),
            "peer_advertise": _given(self.peer_advertise) or _reachable(peer),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)


def _given(address: Address | None) -> Address | None:
    """For the types: until `__post_init__` is through, an address may be missing."""
    return address


WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def _reachable(address: Address) -> Address:
    """A wildcard can be listened on and not dialed; from the same machine its loopback can. A node
    of a cluster may not rely on that: kv/config/rules.py."""
    return Address(WILDCARDS.get(address.host, address.host), address.port)


def _next_port(port: int) -> int:
    return min(port + 1, 65535) if port else 0


@dataclass(frozen=True, slots=True)
class ClusterSection:
    """Which cluster the node belongs to. With neither initial nor join it is one of its own."""

    id: str = setting(
        Text('a short name, as "orders-eu"', max_length=64),
        "",
        "The cluster's name, the same on all nodes and never changed. Needed with initial.",
    )
    initial: tuple[InitialMember, ...] = setting(
        ListOf(MemberKind(), 'a list, as ["10.0.0.1:7401"] or [{name = "n1", peer = "..."}]'),
        (),
        "The nodes that form the cluster, once, this one included: the same list on each.",
    )
    join: tuple[Address, ...] = setting(
        ListOf(AddressKind(), 'a list of peer addresses, as ["10.0.0.1:7401"]'),
        (),
        "Peer addresses of a cluster that stands, for a node that is new to it.",
    )
    shards: int = setting(
        Whole(1, SHARDS_MAX),
        1,
        "Ranges that the keyspace default begins with, when the cluster is formed.",
    )
    secret_file: str = setting(
        _PATH, "", "A file whose content every node must prove to know. Its end of line is not it."
    )
    peer_addresses: Mapping[str, Address] = setting(
        AddressTable(),
        {},
        "Dial these peers (by name, node id or advertised peer address) here instead.",
    )


@dataclass(frozen=True, slots=True)
class StrongSection:
    """The linearizable regime: Raft groups over an ordered, versioned store."""

    engine: str = setting(
        Choice(ENGINES), "lmdb", "Chosen once for a data directory. memory keeps nothing."
    )
    replication: int = setting(
        Whole(1, REPLICATION_MAX),
        3,
        "Copies of each shard of the keyspace default, when the cluster is formed.",
    )
    dead_after_s: float = setting(
        Duration(5, 365 * 86400, zero_means="only by an operator"),
        600.0,
        "A node silent for so long is declared dead and its replicas are made anew, if enough "
        "others are there. It comes back only empty. Once a keyspace is leaderless, "
        "leaderless.dead_after counts.",
    )
    moves: int = setting(Whole(1, 64), 2, "Replicas filled at a time, in the whole cluster.")
    rebalance: bool = setting(
        Flag(), True, "Even out replicas and leaderships. Off: only when asked for."
    )
    divide: bool = setting(
        Flag(),
        True,
        "While this node leads the meta group, split and merge the shards of keyspaces that have "
        "limits for it. Off: only when asked for.",
    )
    split_bytes: int = setting(
        Size(0, 1024 * TIB),
        0,
        "A shard of the keyspace default that is larger is split; 0: never. This and the next "
        "three count when the cluster is formed; then januskv keyspace alter changes them.",
    )
    split_operations: int = setting(
        Whole(0, 10**9),
        0,
        "A shard with more operations a second, for split_after, is split; 0: never.",
    )
    merge_bytes: int = setting(
        Size(0, 512 * TIB),
        0,
        "Two neighbours that together are smaller, for merge_after, are merged; 0: never. At most "
        "half of split_bytes.",
    )
    shards_max: int = setting(
        Whole(0, 10**6), 0, "No shard is split by itself once there are so many; 0: no limit."
    )
    split_after_s: float = setting(
        Duration(1, 86400), 30.0, "A shard is too busy for so long before it is split."
    )
    merge_after_s: float = setting(
        Duration(1, 30 * 86400),
        300.0,
        "Two shards are small, and unchanged, for so long before they are merged.",
    )
    divide_every_s: float = setting(
        Duration(0.1, 86400), 5.0, "Between two splits or merges that begin by themselves."
    )
    auto_compaction: str = setting(
        Choice(("both", "age", "count", "off")),
        "both",
        'What ends old revisions: history_age, history_revisions, both, or "off" as in etcd.',
    )
    history_age_s: float = setting(
        Duration(1, 3650 * 86400), 3600.0, "How long old revisions are kept."
    )
    history_revisions: int = setting(Whole(1, 10**12), 100_000, "How many old revisions are kept.")
    heartbeat_s: float = setting(
        Duration(0.005, 10), 0.1, "Between heartbeats of a leader: under a third of election_min."
    )
    election_min_s: float = setting(
        Duration(0.02, 60),
        0.5,
        "The shortest silence of a leader after which an election is considered.",
    )
    election_max_s: float = setting(
        Duration(0.02, 120), 1.0, "The longest such silence; each node draws its own in between."
    )
    leader_silence_s: float = setting(
        Duration(0.02, 120), 1.0, "A leader that no majority answered for so long steps down."
    )
    min_lease_ttl_s: float = setting(
        Duration(1, 3600), 2.0, "A lease asked for less gets this. Whole seconds."
    )
    propose_timeout_s: float = setting(
        Duration(0.05, 600), 5.0, "A write without an outcome for so long is answered as unknown."
    )
    read_timeout_s: float = setting(
        Duration(0.05, 600), 2.0, "A linearizable read waits so long for its read point."
    )
    hibernate_after_s: float = setting(
        Duration(1, 86400, zero_means="never"), 5.0, "Groups without work for so long sleep."
    )
    log_compact_entries: int = setting(
        Whole(100, 10**9),
        20_000,
        "So many applied entries beyond the kept tail start a compaction of the log.",
    )
    log_compact_bytes: int = setting(
        Size(MIB, TIB), 64 * MIB, "So many bytes of the log start one, too."
    )
    log_keep_entries: int = setting(
        Whole(0, 10**9), 5_000, "Entries kept at the end of the log for slow followers."
    )
    log_keep_bytes: int = setting(
        Size(0, GIB), 8 * MIB, "Fewer are kept if they are larger than this."
    )
    snapshot_chunk_bytes: int = setting(
        Size(4 * KIB, MIB), 512 * KIB, "A snapshot travels in pieces of this size."
    )
    snapshot_window: int = setting(Whole(1, 256), 12, "So many pieces are under way at a time.")
    snapshot_streams: int = setting(
        Whole(1, 64), 2, "Snapshots that a node sends at the same time."
    )
    snapshot_max_age_s: float = setting(
        Duration(1, 86400), 600.0, "A snapshot that takes longer begins anew; it pins old pages."
    )


@dataclass(frozen=True, slots=True)
class LeaderlessSection:
    """The always-writable regime: quorums over a consistent-hash ring."""

    engine: str = setting(
        Choice(ENGINES), "rocksdb", "Chosen once for a data directory. memory keeps nothing."
    )
    n: int = setting(
        Whole(1, REPLICATION_MAX),
        3,
        "Copies of each key. This and the next three, and siblings, are of the keyspace default, "
        "when a cluster is formed with it leaderless; other keyspaces are made with their own.",
    )
    r: int = setting(Whole(1, 16), 2, "Copies that a read waits for, at most n.")
    w: int = setting(Whole(1, 16), 2, "Copies that a write waits for, at most n.")
    sloppy: bool = setting(Flag(), True, "Other nodes stand in for copies that cannot be reached.")
    vnodes: int = setting(
        Whole(1, 4096), 256, "Places on the ring of a node of weight 1.0; the same on all nodes."
    )
    siblings: int = setting(
        Whole(1, 1000), 50, "Concurrent versions that a write may leave of one key."
    )
    hints: int = setting(
        Whole(0, 10**9),
        100_000,
        "Writes kept for each node that is away; more turn into a repair later.",
    )
    hints_bytes: int = setting(Size(0, TIB), 256 * MIB, "Bytes of such writes.")
    repair_every_s: float = setting(
        Duration(1, 365 * 86400, zero_means="only when asked for"),
        3600.0,
        "How often a node compares what it has with everybody (Merkle trees), and mends both.",
    )
    dead_after_s: float = setting(
        Duration(5, 365 * 86400, zero_means="only by an operator"),
        0.0,
        "Instead of strong.dead_after once a keyspace is leaderless: a node declared dead loses "
        "what only it had taken.",
    )
    keep_restored: bool = setting(
        Flag(),
        False,
        "For the first start after ALL nodes were restored from backups of one time: serve that "
        "data. Otherwise a restored node begins empty and its peers fill it.",
    )


@dataclass(frozen=True, slots=True)
class RocksSection:
    """RocksDB, where a regime uses it."""

    compaction: str = setting(
        Choice(tuple(Compaction)), "leveled", "fifo deletes the oldest data by itself."
    )
    upper_compression: str = setting(Choice(tuple(Compression)), "lz4", "Of newer data.")
    bottom_compression: str = setting(Choice(tuple(Compression)), "zstd", "Of the oldest data.")
    bloom_bits_per_key: int = setting(Whole(0, 64), 10, "Of the filters; 0 for none.")
    block_cache_bytes: int = setting(Size(MIB, 16 * TIB), 64 * MIB, "Blocks kept in memory.")
    write_buffer_bytes: int = setting(
        Size(64 * KIB, 16 * GIB), 32 * MIB, "Of one table in memory; up to four live at once."
    )
    rate_limit_bytes: int = setting(
        Size(64 * KIB, TIB, zero_means="no limit"), 0, "Of background writing, a second."
    )
    background_threads: int = setting(Whole(1, 256), 2, "For flushes and compactions.")
    max_open_files: int = setting(Whole(64, 10**6), 1_000, "Files that stay open.")
    wal_recovery: str = setting(
        Choice(tuple(WalRecovery)), "point_in_time", "absolute refuses a log with a torn end."
    )
    statistics: bool = setting(Flag(), False, "RocksDB's own counters; they cost a little.")
    fifo_drops_oldest_data: bool = setting(
        Flag(), False, "Must be true for fifo: losing old data is meant."
    )
    fifo_max_bytes: int = setting(Size(MIB, 1024 * TIB), GIB, "What fifo keeps.")
    fifo_max_age_s: float = setting(
        Duration(1, 3650 * 86400, zero_means="no limit"),
        0.0,
        "How long fifo keeps it. Whole seconds.",
    )


@dataclass(frozen=True, slots=True)
class StorageSection:
    """The disk."""

    lmdb_map_bytes: int = setting(
        Size(16 * MIB, 64 * TIB),
        TIB,
        "LMDB's file grows to this at most. It is sparse, so be generous.",
    )
    reserve_bytes: int | None = setting(
        Size(MIB, 64 * TIB, auto="2 % of the disk, at least 256 MiB"),
        None,
        "Growing writes are refused while less is free.",
    )
    rocks: RocksSection = field(default_factory=RocksSection)


@dataclass(frozen=True, slots=True)
class TlsSection:
    """Certificates, as PEM files. Clients and peers are separate doors."""

    client_cert: str = setting(_PATH, "", "This node's certificate for clients, with its chain.")
    client_key: str = setting(_PATH, "", "Its key.")
    client_ca: str = setting(
        _PATH, "", "Clients must show a certificate of this authority. Empty: any may come."
    )
    peer_cert: str = setting(_PATH, "", "This node's certificate for other nodes.")
    peer_key: str = setting(_PATH, "", "Its key.")
    peer_ca: str = setting(_PATH, "", "The authority of all nodes' certificates.")


@dataclass(frozen=True, slots=True)
class AuthSection:
    """Users and roles."""

    enabled: bool = setting(
        Flag(), False, "Ask every client who it is. Not there yet: refused; use tls.client_ca."
    )


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """What one node takes upon itself. Beyond a limit it refuses early, and says which."""

    request_bytes: int = setting(
        Size(KIB, ENTRY_MAX_BYTES - 64 * KIB), 1536 * KIB, "The body of one request."
    )
    key_bytes: int = setting(Size(1, KEY_MAX_BYTES), KEY_MAX_BYTES, "A key that is written.")
    value_bytes: int = setting(
        Size(1, VALUE_MAX_BYTES), VALUE_MAX_BYTES, "A value that is written."
    )
    txn_operations: int = setting(
        Whole(1, TXN_OPERATIONS_MAX),
        TXN_OPERATIONS_MAX,
        "Conditions, or operations of a branch, of one transaction.",
    )
    connections: int = setting(Whole(1, 10**6), 10_000, "Clients' connections.")
    header_bytes: int = setting(Size(KIB, MIB), 8 * KIB, "The headers of one request.")
    queue_operations: int = setting(
        Whole(1, 10**7), 4096, "Writes of a group that wait for their turn; then 429."
    )
    queue_bytes: int = setting(Size(2 * MIB, 16 * GIB), 16 * MIB, "Bytes of such writes; then 429.")
    queue_reads: int = setting(
        Whole(1, 10**7), 65536, "Linearizable reads of a group that wait; then 429."
    )
    watchers: int = setting(Whole(1, 10**7), 100_000, "Watchers of a shard on this node.")
    watch_events: int = setting(
        Whole(1, 10**7), 1_000, "Events waiting for one slow watcher; then it catches up later."
    )
    watch_bytes: int = setting(Size(64 * KIB, GIB), MIB, "Bytes waiting for one slow watcher.")
    watch_total_bytes: int = setting(
        Size(MIB, 64 * GIB), 256 * MIB, "Waiting for all watchers of a shard together."
    )
    request_timeout_s: float = setting(
        Duration(0.05, 3600), 7.0, "A request is answered after so long, whatever happens."
    )
    header_timeout_s: float = setting(
        Duration(0.1, 3600), 10.0, "A request's headers must have come after so long."
    )
    body_timeout_s: float = setting(
        Duration(0.1, 3600), 30.0, "A request's body must have come after so long."
    )
    idle_timeout_s: float = setting(
        Duration(1, 86400), 75.0, "A connection without a request for so long is closed."
    )
    drain_timeout_s: float = setting(
        Duration(0, 3600), 10.0, "At a stop, requests under way get so long."
    )


@dataclass(frozen=True, slots=True)
class LogSection:
    """What the process writes to its standard error."""

    format: str = setting(Choice(("text", "json")), "text", "One event, one line, either way.")
    level: str = setting(Choice(LOG_LEVELS), "info", "The least that is written.")


@dataclass(frozen=True, slots=True)
class HttpSection:
    """Browsers: who may call from a page."""

    origins: tuple[str, ...] = setting(
        ListOf(Origin(), 'a list, as ["https://app.example.org"]'),
        (),
        "Pages of these origins may call; any other request with an Origin gets 403.",
    )
    hosts: tuple[str, ...] = setting(
        ListOf(HostName(), 'a list, as ["kv.example.org"]'),
        (),
        "Names under which the node may be called, beside addresses, localhost and node.advertise.",
    )
    cors: str = setting(
        Choice(("off", "listed", "any")),
        "listed",
        'Who gets CORS headers: the listed origins, or "any" as in etcd.',
    )


@dataclass(frozen=True, slots=True)
class FaultySection:
    """For tests of whole clusters: a node that loses data when it is told to (kv/faulty.py)."""

    control: Address = setting(  # noqa: RUF009  nothing is shared: it is a field
        AddressKind(optional=True),
        None,
        "A loopback address that takes orders to fail. Empty: this node is not for tests.",
    )
    data_loss_is_meant: bool = setting(
        Flag(), False, "Must be true with control: what it holds is expected to be lost."
    )


@dataclass(frozen=True, slots=True)
class Config:
    """All of it. Frozen; made by kv/config/reading.py or, for tests, from sections."""

    mode: str = setting(
        Choice(MODES), STRONG, "The regime of the keyspace `default`. Others choose their own."
    )
    insecure: bool = setting(
        Flag(), False, "Allow an address beyond loopback without TLS and proof of who comes."
    )
    node: NodeSection = field(default_factory=NodeSection)
    cluster: ClusterSection = field(default_factory=ClusterSection)
    strong: StrongSection = field(default_factory=StrongSection)
    leaderless: LeaderlessSection = field(default_factory=LeaderlessSection)
    storage: StorageSection = field(default_factory=StorageSection)
    tls: TlsSection = field(default_factory=TlsSection)
    auth: AuthSection = field(default_factory=AuthSection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    log: LogSection = field(default_factory=LogSection)
    http: HttpSection = field(default_factory=HttpSection)
    testing: FaultySection = field(default_factory=FaultySection)


def walk(section: type[Any] = Config, path: str = "") -> Iterator[tuple[str, type[Any]]]:
    """Every section with its path, the whole (path "") first, in the order of the file."""
    yield path, section
    for name, inner in sections_of(section).items():
        yield from walk(inner, f"{path}.{name}" if path else name)


def all_settings() -> dict[str, Setting]:
    """By path."""
    return {found.path: found for path, section in walk() for found in settings_of(section, path)}
