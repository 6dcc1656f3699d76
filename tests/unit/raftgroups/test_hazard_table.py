"""The hazard table of ARCHITECTURE.md, the tests and the rules name the same letters."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parents[2] / "raftgroups"


def test_every_hazard_has_a_directed_test() -> None:
    table = (PACKAGE / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| ([a-n][0-9]?) \|", table, re.MULTILINE))
    tested = set()
    for file in HERE.glob("test_hazards_*.py"):
        tested |= set(re.findall(r"def test_hazard_([a-n][0-9]?)_", file.read_text("utf-8")))
    assert len(listed) >= 24
    assert listed == tested


def test_every_canary_is_used_where_its_rule_is() -> None:
    from raftgroups.config import CANARIES

    code = "".join(
        file.read_text("utf-8") for file in PACKAGE.glob("*.py") if file.name != "config.py"
    )
    unused = {name for name in CANARIES if f'"{name}"' not in code}
    assert unused == set()
