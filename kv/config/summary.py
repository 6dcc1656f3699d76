"""What a node would do with a Config, in a few lines for people, and what it should warn of. Pure.

The warnings are for the log of a node's start and for `januskv config check`: each is something
that is allowed, was asked for, and is not right for data that matters.
"""

from __future__ import annotations

from operator import attrgetter

from kv.cluster.reach import is_loopback
from kv.config.rules import client_is_protected, exposed, peer_is_protected
from kv.config.sections import LEADERLESS, STRONG, Config, all_settings
from kv.config.units import duration_text, size_text

FILE_SETTINGS = (
    "cluster.secret_file",
    "tls.client_cert",
    "tls.client_key",
    "tls.client_ca",
    "tls.peer_cert",
    "tls.peer_key",
    "tls.peer_ca",
)


def files_named(config: Config) -> dict[str, str]:
    """The files that a node needs to start, by setting. (The data directory is made.)"""
    assert set(FILE_SETTINGS) <= set(all_settings())
    named = {path: attrgetter(path)(config) for path in FILE_SETTINGS}
    return {path: name for path, name in named.items() if name}


def summary(config: Config) -> dict[str, str]:
    node, strong, leaderless = config.node, config.strong, config.leaderless
    return {
        "regime": f"{config.mode} for the keyspace default; other keyspaces choose their own",
        "node": f"{node.name}{_place(config)}, data in {node.data}",
        "clients": f"{_door(str(node.listen), str(node.advertise))}, {_client_door(config)}",
        "peers": f"{_door(str(node.peer_listen), str(node.peer_advertise))}, {_peer_door(config)}",
        "cluster": _cluster(config),
        "strong": f"on {strong.engine}; a leader that falls silent is replaced after "
        f"{duration_text(strong.election_min_s)} to {duration_text(strong.election_max_s)}; "
        f"{_history(config)}",
        "leaderless": f"on {leaderless.engine}; {leaderless.n} copies, reads wait for "
        f"{leaderless.r}, writes for {leaderless.w}, "
        f"{'stand-ins allowed' if leaderless.sloppy else 'owners only'}",
        "limits": f"requests {size_text(config.limits.request_bytes)}, values "
        f"{size_text(config.limits.value_bytes)}, keys {config.limits.key_bytes} bytes; "
        f"{config.limits.connections} connections, {config.limits.watchers} watchers a shard",
        "log": f"{config.log.format}, {config.log.level} and above",
    }


def _place(config: Config) -> str:
    named = (("rack", config.node.rack), ("datacentre", config.node.dc))
    return "".join(f", {what} {name}" for what, name in named if name)


def _door(listen: str, advertise: str) -> str:
    return listen if listen == advertise else f"{listen} (told to others: {advertise})"


def _client_door(config: Config) -> str:
    if client_is_protected(config):
        return "TLS, with client certificates"
    encrypted = "TLS" if config.tls.client_cert else "plain"
    return f"{encrypted}, {_reach(config.node.listen.host)}"


def _peer_door(config: Config) -> str:
    secret = "cluster secret" if config.cluster.secret_file else ""
    tls = "TLS" if config.tls.peer_cert else ""
    words = " and ".join(filter(None, (tls, secret))) or "plain, without a secret"
    return (
        words if peer_is_protected(config) else f"{words}, {_reach(config.node.peer_listen.host)}"
    )


def _reach(host: str) -> str:
    return "this machine only" if is_loopback(host) else "OPEN to other machines"


def _cluster(config: Config) -> str:
    cluster = config.cluster
    if cluster.initial:
        return f"forms {cluster.id} once, with {len(cluster.initial)} nodes, or goes on in it"
    if cluster.join:
        return f"joins through {', '.join(map(str, cluster.join))}, or goes on in its cluster"
    return "one of its own, or goes on in the one of its data"


def _history(config: Config) -> str:
    strong = config.strong
    age = f"for {duration_text(strong.history_age_s)}"
    count = f"for {strong.history_revisions} revisions"
    return {
        "both": f"history is kept {age} or {count}, whichever ends first",
        "age": f"history is kept {age}",
        "count": f"history is kept {count}",
        "off": "history is kept until a client compacts it",
    }[strong.auto_compaction]


def warnings(config: Config) -> tuple[str, ...]:
    found = [
        f"{path} is open to other machines without TLS and a proof of who comes "
        "(insecure = true): whoever reaches it reads and writes everything"
        for path in exposed(config)
    ]
    for regime, engine in ((STRONG, config.strong.engine), (LEADERLESS, config.leaderless.engine)):
        if engine == "memory":
            found.append(f"{regime}.engine is memory: what is stored is gone when the node stops")
    if config.storage.rocks.fifo_drops_oldest_data:
        found.append("storage.rocks.compaction is fifo: the oldest data is deleted by itself")
    if config.http.cors == "any":
        found.append('http.cors is "any": every web page that a client opens can read the answers')
    if 0 < len(config.cluster.initial) < 3:
        found.append("cluster.initial has fewer than 3 nodes: the loss of one stops strong writes")
    elif config.cluster.initial and len(config.cluster.initial) % 2 == 0:
        found.append(
            f"cluster.initial has {len(config.cluster.initial)} nodes: an even number survives no "
            "more losses than one fewer"
        )
    return tuple(found)
