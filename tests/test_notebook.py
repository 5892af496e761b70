"""HTML cards: well-formed, escaped, without scripts and colours."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from fervid.core.results import ClipResult, ErrorInfo, Person, Prediction, WindowResult
from record_fixtures import MODELS

CALM = Prediction({"angry": 0.25, "calm": 0.75})
ONE = Person(0, 1.5, CALM)
GUESSED = Person(1, 0.5, CALM, 33.4, "male", "white")
ODD = '<script>alert("x")</script> & \udcff.mp4'


def clip(**more: object) -> ClipResult:
    return ClipResult(**{"path": "a.mp4", "status": "ok", "prediction": CALM, "models": MODELS, **more})


def shown(record: object) -> ElementTree.Element:
    """The card, which is a tree; entities that HTML alone knows would not be."""
    return ElementTree.fromstring(record._repr_html_())


def words(record: object) -> str:
    return " ".join(" ".join(shown(record).itertext()).split())


RECORDS = [
    *(CALM, ONE, GUESSED, clip(), clip(people=(ONE, GUESSED), duration_s=2.0, frames_sampled=10, frames_with_face=8)),
    *(WindowResult.from_clip_result(clip(), 0.0, 4.0), WindowResult.from_clip_result(clip())),
    *(
        clip(status="no_face", prediction=None),
        clip(status="error", prediction=None, error=ErrorInfo("empty_file", ODD)),
    ),
]


@pytest.mark.parametrize("record", RECORDS)
def test_card_is_well_formed_without_scripts_and_colours(record: object) -> None:
    tree = shown(record)
    assert tree.tag == "section"
    assert tree.attrib["aria-label"]
    assert not {element.tag for element in tree.iter()} & {"script", "style", "link", "img", "iframe"}
    styles = " ".join(element.get("style", "") for element in tree.iter())
    assert not re.search(r"#[0-9a-f]{3}|rgb|white|black|url", styles)
    assert "http" not in record._repr_html_()


def test_clip_card() -> None:
    text = words(RECORDS[4])
    assert text.startswith("a.mp4 calm, 75 % Probabilities calm 75 % angry 25 % People person visible for label age")
    assert "0 1.5 s calm, 75 % 1 0.5 s calm, 75 % 33 years male white" in text
    assert text.endswith("2.0 s, 8 of 10 frames with a face")


def test_empty_columns_are_dropped() -> None:
    assert "People person visible for label 0 1.5 s" in words(clip(people=(ONE,)))


def test_window_card_shows_times() -> None:
    assert "a.mp4 from 0.0 s to 4.0 s calm" in words(RECORDS[5])
    assert "from" not in words(RECORDS[6])


def test_person_and_prediction_cards() -> None:
    assert words(GUESSED).startswith("person 1, visible for 0.5 s calm, 75 % 33 years, male, white Probabilities calm")
    assert words(CALM) == "calm, 75 % Probabilities calm 75 % angry 25 %"


def test_file_name_is_escaped() -> None:
    html = clip(path=ODD, status="error", prediction=None, error=ErrorInfo("not_a_video", ODD))._repr_html_()
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; \\udcff.mp4") == 3
    html.encode()


def test_bars_are_hidden_from_screen_readers() -> None:
    [*cells] = shown(CALM).iter("td")
    assert [cell.get("aria-hidden") for cell in cells] == [None, "true"] * 2
    assert [cell.find("div").get("style").partition(";")[0] for cell in cells[1::2]] == ["width:75.0%", "width:25.0%"]
    assert all(row.find("th").get("scope") == "row" for row in shown(CALM).iter("tr"))
