"""Rows and commands that are written by hand have the bytes that the plain way gives them."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftgroups.records import (
    KIND_OPERATIONS,
    journal_entry,
    journal_key,
    journal_row,
    operations_command,
    read_operations,
)
from storage.codec import seal

NUMBERS = st.integers(0, 2**64 - 1)


@given(st.text(max_size=30), NUMBERS, st.lists(st.binary(max_size=40), max_size=30))
def test_a_command_of_operations_is_plain_cbor(
    origin: str, first_seq: int, payloads: list[bytes]
) -> None:
    command = operations_command(origin, first_seq, payloads)
    assert command == bytes((KIND_OPERATIONS,)) + cbor2.dumps((origin, first_seq, payloads))
    assert read_operations(command) == (origin, first_seq, payloads)


@pytest.mark.parametrize("size", [23, 24, 255, 256, 65_535, 65_536])
def test_payloads_of_every_length_are_written_as_cbor_has_them(size: int) -> None:
    command = operations_command("n/b", size, [bytes(size)] * (1 + size % 300))
    assert command[1:] == cbor2.dumps(("n/b", size, [bytes(size)] * (1 + size % 300)))


@given(NUMBERS, NUMBERS, st.binary(max_size=40), NUMBERS)
def test_the_row_of_an_entry_is_sealed_under_its_key(
    group: int, index: int, command: bytes, term: int
) -> None:
    key, record = journal_row(group, index, command, term)
    assert key == journal_key(group, index)
    assert record == seal(key, term.to_bytes(8, "big") + command)
    assert journal_entry(key, record) == (command, index, term)
