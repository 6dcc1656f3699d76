"""One event is one bounded, printable line in either form, whatever was logged."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv.log_format import FORMATTERS, TEXT_MAX, plain

MOMENT = 1_700_000_000.1239


def record_of(message: object = "serving", *args: object, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("kv.app", logging.INFO, __file__, 1, message, args, None)
    record.created = MOMENT
    record.__dict__.update(fields)
    return record


def text_of(record: logging.LogRecord) -> str:
    return FORMATTERS["text"]("n1").format(record)


def json_of(record: logging.LogRecord) -> dict[str, Any]:
    line = FORMATTERS["json"]("n1").format(record)
    assert line.isprintable()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_text_has_its_parts_in_order_and_quotes_what_needs_it() -> None:
    line = text_of(record_of("serving %s", "clients", url="http://h:1", reason="a b", count=3))
    assert line == (
        "2023-11-14T22:13:20.123Z INFO n1 kv.app: serving clients "
        'url=http://h:1 reason="a b" count=3'
    )


def test_json_has_the_same_parts() -> None:
    assert json_of(record_of("serving %s", "clients", url="http://h:1", count=3, on=True)) == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "info",
        "node": "n1",
        "logger": "kv.app",
        "message": "serving clients",
        "url": "http://h:1",
        "count": 3,
        "on": True,
    }


def test_a_field_never_replaces_a_part_of_the_line() -> None:
    parsed = json_of(record_of(level="mine", node="theirs"))
    assert (parsed["level"], parsed["level_"], parsed["node"]) == ("info", "mine", "n1")


def test_an_exception_is_one_field_with_its_traceback() -> None:
    record = record_of("it failed")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record.exc_info = sys.exc_info()
    found = json_of(record)["exception"]
    assert "in test_an_exception_is_one_field" in found
    assert found.endswith("ValueError: first\nsecond")
    line = text_of(record)
    assert line.isprintable()
    assert line.endswith('ValueError: first\\nsecond"')


def test_no_exception_and_a_stack_are_told_as_they_are() -> None:
    record = record_of()
    record.exc_info = (None, None, None)
    record.stack_info = "Stack\n  here"
    assert json_of(record)["stack"] == "Stack\n  here"
    assert "exception" not in json_of(record)


@pytest.mark.parametrize(
    ("message", "args"),
    [("%d of %d", ("one",)), ("%s", (Unprintable(),)), (Unprintable(), ())],
)
def test_what_cannot_be_formatted_is_told_all_the_same(message: object, args: Any) -> None:
    assert "cannot be shown" in json_of(record_of(message, *args))["message"]


def test_line_breaks_and_escapes_do_not_reach_the_terminal() -> None:
    line = text_of(record_of("a\nb\x1b[31m\u2028", evil='"\n2023 ERROR'))
    assert line.isprintable()
    assert "a\\nb\\x1b[31m\\u2028" in line
    assert 'evil="\\"\\n2023 ERROR"' in line


def test_lines_are_bounded() -> None:
    fields = {f"f{number}": "x" * 100 for number in range(200)}
    parsed = json_of(record_of("y" * 100_000, **fields))
    assert len(parsed["message"]) < TEXT_MAX + 100
    assert "characters left out" in parsed["message"]
    assert parsed["fields_left_out"] == 136
    assert len(plain([1] * 1000)) == 100
    assert len(plain(b"\0" * 10**6)) < 3 * TEXT_MAX


def test_values_are_shown_as_json_can_say_them() -> None:
    assert plain({"a": (1, {2}), 3: None}) == {"a": [1, [2]], "3": None}
    assert plain(float("nan")) == "nan"
    assert plain(b"\xffkey") == "\\xffkey"
    assert plain(Unprintable()) == "(cannot be shown: RuntimeError)"
    assert plain(2**70) == hex(2**70)
    inside: list[Any] = []
    inside.append(inside)
    json.dumps(plain(inside))


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@given(st.text(), st.dictionaries(st.sampled_from(["a", "time", "level", "é\n"]), ODD))
def test_any_event_is_one_line(message: str, fields: dict[str, Any]) -> None:
    record = record_of(message.replace("%", ""), **fields)
    assert len(json_of(record)) == 5 + len(fields)
    assert text_of(record).isprintable()
