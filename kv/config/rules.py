"""What settings must be to each other, and what a node says about itself at its start. Pure.

Each rule yields Breach(paths, message): the settings it is about, the first of which is where a
person would mend it, and the second half of a sentence that begins with that setting's name. A
setting that could not be read is not judged again: the reader drops breaches that touch it.

The rule of safety: what can be reached from outside this machine needs TLS and a proof of who
comes (for clients `tls.client_ca`, for peers `tls.peer_ca`, which a peer certificate always needs),
or an explicit `insecure = true`. What a node of a cluster advertises must be an address that
others can dial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

from kv.cluster.reach import is_loopback
from kv.config.rocks import rocks_options
from kv.config.sections import Config
from kv.config.units import duration_text, size_text
from kv.config.values import Address
from storage.errors import InvalidOptionError

AUTH_IS_THERE: Final = False
"""A switch that nothing obeys would promise safety: set this once the service asks who comes."""


class Breach(NamedTuple):
    paths: tuple[str, ...]
    message: str


def breaches(config: Config) -> Iterator[Breach]:
    for rule in _RULES:
        yield from rule(config)


# --- who can reach the node ------------------------------------------------------------------


def client_is_protected(config: Config) -> bool:
    return bool(config.tls.client_cert and (config.tls.client_ca or config.auth.enabled))


def peer_is_protected(config: Config) -> bool:
    return bool(config.tls.peer_cert and config.tls.peer_ca)


def exposed(config: Config) -> tuple[str, ...]:
    """The settings by which an unprotected door is open to other machines."""
    found = []
    if not client_is_protected(config) and not is_loopback(config.node.listen.host):
        found.append("node.listen")
    if not peer_is_protected(config) and not is_loopback(config.node.peer_listen.host):
        found.append("node.peer_listen")
    return tuple(found)


def _safety(config: Config) -> Iterator[Breach]:
    if config.auth.enabled and not AUTH_IS_THERE:
        yield Breach(
            ("auth.enabled",),
            "is true, but users and roles are not built yet and would not be asked; write false, "
            "and let clients show certificates (tls.client_ca)",
        )
    if config.insecure:
        return
    what = {
        "node.listen": ("clients", "tls.client_cert, tls.client_key and tls.client_ca"),
        "node.peer_listen": (
            "other nodes",
            "tls.peer_cert, tls.peer_key and tls.peer_ca",
        ),
    }
    for path in exposed(config):
        who, needed = what[path]
        address = config.node.listen if path == "node.listen" else config.node.peer_listen
        yield Breach(
            (path, "insecure", "tls", "cluster.secret_file", "node.listen"),
            f"is {address}: {who} beyond this machine reach it without TLS and a proof of who they "
            f"are; set {needed}, or use 127.0.0.1, or write insecure = true if the network is "
            "trusted",
        )


def _tls(config: Config) -> Iterator[Breach]:
    tls = config.tls
    doors = {"client": (tls.client_cert, tls.client_key), "peer": (tls.peer_cert, tls.peer_key)}
    for door, (cert, key) in doors.items():
        if bool(cert) != bool(key):
            there, missing = ("cert", "key") if cert else ("key", "cert")
            yield Breach(
                (f"tls.{door}_{there}", f"tls.{door}_{missing}"),
                f"is set without tls.{door}_{missing}; set both or none",
            )
    for door, authority, cert in (
        ("client", tls.client_ca, tls.client_cert),
        ("peer", tls.peer_ca, tls.peer_cert),
    ):
        if authority and not cert:
            yield Breach(
                (f"tls.{door}_ca", f"tls.{door}_cert"),
                f"asks for certificates, but this node has none for that door; set tls.{door}_cert "
                f"and tls.{door}_key",
            )
    if tls.peer_cert and not tls.peer_ca:
        yield Breach(
            ("tls.peer_cert", "tls.peer_ca"),
            "is set without tls.peer_ca, by which this node checks the others; set it",
        )


# --- addresses and members -------------------------------------------------------------------


def _addresses(config: Config) -> Iterator[Breach]:
    node = config.node
    same_port = node.listen.port == node.peer_listen.port != 0
    if same_port and (
        node.listen.host == node.peer_listen.host
        or is_wildcard(node.listen)
        or is_wildcard(node.peer_listen)
    ):
        yield Breach(
            ("node.peer_listen", "node.listen"),
            f"is {node.peer_listen}, the same door as node.listen; give it another port",
        )
    for path, address in (
        ("node.advertise", node.advertise),
        ("node.peer_advertise", node.peer_advertise),
    ):
        if is_wildcard(address):
            yield Breach((path,), f"is {address}, which nobody can dial; name this machine")
    if not (config.cluster.initial or config.cluster.join):
        return
    for path, listen, advertise in (
        ("node.advertise", node.listen, node.advertise),
        ("node.peer_advertise", node.peer_listen, node.peer_advertise),
    ):
        if is_wildcard(listen) and is_loopback(advertise.host):
            yield Breach(
                (path, path.replace("advertise", "listen"), "node.listen"),
                f"is {advertise}, which other machines cannot dial (it listens on every address); "
                "write the address by which others reach this node",
            )


def is_wildcard(address: Address) -> bool:
    return address.host in ("0.0.0.0", "::")


def _membership(config: Config) -> Iterator[Breach]:
    cluster = config.cluster
    if cluster.initial and cluster.join:
        yield Breach(
            ("cluster.join", "cluster.initial"),
            "and cluster.initial are both set; keep initial on the nodes that form the cluster, "
            "join on every later one",
        )
    if cluster.initial and not cluster.id:
        yield Breach(
            ("cluster.id", "cluster.initial"),
            'is empty; name the cluster, the same on every node, as id = "orders-eu"',
        )
    if cluster.join and not cluster.id:
        yield Breach(
            ("cluster.id", "cluster.join"),
            "is empty; write the id of the cluster that this node joins, as the others have it",
        )
    if not cluster.initial:
        return
    for what, values in (
        ("name", [member.name for member in cluster.initial if member.name]),
        ("address", [str(member.peer) for member in cluster.initial]),
    ):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            yield Breach(
                ("cluster.initial",),
                f"has the {what} {twice[0]} twice; write each node once",
            )
    own = config.node.peer_advertise
    if own.port and all(member.peer != own for member in cluster.initial):
        others = ", ".join(str(member.peer) for member in cluster.initial)
        yield Breach(
            ("cluster.initial", "node.peer_advertise", "node.peer_listen", "node.listen"),
            f"is {others} and lacks this node, which is {own} (node.peer_advertise); add it, or "
            "use cluster.join if it is new to the cluster",
        )
    for member in cluster.initial:
        if member.peer == own and member.name and member.name != config.node.name:
            yield Breach(
                ("node.name", "cluster.initial", "node.peer_advertise", "node.listen"),
                f"is {config.node.name}, but cluster.initial calls {own} {member.name}; make them "
                "the same",
            )


# --- the regimes -----------------------------------------------------------------------------


def _strong(config: Config) -> Iterator[Breach]:
    strong = config.strong
    if not 3 * strong.heartbeat_s < strong.election_min_s:
        yield Breach(
            ("strong.heartbeat", "strong.election_min"),
            f"is {duration_text(strong.heartbeat_s)} and must be less than a third of "
            f"strong.election_min ({duration_text(strong.election_min_s)}), or a lost message "
            "starts an election; shorten it or raise election_min",
        )
    if not strong.election_min_s < strong.election_max_s:
        yield Breach(
            ("strong.election_max", "strong.election_min"),
            f"is {duration_text(strong.election_max_s)} and must be above strong.election_min "
            f"({duration_text(strong.election_min_s)}), or nodes stand at the same moment; twice "
            "that is usual",
        )
    if strong.leader_silence_s < strong.election_min_s:
        yield Breach(
            ("strong.leader_silence", "strong.election_min"),
            f"is {duration_text(strong.leader_silence_s)} and must not be below "
            f"strong.election_min ({duration_text(strong.election_min_s)}), or a leader gives up "
            "that nobody replaces; raise it",
        )
    if 0 < strong.split_bytes < 2 * strong.merge_bytes:
        yield Breach(
            ("strong.merge_bytes", "strong.split_bytes"),
            f"is {size_text(strong.merge_bytes)} and must be at most half of strong.split_bytes "
            f"({size_text(strong.split_bytes)}), or what was merged would be split again",
        )
    if strong.min_lease_ttl_s != int(strong.min_lease_ttl_s):
        yield Breach(
            ("strong.min_lease_ttl",),
            f"is {duration_text(strong.min_lease_ttl_s)}; leases count in whole seconds, so write "
            f'"{int(strong.min_lease_ttl_s) + 1} s"',
        )


def _leaderless(config: Config) -> Iterator[Breach]:
    n = config.leaderless.n
    for name, count in (("r", config.leaderless.r), ("w", config.leaderless.w)):
        if count > n:
            yield Breach(
                (f"leaderless.{name}", "leaderless.n"),
                f"is {count} and there are only leaderless.n = {n} copies to wait for; write at "
                f"most {n}",
            )


def _limits(config: Config) -> Iterator[Breach]:
    limits = config.limits
    if limits.value_bytes > limits.request_bytes:
        yield Breach(
            ("limits.value_bytes", "limits.request_bytes"),
            f"is {size_text(limits.value_bytes)}, and a request may only have "
            f"{size_text(limits.request_bytes)} (limits.request_bytes); lower it or raise that",
        )
    if limits.watch_bytes > limits.watch_total_bytes:
        yield Breach(
            ("limits.watch_bytes", "limits.watch_total_bytes"),
            f"is {size_text(limits.watch_bytes)} for one watcher, above the "
            f"{size_text(limits.watch_total_bytes)} of all (limits.watch_total_bytes); lower it",
        )


def _storage(config: Config) -> Iterator[Breach]:
    try:
        rocks_options(config)
    except InvalidOptionError as error:
        yield Breach(
            ("storage.rocks.compaction", "storage.rocks.fifo_drops_oldest_data"),
            f"is {config.storage.rocks.compaction}: {error}",
        )
    age_s = config.storage.rocks.fifo_max_age_s
    if age_s != int(age_s):
        yield Breach(
            ("storage.rocks.fifo_max_age",),
            f"is {duration_text(age_s)}; RocksDB counts in whole seconds, so write "
            f'"{int(age_s) + 1} s"',
        )


# --- tests -----------------------------------------------------------------------------------


def is_for_tests(config: Config) -> bool:
    """It takes orders to lose data."""
    control: Address | None = config.testing.control
    return control is not None


def _testing(config: Config) -> Iterator[Breach]:
    """A node that can be told to lose data must not be one that anybody relies on."""
    if not is_for_tests(config):
        return
    testing, node = config.testing, config.node
    if not testing.data_loss_is_meant:
        yield Breach(
            ("testing.control", "testing.data_loss_is_meant"),
            "lets anybody on this machine make the node lose data; remove it, or write "
            "testing.data_loss_is_meant = true if that is what the node is for",
        )
    doors = (testing.control, node.listen, node.peer_listen)
    real = [str(door) for door in doors if not is_loopback(door.host)]
    real += ["tls"] if config.tls.client_cert or config.tls.peer_cert else []
    real += ["cluster.secret_file"] if config.cluster.secret_file else []
    real += ["insecure"] if config.insecure else []
    if real:
        yield Breach(
            ("testing.control", "node.listen", "node.peer_listen", "tls", "insecure"),
            f"is for tests on loopback alone, and this node looks like a real one ({real[0]}); "
            "remove testing.control",
        )


_RULES: Final = (
    _safety,
    _tls,
    _addresses,
    _membership,
    _strong,
    _leaderless,
    _limits,
    _storage,
    _testing,
)
