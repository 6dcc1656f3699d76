"""normalise.py: each rule, and what no rule may touch."""

from __future__ import annotations

import json

import pytest

from .normalise import fill_in, normalise


def test_a_header_loses_its_ids_and_keeps_its_revision() -> None:
    text = '{"header":{"cluster_id":"123","member_id":"456","revision":"7","raft_term":"2"}}'
    assert json.loads(normalise(text, {}))["header"] == {
        "cluster_id": "<cluster_id>",
        "member_id": "<member_id>",
        "revision": "7",
        "raft_term": "<raft_term>",
    }


def test_a_known_value_is_replaced_as_a_whole_string_only() -> None:
    known = {"lease": "12"}
    assert normalise('{"ID":"12"}', known) == '{"ID":"<lease>"}'
    assert normalise('{"ID":"123","TTL":12}', known) == '{"ID":"123","TTL":12}'
    assert normalise('{"name":"a12"}', known) == '{"name":"a12"}'


@pytest.mark.parametrize(
    "text",
    [
        '{"raft_term":2}',  # a number where the protocol has a string
        '{"hash":"77"}',  # a string where it has a number
        '{"dbSize":""}',
        '{"ID":"7","TTL":"-1"}',  # a missing lease
        '{"ID":"7","TTL":"600"}',  # a granted or renewed one
        '{"TTL":"601","grantedTTL":"600"}',  # more left than granted
        '{"error":"etcdserver: key not found","code":3}',
        '{"kvs":[{"key":"YQ==","mod_revision":"12345678901234567890"}],"count":"1"}',
    ],
)
def test_what_no_rule_names_stays(text: str) -> None:
    assert normalise(text, {}) == text


def test_what_the_server_measures_becomes_its_name() -> None:
    assert normalise('{"dbSize":"20480","hash":77}', {}) == (
        '{"dbSize":"<dbSize>","hash":"<number hash>"}'
    )
    assert normalise('{"TTL":"599","grantedTTL":"600"}', {}) == (
        '{"TTL":"<remaining>","grantedTTL":"600"}'
    )
    assert normalise('["http://127.0.0.1:4711","http://localhost:1"]', {}) == (
        '["http://<address>","http://<address>"]'
    )
    assert normalise('["memberID:99 alarm:NOSPACE "]', {}) == (
        '["memberID:<member_id> alarm:NOSPACE "]'
    )


@pytest.mark.parametrize(
    "message",
    [
        "invalid character 'j' looking for beginning of value",
        "json: cannot unmarshal number 1.5 into Go value of type int64",
        "illegal base64 data at input byte 0",
        "unexpected EOF",
        'unknown value "SIZE" for enum etcdserverpb.RangeRequest_SortTarget',
    ],
)
def test_the_words_of_parsers_are_replaced_and_the_code_kept(message: str) -> None:
    text = json.dumps({"error": message, "code": 3, "message": message}, separators=(",", ":"))
    assert json.loads(normalise(text, {})) == {
        "error": "<parse error>",
        "code": 3,
        "message": "<parse error>",
    }


def test_a_request_is_filled_with_this_servers_values() -> None:
    assert fill_in('{"ID":"<lease>"}', {"lease": "12"}) == '{"ID":"12"}'
    assert fill_in('{"ID":"<other>"}', {"lease": "12"}) == '{"ID":"<other>"}'
