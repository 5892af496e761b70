"""Pages of results in a headless Chromium: no errors, no network; sorting, hover, themes, keyboard, paper."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import html_pages
from fervid.analysis.explain import Explanation
from fervid.analysis.highlights import ClipHighlights, Highlight
from fervid.analysis.thumbnails import Thumbnail
from fervid.learn import metrics
from fervid.render.html_report import render_html
from fervid.render.result_reader import ClassificationRun, EvaluationRun, TimelineRun
from html_pages import EVIL, clip, windows

pytestmark = pytest.mark.browser

COUNT = 10_000
LABELS = ("anger", "calm")
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
"""Enough for the eyes."""


def run(count: int) -> ClassificationRun:
    """Clips of every status; the clip with number i is `clip i`, and the surer the higher i is."""
    states = ("ok", "ok", "ok", "no_face", "error")
    records = [clip(f"folder/clip {i}.mp4", states[i % 5], 0.5 + i / count / 2, LABELS) for i in range(count - 1)]
    return ClassificationRun([one.as_dict() for one in (*records, clip(EVIL, sure=0.5, labels=LABELS))])


def timelines() -> TimelineRun:
    sure = [0.9, 0.7, None, 0.2, 0.4]
    return TimelineRun({path: [one.as_dict() for one in windows(path, sure)] for path in ("a.mp4", EVIL)})


def moments() -> dict[str, ClipHighlights]:
    told = Explanation("calm", 0.9, 0.5, {"embedding, mean": 0.6, "embedding, highest": -0.2})
    record = windows("a.mp4", [0.9])[0].as_dict()
    return {
        "a.mp4": ClipHighlights([Highlight(record, told, [Thumbnail(0.4, PIXEL)], "It has changed.")]),
        EVIL: ClipHighlights(note=EVIL),
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of a page of each kind."""
    place = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "N_BOOTSTRAP", 20)
        one, other = html_pages.report(said=(0, 0, 1, -1)), html_pages.report(("a", EVIL), said=(1, 1, 1, 1))
    made = {
        "run": render_html(run(COUNT), "results.jsonl"),
        "timelines": render_html(timelines(), "windows.jsonl", moments()),
        "evaluation": render_html(EvaluationRun({"": one}), "evaluation.json"),
        "methods": render_html(EvaluationRun({"mean, rbf": one, EVIL: other}), "methods.json"),
    }
    for name, content in made.items():
        (place / f"{name}.html").write_bytes(content)
    return {name: (place / f"{name}.html").as_uri() for name in made}


