"""A node's feed, and cursors over the feeds of all."""

from __future__ import annotations

import pytest

from kv.leaderless.feed import (
    Changed,
    Feed,
    InvalidCursorError,
    Position,
    cursor_text,
    is_behind,
    positions_of,
)


def feed_of(count: int, **bounds: int) -> Feed:
    made = Feed(7, **bounds)
    made.add([Changed(1, b"%d" % number, b"x") for number in range(1, count + 1)])
    return made


def keys(feed: Feed, after: Position | None, max_entries: int = 100) -> tuple[list[bytes], bool]:
    page = feed.page(after, max_entries=max_entries, max_bytes=10_000)
    return [each.key for each in page.items], page.lost


def test_pages_go_on_where_the_last_one_ended() -> None:
    feed = feed_of(5)
    assert keys(feed, Position(7, 0), 2) == ([b"1", b"2"], False)
    assert keys(feed, Position(7, 2)) == ([b"3", b"4", b"5"], False)
    assert keys(feed, Position(7, 5)) == ([], False)
    assert feed.page(Position(7, 0), max_entries=9, max_bytes=1).number == 1


def test_what_nobody_wants_stays_and_costs_no_page() -> None:
    feed = feed_of(50)
    page = feed.page(
        Position(7, 0), max_entries=2, max_bytes=10_000, wanted=lambda each: each.key[:1] == b"4"
    )
    assert [each.key for each in page.items] == [b"4", b"40"]
    assert page.number == 40
    page = feed.page(
        Position(7, 0), max_entries=9, max_bytes=10_000, wanted=lambda _: False, max_looked=30
    )
    assert (page.items, page.number, page.lost) == ([], 30, False)


def test_what_is_lost_is_said() -> None:
    feed = feed_of(5, entries_max=3)
    assert keys(feed, Position(7, 2)) == ([b"3", b"4", b"5"], False)
    assert keys(feed, Position(7, 1)) == ([b"3", b"4", b"5"], True)
    assert keys(feed, Position(6, 4)) == ([b"3", b"4", b"5"], True)
    assert keys(feed, Position(7, 9)) == ([b"3", b"4", b"5"], True)
    assert keys(feed, None) == ([], True)


def test_bytes_are_bounded_too() -> None:
    feed = feed_of(100, size_max_bytes=10 * 66)
    found, lost = keys(feed, Position(7, 0))
    assert lost
    assert len(found) <= 10
    assert found[-1] == b"100"


def test_a_cursor_comes_back() -> None:
    positions = {"a": Position(1, 2), "b": Position(3, 4, True)}
    text = cursor_text(1, positions)
    assert positions_of(1, text) == positions
    for bad in ("", "x", "é", text[:-3], text + "AAAA"):
        with pytest.raises(InvalidCursorError):
            positions_of(1, bad)
    with pytest.raises(InvalidCursorError):
        positions_of(2, text)


def test_behind_means_in_every_feed_of_the_same_boots() -> None:
    here = {"a": Position(1, 2), "b": Position(3, 4)}
    assert is_behind(here, here)
    assert is_behind(here, {"a": Position(1, 3), "b": Position(3, 4)})
    assert not is_behind(here, {"a": Position(1, 3), "b": Position(3, 3)})
    assert not is_behind(here, {"a": Position(1, 2), "b": Position(4, 9)})
    assert not is_behind(here, {"a": Position(1, 2)})
    assert not is_behind({"a": Position(1, 2, True)}, {"a": Position(1, 2)})
