"""`fervid annotate` and `fervid timeline --plot` from the command line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import pytest
from typer.testing import CliRunner, Result

import clips
import fervid
import toy_models
from fervid.analysis.windows import WindowSpec
from fervid.batch import runner
from fervid.batch.runner import RunConfig
from fervid.cli import app
from fervid.core.errors import WorkerCrashed
from fervid.core.worker_process import WorkerDied

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of each mood of one person, at ten frames a second."""
    frames = [
        toy_models.picture(colour)
        for colour in (toy_models.FIRST, toy_models.SECOND, toy_models.THIRD)
        for _ in range(10)
    ]
    return clips.write(tmp_path_factory.mktemp("moods") / "moods.mp4", frames, rate=10)


@pytest.fixture
def run(family: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command with the toy models, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    named = toy_models.flags(family)

    def call(command: str, *arguments: object, env: dict[str, str] | None = None) -> Result:
        given = [command, *named, "--min-face", str(toy_models.FACE), *map(str, arguments)]
        return CliRunner().invoke(app.app, given, env=env)

    return call


def frames(path: Path | str) -> int:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return sum(1 for _ in container.decode(video=0))


def test_annotate_prints_summary(run: Run, moods: Path, tmp_path: Path) -> None:
    result = run("annotate", moods, "-o", "out.mp4")
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.fullmatch(r"fervid: 1 clip in [\d.]+ s: 1 ok; the video is in out\.mp4\n", result.stderr)
    assert frames("out.mp4") == 30
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    written = Path("out.mp4").read_bytes()
    again = run("annotate", moods, "-o", "out.mp4")
    assert (again.exit_code, "exists" in again.stderr, "--resume" in again.stderr) == (2, True, False)
    assert Path("out.mp4").read_bytes() == written
    assert run("annotate", moods, "-o", "out.mp4", "--force", "--every-frame", "--window", 1).exit_code == 0
    assert Path("out.mp4").read_bytes() != written


def test_annotate_part(run: Run, moods: Path) -> None:
    assert run("annotate", moods, "-o", "out.mp4", "--start", "1s", "--end", "00:00:02").exit_code == 0
    assert frames("out.mp4") == 10


def test_attributes_are_optional(run: Run, moods: Path) -> None:
    for name, flags in (("plain.mp4", ()), ("more.mp4", ("--attributes",))):
        assert run("annotate", moods, "-o", name, *flags).exit_code == 0
    pictures = []
    for name in ("plain.mp4", "more.mp4"):
        with av.open(name) as container:
            pictures.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    assert (pictures[0] != pictures[1]).mean() > 0.001


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["moods.mp4"], 2, ""),
        (["moods.mp4", "-o", "out.avi"], 2, "ends in .mp4"),
        (["moods.mp4", "-o", "moods.mp4", "--force"], 2, "overwrite the input"),
        (["moods.mp4", "-o", "out.mp4", "--window", "0"], 2, "above 0 s"),
        (["moods.mp4", "-o", "out.mp4", "--classifier", "missing.onnx"], 4, "missing.onnx"),
        (["moods.mp4", "-o", "out.mp4", "--start", "99"], 1, "--start"),
        (["still.png", "-o", "out.mp4"], 1, "still image"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_failure_writes_nothing(
    run: Run, arguments: list[str], status: int, words: str, moods: Path, tmp_path: Path
) -> None:
    (tmp_path / "moods.mp4").write_bytes(moods.read_bytes())
    cv2.imwrite(str(tmp_path / "still.png"), toy_models.picture(toy_models.FIRST))
    before = sorted(tmp_path.iterdir())
    result = run("annotate", *arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    assert words in " ".join(result.stderr.split())
    assert sorted(tmp_path.iterdir()) == before


def test_notices_go_to_stderr(run: Run, moods: Path, tmp_path: Path) -> None:
    clips.write(tmp_path / "empty.mp4", clips.scenery(5, 64, 48))
    nobody = run("annotate", "empty.mp4", "-o", "nobody.mp4")
    assert (nobody.exit_code, nobody.stdout) == (0, "")
    assert nobody.stderr.startswith("fervid: empty.mp4: no face found; try")
    told = run("annotate", moods, "-o", "out.mp4", "--progress", "json")
    assert told.exit_code == 0
    *running, end = (json.loads(line) for line in told.stderr.splitlines())
    assert all(event["event"] == "progress" for event in running)
    assert (end["event"], end["clips"], end["output"]) == ("summary", 1, "out.mp4")
    assert run("annotate", moods, "-o", "silent.mp4", "--progress", "none").stderr == ""
    assert run("annotate", moods, "-o", "bar.mp4", "--progress", "bar").stderr.count("100%") >= 1


def test_crash_is_an_error(
    family: dict[str, str], moods: Path, through_pickle: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "map_ordered", through_pickle)
    classifier = fervid.load_classifier(**family, options=fervid.Options(min_face=toy_models.FACE), threads=1)
    told = runner.build_timeline(classifier, str(moods), WindowSpec(1, 1), RunConfig(1))
    assert [person.id for person in told.people] == [0]
    assert told.end == pytest.approx(3)

    def died(
        work: object, items: list[str], jobs: int, lost: Callable[[str, WorkerDied], object], limits: object
    ) -> list:
        return [lost(items[0], WorkerDied("SIGSEGV"))]

    monkeypatch.setattr(runner, "map_ordered", died)
    with pytest.raises(WorkerCrashed, match="SIGSEGV"):
        runner.build_timeline(classifier, str(moods), WindowSpec(1, 1), RunConfig(1))


def test_timeline_plot(run: Run, moods: Path) -> None:
    plain = run("timeline", moods)
    plotted = run("timeline", moods, "--plot", "out.png")
    assert (plotted.exit_code, plotted.stderr) == (0, "")
    timeless = [[{**json.loads(line), "elapsed_s": 0} for line in one.stdout.splitlines()] for one in (plain, plotted)]
    assert timeless[0] == timeless[1]
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")
    assert run("timeline", moods, "-o", "out.csv", "--plot", "out.svg").exit_code == 0
    assert Path("out.svg").read_bytes().startswith(b"<svg")
    assert Path("out.csv").exists()
    assert run("timeline", moods, "--plot", "out.png").exit_code == 2
    assert run("timeline", moods, "--plot", "out.png", "--force").exit_code == 0


def test_plot_of_failed_clip_shows_error(run: Run) -> None:
    result = run("timeline", "missing.mp4", "--plot", "out.png")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["code"] == "not_found"
    assert Path("out.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plot", "out.jpg"], ".png .svg .pdf"),
        (["other.mp4", "--plot", "out.png"], "draws one clip, and 2 were given"),
        (["--plot", "there.png"], "exists"),
    ],
)
def test_invalid_plot_is_refused_early(run: Run, arguments: list[str], words: str, moods: Path, tmp_path: Path) -> None:
    (tmp_path / "there.png").write_text("mine")
    result = run("timeline", moods, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in " ".join(result.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]


def test_plot_does_not_overwrite_input(run: Run, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "still.png"), toy_models.picture(toy_models.FIRST))
    before = (tmp_path / "still.png").read_bytes()
    assert run("timeline", "still.png", "--plot", "still.png", "--force").exit_code == 2
    assert (tmp_path / "still.png").read_bytes() == before
    assert run("timeline", "still.png", "--plot", "plot.png").exit_code == 0


def test_missing_matplotlib_is_named(run: Run, moods: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    result = run("timeline", moods, "--plot", "out.png")
    assert (result.exit_code, result.stdout) == (2, "")
    assert 'pip install "fervid[report]"' in result.stderr
