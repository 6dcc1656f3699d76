"""Backoff, and the rule that a link is safe unless somebody says otherwise."""

from __future__ import annotations

import logging
import random

import pytest

from kv.cluster.link_config import Backoff, LinkConfig, check_listen, is_loopback
from kv.cluster.link_protocol import LinkUsageError
from kv.cluster.said_once import REMEMBERED, SaidOnce


def test_backoff_doubles_with_jitter_up_to_its_limit_and_starts_again() -> None:
    backoff = Backoff(0.1, 2.0, random.Random(7))
    delays = [backoff.next_s() for _ in range(12)]
    for number, delay in enumerate(delays):
        full = min(2.0, 0.1 * 2**number)
        assert full / 2 <= delay <= full
    assert len(set(delays)) == 12, "no two alike"
    backoff.reset()
    assert backoff.next_s() <= 0.1


def test_backoff_never_overflows() -> None:
    backoff = Backoff(0.1, 2.0, random.Random(7))
    backoff.failures = 10_000
    assert 1.0 <= backoff.next_s() <= 2.0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_protection(host: str) -> None:
    assert is_loopback(host)
    check_listen(LinkConfig(listen=(host, 0)), authenticated=False, encrypted=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.test"])
@pytest.mark.parametrize(
    ("authenticated", "encrypted", "missing"),
    [
        (False, False, "TLS and a secret"),
        (True, False, "configure TLS, or"),
        (False, True, "a cluster secret"),
    ],
)
def test_an_outside_address_needs_tls_and_a_secret(
    host: str, authenticated: bool, encrypted: bool, missing: str
) -> None:
    config = LinkConfig(listen=(host, 7401))
    with pytest.raises(LinkUsageError, match=missing) as refusal:
        check_listen(config, authenticated=authenticated, encrypted=encrypted)
    assert "insecure = true" in str(refusal.value)
    check_listen(config, authenticated=True, encrypted=True)
    check_listen(
        LinkConfig(listen=(host, 7401), insecure=True), authenticated=False, encrypted=False
    )


def test_trouble_is_said_once_and_counted_always(caplog: pytest.LogCaptureFixture) -> None:
    said = SaidOnce(logging.getLogger("test"))
    for _ in range(5):
        said.warn("peer a", "tls", "no TLS")
    said.warn("peer b", "tls", "no TLS")
    assert len(caplog.records) == 2
    assert said.counts == {"tls": 6}
    said.forget("peer a")
    said.warn("peer a", "tls", "no TLS")
    assert len(caplog.records) == 3


def test_the_memory_of_what_was_said_is_bounded() -> None:
    logger = logging.getLogger("silent")
    logger.disabled = True
    said = SaidOnce(logger)
    for number in range(3 * REMEMBERED):
        said.warn(f"host {number}", "tls", "no TLS")
    assert len(said._said) == REMEMBERED
