"""What settings must be to each other. Each case breaks one rule and is told which."""

from __future__ import annotations

import pytest

from kv.config.parts import allowed_hosts, compaction_policy, host_config, min_lease_ttl_s
from kv.config.reading import ConfigError, parse_config
from kv.config.rocks import rocks_options
from kv.config.rules import breaches, exposed
from kv.config.sections import Config
from kv.config.summary import summary, warnings
from raftgroups.config import HostConfig
from raftgroups.lease import MINIMUM_TTL_S
from storage.mvcc_policy import OFF, CompactionPolicy
from storage.rocks_options import RocksOptions

INITIAL = 'id = "c"\ninitial = ["127.0.0.1:7401", "127.0.0.1:7411", "127.0.0.1:7421"]\n'
TLS = """
[tls]
client_cert = "c"
client_key = "c"
client_ca = "c"
peer_cert = "p"
peer_key = "p"
peer_ca = "p"
"""


def broken(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return [(problem.setting, problem.message) for problem in caught.value.problems]


def test_defaults_break_no_rule_and_are_the_defaults_of_the_parts() -> None:
    config = Config()
    assert list(breaches(config)) == []
    assert host_config(config) == HostConfig()
    assert compaction_policy(config) == CompactionPolicy()
    assert rocks_options(config) == RocksOptions()
    assert min_lease_ttl_s(config) == MINIMUM_TTL_S
    assert warnings(config) == ()


def test_a_node_may_be_called_by_the_name_that_it_advertises() -> None:
    config = parse_config(
        'insecure = true\n[node]\nadvertise = "KV-1.example.org:7400"\n'
        '[http]\nhosts = ["kv.example"]\n'
    )
    assert allowed_hosts(config) == ("kv.example", "kv-1.example.org")


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "kv.example.org", "[::]", "[2001:db8::1]"])
def test_a_door_beyond_this_machine_needs_protection_or_the_word_insecure(host: str) -> None:
    address = f'[node]\nlisten = "{host}:7400"\n'
    assert [setting for setting, _ in broken(address)] == ["node.listen", "node.peer_listen"]
    assert "insecure = true" in broken(address)[0][1]
    config = parse_config("insecure = true\n" + address)
    assert exposed(config) == ("node.listen", "node.peer_listen")
    assert len(warnings(config)) == 2
    assert parse_config(address + TLS).insecure is False
    assert exposed(parse_config(address + TLS)) == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "[::1]", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert exposed(parse_config(f'[node]\nlisten = "{host}:7400"\n')) == ()


def test_encryption_without_a_proof_of_who_comes_does_not_do() -> None:
    text = '[node]\nlisten = "10.0.0.1:7400"\npeer_listen = "127.0.0.1:7401"\n'
    tls = '[tls]\nclient_cert = "c"\nclient_key = "c"\n'
    assert [setting for setting, _ in broken(text + tls)] == ["node.listen"]
    assert parse_config(text + tls + 'client_ca = "c"\n')


def test_a_secret_without_encryption_does_not_do_for_peers() -> None:
    text = '[node]\npeer_listen = "10.0.0.1:7401"\n[cluster]\nsecret_file = "s"\n'
    assert [setting for setting, _ in broken(text)] == ["node.peer_listen"]


def test_users_are_refused_until_somebody_asks_for_them() -> None:
    ((setting, message),) = broken("[auth]\nenabled = true\n")
    assert setting == "auth.enabled"
    assert "not built yet" in message


