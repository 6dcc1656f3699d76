"""Three sources give one Config, or one error that names every mistake, its place and its cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv.config.members import InitialMember
from kv.config.reading import (
    Config,
    ConfigError,
    Problem,
    environment_name,
    load_config,
    parse_config,
)
from kv.config.sections import NodeSection
from kv.config.values import Address
from storage.errors import JanusError


def problems_of(
    text: str = "",
    environ: dict[str, str] | None = None,
    overrides: dict[str, object] | None = None,
) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, environ, overrides, source="n.toml")
    return caught.value.problems


def test_without_anything_a_node_serves_this_machine_only() -> None:
    config = load_config(None, {})
    assert config == Config()
    assert config.mode == "strong"
    assert config.insecure is False
    assert config.node == NodeSection(
        name="node-7400",
        data="./januskv-data",
        listen=Address("127.0.0.1", 7400),
        peer_listen=Address("127.0.0.1", 7401),
        advertise=Address("127.0.0.1", 7400),
        peer_advertise=Address("127.0.0.1", 7401),
    )


def test_every_section_is_read() -> None:
    config = parse_config(
        """
        mode = "leaderless"
        [node]
        name = "n1"
        listen = "127.0.0.1:7410"
        weight = 2
        [cluster]
        id = "orders"
        initial = ["127.0.0.1:7421", {name = "n1", peer = "127.0.0.1:7411"}, "n3=127.0.0.1:7431"]
        peer_addresses = {n3 = "127.0.0.1:9001", "127.0.0.1:7421" = "127.0.0.1:9002"}
        [strong]
        heartbeat = "50 ms"
        history_age = "1 h 30 min"
        auto_compaction = "off"
        [leaderless]
        n = 5
        [storage]
        lmdb_map_bytes = "2 GiB"
        reserve_bytes = 1048576
        [storage.rocks]
        compaction = "universal"
        [limits]
        request_bytes = "1.25 MiB"
        [log]
        format = "json"
        [http]
        origins = ["HTTPS://App.example.org:443/"]
        """
    )
    assert config.mode == "leaderless"
    assert config.node.weight == 2.0
    assert config.cluster.initial == (
        InitialMember("", Address("127.0.0.1", 7421)),
        InitialMember("n1", Address("127.0.0.1", 7411)),
        InitialMember("n3", Address("127.0.0.1", 7431)),
    )
    assert config.cluster.peer_addresses == {
        "n3": Address("127.0.0.1", 9001),
        "127.0.0.1:7421": Address("127.0.0.1", 9002),
    }
    assert config.strong.heartbeat_s == 0.05
    assert config.strong.history_age_s == 5400
    assert config.storage.lmdb_map_bytes == 2 * 1024**3
    assert config.storage.reserve_bytes == 1024**2
    assert config.storage.rocks.compaction == "universal"
    assert config.limits.request_bytes == 1280 * 1024
    assert config.log.format == "json"
    assert config.http.origins == ("https://app.example.org",)


def test_peer_addresses_may_be_a_table_of_its_own() -> None:
    config = parse_config('[cluster.peer_addresses]\nn2 = "127.0.0.1:9001"\n')
    assert config.cluster.peer_addresses == {"n2": Address("127.0.0.1", 9001)}


def test_options_win_over_the_environment_and_that_over_the_file() -> None:
    text = '[node]\nname = "file"\ndata = "file"\nrack = "file"\n'
    environ = {"JANUSKV_NODE__NAME": "environment", "JANUSKV_NODE__DATA": "environment"}
    overrides = {"node.name": "option", "node.listen": None, "node.data": None}
    node = parse_config(text, environ, overrides).node
    assert (node.name, node.data, node.rack) == ("option", "environment", "file")
    assert node.listen.port == 7400


def test_overrides_take_texts_paths_and_values() -> None:
    overrides = {
        "node.data": Path("somewhere/else"),
        "node.listen": "127.0.0.1:0",
        "leaderless.n": 5,
        "strong.heartbeat": "20 ms",
    }
    config = parse_config("", {}, overrides)
    assert config.node.data == "somewhere/else"
    assert config.node.peer_listen.port == 0
    assert config.leaderless.n == 5
    assert config.strong.heartbeat_s == 0.02


def test_the_environment_is_typed_by_the_setting() -> None:
    config = parse_config(
        "",
        {
            "JANUSKV_MODE": "leaderless",
            "JANUSKV_INSECURE": "true",
            "JANUSKV_LEADERLESS__N": "5",
            "JANUSKV_LEADERLESS__SLOPPY": "off",
            "JANUSKV_NODE__WEIGHT": "0.5",
            "JANUSKV_NODE__NAME": "a",
            "JANUSKV_STRONG__HEARTBEAT": "20ms",
            "JANUSKV_STORAGE__ROCKS__BLOCK_CACHE_BYTES": "1GiB",
            "JANUSKV_CLUSTER__ID": "orders",
            "JANUSKV_CLUSTER__INITIAL": "a=127.0.0.1:7401, b=127.0.0.1:7411,127.0.0.1:7421",
            "JANUSKV_CLUSTER__PEER_ADDRESSES": "b=127.0.0.1:9001",
            "JANUSKV_HTTP__ORIGINS": "http://a.example, http://b.example:81",
            "JANUSKV_TEST_PROFILE": "somebody else's",
            "HOME": "/root",
        },
    )
    assert config.mode == "leaderless"
    assert config.insecure
    assert config.leaderless.n == 5
    assert config.leaderless.sloppy is False
    assert config.node.weight == 0.5
    assert config.strong.heartbeat_s == 0.02
    assert config.storage.rocks.block_cache_bytes == 1024**3
    assert [member.name for member in config.cluster.initial] == ["a", "b", ""]
    assert config.cluster.peer_addresses == {"b": Address("127.0.0.1", 9001)}
    assert config.http.origins == ("http://a.example", "http://b.example:81")
    assert environment_name("storage.rocks.compaction") == "JANUSKV_STORAGE__ROCKS__COMPACTION"


def test_an_unknown_variable_with_two_underscores_is_refused_and_the_likely_one_named() -> None:
    (problem,) = problems_of(environ={"JANUSKV_NODE__LISTN": "127.0.0.1:1", "JANUSKV_OTHER": "x"})
    assert problem.source == "JANUSKV_NODE__LISTN"
    assert "did you mean JANUSKV_NODE__LISTEN?" in problem.message


def test_all_mistakes_are_told_at_once_with_their_lines() -> None:
    found = problems_of(
        """mode = "weak"
