"""The text format: what a label or a help text holds comes back, and buckets add up."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kv.metrics.exposition import Page, number
from kv.metrics.instruments import (
    MAX_CHILDREN,
    OTHER,
    Counter,
    Definition,
    Family,
    Histogram,
    Kind,
    counter,
    gauge,
)

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**53), 2**53).map(float)


@given(st.lists(st.tuples(TEXT, TEXT, NUMBERS), max_size=5, unique_by=lambda row: row[:2]))
def test_labels_and_values_come_back_as_they_went(rows: list[tuple[str, str, float]]) -> None:
    definition = gauge("x_things", "Things.", "things", "one", "two")
    page = Page([definition])
    text = page.render([(definition, [((one, two), value) for one, two, value in rows])]).decode()
    (family,) = text_string_to_metric_families(text)
    found = [(s.labels["one"], s.labels["two"], s.value) for s in family.samples]
    assert found == rows
    assert text.count("\n") == 2 + len(rows), "a line feed in a label would begin a line"


@given(TEXT.filter(str.strip))
def test_a_help_text_comes_back(help_text: str) -> None:
    definition = gauge("x_things", help_text, "things")
    text = Page([definition]).render([(definition, [((), 1.0)])]).decode()
    (family,) = text_string_to_metric_families(text)
    assert family.documentation.strip() == help_text.strip()
    assert text.count("\n") == 3


@given(st.text(max_size=5))
def test_a_surrogate_breaks_no_page(value: str) -> None:
    definition = gauge("x_things", "Things.", "things", "one")
    assert Page([definition]).render([(definition, [((value,), 1.0)])]).decode()


@given(st.lists(st.floats(0, 100), max_size=30))
def test_buckets_are_cumulative_and_inclusive(values: list[float]) -> None:
    bounds = (0.5, 1.0, 50.0)
    definition = Definition("x_seconds", Kind.HISTOGRAM, "Time.", "seconds", ("one",))
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    text = Page([definition]).render([(definition, [(("a",), histogram)])]).decode()
    (family,) = text_string_to_metric_families(text)
    found = {s.labels.get("le", s.name): s.value for s in family.samples}
    for bound in bounds:
        assert found[number(bound)] == sum(value <= bound for value in values)
    assert found["+Inf"] == found["x_seconds_count"] == histogram.count == len(values)
    assert math.isclose(found["x_seconds_sum"], sum(values), abs_tol=1e-9)


def test_numbers_as_prometheus_reads_them() -> None:
    values = (0.0, True, 3.0, 0.25, 2**40, 1e300, math.inf, -math.inf, math.nan)
    expected = ["0", "1", "3", "0.25", "1099511627776", "1e+300", "+Inf", "-Inf", "NaN"]
    assert [number(value) for value in values] == expected


def test_a_family_is_bounded() -> None:
    family = Family(counter("x_total", "Things.", "things", "one"), Counter)
    for value in range(MAX_CHILDREN + 50):
        family.labels(str(value)).add()
    children = dict(family.children())
    assert len(children) == MAX_CHILDREN + 1
    assert children[OTHER,].value == 50
    assert family.labels("3") is children["3",], "those that were there stay"


def test_a_page_forgets_lines_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kv.metrics.exposition.KEPT_LINES", 10)
    definition = gauge("x_things", "Things.", "things", "one")
    page = Page([definition])
    for value in range(100):
        page.render([(definition, [((str(value),), 1.0)])])
        assert len(page._plain) <= 11


def test_a_definition_must_say_its_unit_in_its_name() -> None:
    with pytest.raises(AssertionError, match="seconds"):
        gauge("x_time", "Time.", "seconds")
    with pytest.raises(AssertionError, match="help"):
        gauge("x_things", " ", "things")
    with pytest.raises(AssertionError, match="labels"):
        Family(gauge("x_things", "T.", "things", "one"), Counter).labels()
