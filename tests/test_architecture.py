"""The one way through the house: who may import whom, and what is never imported at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fervid

PACKAGE = Path(fervid.__file__).parent
TREES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_bytes())
    for path in sorted(PACKAGE.rglob("*.py"))
}
READING = ("container", "streams", "video")
STAGES = ("detect", "follow", "track", "align", "network", "pool", "classify")
KNOW_MODELS = {
    "extract",
    "pipeline",
    "doctor",
    "measure",
    "moments",
    "pull",
    "commands.about",
    "commands.labelled",
    "commands.options",
}


def imported(tree: ast.AST) -> set[str]:
    """Full names of all that is imported: of `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


OURS = {
    module: {name.split(".")[1] for name in imported(tree) if name.startswith("fervid.")}
    & {*TREES, "commands", "train"}
    for module, tree in TREES.items()
}
OURS_AND_ALL = {module: imported(tree) for module, tree in TREES.items()}


@pytest.mark.parametrize(
    ("module", "may"),
    [
        *((module, set()) for module in ("errors", "records", "ahead", "clock", "stills", "view.card")),
        ("workers", {"errors"}),
        *((module, {"records"}) for module in ("halve", "live")),
        ("sampling", {"records"}),
        *((module, {"errors", "records", "ahead", "clock", "stills", "sampling", "container"}) for module in READING),
        *((stage, {"errors", "records", "halve"}) for stage in (*STAGES, "adaptive")),
        ("gather", {"errors", "records", "pool", "track"}),
        ("story", {"records", "gather", "track"}),
        ("view.palette", set()),
        ("view.draw", {"records", "story", "view"}),
        ("remote", {"errors"}),
        ("columns", {"errors", "records"}),
    ],
)
def test_records_import_nothing_and_stages_only_records_and_errors(module: str, may: set[str]) -> None:
    assert OURS[module] <= may


def test_imports_go_one_way() -> None:
    TopologicalSorter(OURS).prepare()


def test_only_the_command_line_knows_the_commands() -> None:
    knowing = {module for module, names in OURS.items() if {"cli", "commands"} & names}
    assert {module for module in knowing if not module.startswith("commands.")} == {"cli", "__main__"}


def test_only_what_puts_models_together_or_names_them_knows_models() -> None:
    assert {module for module, names in OURS.items() if "models" in names and "train." not in module} <= KNOW_MODELS


def test_only_the_command_line_imports_the_training() -> None:
    assert [module for module, names in OURS.items() if "train" in names and not module.startswith("train.")] == ["cli"]


def test_imports_are_written_with_the_full_name() -> None:
    assert [module for module, tree in TREES.items() if any(name.startswith(".") for name in imported(tree))] == []


EXTRAS = {"fastjsonschema", "fsspec", "jinja2", "markupsafe", "pandas", "pyarrow", "ray", "vl_convert"}


@pytest.mark.parametrize(
    "module", ["columns", "inputs", "parts", "ray_engine", "remote", "view.charts", "view.report", "view.results"]
)
def test_extras_are_imported_when_they_are_needed(module: str) -> None:
    top = imported(
        ast.Module([node for node in TREES[module].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    )
    assert not {name.partition(".")[0] for name in top} & EXTRAS


PICKLERS = {"pickle", "pickletools", "cPickle", "_pickle", "dill", "cloudpickle", "jsonpickle", "shelve", "marshal"}
LOADERS = {
    *("joblib.load", "joblib.dump", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.package", "torch.hub"),
    *("numpy.lib.format.read_array", "onnx.hub"),
}
EXECUTING = {"eval", "exec", "compile", "__import__"}
NETWORK = {"urllib.request", "http", "socket", "ftplib", "smtplib", "ssl", "requests", "httpx", "urllib3", "aiohttp"}


@pytest.mark.parametrize("module", TREES)
def test_no_model_or_data_is_ever_unpickled(module: str) -> None:
    names = imported(TREES[module])
    calls = {ast.unparse(node) for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
    options = {node.arg for node in ast.walk(TREES[module]) if isinstance(node, ast.keyword)}
    assert not {name.split(".")[0] for name in names} & PICKLERS
    assert not (names | calls) & LOADERS
    assert "allow_pickle" not in options
    called = {
        node.func.id for node in ast.walk(TREES[module]) if isinstance(node, ast.Call) and hasattr(node.func, "id")
    }
    assert not called & EXECUTING


def test_only_our_own_processes_are_sent_objects() -> None:
    """Pipes between them pickle, and are no files: nobody else can write to them."""
    sending = {module for module, names in OURS_AND_ALL.items() if any("multiprocessing" in name for name in names)}
    assert sending == {"workers"}


def test_only_pulling_a_model_reaches_the_network() -> None:
    """But for the cluster and the URLs that a user names: `ray_engine`, and `remote` by fsspec."""
    reaching = {
        module
        for module, names in OURS_AND_ALL.items()
        if any(name == part or name.startswith(f"{part}.") for name in names for part in NETWORK)
    }
    assert reaching == {"pull", "ray_engine"}
    assert {module for module, names in OURS.items() if "pull" in names} == {"commands.about"}


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_fervid_loads_nothing_heavy() -> None:
    heavy = {"numpy", "onnxruntime", "cv2", "av", "scipy", "sklearn", "torch", "typer", "rich"}
    assert python(f"import sys, fervid; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_giving_clips_to_other_processes_loads_no_decoder_and_nothing_that_only_training_needs() -> None:
    """The first answer of a run waits for it."""
    heavy = {"av", "scipy", "sklearn", "joblib", "onnx"}
    code = f"import sys, fervid.batch, fervid.inputs; fervid.load(threads=1); print(sorted({heavy} & set(sys.modules)))"
    assert python(code) == "[]"


def test_onnxruntime_keeps_no_identity_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wheels hold telemetry, which begins with a number for the device in the user's cache."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert python("import fervid; print(fervid.load(threads=1).labels[0])") == "anger"
    assert list(tmp_path.iterdir()) == []


PUBLIC = [
    "Answer",
    "Classifier",
    "ClipResult",
    "FervidError",
    "Frame",
    "InputError",
    "ModelError",
    "NoFaces",
    "Options",
    "Person",
    "Sampling",
    "WindowResult",
    "Windows",
    "load",
    "to_arrow",
    "to_pandas",
    "__version__",
]


def test_the_public_names_are_exactly_these_and_each_can_be_imported() -> None:
    assert sorted(fervid.__all__) == sorted(PUBLIC)
    star: dict[str, object] = {}
    exec("from fervid import *", star)
    assert set(star) - {"__builtins__"} == set(PUBLIC)
    assert all(star[name] is getattr(fervid, name) for name in PUBLIC)


def test_what_a_type_checker_sees_is_what_is_public() -> None:
    [guard] = [node for node in TREES["__init__"].body if isinstance(node, ast.If)]
    seen = {alias.asname for node in guard.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(PUBLIC) - {"__version__"}


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fervid' has no attribute 'nothing'"):
        _ = fervid.nothing
