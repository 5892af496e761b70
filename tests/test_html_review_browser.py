"""The review of a run in a headless Chromium: label clips, keep the labels, download them and train on them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import docs_stage
from fervid.cli import app
from fervid.render.html_report import render_html
from fervid.render.result_reader import ClassificationRun
from html_pages import clip

pytestmark = pytest.mark.browser

NAMES = [f'folder, of "{i}".mp4' for i in range(12)]


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[[Path], Any]]:
    """Open a page in a new profile, and fail at the end if it complained or asked for anything else."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(path: Path) -> Any:
        contexts.append(browser.new_context(accept_downloads=True))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda asked: complaints.append(asked.url) if asked.url != path.as_uri() else None)
        tab.goto(path.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [one for one in complaints if not one.startswith(("data:", "blob:"))] == []


@pytest.fixture
def page(tmp_path: Path) -> Path:
    records = [clip(name, sure=0.6 + i / 100).as_dict() for i, name in enumerate(NAMES)]
    path = tmp_path / "review.html"
    path.write_bytes(render_html(ClassificationRun(records), "results.jsonl", folder=tmp_path))
    return path


def download(tab: Any, path: Path) -> list[dict[str, str]]:
    with tab.expect_download() as expected:
        tab.get_by_role("button", name="Download labels.csv").click()
    assert expected.value.suggested_filename == "labels.csv"
    expected.value.save_as(path)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def card(tab: Any, name: str) -> Any:
    return tab.locator("#cards > li").filter(has_text=name)


def test_labels_are_kept_and_downloaded(page: Path, tmp_path: Path, opened: Callable[[Path], Any]) -> None:
    tab = opened(page)
    assert tab.locator("#labelled").text_content() == "0 of 12 labelled: 0 confirmed, 0 corrected."
    card(tab, NAMES[0]).get_by_role("button", name="Confirm calm").click()
    card(tab, NAMES[1]).get_by_role("radio", name="joy").check()
    card(tab, NAMES[2]).get_by_role("radio", name="joy").check()
    card(tab, NAMES[2]).get_by_role("radio", name="not labelled").check()
    tab.reload()
    assert tab.locator("#labelled").text_content() == "2 of 12 labelled: 1 confirmed, 1 corrected."
    assert card(tab, NAMES[0]).get_by_role("radio", name="calm").is_checked()
    assert not tab.locator("#unkept").is_visible()
    assert download(tab, tmp_path / "labels.csv") == [
        {"path": str(tmp_path / NAMES[0]), "label": "calm"},
        {"path": str(tmp_path / NAMES[1]), "label": "joy"},
    ]


def test_cards_are_filtered_and_paged(page: Path, opened: Callable[[Path], Any]) -> None:
    tab = opened(page)
    where = tab.locator("#cards-where")
    assert where.text_content() == "Clips 1 to 10 of 12"
    tab.locator("#cards-next").click()
    assert where.text_content() == "Clips 11 to 12 of 12"
    card(tab, NAMES[11]).get_by_role("radio", name="joy").check()
    for shown, count in (("corrected", "1 of 1"), ("labelled", "1 of 1"), ("open", "10 of 11"), ("all", "10 of 12")):
        tab.locator("#review-show").select_option(shown)
        assert where.text_content() == f"Clips 1 to {count}"
    tab.on("dialog", lambda dialog: dialog.accept())
    tab.locator("#discard").click()
    tab.reload()
    tab.locator("#review-show").select_option("labelled")
    assert where.text_content() == "No such clip"
    assert tab.locator("#download").is_disabled()


def test_clip_is_labelled_by_keyboard(page: Path, opened: Callable[[Path], Any]) -> None:
    tab = opened(page)
    first = card(tab, NAMES[0])
    first.get_by_role("link").focus()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert first.get_by_role("radio", name="calm").is_checked()
    tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowRight")
    assert first.get_by_role("radio", name="joy").is_checked()
    assert tab.locator("#labelled").text_content() == "1 of 12 labelled: 0 confirmed, 1 corrected."
    group = first.get_by_role("group", name="Label")
    assert (
        group.evaluate("group => document.getElementById(group.getAttribute('aria-describedby')).textContent")
        == NAMES[0]
    )


def test_without_storage_the_page_says_so(page: Path, opened: Callable[[Path], Any]) -> None:
    tab = opened(page)
    tab.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('full'); }; }")
    card(tab, NAMES[0]).get_by_role("button", name="Confirm calm").click()
    assert "download them before you close" in tab.locator("#unkept").inner_text()


@pytest.mark.usefixtures("quick")
def test_downloaded_labels_can_be_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Callable[[Path], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FERVID_CACHE", str(tmp_path / "cache"))
    for person in range(4):
        for number, label in enumerate(("happiness", "sadness")):
            docs_stage.clip(tmp_path / "clips" / f"{label} {person}.mp4", person, number)

    def fervid(*words: str) -> None:
        done = CliRunner().invoke(app.app, [*words, "--progress", "none"])
        assert done.exit_code == 0, done.stderr

    fervid("classify", "clips", "-o", "results.jsonl")
    fervid("report", "results.jsonl", "-o", "review.html", "--thumbnails")
    tab = opened(tmp_path / "review.html")
    for person in range(4):
        for label in ("happiness", "sadness"):
            card(tab, f"{label} {person}.mp4").get_by_role("radio", name=label).check()
    strip = card(tab, "sadness 0.mp4").locator(".strip a")
    assert strip.count() > 1
    assert all("clips/sadness%200.mp4#t=" in one.get_attribute("href") for one in strip.all())
    assert strip.first.locator("img").evaluate("image => image.naturalWidth") == 240
    (tmp_path / "elsewhere").mkdir()
    rows = download(tab, tmp_path / "elsewhere" / "labels.csv")
    assert sorted(row["label"] for row in rows) == ["happiness"] * 4 + ["sadness"] * 4
    settings = ("--classifier-kind", "linear", "--statistics", "mean+std", "--folds", "3")
    fervid("train", "elsewhere/labels.csv", "-o", "mine.onnx", *settings)
    fervid("evaluate", "elsewhere/labels.csv", "--classifier", "mine.onnx")