@pytest.mark.parametrize(
    ("text", "setting", "says"),
    [
        ('[tls]\nclient_cert = "c"\n', "tls.client_cert", "set both or none"),
        ('[tls]\nclient_key = "c"\n', "tls.client_key", "set both or none"),
        ('[tls]\nclient_ca = "c"\n', "tls.client_ca", "set tls.client_cert"),
        ('[tls]\npeer_cert = "c"\npeer_key = "c"\n', "tls.peer_cert", "tls.peer_ca"),
        ('[node]\npeer_listen = "127.0.0.1:7400"\n', "node.peer_listen", "another port"),
        ('[node]\nadvertise = "0.0.0.0:1"\n', "node.advertise", "nobody can dial"),
        (f'[cluster]\n{INITIAL}join = ["h:1"]\n', "cluster.join", "keep initial on"),
        ('[cluster]\ninitial = ["127.0.0.1:7401"]\n', "cluster.id", "name the cluster"),
        ('[cluster]\njoin = ["h:1"]\n', "cluster.id", "that this node joins"),
        ('[cluster]\nid = "c"\ninitial = ["h:1"]\n', "cluster.initial", "lacks this node"),
        (
            '[cluster]\nid = "c"\ninitial = ["a=127.0.0.1:7401", "a=h:1"]\n[node]\nname = "a"\n',
            "cluster.initial",
            "the name a twice",
        ),
        (
            '[cluster]\nid = "c"\ninitial = ["a=127.0.0.1:7401", "b=127.0.0.1:7401"]\n'
            '[node]\nname = "a"\n',
            "cluster.initial",
            "the address 127.0.0.1:7401 twice",
        ),
        (
            '[cluster]\nid = "c"\ninitial = ["a=127.0.0.1:7401"]\n[node]\nname = "b"\n',
            "node.name",
            "calls 127.0.0.1:7401 a",
        ),
        ('[strong]\nheartbeat = "200 ms"\n', "strong.heartbeat", "less than a third"),
        ('[strong]\nelection_max = "500 ms"\n', "strong.election_max", "must be above"),
        ('[strong]\nleader_silence = "400 ms"\n', "strong.leader_silence", "must not be below"),
        ('[strong]\nmin_lease_ttl = "1500 ms"\n', "strong.min_lease_ttl", 'write "2 s"'),
        ("[leaderless]\nr = 4\n", "leaderless.r", "at most 3"),
        ("[leaderless]\nn = 1\nr = 1\n", "leaderless.w", "at most 1"),
        ('[limits]\nrequest_bytes = "1 KiB"\n', "limits.value_bytes", "limits.request_bytes"),
        (
            '[limits]\nwatch_total_bytes = "1 MiB"\nwatch_bytes = "2 MiB"\n',
            "limits.watch_bytes",
            "limits.watch_total_bytes",
        ),
        ('[storage.rocks]\ncompaction = "fifo"\n', "storage.rocks.compaction", "the oldest"),
        ('[storage.rocks]\nfifo_max_age = "1500 ms"\n', "storage.rocks.fifo_max_age", '"2 s"'),
    ],
)
def test_each_rule_names_its_setting_and_the_cure(text: str, setting: str, says: str) -> None:
    assert [name for name, message in broken(text) if says in message] == [setting]


def test_a_node_of_a_cluster_advertises_what_others_can_dial() -> None:
    wildcard = 'insecure = true\n[node]\nlisten = "0.0.0.0:7400"\n'
    assert str(parse_config(wildcard).node.advertise) == "127.0.0.1:7400"
    found = broken(f'{wildcard}[cluster]\nid = "c"\njoin = ["10.0.0.2:7401"]\n')
    assert [setting for setting, _ in found] == ["node.advertise", "node.peer_advertise"]
    named = 'advertise = "10.0.0.1:7400"\npeer_advertise = "10.0.0.1:7401"\n'
    assert parse_config(f'{wildcard}{named}[cluster]\nid = "c"\njoin = ["10.0.0.2:7401"]\n')


def test_a_proper_cluster_is_taken() -> None:
    config = parse_config(f"[cluster]\n{INITIAL}")
    assert summary(config)["cluster"].startswith("forms c once, with 3 nodes")
    assert warnings(config) == ()


@pytest.mark.parametrize(
    ("word", "policy"),
    [
        ("off", OFF),
        ("age", CompactionPolicy(60, None)),
        ("count", CompactionPolicy(None, 7)),
        ("both", CompactionPolicy(60, 7)),
    ],
)
def test_what_ends_history(word: str, policy: CompactionPolicy) -> None:
    text = f'[strong]\nauto_compaction = "{word}"\nhistory_age = "1 min"\nhistory_revisions = 7\n'
    assert compaction_policy(parse_config(text)) == policy


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[strong]\nengine = "memory"\n', "gone when the node stops"),
        ('[http]\ncors = "any"\n', "every web page"),
        (
            '[storage.rocks]\ncompaction = "fifo"\nfifo_drops_oldest_data = true\n',
            "deleted by itself",
        ),
        ('[cluster]\nid = "c"\ninitial = ["127.0.0.1:7401"]\n', "fewer than 3"),
        (
            '[cluster]\nid = "c"\ninitial = ["127.0.0.1:7401", "h:1", "h:2", "h:3"]\n',
            "an even number",
        ),
    ],
)
def test_what_is_allowed_and_not_right_for_data_that_matters_is_warned_of(
    text: str, says: str
) -> None:
    (warning,) = warnings(parse_config(text))
    assert says in warning
