"""The pages as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chaos.report.page import index, page
from chaos.running.results import Outcome

PAGE_NAME: Final = "report.html"
INDEX_NAME: Final = "index.html"


def write_page(directory: Path, outcome: Outcome) -> Path:
    path = directory / PAGE_NAME
    path.write_text(page(outcome))
    return path


def write_index(directory: Path, outcomes: Sequence[Outcome]) -> Path:
    path = directory / INDEX_NAME
    path.write_text(index(outcomes))
    return path
