"""Charts as SVG text: small multiples of bars. Pure: figures in, a picture out; no library needed.

One panel a figure (its unit differs from its neighbour's, so each has its own scale), one bar a
contestant, the number written at the bar: the picture shows the shape, the text the value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

COLOURS: Final = ("#2f6f9f", "#c2703d", "#5b8c5a", "#8a6bb1", "#a14a5c")
PANEL_WIDTH: Final = 300
BAR_HEIGHT: Final = 20
BAR_GAP: Final = 6
TITLE_HEIGHT: Final = 64
HEAD_HEIGHT: Final = 40
MARGIN: Final = 24
LABEL_WIDTH: Final = 72
VALUE_WIDTH: Final = 76


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    note: str
    """The unit, and which direction is good."""
    bars: Sequence[tuple[str, float, str]]
    """(contestant, value, the value as text)"""


def bars(title: str, subtitle: str, panels: Sequence[Panel], columns: int = 3) -> str:
    names = list(dict.fromkeys(name for panel in panels for name, _, _ in panel.bars))
    colour = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(names)}
    tallest = max((len(panel.bars) for panel in panels), default=0)
    panel_height = HEAD_HEIGHT + tallest * (BAR_HEIGHT + BAR_GAP) + 20
    rows = -(-len(panels) // columns)
    width = 2 * MARGIN + min(columns, max(len(panels), 1)) * (PANEL_WIDTH + MARGIN) - MARGIN
    height = TITLE_HEIGHT + rows * panel_height + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fbfaf7"/>',
        f'<text x="{MARGIN}" y="32" font-size="18" font-weight="600">{escape(title)}</text>',
        f'<text x="{MARGIN}" y="52" fill="#666">{escape(subtitle)}</text>',
    ]
    for at, panel in enumerate(panels):
        x = MARGIN + at % columns * (PANEL_WIDTH + MARGIN)
        y = TITLE_HEIGHT + at // columns * panel_height
        parts += _panel(panel, x, y, colour)
    parts.append("</svg>\n")
    return "\n".join(parts)


def _panel(panel: Panel, x: int, y: int, colour: dict[str, str]) -> list[str]:
    parts = [
        f'<text x="{x}" y="{y + 16}" font-weight="600">{escape(panel.title)}</text>',
        f'<text x="{x}" y="{y + 31}" fill="#888" font-size="11">{escape(panel.note)}</text>',
    ]
    largest = max((value for _, value, _ in panel.bars), default=0.0) or 1.0
    room = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH
    for at, (name, value, text) in enumerate(panel.bars):
        top = y + HEAD_HEIGHT + at * (BAR_HEIGHT + BAR_GAP)
        length = max(1.0, room * value / largest)
        middle = top + BAR_HEIGHT * 0.7
        parts += [
            f'<text x="{x}" y="{middle:.0f}" fill="#333">{escape(name)}</text>',
            f'<rect x="{x + LABEL_WIDTH}" y="{top}" width="{length:.1f}" height="{BAR_HEIGHT}" '
            f'rx="2" fill="{colour[name]}"/>',
            f'<text x="{x + LABEL_WIDTH + length + 6:.1f}" y="{middle:.0f}" fill="#333">'
            f"{escape(text)}</text>",
        ]
    return parts