[node]  # who
listn = "127.0.0.1:1"
weight = true
rack = '''
weight = 1 is inside a text
'''
[strong]
heartbeat_ms = 100
election_min = 500
[http]
insecure = true
[storag]
x = 1
""",
        {"JANUSKV_LIMITS__REQUEST_BYTES": "1 parsec"},
        {"node.nmae": "x", "leaderless.r": 99},
    )
    assert [(p.source, p.line, p.setting) for p in found] == [
        ("n.toml", 1, "mode"),
        ("n.toml", 3, "node.listn"),
        ("n.toml", 4, "node.weight"),
        ("n.toml", 5, "node.rack"),
        ("n.toml", 9, "strong.heartbeat_ms"),
        ("n.toml", 10, "strong.election_min"),
        ("n.toml", 12, "http.insecure"),
        ("n.toml", 13, "storag"),
        ("JANUSKV_LIMITS__REQUEST_BYTES", None, "limits.request_bytes"),
        ("option node.nmae", None, "node.nmae"),
        ("option leaderless.r", None, "leaderless.r"),
    ]
    texts = [str(problem) for problem in found]
    assert texts[0] == 'n.toml:1: mode is "weak"; write "strong" or "leaderless"'
    assert "did you mean node.listen, HOST:PORT" in texts[1]
    assert texts[2] == "n.toml:4: node.weight is true; write a number from 0.01 to 100"
    assert "did you mean strong.heartbeat, a time with its unit" in texts[4]
    assert '"500 ms" or "500 s", whichever is meant' in texts[5]
    assert "did you mean insecure?" in texts[6]
    assert "did you mean storage?" in texts[7]
    assert "a size" in texts[8]
    assert "did you mean node.name" in texts[9]


def test_the_error_belongs_to_the_one_tree_and_says_every_problem() -> None:
    with pytest.raises(JanusError) as caught:
        parse_config('mode = "a"\nx = 1\n', source="n.toml")
    assert str(caught.value).count("\n") == 1
    assert caught.value.code == "invalid_config"


def test_a_bad_value_in_the_file_is_told_even_where_the_environment_replaces_it() -> None:
    (problem,) = problems_of('mode = "weak"\n', {"JANUSKV_MODE": "strong"})
    assert problem.source == "n.toml"


def test_a_broken_rule_points_to_where_the_setting_was_given() -> None:
    (problem,) = problems_of("[leaderless]\n\nw = 4\n")
    assert (problem.source, problem.line, problem.setting) == ("n.toml", 3, "leaderless.w")
    (problem,) = problems_of(environ={"JANUSKV_LEADERLESS__W": "4"})
    assert (problem.source, problem.line) == ("JANUSKV_LEADERLESS__W", None)


def test_no_rule_is_judged_on_a_setting_that_could_not_be_read() -> None:
    # The default of r is 2, above n = 1, but what was meant by r is not known.
    problems = problems_of('[leaderless]\nn = 1\nw = 1\nr = "one"\n')
    assert [problem.setting for problem in problems] == ["leaderless.r"]


def test_a_section_that_is_a_value_and_a_table_that_is_none() -> None:
    section, table = problems_of("node = 3\n[mode]\nx = 1\n")
    assert (section.setting, section.line) == ("node", 1)
    assert "write [node]" in section.message
    assert (table.setting, table.line) == ("mode", 2)
    assert "is a table" in table.message


@pytest.mark.parametrize("text", ["mode =", "[[[", "a = 1\na = 2", "x = " + "[" * 5000, "\x00"])
def test_what_is_no_toml_is_one_problem(text: str) -> None:
    (problem,) = problems_of(text)
    assert "no TOML" in problem.message


def test_the_place_of_a_toml_mistake_is_told() -> None:
    assert "line 2" in problems_of("\nmode = ?\n")[0].message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"\xff\xfe", "not UTF-8"),
        (b"#" * (4 * 1024 * 1024 + 1), "over 4194304 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "n.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(path, {})
    assert caught.value.problems[0].source == str(path)


def test_a_directory_or_an_impossible_name_is_a_problem_too(tmp_path: Path) -> None:
    for path in (tmp_path, "a\0b"):
        with pytest.raises(ConfigError):
            load_config(path, {})


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "n.toml"
    path.write_bytes(b'\xef\xbb\xbfmode = "leaderless"\r\n')
    assert load_config(path, {}).mode == "leaderless"