@pytest.fixture
def opened(browser: Any, written: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Opens a page, and fails in the end if one complained or asked for anything."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(name: str, **settings: Any) -> Any:
        contexts.append(browser.new_context(**settings))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("dialog", lambda dialog: complaints.append(dialog.message))
        tab.on("request", lambda asked: complaints.append(asked.url) if asked.url != written[name] else None)
        tab.goto(written[name])
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert [one for one in complaints if not one.startswith("data:")] == []


ALL = ("run", "timelines", "evaluation", "methods")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("width", [1280, 360])
def test_page_fits_window_without_errors(name: str, width: int, opened: Any) -> None:
    tab = opened(name, viewport={"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("[...document.querySelectorAll('svg')].every(svg => svg.getBBox().width > 50)")
    assert tab.locator("svg").count() >= 2


def names(tab: Any) -> list[str]:
    return tab.locator("#clips tbody th").all_text_contents()


def test_large_table_is_searched_while_typing(opened: Any) -> None:
    started = time.perf_counter()
    tab = opened("run")
    assert tab.locator("#where").text_content() == "Rows 1 to 50 of 10,000"
    assert time.perf_counter() - started < 5
    assert len(names(tab)) == 50
    started = time.perf_counter()
    tab.locator("#search").press_sequentially("CLIP 1235 ok")
    assert tab.locator("#where").text_content() == "Rows 1 to 1 of 1 found among 10,000"
    tab.locator("thead button", has_text="clip").click()
    tab.locator("#search").fill("")
    assert time.perf_counter() - started < 5
    spent = tab.evaluate(
        "() => { const from = performance.now(); document.querySelector('thead button').click();"
        " return performance.now() - from; }"
    )
    assert spent < 1000


def test_rows_are_sorted_as_heads_say_and_back(opened: Any) -> None:
    tab = opened("run")
    first = names(tab)
    assert first[:2] == ["folder/clip 4.mp4", "folder/clip 9.mp4"]
    heads = tab.locator("#clips thead th")
    confidence = heads.filter(has_text="confidence")
    assert confidence.get_attribute("aria-sort") is None
    confidence.locator("button").click()
    assert (confidence.get_attribute("aria-sort"), names(tab)[0]) == ("ascending", "folder/clip 0.mp4")
    confidence.locator("button").click()
    assert (confidence.get_attribute("aria-sort"), names(tab)[0]) == ("descending", "folder/clip 9997.mp4")
    heads.filter(has_text="clip").locator("button").click()
    assert confidence.get_attribute("aria-sort") is None
    assert names(tab)[1:4] == ["folder/clip 0.mp4", "folder/clip 1.mp4", "folder/clip 2.mp4"]  # by number, not by digit
    tab.locator("#original").click()
    assert names(tab) == first


def test_changes_are_announced_after_typing(opened: Any) -> None:
    tab = opened("run")
    said, order = tab.locator("#said"), tab.locator("#order")
    first = order.text_content()
    tab.clock.install(time=0)
    tab.clock.pause_at(1000)
    search = tab.locator("#search")
    for part in ("CLIP", " 1235", " ok"):
        search.press_sequentially(part)
        tab.clock.run_for(600)
        assert said.text_content() == ""
    tab.clock.run_for(100)
    assert said.text_content() == "Rows 1 to 1 of 1 found among 10,000"
    tab.get_by_role("button", name="confidence", exact=True).click()
    tab.clock.run_for(700)
    assert said.text_content() == "Sorted by confidence, ascending. Rows 1 to 1 of 1 found among 10,000"
    assert order.text_content() == "Sorted by confidence, ascending."
    search.fill("")
    tab.locator("#original").click()
    tab.clock.run_for(700)
    assert said.text_content() == "Original order. Rows 1 to 50 of 10,000"
    assert order.text_content() == first


def test_rows_are_filtered_by_status_and_by_all_words(opened: Any) -> None:
    tab = opened("run")
    tab.locator("#status").select_option("error")
    assert tab.locator("#where").text_content() == "Rows 1 to 50 of 1,999 found among 10,000"
    tab.locator("#search").fill("not_found 99")
    assert all("99" in name for name in names(tab))
    tab.locator("#search").fill("nothing like that")
    assert tab.locator("#where").text_content() == "Nothing found among 10,000 clips"
    assert tab.locator("#next").is_disabled()
    tab.locator("#status").select_option("")
    tab.locator("#search").fill("onerror=alert(1)")
    (name,) = names(tab)
    assert "<img src=x onerror=alert(1)>" in name
    assert r"\udcff" in name


def test_pages_are_turned_by_keyboard(opened: Any) -> None:
    tab = opened("run")
    assert tab.locator("#previous").is_disabled()
    tab.locator("#next").focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#where").text_content() == "Rows 51 to 100 of 10,000"
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Space")
    assert tab.locator("#where").text_content() == "Rows 1 to 50 of 10,000"


def test_focus_is_kept_at_first_and_last_page(opened: Any) -> None:
    tab = opened("run")
    tab.clock.install(time=0)
    tab.clock.pause_at(1000)
    tab.locator("#search").fill("not_found 99")
    table, turn = tab.locator("#clips"), tab.locator("#next")
    turn.focus()
    for _ in range(3):
        tab.keyboard.press("Enter")
    assert turn.is_disabled()
    assert turn.evaluate("button => button === document.activeElement")
    tab.clock.run_for(700)
    assert tab.locator("#said").text_content() == "Rows 101 to 127 of 127 found among 10,000"
    assert table.get_attribute("aria-rowcount") == "128"
    assert table.locator("tbody tr").first.get_attribute("aria-rowindex") == "102"


def test_keyboard_reaches_everything(opened: Any) -> None:
    tab = opened("run")
    reached = []
    for _ in range(40):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate(
                "() => { const at = document.activeElement, style = getComputedStyle(at);"
                " return [at.id || at.className || at.name || at.textContent.trim(), style.outlineStyle, at.tagName]; }"
            )
        )
        if reached[-1][0] == "next":
            break
    seen = [name for name, _, _ in reached]
    assert seen[:2] == ["skip", "theme"]
    assert {"search", "status", "original", "confidence", "next"} <= set(seen)
    assert all(outline != "none" for _, outline, _ in reached)


@pytest.mark.parametrize("name", ALL)
def test_only_scrolling_regions_are_tab_stops(name: str, opened: Any) -> None:
    tab = opened(name)
    for width in (1280, 360):
        tab.set_viewport_size({"width": width, "height": 800})
        for unfolded in (False, True):
            tab.evaluate(
                "open => document.querySelectorAll('details').forEach(part => { part.open = open; })", unfolded
            )
            tab.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
            stops = tab.evaluate(
                "() => [...document.querySelectorAll('.scroll')].filter(part => part.checkVisibility()).map("
                "part => [part.hasAttribute('tabindex'), part.scrollWidth > part.clientWidth])"
            )
            assert all(stop == scrolls for stop, scrolls in stops)
            assert any(stop for stop, _ in stops) or width > 360


@pytest.mark.parametrize(
    ("name", "mark", "said"),
    [
        ("run", "[aria-label^='50 to 55 %']", "50 to 55 %: 601 clips"),
        ("timelines", "[aria-label^='0 to 2 s']", "0 to 2 s: calm 90 %, joy 10 %"),
        ("evaluation", "[aria-label^='calm, answered joy']", "calm, answered joy: 1 clip of 3"),
    ],
)
def test_marks_have_tooltips(name: str, mark: str, said: str, opened: Any) -> None:
    tab = opened(name)
    tip = tab.locator("#tip")
    assert not tip.is_visible()
    tab.locator(f"svg {mark}").first.hover(force=True)
    assert tip.is_visible()
    assert tip.text_content() == said
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= tab.viewport_size["width"]
    tab.keyboard.press("Escape")
    assert not tip.is_visible()
    tab.mouse.move(1, 1)
    tab.locator("h1").hover()
    assert not tip.is_visible()


CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const channel = (value) => value <= 0.04045 * 255 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const contrast = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!text || !element.checkVisibility() || element.disabled || element.closest(".skip, script")) continue;
    const style = getComputedStyle(element), svg = element.namespaceURI.endsWith("svg");
    const ratio = contrast(parse(svg ? style.fill : style.color), behind(svg ? element.closest("div") : element));
    if (ratio < 4.5) poor.push([element.textContent.trim().slice(0, 30), ratio]);
  }
  const probe = document.body.appendChild(document.createElement("i"));
  const named = (name) => {
    probe.style.setProperty("color", `var(--${name})`);
    return parse(getComputedStyle(probe).color);
  };
  const card = named("card"), ink = named("ink"), deep = named("deep").map((value, i) => 0.6 * value + 0.4 * card[i]);
  if (contrast(ink, deep) < 4.5) poor.push(["deepest cell", contrast(ink, deep)]);
  for (const name of ["accent", "faint", ...Array.from({ length: 8 }, (_, i) => `series-${i}`)])
    if (contrast(named(name), card) < 3) poor.push([name, contrast(named(name), card)]);
  probe.remove();
  return [poor, getComputedStyle(document.body).backgroundColor];
}"""


@pytest.mark.parametrize("name", ALL)
def test_both_themes_have_contrast(name: str, opened: Any) -> None:
    backgrounds = {}
    for theme in ("light", "dark"):
        tab = opened(name, color_scheme=theme)
        for details in tab.locator("details").all():
            details.evaluate("part => part.open = true")
        poor, backgrounds[theme] = tab.evaluate(CONTRASTS)
        assert poor == []
    assert backgrounds["light"] != backgrounds["dark"]


def test_theme_follows_system_until_chosen(opened: Any, written: dict[str, str]) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (opened("run", color_scheme=theme).evaluate(background) for theme in ("light", "dark"))
    tab = opened("run", color_scheme="light")
    tab.get_by_label("dark").check()
    assert tab.evaluate(background) == dark
    tab.reload()
    assert tab.get_by_label("dark").is_checked()
    assert tab.evaluate(background) == dark
    tab.get_by_label("system").check()
    assert tab.evaluate(background) == light


def test_on_paper_it_is_light_without_controls_and_unfolded(opened: Any) -> None:
    tab = opened("timelines", color_scheme="dark")
    tab.emulate_media(media="print", color_scheme="dark")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("#theme").is_visible()
    assert tab.locator("details:not(.alternative)").first.get_attribute("open") == ""
    assert not tab.locator("details.alternative").first.is_visible()
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.locator("details[open]").count() == 0
    assert tab.pdf().startswith(b"%PDF")


def test_page_without_javascript(browser: Any, written: dict[str, str]) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(written["run"])
    assert "only the first 50 of 10000 clips are shown" in tab.locator("noscript").inner_text()
    assert len(names(tab)) == 50
    assert not tab.locator("#tools").is_visible()
    assert not tab.locator("#theme").is_visible()
    assert tab.locator(".scroll:not([tabindex])").count() == 0
    context.close()


def test_injected_script_does_not_run(browser: Any, written: dict[str, str], tmp_path: Path) -> None:
    """What the policy is for, should an escape ever fail."""
    text = render_html(run(10), "results.jsonl").decode()
    path = tmp_path / "page.html"
    path.write_text(
        text.replace("</main>", "<img src=x onerror='document.title=1'><script>document.title=2</script></main>")
    )
    tab = browser.new_page()
    tab.goto(path.as_uri())
    assert tab.title() == "results.jsonl · fervid report"
    tab.close()
