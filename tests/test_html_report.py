"""HTML reports without a browser: their text and tables, and that all input is escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import clips
import fervid
import html_pages
import toy_models
from fervid.analysis.options import Options
from fervid.analysis.windows import WindowSpec
from fervid.batch.writers import make_writer
from fervid.cli import app
from fervid.core.errors import UsageError
from fervid.core.text import escape_control_chars
from fervid.learn import metrics
from fervid.learn.metrics import evaluate_regression
from fervid.learn.significance import paired_test
from fervid.media.sampling import Sampling
from fervid.render import charts
from fervid.render.html_report import render_html
from fervid.render.html_run import ROWS_PER_PAGE
from fervid.render.person_spans import person_spans
from fervid.render.result_reader import ClassificationRun, EvaluationRun, TimelineRun, load_results
from html_pages import EVIL, clip, lines, windows


class Page(HTMLParser):
    """What a browser would make of a page, as far as the tests ask."""

    def __init__(self, text: str) -> None:
        """Read it at once."""
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.styles: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append((self.tags[-1][1].get("type"), data))
        elif self._inside == "style":
            self.styles.append(data)
        else:
            self.words.append(data)

    @property
    def said(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(attribute))]

    @property
    def spoken(self) -> list[str]:
        """What the charts say they show."""
        return [tag["aria-label"] or "" for _, tag in self.tags if tag.get("role") == "img"]

    @property
    def rows(self) -> list[list[Any]]:
        ((_, data),) = [script for script in self.scripts if script[0] == "application/json"]
        return json.loads(data)["rows"]

    @property
    def review(self) -> dict[str, Any]:
        ((_, data),) = [script for script in self.scripts if script[0] == "application/json"]
        return json.loads(data)["review"]


def made(found: ClassificationRun | TimelineRun | EvaluationRun, name: str = "results.jsonl", **more: Any) -> Page:
    return Page(render_html(found, name, version="1.2.3", **more).decode())


def run(*records: Any) -> ClassificationRun:
    return ClassificationRun([record.as_dict() for record in records])


def timelines(**sure: list[float | None]) -> TimelineRun:
    return TimelineRun({path: [one.as_dict() for one in windows(path, values)] for path, values in sure.items()})


MANY = [
    clip("sure.mp4", sure=0.97),
    clip("unsure.mp4", sure=0.55),
    clip("empty.mp4", "no_face"),
    clip("late.mp4", "skipped"),
    clip("lost.mp4", "error"),
    clip("joyful.mp4", sure=0.1),
]


def test_run_shows_counts_and_errors() -> None:
    said = made(run(*MANY)).said
    assert "clips 6 ok 3 50 % no face 1 17 % error 1 17 % skipped 1 17 %" in said
    assert "not_found error 1 lost.mp4 does not exist" in said
    assert "Labels as a table label clips share calm 2 66.7 % joy 1 33.3 %" in said
    assert "55 % to 60 % 1" in said
    assert "most often 55 to 60 %: 1 clip; unfold Confidences as a table" in made(run(*MANY)).spoken[1]
    assert "95 % to 100 % 1" in said
    assert f"face model toy-face_model {'0' * 64}" in said
    assert "Made by fervid 1.2.3" in said


def test_failed_and_uncertain_clips_come_first() -> None:
    found = made(run(*MANY))
    names = ["lost.mp4", "late.mp4", "empty.mp4", "unsure.mp4", "joyful.mp4", "sure.mp4"]
    assert [row[0] for row in found.rows] == names
    positions = [found.said.index(f" {name} ", found.said.index("Every clip")) for name in names]
    assert positions == sorted(positions)
    assert found.rows[3] == ["unsure.mp4", "ok", "calm", 0.55, "joy 45 %", 1, 2.5, None]
    assert found.rows[0][7] == "not_found: lost.mp4 does not exist"


def test_run_without_predictions_has_no_charts() -> None:
    found = made(run(clip("a", "error")))
    assert [tag for tag, _ in found.tags].count("svg") == 0
    assert "Answers" not in found.said


def test_damaged_clip_is_listed_as_problem() -> None:
    record = {**clip("a").as_dict(), "error": {"code": "damaged", "message": "2 packets"}}
    assert "damaged ok 1 2 packets" in made(ClassificationRun([record])).said


def test_large_run_is_paged() -> None:
    found = made(run(*(clip(f"{i}.mp4") for i in range(300))))
    assert len(found.rows) == 300
    assert sum(tag == "tr" for tag, _ in found.tags) < ROWS_PER_PAGE + 50
    assert found.values("aria-rowcount") == ["301"]
    assert found.values("aria-rowindex") == [str(i) for i in range(1, ROWS_PER_PAGE + 2)]


def test_names_are_escaped() -> None:
    evil = {EVIL: 0.75, f"{EVIL}{EVIL}": 0.25}
    windowed = [{**one.as_dict(), "probabilities": evil, "label": EVIL} for one in windows(EVIL, [0.75])]
    windowed[0]["people"][0] |= {"probabilities": evil, "label": EVIL, "gender": EVIL}
    record = {**clip(EVIL).as_dict(), "probabilities": evil, "label": EVIL}
    record["error"] = {"code": EVIL, "message": EVIL}
    record["model"] = {EVIL: {"name": EVIL, "sha256": "0" * 64}}
    measured = {EVIL: html_pages.report((EVIL, "b")), "other": html_pages.report()}
    for found in (ClassificationRun([record]), TimelineRun({EVIL: windowed}), EvaluationRun(measured)):
        parsed, plain = made(found, EVIL), made(_harmless(found), "x")
        assert {tag for tag, _ in parsed.tags} == {tag for tag, _ in plain.tags}
        assert _frame(parsed) == _frame(plain)
        assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
        assert "alert(1)" in parsed.said
        assert "{{ 7 * 7 }}" in parsed.said
        assert "\u202e" not in parsed.text
        assert r"\udcff" in parsed.said
        assert len(parsed.scripts) == len(plain.scripts)


def _frame(parsed: Page) -> list[str]:
    """The elements of a page but for those of charts, whose axes turn with the length of labels."""
    return [name for name, _ in parsed.tags if name not in ("g", "path", "line", "text", "tspan")]


def _harmless(found: Any) -> Any:
    plain = json.loads(
        json.dumps([getattr(found, name) for name in found.__slots__]).replace(json.dumps(EVIL)[1:-1], "x")
    )
    return type(found)(*plain)


def test_content_security_policy() -> None:
    for found in (run(*MANY), timelines(a=[0.5]), EvaluationRun({"": html_pages.report()})):
        parsed = made(found)
        (policy,) = [tag["content"] for name, tag in parsed.tags if tag.get("http-equiv") == "Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
        script = [data for kind, data in parsed.scripts if kind is None]
        for content in (*parsed.styles, *script):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
        assert (len(parsed.styles), len(script)) == (1, 1)
        assert not parsed.values("style")
        assert not [value for name in ("src", "action") for value in parsed.values(name)]
        assert all(link.startswith("#") for link in parsed.values("href"))
        assert not re.findall(r"url\(|@import|innerHTML|eval\(", parsed.text)


def test_charts_have_labels_and_unique_ids() -> None:
    for found in (
        run(*MANY),
        timelines(a=[0.5, None, 0.25], b=[0.5]),
        EvaluationRun({"x": html_pages.report(), "y": html_pages.report()}),
    ):
        parsed = made(found)
        charts = [i for i, (name, _) in enumerate(parsed.tags) if name == "svg"]
        assert charts
        for i in charts:
            (heading, _), (_, around), (_, svg) = parsed.tags[i - 2 : i + 1]
            assert re.fullmatch("h[345]", heading)
            assert (around["role"], svg["aria-hidden"]) == ("img", "true")
        assert len(parsed.spoken) == len(charts)
        assert all(parsed.spoken)
        named = [table for said in parsed.spoken for table in re.findall("; unfold (.*)", said)]
        assert named
        assert all(f" {table} " in parsed.said for table in named)
        ids = parsed.values("id")
        assert len(ids) == len(set(ids))
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set(parsed.values(name)) <= set(ids)
        levels = [int(name[1]) for name, _ in parsed.tags if re.fullmatch("h[1-6]", name)]
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))


def test_timeline_has_chart_per_person() -> None:
    records = [one.as_dict() for one in windows("a.mp4", [0.75, None, 0.25])]
    second = {**records[2]["people"][0], "id": 3, "age": 31.0, "gender": "female", "ethnicity": "x"}
    records[2]["people"].append(second)
    parsed = made(TimelineRun({"a.mp4": records}))
    assert "seconds 4.0 windows 3 of them answered 2 people 2 calm 50 % of answers" in parsed.said
    assert "Person 0, seen in 2 of 3 windows" in parsed.said
    assert "Person 3, seen in 1 of 3 windows, estimated 31 years, female, x" in parsed.said
    assert "0 to 2 s: calm 75 %, joy 25 %" in parsed.values("aria-label")
    assert "1 to 3 s no face" in parsed.said
    assert parsed.said.count("person 0: joy, person 3: joy") == 1
    assert "Person 0 as a table from label calm joy 0 s calm 75.0 % 25.0 % 2 s joy 25.0 % 75.0 %" in parsed.said
    assert parsed.spoken[0] == (
        "Line chart: probability of each label over time for person 0. Of 2 windows calm in 1, joy in 1;"
        " unfold Person 0 as a table"
    )


def test_report_and_plot_order_people_equally() -> None:
    parts = windows("a.mp4", [0.75, 0.25, 0.75])
    other = replace(parts[0].people[0], id=1, seconds=2.5)
    parts = [replace(part, people=(replace(part.people[0], seconds=2.0), other)) for part in parts]
    said = made(TimelineRun({"a.mp4": [part.as_dict() for part in parts]})).said
    assert list(person_spans([part.as_dict() for part in parts])) == [1, 0]
    assert 0 < said.index("Person 1, seen in") < said.index("Person 0, seen in")


def test_csv_escapes_are_undone(tmp_path: Path) -> None:
    names = ["=1+1.mp4", "+a.mp4", "-b.mp4", "@c.mp4", "'=d.mp4", "'e.mp4", "\tf.mp4"]
    records = [clip(name, "error") for name in names]
    with (tmp_path / "results.csv").open("wb") as file:
        csv = make_writer("csv", file, ("calm", "joy"))
        for record in records:
            csv.write(record)
        csv.finish()
    assert b"'=1+1.mp4" in (tmp_path / "results.csv").read_bytes()
    found = load_results(tmp_path / "results.csv")
    assert isinstance(found, ClassificationRun)
    assert [record["path"] for record in found.records] == names
    assert [record["error"]["message"] for record in found.records] == [one.error.message for one in records]


def test_several_clips_have_linked_table() -> None:
    from fervid.core.results import WindowResult

    lost = WindowResult.from_clip_result(clip("b", "error")).as_dict()
    found = TimelineRun({**timelines(a=[0.75, 0.25, 0.75]).clips, "b": [lost]})
    parsed = made(found)
    assert "a 4.0 3 3 calm" in parsed.said
    assert "b 0.0 1 0 b does not exist" in parsed.said
    assert {"#clip-1", "#clip-2"} <= set(parsed.values("href"))
    assert {"clip-1", "clip-2"} <= set(parsed.values("id"))


def test_many_people_are_folded() -> None:
    record = windows("a", [0.75])[0].as_dict()
    record["people"] = [{**record["people"][0], "id": i} for i in range(6)]
    parsed = made(TimelineRun({"a": [record]}))
    assert "2 more, seen for a shorter time" in parsed.said
    assert all(f"Person {i}, seen in 1" in parsed.said for i in range(6))


def test_clip_without_windows_shows_error() -> None:
    from fervid.core.results import WindowResult

    records = [WindowResult.from_clip_result(clip("a", "error")).as_dict()]
    said = made(TimelineRun({"a": records})).said
    assert "a does not exist" in said
    assert "whole clip error" in said


def test_still_image_has_timeline() -> None:
    record = {**windows("a", [0.75])[0].as_dict(), "end_s": 0.0}
    assert "0 to 0 s: calm 75 %, joy 25 %" in made(TimelineRun({"a": [record]})).values("aria-label")


def test_labels_beyond_colors_are_dashed() -> None:
    record = windows("a", [0.75])[0].as_dict()
    shares = {f"label {i}": 0.1 for i in range(10)}
    record["people"][0] |= {"probabilities": shares, "label": "label 9"}
    text = made(TimelineRun({"a": [{**record, "probabilities": shares, "label": "label 9"}] * 2})).text
    assert 'stroke-dasharray="6,3"' in text
    assert {f"var(--series-{i})" for i in range(8)} <= set(re.findall(r"var\(--series-\d\)", text))


def test_evaluation_shows_confusion_and_calibration() -> None:
    ours = html_pages.report(("calm", "joy", "never"), [0, 0, 0, 1, 1], [0, 0, 1, 1, -1])
    parsed = made(EvaluationRun({"": ours}))
    assert "clips 5 with a face 4" in parsed.said
    assert "truth calm joy never (none) calm 2 1 0 0 joy 0 1 0 1 never 0 0 0 0" in parsed.said
    assert "calm 3 66.7 % (20.8 to 93.9) 100.0 % (34.2 to 100.0) 80.0 %" in parsed.said
    assert "never 0" in parsed.said
    assert "calm, answered joy: 1 clip of 3" in parsed.values("aria-label")
    assert "calm: 66.7 % (20.8 to 93.9)" in parsed.values("aria-label")
    assert not any(label.startswith("never: ") for label in parsed.values("aria-label"))
    assert "80 % sure, 75 % right: 4 clips" in parsed.values("aria-label")
    matrix, _, calibration = parsed.spoken
    assert "right answers: calm 2 of 3, joy 1 of 2, never 0 of 0; unfold" in matrix
    assert "80 % sure, 75 % right: 4 clips; unfold" in calibration


def test_evaluation_shows_comparisons() -> None:
    predictions = metrics.Predictions(("a", "b"), np.array([0, 1]), np.float32([[0.9, 0.1], [0.2, 0.8]]))
    report = {
        **html_pages.report(),
        "comparison": {"name": "theirs", **paired_test(predictions, predictions)},
        "early_exit": {"frame_fraction": 0.25, "accuracy": 0.5},
    }
    said = made(EvaluationRun({"": report})).said
    assert "Compared with theirs on the same clips: accuracy +0.0 points" in said
    assert "Few frames first: frame fraction 25.0 %, accuracy 50.0 %." in said


def test_methods_and_ratings_are_compared() -> None:
    parsed = made(EvaluationRun({"mean, rbf": html_pages.report(), "mean, mlp": html_pages.report(said=(1, 1, 1, 1))}))
    assert "Methods side by side" in parsed.said
    assert re.search(r"mean, rbf 75\.0 % \(.*mean, mlp 25\.0 %", parsed.said)
    assert re.search(r"each method, mean, rbf: 83\.3 % \(.*\), mean, mlp: 50\.0 %", parsed.spoken[0])
    names = [tag["id"] for (around, _), (name, tag) in pairwise(parsed.tags) if (around, name) == ("summary", "h2")]
    assert names == ["figures-1", "figures-2"]
    assert [name for name, _ in parsed.tags].count("h2") == len(["methods", *names, "about"])
    rated = evaluate_regression(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, np.nan]))
    said = made(EvaluationRun({"valence": rated})).said
    assert "valence clips 3 without an answer 1 concordance (CCC) 1.000 (1.000 to 1.000)" in said


def test_degenerate_charts_show_numbers() -> None:
    assert escape_control_chars("a\nb\x00\u202ec\udcff😀é") == "a\\nb\\x00\\u202ec\\udcff😀é"
    assert escape_control_chars(7) == "7"


CHARTS = {
    "bars": lambda label: charts.bars([{"label": label, "value": 3, "description": label}], "clips"),
    "none": lambda label: charts.bars([{"label": label, "value": 0, "description": label}], "clips"),
    "signed": lambda label: charts.bars([{"label": label, "value": -0.5, "description": label}], "x", shares=True),
    "timeline": lambda label: charts.timeline(
        [{"time": 1, "label": label, "value": 0.5}],
        [{"from": 0, "to": 2, "label": label, "description": label}],
        {label: "var(--series-0)"},
        (0, 2),
    ),
    "matrix": lambda label: charts.matrix(
        [{"row": label, "column": label, "share": 1, "count": 1, "description": label}], 1
    ),
}


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize(
    "label", ["calm", "", EVIL[:-5].replace("\udcff", ""), "a.b[c]'d\\e", "😀" * 60, "datum.value", "אבג", "long " * 30]
)
def test_chart_labels_are_escaped(name: str, label: str) -> None:
    (root,) = ElementTree.fromstring(charts.embed_chart(CHARTS[name](label), "a chart"))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "g", "path", "line", "text", "rect", "circle", "tspan"}
    assert not [key for element in root.iter() for key in element.attrib if key in ("id", "style", "href", "class" * 2)]
    assert label in {element.get("aria-label") for element in root.iter()} or not label


@pytest.mark.parametrize(("most", "ticks"), [(0, [0]), (1, [0, 1]), (6, [0, 1, 2, 3, 4, 5, 6]), (7, [0, 2, 4, 6])])
def test_counts_have_integer_ticks(most: int, ticks: list[int]) -> None:
    assert charts._counts([{"value": most}], "value")["values"] == ticks
    assert charts._counts([{"value": 10_000}], "value")["values"] == [0, 2000, 4000, 6000, 8000, 10000]


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory, family: dict[str, str]) -> Path:
    """What `fervid timeline` says of two clips, one of which is gone by now."""
    place = tmp_path_factory.mktemp("looked")
    path = clips.write(place / "clip.mp4", [toy_models.picture(toy_models.FIRST)] * 50, options={"crf": "4"})
    classifier = fervid.load_classifier(**family, options=Options(Sampling(5.0), min_face=toy_models.FACE), threads=1)
    records = [window.as_dict() for window in classifier.timeline(path, WindowSpec(1.0, 1.0))]
    gone = [{**record, "path": str(place / "gone.mp4")} for record in records]
    return lines(place / "windows.jsonl", [*records, *gone])


def report(*arguments: object) -> Result:
    return CliRunner().invoke(app.app, ["report", *map(str, arguments), "--progress", "none"])


def toy_flags(family: dict[str, str]) -> list[object]:
    return [*toy_models.flags(family), "--min-face", toy_models.FACE]


def test_report_writes_page(tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    result = report(lines(tmp_path / "results.jsonl", MANY), "-o", output)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert output.read_bytes() == render_html(run(*MANY), "results.jsonl", version=fervid.__version__)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results.jsonl"]


def test_report_prints_summary(tmp_path: Path) -> None:
    results, output = lines(tmp_path / "results.jsonl", MANY), tmp_path / "report.html"
    *_, told = CliRunner().invoke(app.app, ["report", str(results), "-o", str(output)]).stderr.splitlines(True)
    assert re.fullmatch(
        rf"fervid: {len(MANY)} clips in [\d.]+ s: \d+ ok.*; the report is in {re.escape(str(output))}\n", told
    )


def test_existing_page_needs_force(tmp_path: Path) -> None:
    results, output = lines(tmp_path / "results.jsonl", MANY), tmp_path / "report.html"
    output.write_text("mine")
    refused = report(results, "-o", output)
    assert (refused.exit_code, output.read_text()) == (2, "mine")
    assert "--force replaces it" in refused.stderr
    assert report(results, "-o", output, "--force").exit_code == 0
    assert output.read_bytes().startswith(b"<!DOCTYPE html>")


def test_results_are_not_overwritten(tmp_path: Path) -> None:
    results = lines(tmp_path / "results.jsonl", MANY)
    refused = report(results, "-o", tmp_path / "." / "results.jsonl", "--force")
    assert refused.exit_code == 2
    assert "would overwrite the results" in refused.stderr
    assert load_results(results)


def test_invalid_results_write_no_page(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"torn')
    refused = report(tmp_path / "x.jsonl", "-o", tmp_path / "report.html")
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert "line 1 is truncated" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_timeline_is_explained(looked: Path, family: dict[str, str], tmp_path: Path) -> None:
    assert report(looked, "-o", tmp_path / "r.html", *toy_flags(family)).exit_code == 0
    parsed = Page((tmp_path / "r.html").read_text())
    assert re.search(r"From a baseline of 33\.3 % to 9\d\.\d % for first", parsed.said)
    assert re.search(r"embedding, mean \+59\.\d points", parsed.said)
    assert "gone.mp4 does not exist" in parsed.said
    assert "img" not in {name for name, _ in parsed.tags}
    assert str(looked.parent / "clip.mp4") in parsed.said


def test_thumbnails_are_optional(looked: Path, family: dict[str, str], tmp_path: Path) -> None:
    assert report(looked, "-o", tmp_path / "r.html", "--thumbnails", *toy_flags(family)).exit_code == 0
    parsed = Page((tmp_path / "r.html").read_text())
    ((_, image),) = [tag for tag in parsed.tags if tag[0] == "img"]
    assert image["src"].startswith("data:image/jpeg;base64,")
    assert re.fullmatch(r"Frame at [01]\.\d s, labelled first", image["alt"])


def test_missing_models_are_reported(looked: Path, tmp_path: Path) -> None:
    assert report(looked, "-o", tmp_path / "r.html").exit_code == 0
    said = Page((tmp_path / "r.html").read_text()).said
    assert "toy-detector is not an installed model; pass its file with --detector" in said
    assert "Over time" in said


def test_report_without_explanation_reads_no_clip(
    looked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fervid.analysis.highlights.find_highlights", None)
    assert report(looked, "-o", tmp_path / "r.html", "--no-explain").exit_code == 0
    assert "Most confident window of each label" not in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--from-file", "nowhere.txt"], "nowhere.txt: cannot be read"),
        (["--thumbnails", "--no-explain"], "drop one"),
        (["--fps", "0"], "above 0"),
    ],
)
def test_contradicting_flags_are_refused(flags: list[str], said: str, tmp_path: Path) -> None:
    refused = report(lines(tmp_path / "results.jsonl", MANY), "-o", tmp_path / "report.html", *flags)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert not (tmp_path / "report.html").exists()


def test_review_lists_classified_clips_least_certain_first() -> None:
    parsed = made(run(*MANY), folder=Path("/data"))
    assert [one["path"] for one in parsed.review["clips"]] == ["/data/unsure.mp4", "/data/joyful.mp4", "/data/sure.mp4"]
    assert parsed.review["labels"] == ["calm", "joy"]
    first = parsed.review["clips"][0]
    assert first["url"] == "file:///data/unsure.mp4"
    assert (first["name"], first["label"], first["thumbnails"]) == ("unsure.mp4", "calm", [])
    assert "cannot be listed" not in parsed.said


def test_review_leaves_out_what_a_list_cannot_name() -> None:
    names = ["https://example.org/a.mp4", EVIL, "line\nbreak.mp4", "blank.mp4 ", "50 %#é.mp4"]
    parsed = made(run(*map(clip, names)), folder=Path("/data"))
    assert [one["url"] for one in parsed.review["clips"]] == ["file:///data/50%20%25%23%C3%A9.mp4"]
    assert "4 clips cannot be listed there" in parsed.said


def test_review_follows_a_list() -> None:
    order = ["sure.mp4", "unsure.mp4", "sure.mp4"]
    assert [one["name"] for one in made(run(*MANY), review=order).review["clips"]] == ["sure.mp4", "unsure.mp4"]
    with pytest.raises(UsageError, match=r"no label for empty\.mp4"):
        made(run(*MANY), review=["empty.mp4"])


def test_labels_are_stored_by_clips_and_predictions() -> None:
    key = made(run(*MANY)).review["key"]
    assert made(run(*reversed(MANY))).review["key"] == key
    assert made(run(*MANY[:-1])).review["key"] != key


def test_review_shows_the_frames_that_led_to_a_label(
    looked: Path, family: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(looked.parent)
    options = Options(Sampling(5.0), min_face=toy_models.FACE)
    record = fervid.load_classifier(**family, options=options, threads=1).classify("clip.mp4")
    results, order = lines(tmp_path / "results.jsonl", [record, clip("gone.mp4")]), tmp_path / "first.txt"
    order.write_text("# not sure\nclip.mp4\n")
    page = tmp_path / "r.html"
    done = report(results, "-o", page, "--thumbnails", "--from-file", order, *toy_flags(family))
    assert done.exit_code == 0
    (shown,) = Page(page.read_text()).review["clips"]
    assert shown["path"] == str(looked.parent / "clip.mp4")
    assert len(shown["thumbnails"]) == 5
    assert all(frame["url"].startswith("data:image/jpeg;base64,") for frame in shown["thumbnails"])
    assert shown["note"] == ""


def test_run_in_another_folder_is_noted(tmp_path: Path) -> None:
    results = lines(tmp_path / "results.jsonl", MANY)
    done = CliRunner().invoke(app.app, ["report", str(results), "-o", str(tmp_path / "r.html")])
    assert "no clip of" in done.stderr
    assert "make the report in the folder of that run" in done.stderr


@pytest.mark.parametrize("flag", ["--thumbnails", "--from-file"])
def test_evaluation_has_no_clips_to_show(flag: str, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps(html_pages.report()))
    (tmp_path / "first.txt").write_text("a.mp4\n")
    arguments = [flag, tmp_path / "first.txt"] if flag == "--from-file" else [flag]
    refused = report(tmp_path / "e.json", "-o", tmp_path / "r.html", *arguments)
    assert refused.exit_code == 2
    assert f"{flag} needs the results of `fervid classify`" in refused.stderr


@pytest.mark.parametrize("package", ["jinja2", "vl_convert", "fastjsonschema"])
def test_missing_packages_are_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fervid.render import result_schema

    result_schema.validator.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    refused = report(lines(tmp_path / "results.jsonl", MANY), "-o", tmp_path / "report.html")
    assert refused.exit_code == 2
    assert 'pip install "fervid[report]"' in refused.stderr
    result_schema.validator.cache_clear()
