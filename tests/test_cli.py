"""The command line: exit statuses and output."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import batch
import cv2
import jsonschema
import pytest
from typer.testing import CliRunner, Result

import child_processes
import clips
import toy_models
from fervid.cli import app, options
from fervid.core import progress
from fervid.core.schema import record_json_schema
from fervid.models import registry


def run(*arguments: object, stdin: bytes | None = None, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app.app, [str(a) for a in arguments], input=stdin, env=env)


def classify(*arguments: object, **more: object) -> Result:
    return run("classify", "--progress", "none", *arguments, **more)


def records(result: Result) -> list[dict]:
    found = [json.loads(line) for line in result.stdout.splitlines()]
    for record in found:
        jsonschema.validate(record, record_json_schema())
    return found


@pytest.fixture
def toys(family: dict[str, str]) -> list[str]:
    """The options of the toy models."""
    return [*toy_models.flags(family), f"--min-face={toy_models.FACE}"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three frames of a face, three of nobody, and sound, for the toy models."""
    place = tmp_path_factory.mktemp("plain")
    clips.write(place / "face.mp4", [toy_models.picture(toy_models.FIRST)] * 3)
    clips.write(place / "nobody.mp4", [toy_models.picture(None)] * 3)
    clips.write_sound(place / "sound.m4a")
    return place


@pytest.fixture(scope="module")
def face(plain: Path) -> Path:
    """Three frames of a face, to which the toy models give the label `first`."""
    return plain / "face.mp4"


@pytest.fixture(scope="module")
def nobody(plain: Path) -> Path:
    """Three frames without a face."""
    return plain / "nobody.mp4"


