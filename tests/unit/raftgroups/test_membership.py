"""Configurations as values."""

from __future__ import annotations

import pytest

from raftgroups.membership import Config
from raftgroups.messages import MalformedError
from tests.unit.raftgroups.members import A, B, D


def test_a_configuration_survives_its_bytes() -> None:
    config = Config({B: 2, A: 1}, {D: 0}, formed=False)
    assert Config.decode(config.encode()) == config
    assert config.encode() == Config({A: 1, B: 2}, {D: 0}, formed=False).encode()


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x84\x01\x80\x80\x01", b"\x84\x09\x80\x80\xf5", b"\xff"]
)
def test_a_malformed_configuration_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Config.decode(data)


def test_a_node_is_not_both_voter_and_learner() -> None:
    with pytest.raises(MalformedError, match="voter and learner"):
        Config.decode(Config({A: 1}, {A: 1}).encode())
