"""The documentation: its code blocks run, its command lines parse, and the generated pages agree with the code.

`docs_walkthrough` runs the blocks in a clone that `docs_stage` prepares, with clips of one astronaut's face, warped to
stand for several people. A test that is skipped names what the machine lacks; `make test-docs` installs what PyPI has.
"""

from __future__ import annotations

import ast
import contextlib
import html.parser
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import docs_stage
import fervid
from docs_walkthrough import Block, read_blocks, run_blocks
from fervid.cli import ExitCode, app
from fervid.core import errors
from fervid.core.schema import record_json_schema

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"

_spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


COMMAND = typer.main.get_command(app.app)


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a clone with clips."""
    place = docs_stage.clone(tmp_path_factory.mktemp("docs") / "fervid")
    docs_stage.videos(place)
    return place


@pytest.fixture(scope="session")
def study_material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create what the pages of papers/ train on; needs torch."""
    import paper_fixtures

    return paper_fixtures.material(tmp_path_factory.mktemp("studies"))


@pytest.fixture
def shell(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a clone, with `fervid` on the path."""
    place = tmp_path / "work"
    shutil.copytree(material, place)
    programs = docs_stage.programs(tmp_path / "bin", place / "examples" / "astronaut.mp4")
    monkeypatch.chdir(place)
    for folder in (Path(sys.executable).parent, programs):
        monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(place), prepend=os.pathsep)
    monkeypatch.setenv("FERVID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FERVID_JOBS", "1")  # the start of a worker takes longer than a clip
    for name in ("CACHE", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / "xdg"))
    return place


@contextmanager
def setting(page: str, place: Path, environment: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Provide what a page assumes."""
    shutil.copy(place / "examples" / "phone.mp4", place / "clip.mp4")
    shutil.copytree(place / "examples", place / "inbox")
    if page == "tutorial.md" and "INSTALL" in os.environ:
        environment.setenv("PATH", str(place / ".venv" / "bin"), prepend=os.pathsep)
        environment.delenv("PYTHONPATH")
    elif page in ("tutorial.md", "how-to/review.md", "how-to/reports-and-video.md"):
        docs_stage.few_classifiers(place)
    around = {
        "how-to/third-party-models.md": docs_stage.optional_models,
        "how-to/ray.md": docs_stage.cluster,
        "how-to/train.md": docs_stage.trained,
        "how-to/own-faces.md": docs_stage.own_faces,
    }
    if page.startswith("papers/") and importlib.util.find_spec("torch"):
        import paper_fixtures

        shutil.copytree(request.getfixturevalue("study_material"), place, dirs_exist_ok=True)
        around[page] = paper_fixtures.studied
    with around[page](place, environment) if page in around else nullcontext():
        yield


RUN = [page.relative_to(DOCS).as_posix() for page in PAGES if any(block.runs for block in read_blocks(page))]


needs_bash = pytest.mark.skipif(sys.platform == "win32", reason="bash on Windows does not see the same files")


@pytest.mark.slow
@needs_bash
@pytest.mark.parametrize("page", RUN)
def test_page_blocks_run(
    page: str, shell: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with setting(page, shell, monkeypatch, request):
        skipped = run_blocks(read_blocks(DOCS / page))
    if skipped:
        pytest.skip(f"ran all blocks except: {'; '.join(skipped)}")


@pytest.mark.slow
@needs_bash
def test_notebook_runs(shell: Path) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in cells)
    os.chdir(shell / "examples")
    run_blocks([Block("python", "", "", False, "".join(cell["source"]), f"cell {n}") for n, cell in enumerate(cells)])


def test_block_languages_are_known() -> None:
    for page in PAGES:
        for block in read_blocks(page):
            known = ("bash", "python", "console", "text", "json", "ini", "docker", "snakemake", "r")
            assert block.language in known, block.where


@pytest.mark.parametrize("comment", ["not run: why", "need: jq", "interrupted!"])
def test_unknown_comment_before_block_is_an_error(comment: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- {comment} -->\n```bash\ntrue\n```\n")
    with pytest.raises(ValueError, match=comment):
        read_blocks(page)


@needs_bash
@pytest.mark.parametrize(
    ("marks", "text", "words"),
    [
        ("", "false", "ended with 1"),
        ("<!-- interrupted -->\n", "trap 'exit 130' INT; sleep 0.1; exit 3", "ended with 3"),
        ("<!-- interrupted -->\n", "trap 'exit 2' INT; echo '\"ok\"'; sleep 60", "ended with 2"),
        ("<!-- interrupted -->\n", "echo '\"error\"'; exit 130", "wrote no record"),
    ],
)
def test_failing_block_is_an_error(
    marks: str, text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(f"{marks}```bash\n{text}\n```\n")
    with pytest.raises(AssertionError, match=words):
        run_blocks(read_blocks(page))


def test_shown_tables_match_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits are ignored, because figures differ slightly between CPUs."""
    monkeypatch.chdir(ROOT)
    printed = CliRunner().invoke(app.app, ["classify", "examples", "--format", "table", "--progress", "none"]).stdout
    for page in (DOCS / "index.md", DOCS / "tutorial.md", ROOT / "README.md"):
        [shown] = [block.text for block in read_blocks(page) if "coffee.mp4  " in block.text]
        table = shown.partition("$ fervid classify examples/\n")[2] or shown
        assert _without_figures(table) == _without_figures(printed.replace(os.sep, "/")), page


def _without_figures(table: str) -> str:
    return re.sub(r"\d", "0", "\n".join(line.rstrip() for line in table.strip().splitlines()))


# command lines


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every call of fervid in a script, up to a redirection or pipe."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        with contextlib.suppress(ValueError):  # a quote that continues on the next line is not a call of fervid
            words = list(lexer)
            for start in (i for i, word in enumerate(words) if word == "fervid"):
                rest = words[start + 1 :]
                called = start == 0 or words[start - 1] in ("|", "do", "then", "||", "&&")
                if not (
                    called or set(rest[:1]) & set(COMMAND.commands)
                ):  # another use of the name, as of a Docker image
                    continue
                end = next((i for i, word in enumerate(rest) if re.fullmatch(r"[|;&<>()]+", word)), len(rest))
                yield rest[:end]


def parse(arguments: list[str]) -> None:
    """Parse arguments without running the command; a wrong option raises."""
    command, name = COMMAND, "fervid"
    while arguments and arguments[0] in getattr(command, "commands", ()):
        name = f"{name} {arguments[0]}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    with contextlib.suppress(typer.Exit):
        command.make_context(name, list(arguments))
    assert not hasattr(command, "commands") or not arguments or arguments[0].startswith("-"), f"{name} {arguments}"


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "README.md", *(ROOT / name for name in generate.ELSEWHERE)],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_command_lines_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FERVID_")]:
        monkeypatch.delenv(name)
    for block in read_blocks(page):
        quoted = re.findall(r"[\"'](fervid .*?)[\"']", block.text) if block.title else []
        shown = [block.text] if block.language in ("bash", "console", "sh") else []
        for text in [*quoted, *shown]:
            for arguments in command_lines(re.sub(r"[{]\w+[}]", "2", text) if block.title else text):
                try:
                    parse(arguments)
                except Exception as error:
                    raise AssertionError(f"{block.where}: fervid {shlex.join(arguments)}: {error}") from error


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ls | fervid classify --from-file - -0 | jq .path", [["classify", "--from-file", "-", "-0"]]),
        ("fervid classify a.mp4  # all of it\nfervid doctor > x", [["classify", "a.mp4"], ["doctor"]]),
        ("$ fervid classify \\\n  a.mp4", [["classify", "a.mp4"]]),
        ("docker run --rm fervid classify 'a b.mp4'", [["classify", "a b.mp4"]]),
        ("for x in *; do fervid clasify $x; done", [["clasify", "$x"]]),
        ("docker build -t fervid . && pip install fervid", []),
        ("cd fervid/", []),
    ],
)
def test_command_lines_are_found(line: str, found: list[list[str]]) -> None:
    assert list(command_lines(line)) == found


@pytest.mark.parametrize("wrong", ["classify --frames 5", "clasify a.mp4", "train videos/", "classify --start noon x"])
def test_wrong_command_line_is_an_error(wrong: str) -> None:
    with pytest.raises((AssertionError, Exception), match=r"frames|clasify|output|noon"):
        parse(wrong.split())


# links and generated pages


def test_links_to_files_exist() -> None:
    generated = {DOCS / name for name in generate.pages()}
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", page.read_text()):
            path = Path(os.path.normpath(page.parent / target))
            assert path.exists() or path in generated, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", sorted((DOCS / "papers").glob("*.md")), ids=lambda page: page.stem)
def test_figures_in_papers_are_in_benchmarks_or_cards(page: Path) -> None:
    known, text = (
        " ".join("".join(path.read_text() for path in paths).split())
        for paths in ([ROOT / "models" / "README.md", ROOT / "benchmarks" / "README.md"], [page])
    )
    for figure in re.findall(r"-?[\d.]+(?: \S+)? \(-?[\d.]+ to -?[\d.]+\)", text):
        assert figure in known


def test_architecture_lists_every_module() -> None:
    tree = (ROOT / "ARCHITECTURE.md").read_text().split("```")[1]
    listed, folder = set(), ""
    for line in tree.splitlines():
        folder = line.split("/")[0] if re.match(r"\w+/ ", line) else folder
        if line.startswith("  "):
            listed |= {f"{folder}/{name}" for name in re.findall(r"(?<!/)\b\w+\.py\b", line)}
    modules = {path for path in (ROOT / "fervid").glob("*/*.py") if path.name != "__init__.py"}
    assert listed == {f"{path.parent.name}/{path.name}" for path in modules}


def test_reference_lists_commands_and_options() -> None:
    text = generate.command_line()
    found = dict(generate.list_commands(COMMAND))
    assert {"fervid classify", "fervid timeline", "fervid models pull", "fervid network train"} <= set(found)
    for name, command in found.items():
        section = text.partition(f"## `{name}`\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            named = max(parameter.opts, key=len)
            shown = named if named.startswith("-") else parameter.metavar or parameter.name.upper()
            assert parameter.name == "help" or shown in section, f"{name} {shown}"


def test_reference_lists_errors_with_status() -> None:
    text = generate.failures()
    for kind, status in (
        ("UnsupportedFormat", 1),
        ("NoFaceError", 0),
        ("DatasetError", 2),
        ("NoInputsFound", 3),
        ("ModelNotFound", 4),
    ):
        assert f"| `{getattr(errors, kind).code}` | `{kind}` | {status} | " in text
    codes = {
        kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.FervidError)
    }
    assert codes - {"error"} == set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE))
    assert set(ExitCode) == set(generate.MEANINGS)


def test_reference_lists_fields_and_public_names() -> None:
    text = generate.record()
    for command in ("classify", "timeline"):
        assert all(f"| `{field}` |" in text for field in record_json_schema(command)["properties"])
    assert generate.api().count("\n::: fervid.") == len(fervid.__all__) - 1


def test_models_have_licences() -> None:
    text = generate.licences()
    for name in ("emotion8", "mobilenetv1", "yunet"):
        assert f"| `{name}` |" in text


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("interpreting-results.md", "[x](../models/README.md)", "[x](models/index.md)"),
        ("how-to/train.md", "[x](../../models/README.md#emotion8)", "[x](../models/index.md#emotion8)"),
        ("security.md", "[x](models/README.md)", "[x](models/index.md)"),
        ("models/index.md", "[x](../docs/research/what-helped.md)", "[x](../research/what-helped.md)"),
        ("how-to/train.md", "[x](batch.md) [y](https://a.md)", "[x](batch.md) [y](https://a.md)"),
    ],
)
def test_links_outside_docs_are_rewritten(path: str, source: str, expected: str) -> None:
    assert generate.relink(source, path) == expected


class _Assets(html.parser.HTMLParser):
    """Collect the URLs that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "srcset") or (tag == "link" and name == "href"):
                self.fetched.append(value or "")


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="the extra docs is not installed")
def test_site_builds_and_loads_nothing_external(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", "mkdocs.yml", "-d", tmp_path]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        assets = _Assets()
        assets.feed(page.read_text())
        assert assets.fetched
        assert not [asset for asset in assets.fetched if re.match(r"(\w+:)?//", asset)], page
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(\"?(https?:)?//", style.read_text()), style
    assert not list(tmp_path.rglob("*.py"))


# the image


def test_docker_image_copies_only_package_files() -> None:
    kept = {"fervid", "models", "pyproject.toml", "README.md", "LICENSE", "requirements-dev.lock"}
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    assert {line[1:] for line in lines[1:] if line.startswith("!")} == kept
    assert all((ROOT / name).exists() for name in kept)
    sources = " ".join(re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert set(sources.split()) <= kept | {"./"}


def test_docker_image_runs_unprivileged() -> None:
    stage = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER (\d+)(:\d+)?$", stage, re.MULTILINE)[1] != "0"
    assert re.search(r'^ENTRYPOINT \["fervid"\]$', stage, re.MULTILINE)
    assert "apt-get" not in stage


def test_python_blocks_parse() -> None:
    for page in PAGES:
        for block in read_blocks(page):
            if block.language == "python" and block.title != "Snakefile":
                ast.parse(block.text)