@pytest.fixture
def broken(tmp_path: Path, smile: Path) -> Path:
    """A folder of inputs that cannot be answered, each in its own way."""
    place = tmp_path / "broken"
    place.mkdir()
    (place / "empty.mp4").touch()
    (place / "random.mp4").write_bytes(os.urandom(4096))
    (place / "text.mp4").write_text("not a video\n" * 20)
    (place / "cut.mp4").write_bytes(smile.read_bytes()[:2000])
    clips.write_sound(place / "sound.mp4")
    (place / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{smile}'\n")
    (place / "stream.mp4").write_text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    (place / "playlist.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{smile}\n")
    if hasattr(os, "mkfifo"):
        os.mkfifo(place / "pipe.mp4")
    return place


def test_classify_labels_smile_as_happiness(smile: Path) -> None:
    result = classify(smile)
    (record,) = records(result)
    assert result.exit_code == 0
    assert record["path"] == str(smile)
    assert record["status"] == "ok"
    assert record["label"] == "happiness"
    assert record["confidence"] == max(record["probabilities"].values()) > 0.5
    assert len(record["people"]) == 1
    assert record["frames_sampled"] == record["frames_with_face"] == 6
    assert record["duration_s"] == pytest.approx(1.2)
    assert result.stderr == ""


def test_clip_without_face_fails_only_with_strict(toys: list[str], nobody: Path) -> None:
    result = classify(nobody, *toys)
    assert (result.exit_code, records(result)[0]["status"]) == (0, "no_face")
    assert records(result)[0]["label"] is None
    assert classify(nobody, *toys, "--strict").exit_code == 1
    assert classify(nobody, *toys, "--strict", "--exit-zero").exit_code == 0


def test_broken_clips_have_error_codes_and_others_continue(broken: Path, smile: Path) -> None:
    missing = broken / "missing.mp4"
    result = classify(broken, missing, broken, smile)
    found = {Path(record["path"]).name: record for record in records(result)}
    assert result.exit_code == 1
    assert {name: record["error"] and record["error"]["code"] for name, record in found.items()} == {
        "cut.mp4": "truncated",
        "empty.mp4": "empty_file",
        "list.mp4": "not_a_video",
        **({"pipe.mp4": "unreadable"} if hasattr(os, "mkfifo") else {}),
        "playlist.mp4": "not_a_video",
        "stream.mp4": "not_a_video",
        "random.mp4": "not_a_video",
        "sound.mp4": "no_video_stream",
        "text.mp4": "not_a_video",
        "missing.mp4": "not_found",
        "smile.mp4": None,
    }
    for name, record in found.items():
        assert (record["status"] == "error") == (name != "smile.mp4")
        assert record["error"] is None or record["path"] in record["error"]["message"]
    assert classify(broken, "--exit-zero").exit_code == 0


def test_truncated_clip_is_classified_with_error(tmp_path: Path) -> None:
    whole = clips.write(tmp_path / "whole.mp4", clips.smiling(40), muxer={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])
    result = classify(cut)
    (record,) = records(result)
    assert (result.exit_code, record["status"], record["label"]) == (0, "ok", "happiness")
    assert record["error"]["code"] == "truncated"


def test_skipped_files_of_folder_are_reported(toys: list[str], plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "clips")
    (tmp_path / "clips" / "more").mkdir()
    message = "fervid: 1 file is not a video, 1 folder was not searched; --recursive\n"
    assert run("classify", tmp_path / "clips", *toys).stderr == message


def test_unreadable_folder_has_error_record(
    toys: list[str], plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, locked = os.scandir, tmp_path / "clips" / "closed"
    shutil.copytree(plain, tmp_path / "clips")
    locked.mkdir()

    def refuse(path: object = ".") -> object:
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for named, codes in (([tmp_path / "clips", "--recursive"], ["unreadable", None, None]), ([locked], ["unreadable"])):
        result = classify(*named, *toys)
        assert (result.exit_code, [r["error"] and r["error"]["code"] for r in records(result)]) == (1, codes)
        assert "Permission denied" in records(result)[0]["error"]["message"]


def test_no_input_exits_with_3(tmp_path: Path) -> None:
    for arguments in ([tmp_path], [str(tmp_path / "*.mp4")], []):
        result = classify(*arguments)
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith("fervid: no ")


WRONG = (
    "--fps 0 | --fps many | --fps 2 --every-frame | --start 2 --end 1 | --start 1:2:3:4 | --end -1 | --rotate 45"
    " | --face none | --min-face 7 | --labels '' | --labels happiness | --labels happiness,happiness"
    " | --labels happiness,calm | --adaptive --every-frame | --jobs 0 | --timeout -1 | --timeout soon | --memory -1"
    " | --device gpu | --format xml | --resume | --resume --force -o answers.jsonl | -o answers.xyz"
    " | -o answers.csv --resume | --from-file there-is-no-such-list | --no-such-option"
)


@pytest.mark.parametrize("arguments", WRONG.split(" | "))
def test_wrong_usage_exits_with_2(arguments: str, smile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = classify(smile, *shlex.split(arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--classifier", "--face-model", "--detector"])
def test_unusable_model_exits_with_4(flag: str, smile: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"damaged")
    for model in ("no-such-model", damaged):
        result = classify(smile, flag, model)
        assert (result.exit_code, result.stdout) == (4, "")
        assert str(model) in result.stderr


@pytest.mark.parametrize("seconds", ["0.4", "0.4s", "00:00:00.4"])
def test_time_formats(seconds: str, smile: Path) -> None:
    (record,) = records(classify(smile, "--every-frame", "--start", seconds, "--end", "0.8"))
    assert record["frames_sampled"] == 10
    assert record["duration_s"] == pytest.approx(0.4)


def test_start_beyond_end_is_an_error_record(smile: Path) -> None:
    result = classify(smile, "--start", "9")
    assert (result.exit_code, records(result)[0]["error"]["code"]) == (1, "nothing_sampled")


def test_jobs_flag_overrides_environment(smile: Path) -> None:
    result = classify(smile, env={"FERVID_JOBS": "many"})
    assert (result.exit_code, "FERVID_JOBS" in result.stderr) == (2, True)
    assert classify(smile, "--jobs", "1", env={"FERVID_JOBS": "many"}).exit_code == 0


def test_other_options_have_no_environment_variable(smile: Path) -> None:
    (record,) = records(classify(smile, env={"FERVID_FPS": "2.5"}))
    assert record["frames_sampled"] == 6


def test_attributes_are_optional(smile: Path) -> None:
    (plain,) = records(classify(smile))
    (asked,) = records(classify(smile, "--attributes"))
    card = registry.manifest()["mobilenetv1"]
    attributes = ("age", "gender", "ethnicity")
    assert [plain["people"][0][name] for name in attributes] == [None] * 3
    age, gender, ethnicity = (asked["people"][0][name] for name in attributes)
    assert gender in card["genders"]
    assert ethnicity in card["ethnicities"]
    assert 20 < age < 55


def test_empty_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# none yet\n\n")
    for result, name in (
        (classify("--from-file", tmp_path / "list"), str(tmp_path / "list")),
        (classify("--from-file", "-", stdin=b""), "on standard input"),
    ):
        assert (result.exit_code, result.stdout) == (3, "")
        assert f"the list {name} is empty; write" in result.stderr


def test_list_from_file_or_stdin(toys: list[str], face: Path, nobody: Path, tmp_path: Path) -> None:
    names = f"{nobody}\n\n{face}\n".encode()
    (tmp_path / "list").write_bytes(names)
    for result in (
        classify(*toys, "--from-file", tmp_path / "list"),
        classify(*toys, "--from-file", "-", stdin=names),
        classify(*toys, "--from-file", "-", "-0", stdin=names.strip().replace(b"\n\n", b"\0")),
    ):
        assert result.exit_code == 0
        assert [record["path"] for record in records(result)] == [str(nobody), str(face)]


def test_formats_have_equal_content(toys: list[str], plain: Path) -> None:
    lines = {r["path"]: r for r in records(classify(plain, *toys))}
    array = json.loads(classify(plain, *toys, "--format", "json").stdout)
    rows = list(csv.DictReader(io.StringIO(classify(plain, *toys, "--format", "csv").stdout)))
    table = classify(plain, *toys, "--format", "table").stdout
    for record, row in zip(array, rows, strict=True):
        same = lines[record["path"]]
        assert {**record, "elapsed_s": 0} == {**same, "elapsed_s": 0}
        assert row["path"] == record["path"]
        assert row["label"] == (record["label"] or "")
        assert json.loads(row["people"]) == record["people"]
        if record["label"]:
            assert float(row["probabilities.first"]) == record["probabilities"]["first"]
            assert row["model.face_model.sha256"] == record["model"]["face_model"]["sha256"]
    assert "first" in table
    assert "no_face" in table


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_existing_output_needs_force(name: str, toys: list[str], nobody: Path, tmp_path: Path) -> None:
    output = tmp_path / name
    output.write_text("precious")
    result = classify(nobody, *toys, "-o", output)
    assert (result.exit_code, output.read_text()) == (2, "precious")
    assert "--force" in result.stderr
    assert classify(nobody, *toys, "-o", output, "--force").exit_code == 0
    assert "no_face" in output.read_text()
    assert not list(tmp_path.glob("*.partial"))


def test_unwritable_output_is_reported(toys: list[str], nobody: Path, tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv"):
        result = classify(nobody, *toys, "-o", tmp_path / "no" / "such" / name)
        assert result.exit_code == 2
        assert "cannot be written" in result.stderr


def test_run_to_file_prints_summary(toys: list[str], face: Path, nobody: Path, broken: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    clean = run("classify", face, *toys, "-o", output)
    pattern = rf"fervid: 1 clip in [\d.]+ s: 1 ok; records are in {re.escape(str(output))}\n"
    assert re.fullmatch(pattern, clean.stderr)
    bad = [broken / name for name in ("cut.mp4", "empty.mp4", "list.mp4", "sound.mp4", "text.mp4", "random.mp4")]
    rest = run("classify", face, nobody, *bad, *toys, "-o", output, "--resume")
    named = re.escape(", ".join(map(str, bad[:5])))
    assert re.fullmatch(
        rf"fervid: 8 clips in [\d.]+ s \(1 from an earlier run\): 1 ok, 1 no_face, 6 error; failed: {named} and 1 more;"
        rf" records are in {re.escape(str(output))}\n",
        rest.stderr,
    )
    assert run("classify", face, *toys, "-o", tmp_path / "a.csv", "--progress", "none").stderr == ""
    assert run("classify", face, *toys).stderr == ""


def test_progress_json_ends_with_summary(toys: list[str], face: Path, broken: Path, tmp_path: Path) -> None:
    output = tmp_path / "windows.csv"
    flags = ("--window", "0.06", "--every-frame", "-o", output, "--progress", "json")
    result = run("timeline", face, broken / "text.mp4", *toys, *flags)
    summary = json.loads(result.stderr.splitlines()[-1])
    assert summary.pop("elapsed_s") > 0
    assert summary == {
        "event": "summary",
        "windows": 3,
        "statuses": {"ok": 2, "error": 1},
        "finished_before": 0,
        "failed": 1,
        "output": str(output),
    }


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (123, "2 min 3 s"), (3725, "1 h 2 min")]
)
def test_format_duration(seconds: float, words: str) -> None:
    assert progress._format_duration(seconds) == words


def test_clip_without_command_suggests_classify(smile: Path) -> None:
    for named in (smile, "no such clip.mp4"):
        result = run(named, "--fps", "2")
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"fervid: {named} is not a command; try fervid classify " in result.stderr
    assert "'no such clip.mp4' --fps 2" in result.stderr
    assert "classify" not in run("clasify").stderr.replace("'classify'", "")


def test_resume_reports_removed_lines(toys: list[str], nobody: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    run("classify", nobody, *toys, "-o", output)
    with output.open("ab") as file:
        file.write(output.read_bytes().replace(b"no_face", b"ok") + b'{"torn')
    result = run("classify", nobody, *toys, "-o", output, "--resume")
    assert result.stderr.startswith(f"fervid: removed 1 line(s) at the end of {output}")
    assert result.exit_code == 0
    assert run("classify", nobody, *toys, "-o", output, "--resume", "--progress", "none").stderr == ""


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        ImportError("a.so: failed to map segment from shared object"),
    ],
)
def test_out_of_memory_prints_one_line(failure: Exception, smile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("fervid.analysis.pipeline.load_classifier", load)
    result = classify(smile)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("fervid: out of memory; raise the limit")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space of a process")
def test_address_space_limit_is_reported(smile: Path) -> None:
    kilobytes = 1_000_000
    line = " ".join(map(shlex.quote, command(smile)))
    done = subprocess.run(
        ["sh", "-c", f"ulimit -c 0; ulimit -v {kilobytes}; {line}"], capture_output=True, timeout=120, check=False
    )
    said = done.stderr.decode()
    assert said.startswith(f"fervid: address space is limited to {kilobytes * 1024 / 1e6:.0f} MB (ulimit -v)")
    assert "Traceback" not in said
    if done.stdout:
        assert json.loads(done.stdout)["path"] == str(smile)
    else:
        assert (done.returncode, said.count("fervid: out of memory")) == (2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space of a process")
def test_crash_under_address_space_limit_is_reported() -> None:
    crash = "import os, signal, fervid.cli.app as c; c.app = lambda: os.kill(os.getpid(), signal.SIGSEGV); c.main()"
    done = subprocess.run(
        ["sh", "-c", f"ulimit -v 1000000; exec {shlex.quote(sys.executable)} -c {shlex.quote(crash)}"],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[1:] == [
        "fervid: out of memory; raise the limit (ulimit, container), or use fewer --jobs"
    ]


def test_resume_skips_answered_clips(toys: list[str], face: Path, nobody: Path, tmp_path: Path) -> None:
    place, output = tmp_path / "videos", tmp_path / "answers.jsonl"
    place.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        shutil.copy(nobody, place / name)
    (place / "d.mp4").write_bytes(b"")
    assert classify(place, *toys, "-o", output).exit_code == 1
    before = output.read_bytes().splitlines()
    shutil.copy(face, place / "b.mp4")
    shutil.copy(face, place / "d.mp4")
    with output.open("ab") as file:
        file.write(b'{"torn')
    assert classify(place, *toys, "-o", output, "--resume").exit_code == 0
    after = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert output.read_bytes().splitlines()[:2] == [before[0], before[2]]
    assert sorted(Path(r["path"]).name for r in after) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert [r["label"] for r in after[2:]] == ["first", "first"]


def test_resume_with_other_options_classifies_again(toys: list[str], nobody: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    for flags, frames in ((["--fps", "5"], 1), (["--resume", "--every-frame"], 3), (["--resume", "--every-frame"], 3)):
        assert classify(nobody, *toys, "-o", output, *flags).exit_code == 0
        (record,) = [json.loads(line) for line in output.read_bytes().splitlines()]
        assert record["frames_sampled"] == frames


def test_labels_option(smile: Path) -> None:
    (every,) = records(classify(smile))
    (seven,) = records(classify(smile, "--labels", "7"))
    (two,) = records(classify(smile, "--labels", "sadness , neutral"))
    assert set(every["probabilities"]) - set(seven["probabilities"]) == {"contempt"}
    assert list(two["probabilities"]) == ["sadness", "neutral"]
    for record in (every, seven, two):
        assert sum(record["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        assert record["people"][0]["probabilities"] == record["probabilities"]
    header, _ = classify(smile, "--labels", "sadness,neutral", "--format", "csv").stdout.splitlines()
    assert [name for name in header.split(",") if name.startswith("prob")] == [
        "probabilities.sadness",
        "probabilities.neutral",
    ]


def test_adaptive_stops_when_confident(tmp_path: Path) -> None:
    levels = [{"stride": stride, "confidence": 0.9} for stride in (8, 4, 2)]
    family = toy_models.family(tmp_path, early_exit={"levels": levels})
    flags = [*toy_models.flags(family), f"--min-face={toy_models.FACE}"]
    (tmp_path / "videos").mkdir()
    for name, colour in (("sure", toy_models.SECOND), ("unsure", toy_models.NEITHER)):
        clips.write(tmp_path / "videos" / f"{name}.mp4", [toy_models.picture(colour)] * 40, rate=5)
    output = tmp_path / "answers.jsonl"
    for asked, frames in (([], [40, 40]), (["--adaptive"], [5, 40]), (["--labels=first,third"], None)):
        result = classify(tmp_path / "videos", *flags, *asked, "-o", output, "--resume")
        assert (result.exit_code, result.stderr) == (0, "")
        found = [json.loads(line) for line in output.read_bytes().splitlines()]
        if frames is None:
            assert [list(record["probabilities"]) for record in found] == [["first", "third"]] * 2
        else:
            assert [record["frames_sampled"] for record in found] == frames
            assert found[0]["label"] == "second"
        before = output.read_bytes()
        assert classify(tmp_path / "videos", *flags, *asked, "-o", output, "--resume").exit_code == 0
        assert output.read_bytes() == before


def test_adaptive_needs_thresholds_in_card(tmp_path: Path, smile: Path) -> None:
    flags = toy_models.flags(toy_models.family(tmp_path))
    result = classify(smile, *flags, "--adaptive")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "toy-classifier has no early exits" in result.stderr


def test_fail_fast_skips_remaining_clips(broken: Path, smile: Path) -> None:
    result = classify(broken / "empty.mp4", smile, "--fail-fast")
    first, second = records(result)
    assert result.exit_code == 1
    assert (first["status"], second["status"], second["error"]["code"]) == ("error", "skipped", "skipped")


def test_progress_json_goes_to_stderr(toys: list[str], plain: Path) -> None:
    result = run("classify", plain, *toys, "--progress", "json")
    note, *events = [json.loads(line) for line in result.stderr.splitlines()]
    assert note == {"event": "note", "message": "1 file is not a video"}
    assert [(e["event"], e["done"], e["total"], e["failed"]) for e in events] == [
        ("progress", 1, 2, 0),
        ("progress", 2, 2, 0),
    ]
    assert len(records(result)) == 2
    assert "clip" in run("classify", plain, *toys, "--progress", "bar").stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names that are not UTF-8")
def test_undecodable_file_name_gives_valid_json(toys: list[str], face: Path, tmp_path: Path) -> None:
    odd = os.path.join(os.fsencode(tmp_path), b'caf\xe9 "\n\xf0\x9f\x99\x82.mp4')
    os.symlink(os.fsencode(face), odd)
    result = classify(tmp_path, *toys)
    (record,) = records(result)
    assert (result.exit_code, os.fsencode(record["path"])) == (0, odd)
    assert classify(tmp_path, *toys, "--format", "csv").exit_code == 0
    assert classify(tmp_path, *toys, "--format", "table").exit_code == 0


def test_models_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # where nothing was pulled
    listed = run("models", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [
        "affect3",
        "blazeface-back",
        "emotion8",
        "mean6",
        "mean8",
        "mobilenetv1",
        "mobilenetv1-fp32",
        "hsemotion-b0",
        "yunet",
    ]
    card = json.loads(run("models", "info", "emotion8").stdout)
    assert card["labels"] == sorted(card["labels"])
    assert Path(run("models", "path", "emotion8").stdout.strip()).is_file()
    result = run("models", "verify")
    assert (result.exit_code, [line.split()[0] for line in result.stdout.splitlines()]) == (0, ["ok"] * 7)
    for command in ("info", "path", "verify"):
        assert run("models", command, "no-such-model").exit_code == 4


def test_schema_is_valid_and_version_is_printed() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(run("schema").stdout))
    assert run("--version").stdout.startswith("fervid 0.")
    assert run("--help").exit_code == 0


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from fervid.cli.app import main; main()", "classify", *map(str, arguments)]


HARM = """
import os, signal, sys, time
from pathlib import Path
from fervid.media import video

plain = video.read_frames

def read_frames(path, *more):
    kind = Path(path).stem
    if kind == "kills":
        if sys.platform != "win32":  # which writes no core files
            import resource
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "hangs":
        time.sleep(600)
    return plain(path, *more)

video.read_frames = read_frames
"""
HARMS = {"kills": "crashed", "hangs": "timeout"}


@pytest.fixture
def harmful(tmp_path: Path, face: Path) -> dict[str, str]:
    """Clips that harm the process that reads them, in a folder of their own, and the environment in which they do."""
    (tmp_path / "clips").mkdir()
    for name in (*HARMS, "a", "z"):
        shutil.copy(face, tmp_path / "clips" / f"{name}.mp4")
    (tmp_path / "sitecustomize.py").write_text(HARM)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}


def test_harmful_clips_cost_one_record_and_resume_retries_them(
    harmful: dict[str, str], toys: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    limits = ("--jobs", 1, "--memory", 900, "--timeout", "3s")
    line = command(tmp_path / "clips", *toys, *limits, "-o", output, "--progress", "none")
    done = subprocess.run(line, env=harmful, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    before = [json.loads(line) for line in output.read_bytes().splitlines()]
    codes = {Path(record["path"]).stem: record["error"] and record["error"]["code"] for record in before}
    assert codes == {"a": None, **HARMS, "z": None}
    assert [record["status"] for record in before] == ["ok", "error", "error", "ok"]
    assert classify(tmp_path / "clips", *toys, "-o", output, "--resume").exit_code == 0
    after = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert after[:2] == [before[0], before[-1]]  # another limit is no reason to answer again
    assert [record["label"] for record in after] == ["first"] * 4


@pytest.mark.parametrize(
    ("timeout", "memory", "limits"),
    [(None, None, (3600, 4_096_000_000)), (0.5, 1, (0.5, 1_000_000)), (0.0, 0, (None, None))],
)
def test_default_limits(timeout: float | None, memory: int | None, limits: tuple[float | None, int | None]) -> None:
    found = options.LimitOptions(timeout=timeout, memory=memory).limits
    assert (found.seconds, found.memory) == limits


def heeding_interrupts() -> None:
    """What runs in the background of a shell inherits that interrupts are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_interrupt_keeps_complete_records(smile: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    names = [shutil.copy(smile, tmp_path / f"{i}.mp4") for i in range(60)]
    (tmp_path / "list").write_text("\n".join(map(str, names)))
    arguments = command("--from-file", tmp_path / "list", "-o", output)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, preexec_fn=heeding_interrupts, start_new_session=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (output.exists() and output.stat().st_size):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, said = process.communicate(timeout=60)
    assert (process.returncode, b"interrupted" in said) == (130, True)
    assert child_processes.gone(process.pid)
    found = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert 0 < len(found) < 60
    assert b"Traceback" not in said


def test_interrupt_while_workers_start(smile: Path, scenery: Path) -> None:
    jobs = 2
    process = subprocess.Popen(
        command(smile, scenery, "--jobs", jobs),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=heeding_interrupts,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(child_processes.alive(process.pid)) < jobs + 2:  # and their tracker
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.count(b"\n")) == (130, 1)
    assert child_processes.gone(process.pid)


def test_module_starts_workers(toys: list[str], face: Path, nobody: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fervid", "classify", face, nobody, *toys, "--jobs", "2"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["ok", "no_face"]
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("clips", "jobs", "threads", "expected"),
    [
        (0, None, None, (1, 8)),
        (1, None, None, (1, 8)),
        (1, 4, None, (1, 8)),
        (1, None, 3, (1, 3)),
        (2, None, None, (2, 4)),
        (2, 1, None, (1, 8)),
        (3, None, None, (3, 2)),
        (100, None, None, (8, 1)),
        (100, 3, None, (3, 2)),
        (100, 20, None, (20, 1)),
        (100, 3, 8, (3, 8)),
    ],
)
def test_plan_workers(
    clips: int, jobs: int | None, threads: int | None, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "getNumberOfCPUs", lambda: 8)
    assert options.plan_workers(clips, jobs, threads) == expected


def test_missing_device_exits_with_2(smile: Path) -> None:
    result = classify(smile, "--device", "cuda")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "onnxruntime-gpu" in result.stderr


@pytest.mark.parametrize("command", ["timeline", "features", "train", "compare"])
def test_commands_accept_device(command: str, smile: Path, tmp_path: Path) -> None:
    for name in ("calm/a", "calm/b", "calm/c", "joy/a", "joy/b", "joy/c"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(smile, tmp_path / "set" / f"{name}.mp4")
    output = {"features": ["-o", tmp_path / "f.npz"], "train": ["-o", tmp_path / "m.onnx"]}.get(command, [])
    source = smile if command == "timeline" else tmp_path / "set"
    result = run(command, source, *output, "--device", "cuda", "--progress", "none")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "onnxruntime-gpu" in result.stderr


def test_device_auto_falls_back_to_cpu(smile: Path) -> None:
    assert [record["label"] for record in records(classify(smile, "--device", "auto"))] == ["happiness"]


@pytest.fixture
def endless(smile: Path, tmp_path: Path) -> Path:
    """Five minutes of that smile."""
    batch.repeat_video(smile, 300, tmp_path / "endless.mp4")
    return tmp_path / "endless.mp4"


def test_closed_pipe_ends_without_error(smile: Path, tmp_path: Path) -> None:
    copies = [shutil.copy(smile, tmp_path / f"{name}.mp4") for name in "abcde"]
    process = subprocess.Popen(
        command(*copies, tmp_path / "missing.mp4", "--jobs", 3, "--progress", "none"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    process.stdout.read(5)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), said) == (0, b"")
    assert child_processes.gone(process.pid)


def test_interrupt_stops_long_clip(smile: Path, endless: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.csv"
    arguments = command(smile, endless, "--every-frame", "--jobs", 2, "-o", output)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, preexec_fn=heeding_interrupts, start_new_session=True)
    deadline = time.monotonic() + 60
    partial = tmp_path / "answers.csv.partial"
    while time.monotonic() < deadline and not (partial.exists() and partial.read_text().count("\n") > 1):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == f"fervid: interrupted; finished clips are kept, unfinished in {partial}\n".encode()
    assert time.monotonic() - started < 10
    assert child_processes.gone(process.pid)
    assert [row["label"] for row in csv.DictReader(partial.read_text().splitlines())] == ["happiness"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["classify"], ["--help"]], ids=" ".join)
def test_full_stdout_is_reported(arguments: list[str], toys: list[str], nobody: Path) -> None:
    inputs = [str(nobody), *toys, "--progress", "none"] if arguments == ["classify"] else []
    code = [sys.executable, "-c", "from fervid.cli.app import main; main()", *arguments, *inputs]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(code, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 2
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_closed_stdin_is_reported(scenery: Path) -> None:
    line = f'exec "{sys.executable}" -c "from fervid.cli.app import main; main()" classify --from-file - <&-'
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"stdin is closed" in done.stderr


def test_unencodable_characters_are_escaped() -> None:
    code = "import sys; from fervid.cli import app; app.app = lambda: print('w\u00fctend'); app.main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=60)
    assert done.stdout == b"w\\xfctend\n"


@pytest.mark.parametrize("named", [False, True])
def test_closed_stdout_is_reported_if_used(named: bool, toys: list[str], nobody: Path, tmp_path: Path) -> None:
    output = ["-o", str(tmp_path / "answers.jsonl"), "--progress", "none"] if named else []
    line = f"exec {shlex.join(command(nobody, *toys, *output))} >&-"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, check=False, timeout=60)
    if named:
        assert (done.returncode, done.stderr) == (0, b"")
    else:
        assert done.returncode == 2
        assert done.stderr.startswith(b"fervid: standard output cannot be written (Bad file descriptor)")
        assert done.stderr.count(b"\n") == 1


def test_no_color(scenery: Path) -> None:
    result = run("classify", scenery, "--format", "table", env={"NO_COLOR": "1", "FORCE_COLOR": "1"})
    assert "\x1b[3" not in result.stdout
