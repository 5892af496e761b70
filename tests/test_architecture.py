"""Which folder may import which, and what is never imported at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fervid

PACKAGE = Path(fervid.__file__).parent
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


@cache
def trees() -> dict[str, ast.Module]:
    """Syntax tree of each module."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_bytes()) for path in paths}


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports."""
    return {module: imported(tree) for module, tree in trees().items()}


def imported(tree: ast.AST) -> set[str]:
    """Full names of all that is imported: of `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def folders(module: str) -> set[str]:
    """The folders of fervid that a module imports from."""
    return {name.split(".")[1] for name in imports()[module] if name.startswith("fervid.")} & {*MAY_IMPORT}


def test_folders_follow_import_rule() -> None:
    for module in trees():
        folder, _, name = module.partition(".")
        assert not name or folders(module) <= {folder, *MAY_IMPORT[folder]}, module


def test_frame_stages_import_core_and_stages_only() -> None:
    allowed = {f"fervid.analysis.{stage}" for stage in FRAME_STAGES}
    for stage in FRAME_STAGES:
        names = {name for name in imports()[f"analysis.{stage}"] if name.startswith("fervid.")}
        others = {".".join(name.split(".")[:3]) for name in names if not name.startswith("fervid.core")}
        assert others <= allowed, stage


def test_imports_have_no_cycle() -> None:
    modules = {
        module: {name.removeprefix("fervid.") for name in names} & {*trees()} for module, names in imports().items()
    }
    TopologicalSorter(modules).prepare()


def test_only_network_command_imports_training() -> None:
    assert [module for module in trees() if "training" in folders(module) and not module.startswith("training.")] == [
        "cli.network"
    ]


def test_only_training_a_classifier_imports_the_converter_of_estimators() -> None:
    commands = {module for module in trees() if module.startswith("cli.")} - {"cli.app", "cli.network", "cli.train"}
    reached, waiting = set[str](), commands
    while waiting:
        reached |= waiting
        waiting = {name.removeprefix("fervid.") for module in waiting for name in imports()[module]} & {
            *trees()
        } - reached
    importing = {module for module, names in imports().items() if "skl2onnx" in names}
    assert importing == {"learn.classifier_export"}
    assert not importing & reached


def test_only_container_opens_videos_for_reading() -> None:
    opening = {
        module
        for module, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("av.open", "av.container.open")
    }
    assert opening == {"media.container", "render.annotate_video"}


def test_imports_are_written_with_full_name() -> None:
    assert [module for module, tree in trees().items() if any(name.startswith(".") for name in imported(tree))] == []


EXTRAS = {"fastjsonschema", "fsspec", "jinja2", "markupsafe", "pandas", "pyarrow", "ray", "vl_convert"}


def test_extras_are_imported_when_they_are_needed() -> None:
    for module, tree in trees().items():
        top = imported(ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], []))
        assert not {name.partition(".")[0] for name in top} & EXTRAS, module


PICKLERS = {"pickle", "pickletools", "cPickle", "_pickle", "dill", "cloudpickle", "jsonpickle", "shelve", "marshal"}
LOADERS = {
    *("joblib.load", "joblib.dump", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.package", "torch.hub"),
    *("numpy.lib.format.read_array", "onnx.hub"),
}
EXECUTING = {"eval", "exec", "compile", "__import__"}
NETWORK = {"urllib.request", "http", "socket", "ftplib", "smtplib", "ssl", "requests", "httpx", "urllib3", "aiohttp"}


def test_nothing_is_unpickled() -> None:
    for module, tree in trees().items():
        nodes = list(ast.walk(tree))
        calls = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        called = {node.func.id for node in nodes if isinstance(node, ast.Call) and hasattr(node.func, "id")}
        assert not {name.split(".")[0] for name in imports()[module]} & PICKLERS, module
        assert not (imports()[module] | calls) & LOADERS, module
        assert "allow_pickle" not in {node.arg for node in nodes if isinstance(node, ast.keyword)}, module
        assert not called & EXECUTING, module


def test_only_workers_receive_pickles() -> None:
    """Pipes between them pickle, and are no files: nobody else can write to them."""
    sending = {module for module, names in imports().items() if any("multiprocessing" in name for name in names)}
    assert sending == {"core.worker_process"}


def test_only_download_connects_to_network() -> None:
    """But for the cluster and the URLs that a user names: `ray_runner`, and `remote_files` by fsspec."""
    reaching = {
        module
        for module, names in imports().items()
        if any(name == part or name.startswith(f"{part}.") for name in names for part in NETWORK)
    }
    assert reaching == {"models.download", "batch.ray_runner"}
    assert {module for module, names in imports().items() if "fervid.models.download" in names} == {"cli.models"}


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


PUBLIC = {
    *("Classifier", "ClipResult", "FervidError", "Frame", "FrameRow", "InputError", "ModelError", "NoFaceError"),
    *("Options", "Person", "Prediction", "Sampling", "WindowResult", "WindowSpec", "load_classifier", "to_arrow"),
    *("to_pandas", "__version__"),
}


def test_public_names() -> None:
    assert sorted(fervid.__all__) == sorted(PUBLIC)
    star: dict[str, object] = {}
    exec("from fervid import *", star)
    assert set(star) - {"__builtins__"} == PUBLIC
    assert all(star[name] is getattr(fervid, name) for name in PUBLIC)


def test_type_checker_sees_public_names() -> None:
    [guard] = [node for node in trees()["__init__"].body if isinstance(node, ast.If)]
    seen = {alias.asname for node in guard.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == PUBLIC - {"__version__"}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'fervid' has no attribute 'nothing'"):
        _ = fervid.nothing
