"""Which promises hold at a cut, where cuts are placed, and how an engine is named."""

from __future__ import annotations

import random
from pathlib import Path

from chaos.powercut.campaign import choose_cuts, promises_at, write_image
from chaos.powercut.disk import Image
from chaos.powercut.opening import opener
from chaos.powercut.recording import Acknowledge, Call, Recording, Sync


def said(*lines: str) -> Recording:
    return Recording(
        tuple(
            Call(10 * i, 10 * i + 1, Acknowledge(f"{line}\n".encode()))
            for i, line in enumerate(lines)
        )
    )


def test_promises_hold_from_the_moment_at_which_they_are_made() -> None:
    made = said("opened 3", "ack 5", "checkpoint 5", "ack 7", "closed")
    assert promises_at(made, 0) == {"db": 0}
    assert promises_at(made, 10) == {"db": 0}
    assert promises_at(made, 10, shown_is_kept=True) == {"db": 3}
    assert promises_at(made, 11) == {"db": 5}
    assert promises_at(made, 0, already=2) == {"db": 2}
    assert promises_at(made, 11, already=9) == {"db": 9}
    assert promises_at(made, 99) == {"db": 7, "checkpoint-5": 5}


def test_cuts_stand_right_behind_promises_right_before_syncs_and_anywhere() -> None:
    made = said("ack 1", "ack 2", "ack 3")
    made = Recording((*made.calls, Call(30, 37, Sync(1)), Call(38, None, Sync(1))))
    cuts = choose_cuts(made, 1000, random.Random(1))
    assert cuts == sorted(cuts)
    assert 0 <= cuts[0] <= cuts[-1] <= made.end
    assert sum(cut in (1, 11, 21) for cut in cuts) > 300
    assert cuts.count(37) > 300
    assert len(set(cuts)) > 20
    assert choose_cuts(Recording(()), 3, random.Random(1)) == [0, 0, 0]


def test_an_engine_is_named_by_module_or_by_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def make(path):\n    return path / 'made'\n")
    assert opener(f"{tmp_path / 'mine.py'}:make")(Path("x")) == Path("x/made")
    assert opener("chaos.powercut.opening:opener") is opener


def test_an_image_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "image" / "old").mkdir(parents=True)
    write_image(Image({"d/f": b"x", "g": b""}, ("d", "d/e"), ""), tmp_path / "image")
    found = sorted(str(p.relative_to(tmp_path / "image")) for p in tmp_path.glob("image/**/*"))
    assert found == ["d", "d/e", "d/f", "g"]
    assert (tmp_path / "image/d/f").read_bytes() == b"x"
