from __future__ import annotations

import xml.etree.ElementTree as ET

from kv.cli import chart

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_in_proportion_within_their_panel_and_names_are_escaped() -> None:
    drawn = chart.bars(
        "Engines <&>",
        "a run",
        [chart.Panel("fill", "more is better", [("lmdb", 50.0, "50"), ("rocks", 100.0, "100")])],
    )
    root = ET.fromstring(drawn)
    background, first, second = root.findall(f"{SVG}rect")
    assert float(second.attrib["width"]) == 2 * float(first.attrib["width"])
    assert first.attrib["fill"] != second.attrib["fill"]
    texts = [text.text for text in root.findall(f"{SVG}text")]
    assert "Engines <&>" in texts
    assert {"lmdb", "rocks", "50", "100"} <= set(texts)
    right = float(second.attrib["x"]) + float(second.attrib["width"])
    assert right < float(background.attrib["width"])


def test_nothing_measured_is_an_empty_picture_not_an_error() -> None:
    ET.fromstring(chart.bars("none", "", []))
    ET.fromstring(chart.bars("zeros", "", [chart.Panel("fill", "", [("lmdb", 0.0, "0")])]))
