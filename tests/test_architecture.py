"""Which folder may import which, and what is never imported at all."""

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
MAY_IMPORT = {
    "core": set(),
    "media": {"core"},
    "models": {"core"},
    "analysis": {"core", "media", "models"},
    "batch": {"core", "media", "models", "analysis"},
    "learn": {"core", "media", "models", "analysis"},
    "render": {"core", "media", "analysis"},
    "training": {"core", "media", "models", "analysis", "learn"},
    "cli": {"core", "media", "models", "analysis", "batch", "learn", "render", "training"},
}
"""What each folder may import beside itself."""
FRAME_STAGES = (
    "detector",
    "optical_flow",
    "propagation",
    "tracker",
    "align",
    "face_model",
    "pooling",
    "clip_classifier",
    "early_exit",
)
"""Modules of `analysis` that work on arrays and know neither files nor models."""


def imported(tree: ast.AST) -> set[str]:
    """Full names of all that is imported: of `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


IMPORTED = {module: imported(tree) for module, tree in TREES.items()}


def folders(module: str) -> set[str]:
    """The folders of fervid that a module imports from."""
    return {name.split(".")[1] for name in IMPORTED[module] if name.startswith("fervid.")} & {*MAY_IMPORT}


@pytest.mark.parametrize("module", [module for module in TREES if "." in module])
def test_folders_follow_import_rule(module: str) -> None:
    folder = module.split(".")[0]
    assert folders(module) <= {folder, *MAY_IMPORT[folder]}


@pytest.mark.parametrize("stage", FRAME_STAGES)
def test_frame_stages_import_core_and_stages_only(stage: str) -> None:
    names = {name for name in IMPORTED[f"analysis.{stage}"] if name.startswith("fervid.")}
    assert {name.split(".")[1] for name in names} <= {"core", "analysis"}
    assert {name.split(".")[2] for name in names if name.startswith("fervid.analysis.")} <= {*FRAME_STAGES}


def test_imports_have_no_cycle() -> None:
    modules = {
        module: {name.removeprefix("fervid.") for name in names} & {*TREES} for module, names in IMPORTED.items()
    }
    TopologicalSorter(modules).prepare()


def test_only_network_command_imports_training() -> None:
    assert [module for module in TREES if "training" in folders(module) and not module.startswith("training.")] == [
        "cli.network"
    ]


def test_only_training_a_classifier_imports_the_converter_of_estimators() -> None:
    commands = {module for module in TREES if module.startswith("cli.")} - {"cli.app", "cli.network", "cli.train"}
    reached, waiting = set[str](), commands
    while waiting:
        reached |= waiting
        waiting = {name.removeprefix("fervid.") for module in waiting for name in IMPORTED[module]} & {*TREES} - reached
    importing = {module for module, names in IMPORTED.items() if "skl2onnx" in names}
    assert importing == {"learn.classifier_export"}
    assert not importing & reached


def test_only_container_opens_videos_for_reading() -> None:
    opening = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("av.open", "av.container.open")
    }
    assert opening == {"media.container", "render.annotate_video"}


def test_imports_are_written_with_full_name() -> None:
    assert [module for module, tree in TREES.items() if any(name.startswith(".") for name in imported(tree))] == []


EXTRAS = {"fastjsonschema", "fsspec", "jinja2", "markupsafe", "pandas", "pyarrow", "ray", "vl_convert"}


@pytest.mark.parametrize(
    "module",
    [
        "batch.parquet_writer",
        "batch.ray_runner",
        "batch.tabular",
        "media.inputs",
        "media.remote_files",
        "render.charts",
        "render.html_format",
        "render.html_report",
        "render.result_reader",
        "render.result_schema",
    ],
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
def test_nothing_is_unpickled(module: str) -> None:
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


def test_only_workers_receive_pickles() -> None:
    """Pipes between them pickle, and are no files: nobody else can write to them."""
    sending = {module for module, names in IMPORTED.items() if any("multiprocessing" in name for name in names)}
    assert sending == {"core.worker_process"}


def test_only_download_connects_to_network() -> None:
    """But for the cluster and the URLs that a user names: `ray_runner`, and `remote_files` by fsspec."""
    reaching = {
        module
        for module, names in IMPORTED.items()
        if any(name == part or name.startswith(f"{part}.") for name in names for part in NETWORK)
    }
    assert reaching == {"models.download", "batch.ray_runner"}
    assert {module for module, names in IMPORTED.items() if "fervid.models.download" in names} == {"cli.models"}


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_fervid_loads_nothing_heavy() -> None:
    heavy = {"numpy", "onnxruntime", "cv2", "av", "scipy", "sklearn", "torch", "typer", "rich"}
    assert python(f"import sys, fervid; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_parent_process_imports_no_decoder() -> None:
    """The first answer of a run waits for it."""
    heavy = {"av", "scipy", "sklearn", "joblib", "onnx"}
    modules = "sys, fervid.batch.runner, fervid.media.inputs"
    code = f"import {modules}; fervid.load_classifier(threads=1); print(sorted({heavy} & set(sys.modules)))"
    assert python(code) == "[]"


def test_onnxruntime_keeps_no_identity_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wheels hold telemetry, which begins with a number for the device in the user's cache."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert python("import fervid; print(fervid.load_classifier(threads=1).labels[0])") == "anger"
    assert list(tmp_path.iterdir()) == []


PUBLIC = [
    "Prediction",
    "Classifier",
    "ClipResult",
    "FervidError",
    "Frame",
    "FrameRow",
    "InputError",
    "ModelError",
    "NoFaceError",
    "Options",
    "Person",
    "Sampling",
    "WindowResult",
    "WindowSpec",
    "load_classifier",
    "to_arrow",
    "to_pandas",
    "__version__",
]


def test_public_names() -> None:
    assert sorted(fervid.__all__) == sorted(PUBLIC)
    star: dict[str, object] = {}
    exec("from fervid import *", star)
    assert set(star) - {"__builtins__"} == set(PUBLIC)
    assert all(star[name] is getattr(fervid, name) for name in PUBLIC)


def test_type_checker_sees_public_names() -> None:
    [guard] = [node for node in TREES["__init__"].body if isinstance(node, ast.If)]
    seen = {alias.asname for node in guard.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(PUBLIC) - {"__version__"}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fervid' has no attribute 'nothing'"):
        _ = fervid.nothing
