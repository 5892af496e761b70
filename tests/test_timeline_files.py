"""Timelines for ELAN and as subtitles: the spans, the documents, and which file each clip gets."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree

import pympi
import pytest

from fervid.core.errors import OutputError, UsageError
from fervid.core.results import ErrorInfo, ModelRef, Person, Prediction, WindowResult
from fervid.render.elan import render_eaf
from fervid.render.person_spans import LabelSpan, label_spans
from fervid.render.timeline_files import file_format, make_clip_file_writer, plan_files, render_webvtt

# Of the elements that are written: attributes that are required and allowed, and children in their order (EAFv3.0.xsd).
EAF_ELEMENTS = {
    "ANNOTATION_DOCUMENT": (
        {"AUTHOR", "DATE", "VERSION"},
        {"FORMAT", "{http://www.w3.org/2001/XMLSchema-instance}noNamespaceSchemaLocation"},
        ["HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE"],
    ),
    "HEADER": (set(), {"MEDIA_FILE", "TIME_UNITS"}, ["MEDIA_DESCRIPTOR", "PROPERTY"]),
    "MEDIA_DESCRIPTOR": ({"MEDIA_URL", "MIME_TYPE"}, {"RELATIVE_MEDIA_URL"}, []),
    "PROPERTY": (set(), {"NAME"}, []),
    "TIME_ORDER": (set(), set(), ["TIME_SLOT"]),
    "TIME_SLOT": ({"TIME_SLOT_ID"}, {"TIME_VALUE"}, []),
    "TIER": ({"TIER_ID", "LINGUISTIC_TYPE_REF"}, {"PARTICIPANT", "ANNOTATOR"}, ["ANNOTATION"]),
    "ANNOTATION": (set(), set(), ["ALIGNABLE_ANNOTATION"]),
    "ALIGNABLE_ANNOTATION": ({"ANNOTATION_ID", "TIME_SLOT_REF1", "TIME_SLOT_REF2"}, set(), ["ANNOTATION_VALUE"]),
    "ANNOTATION_VALUE": (set(), set(), []),
    "LINGUISTIC_TYPE": ({"LINGUISTIC_TYPE_ID"}, {"TIME_ALIGNABLE"}, []),
}

GLAD, SAD = Prediction({"glad": 0.8, "sad": 0.2}), Prediction({"glad": 0.4, "sad": 0.6})


def window(start: float, end: float, *people: Prediction, path: str = "a.mp4", identity: str = "") -> WindowResult:
    """Make a window in which each person is visible all the time."""
    found = tuple(
        Person(number, end - start, prediction, identity=identity or None) for number, prediction in enumerate(people)
    )
    status, main = ("ok", people[0]) if people else ("no_face", None)
    models = {"classifier": ModelRef("emotion8", "0" * 64)}
    return WindowResult(path, status, main, found, end - start, models=models, start_s=start, end_s=end)


def test_neighbours_with_the_same_label_are_merged() -> None:
    surer = Prediction({"glad": 0.9, "sad": 0.1})
    windows = [window(0, 4, GLAD), window(1, 5, surer), window(2, 6, SAD), window(3, 7, GLAD)]
    glad, sad, again = label_spans(windows)[0]
    assert (glad.start_ms, glad.end_ms, glad.label, glad.confidence) == (0, 3500, "glad", pytest.approx(0.85))
    assert sad == LabelSpan(3500, 4500, "sad", 0.6)
    assert (again.start_ms, again.end_ms) == (4500, 7000)


def test_gap_separates_spans() -> None:
    spans = label_spans([window(0, 1, GLAD), window(1, 2), window(2, 3, GLAD)])[0]
    assert [(span.start_ms, span.end_ms) for span in spans] == [(0, 1000), (2000, 3000)]


def test_still_image_has_a_span() -> None:
    assert label_spans([window(0, 0, GLAD)]) == {0: [LabelSpan(0, 1, "glad", 0.8)]}


def test_eaf_is_read_by_pympi(tmp_path: Path) -> None:
    windows = [window(0, 1, GLAD, SAD), window(1, 2, SAD, SAD), window(2, 3), window(3, 4, GLAD)]
    (tmp_path / "a.eaf").write_bytes(render_eaf(windows))
    eaf = pympi.Eaf(str(tmp_path / "a.eaf"))
    assert list(eaf.get_tier_names()) == ["person 0", "person 1"]
    assert eaf.get_annotation_data_for_tier("person 0") == [
        (0, 1000, "glad"),
        (1000, 2000, "sad"),
        (3000, 4000, "glad"),
    ]
    assert eaf.get_annotation_data_for_tier("person 1") == [(0, 2000, "sad")]
    (media,) = eaf.get_linked_files()
    assert media["MEDIA_URL"] == "file:///" + Path("a.mp4").absolute().as_posix().lstrip("/")
    assert (media["RELATIVE_MEDIA_URL"], media["MIME_TYPE"]) == ("./a.mp4", "video/mp4")


@pytest.mark.parametrize("windows", [[window(0, 1)], [window(0, 1, GLAD, SAD, identity="anna"), window(1, 2, SAD)]])
def test_eaf_has_the_structure_of_its_schema(windows: list[WindowResult]) -> None:
    document = ElementTree.fromstring(render_eaf(windows))
    assert document.tag == "ANNOTATION_DOCUMENT"
    for element in document.iter():
        required, optional, children = EAF_ELEMENTS[element.tag]
        assert required <= set(element.keys()) <= required | optional
        tags = [child.tag for child in element]
        assert tags == sorted(tags, key=children.index)
    assert datetime.fromisoformat(document.attrib["DATE"]).tzinfo
    assert document.find("HEADER").get("TIME_UNITS") in ("milliseconds", "NTSC-frames", "PAL-frames")
    types = {kind.get("LINGUISTIC_TYPE_ID") for kind in document.iter("LINGUISTIC_TYPE")}
    assert {tier.get("LINGUISTIC_TYPE_REF") for tier in document.iter("TIER")} <= types
    for tag, name in (("TIER", "TIER_ID"), ("TIME_SLOT", "TIME_SLOT_ID"), ("ALIGNABLE_ANNOTATION", "ANNOTATION_ID")):
        ids = [element.get(name) for element in document.iter(tag)]
        assert len(set(ids)) == len(ids)
        assert tag == "TIER" or all(re.fullmatch(r"[A-Za-z_][\w.-]*", id) for id in ids)


def test_eaf_time_slots_are_ordered_and_used_once() -> None:
    document = ElementTree.fromstring(render_eaf([window(0, 1, GLAD, SAD), window(1, 2, SAD, SAD)]))
    slots = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE")) for slot in document.iter("TIME_SLOT")}
    assert list(slots.values()) == sorted(slots.values())
    used = [
        annotation.get(side)
        for annotation in document.iter("ALIGNABLE_ANNOTATION")
        for side in ("TIME_SLOT_REF1", "TIME_SLOT_REF2")
    ]
    assert sorted(used) == sorted(slots)


def test_eaf_names_person_and_classifier() -> None:
    document = ElementTree.fromstring(render_eaf([window(0, 1, GLAD, identity="anna\x00")]))
    (tier,) = document.iter("TIER")
    assert (tier.get("PARTICIPANT"), tier.get("ANNOTATOR")) == (r"anna\x00", "emotion8")


@pytest.mark.parametrize("name", ["a b&<.mp4", "new\nline.mp4", "caf\udce9.mkv", "映画"])
def test_eaf_of_any_file_name_is_xml(name: str) -> None:
    document = ElementTree.fromstring(render_eaf([window(0, 1, path=name)]))
    (media,) = document.iter("MEDIA_DESCRIPTOR")
    assert media.get("MIME_TYPE").startswith("video/")
    assert list(document.iter("TIER")) == []


def test_webvtt_has_a_cue_for_each_span() -> None:
    windows = [window(3723.25, 3724.25, GLAD), window(3724.25, 3725.25, SAD)]
    first, second = "01:02:03.250 --> 01:02:04.250\nglad 0.80", "01:02:04.250 --> 01:02:05.250\nsad 0.60"
    assert render_webvtt(windows).decode() == f"WEBVTT\n\n{first}\n\n{second}\n"
    assert render_webvtt([window(0, 1)]) == b"WEBVTT\n"


def test_webvtt_names_each_of_several_people() -> None:
    lines = render_webvtt([window(0, 1, GLAD, SAD), window(1, 2, GLAD, GLAD)]).decode().splitlines()
    assert lines[3::3] == ["person 0: glad 0.80", "person 1: sad 0.60", "person 1: glad 0.80"]


def test_webvtt_escapes_labels() -> None:
    odd = Prediction({"a --> <b>\n\n00:01": 1.0})
    assert render_webvtt([window(0, 1, odd)]).decode().splitlines()[3:] == [r"a --&gt; &lt;b&gt;\n\n00:01 1.00"]


@pytest.mark.parametrize(
    ("format", "output", "expected"),
    [
        ("eaf", None, "eaf"),
        (None, "a.VTT", "vtt"),
        ("vtt", "folder", "vtt"),
        ("csv", "a.eaf", None),
        (None, "a.csv", None),
        (None, None, None),
    ],
)
def test_file_format(format: str | None, output: str | None, expected: str | None) -> None:
    assert file_format(format, Path(output) if output else None) == expected


def test_files_keep_the_subfolders_of_the_clips(tmp_path: Path) -> None:
    clips = ["videos/sad/a.mp4", "videos/glad/a.mp4", "videos/glad/b.c.mkv"]
    files = plan_files(clips, "eaf", tmp_path, force=False)
    assert list(files) == clips
    assert [file.relative_to(tmp_path).as_posix() for file in files.values()] == [
        "sad/a.eaf",
        "glad/a.eaf",
        "glad/b.c.eaf",
    ]


@pytest.mark.parametrize("clips", [["a.mp4", "a.mkv"], ["a.mp4", "b.mp4"]])
def test_clips_that_share_a_file_are_refused(clips: list[str], tmp_path: Path) -> None:
    output = tmp_path if clips[1] == "a.mkv" else tmp_path / "all.vtt"
    with pytest.raises(UsageError, match=r"a\.mkv would both be written|holds one clip, and 2 were given"):
        plan_files(clips, "vtt", output, force=False)


def test_existing_files_are_replaced_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").touch()
    with pytest.raises(OutputError, match="--force"):
        make_clip_file_writer(["a.mp4"], "vtt", tmp_path, force=False)
    make_clip_file_writer(["a.mp4"], "vtt", tmp_path, force=True)([window(0, 1, GLAD)])
    assert "glad" in (tmp_path / "a.vtt").read_text()


def test_unreadable_clip_has_a_message_and_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write = make_clip_file_writer(["a.mp4", "b.mp4"], "vtt", tmp_path / "new", force=False)
    write([WindowResult("b.mp4", "error", error=ErrorInfo("not_found", "b.mp4 does not exist"))])
    assert "b.mp4 does not exist" in capsys.readouterr().err
    write([window(0, 1, GLAD)])
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.vtt"]
