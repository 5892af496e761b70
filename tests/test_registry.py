"""Loading models: names and paths, digests, damaged files, cards, devices and pickling."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_errors

import toy_models
from fervid.core.errors import ChecksumMismatch, ModelError, ModelIncompatible, ModelNotFound, UsageError
from fervid.models import registry
from fervid.models.card import OPTIONAL_OUTPUTS, REQUIRED_CARD_KEYS, ModelKind
from fervid.models.session import CPU, CUDA, Device

KINDS: tuple[ModelKind, ...] = get_args(ModelKind)


def toy(kind: ModelKind, path: Path, **card: Any) -> Path:
    if kind == "classifier":
        return toy_models.classifier(path, [[0, 1, 2], [0, 0, 0]], **card)
    return {"detector": toy_models.detector, "face_model": toy_models.face_model, "regressor": toy_models.regressor}[
        kind
    ](path, **card)


def card(kind: ModelKind) -> dict[str, Any]:
    cards = {"detector": toy_models.DETECTOR, "face_model": toy_models.FACE_MODEL, "classifier": toy_models.CLASSIFIER}
    return (cards | {"regressor": toy_models.REGRESSOR})[kind]


def entry(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    stored = {prop.key: prop.value for prop in onnx.load_from_string(data).metadata_props}
    return {
        "file": path.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **json.loads(stored["fervid"]),
    }


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of shipped models with one toy of each kind."""
    place = tmp_path / "shipped"
    place.mkdir()
    entries = {f"toy-{kind}": entry(toy(kind, place / f"{kind}.onnx")) for kind in KINDS}
    (place / "manifest.json").write_text(json.dumps({"schema": 2, "models": entries}))
    monkeypatch.setattr(registry, "models_dir", lambda: place)
    registry.manifest.cache_clear()
    yield place
    registry.manifest.cache_clear()


def change(manifest: Path, model: str, values: dict[str, Any]) -> None:
    content = json.loads(manifest.read_text())
    content["models"][model] |= values
    manifest.write_text(json.dumps(content))
    registry.manifest.cache_clear()


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("kind", KINDS)
def test_shipped_model_is_loaded_by_name(shipped: Path, kind: ModelKind) -> None:
    model = registry.load_model(f"toy-{kind}", kind)
    assert model.path == shipped / f"{kind}.onnx"
    assert model.card == card(kind)
    assert model.identity.name == f"toy-{kind}"
    assert model.identity.sha256 == hashlib.sha256(model.path.read_bytes()).hexdigest()
    assert model.session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("kind", KINDS)
def test_model_is_loaded_by_path(tmp_path: Path, kind: ModelKind) -> None:
    path = toy(kind, tmp_path / "mine.onnx", name="mine")
    model = registry.load_model(str(path), kind, threads=2)
    assert (model.path, model.identity.name) == (path, "mine")
    assert model.session.get_session_options().intra_op_num_threads == 2


def test_model_without_name_is_named_after_its_file(tmp_path: Path) -> None:
    nameless = {key: value for key, value in toy_models.CLASSIFIER.items() if key != "name"}
    path = toy_models.write(tmp_path / "mine.onnx", onnx.load(toy("classifier", tmp_path / "toy.onnx")), nameless)
    assert registry.load_model(str(path), "classifier").identity.name == "mine"


def test_shipped_name_takes_precedence_over_file(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shipped.parent)
    toy("face_model", Path("toy-face_model"), name="another")
    assert registry.load_model("toy-face_model", "face_model").identity.name == "toy-face_model"
    assert registry.load_model("./toy-face_model", "face_model").identity.name == "another"


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("name", ["toy", "no/such/file.onnx", "", ".", "a\0b", "x" * 5000])
def test_unknown_name_lists_known_names(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        registry.load_model(name, "detector")
    assert repr(name) in caught.value.message
    assert "known names: toy-detector; or give the path of an ONNX file" in caught.value.message


def test_empty_manifest_has_no_known_names(shipped: Path) -> None:
    (shipped / "manifest.json").write_text('{"models": {}}')
    registry.manifest.cache_clear()
    with pytest.raises(ModelNotFound, match="known names: none"):
        registry.load_model("toy-face_model", "face_model")


def test_missing_file_of_shipped_model_is_named(shipped: Path) -> None:
    (shipped / "detector.onnx").unlink()
    with pytest.raises(ModelNotFound, match=r"detector\.onnx' cannot be read .*install fervid again"):
        registry.load_model("toy-detector", "detector")


@pytest.mark.parametrize(("kind", "position"), [*((kind, 100) for kind in KINDS), ("detector", 0), ("detector", -1)])
def test_changed_byte_in_shipped_model_is_refused(shipped: Path, kind: ModelKind, position: int) -> None:
    path = shipped / f"{kind}.onnx"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumMismatch) as caught:
        registry.load_model(f"toy-{kind}", kind)
    assert str(path) in caught.value.message
    assert hashlib.sha256(data).hexdigest() in caught.value.message
    assert "install fervid again" in caught.value.message


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.99])
def test_truncated_shipped_model_is_refused(shipped: Path, kept: float) -> None:
    path = shipped / "face_model.onnx"
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept == 1 else int(kept * len(data))])
    with pytest.raises(ChecksumMismatch, match=r"face_model\.onnx is not the file that was shipped"):
        registry.load_model("toy-face_model", "face_model")


def with_operator(data: bytes, name: bytes) -> bytes:
    model = onnx.load_from_string(data)
    model.graph.node[0].op_type = "QQQQ"
    return model.SerializeToString().replace(b"QQQQ", name)


def with_opset(data: bytes, version: int) -> bytes:
    model = onnx.load_from_string(data)
    model.opset_import[0].version = version
    return model.SerializeToString()


DAMAGES = {
    "empty": lambda _: b"",
    "half": lambda data: data[: len(data) // 2],
    "all but a byte": lambda data: data[:-1],
    "random": lambda _: np.random.default_rng(0).bytes(4096),
    "text": lambda _: "Ein Text, kein Modell: ä.\n".encode() * 40,
    "web page": lambda _: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "zeros": lambda _: bytes(1000),
    "ORT format": lambda _: b"\x10\0\0\0ORTM" + bytes(100),
    "unknown operator": lambda data: with_operator(data, b"None"),
    "operator that is no text": lambda data: with_operator(data, b"\xff\xfe\xfd\xfc"),
    "opset of the future": lambda data: with_opset(data, 9999),
}


@pytest.mark.parametrize(
    ("kind", "damage"),
    [*(("classifier", damage) for damage in DAMAGES), *((kind, "random") for kind in KINDS if kind != "classifier")],
)
def test_invalid_file_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: ModelKind, damage: str
) -> None:
    path = toy(kind, tmp_path / "mine.onnx")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ModelIncompatible) as caught:
        registry.load_model(str(path), kind)
    assert str(path) in caught.value.message
    assert "or give the path of an ONNX file" in caught.value.message
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (None, "has no fervid card"),
        ("", "has no fervid card"),
        ("not json", "has no fervid card"),
        ("[" * 100_000, "has no fervid card"),
        ("[]", "is a model of the kind unknown"),
        ("null", "is a model of the kind unknown"),
        ("{}", "is a model of the kind unknown"),
        ('{"kind": 7}', "is a model of the kind 7"),
        ('{"kind": "classifier"}', "lacks face_model_sha256, labels, statistics; export the model again"),
    ],
)
def test_model_without_valid_card_is_refused(tmp_path: Path, stored: str | None, words: str) -> None:
    path = toy("classifier", tmp_path / "mine.onnx")
    toy_models.write(path, onnx.load(path), stored)
    with pytest.raises(ModelIncompatible, match=words) as caught:
        registry.load_model(str(path), "classifier")
    assert str(path) in caught.value.message


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("kind", KINDS)
def test_model_of_another_kind_is_refused(kind: ModelKind) -> None:
    for other in set(KINDS) - {kind}:
        with pytest.raises(ModelIncompatible) as caught:
            registry.load_model(f"toy-{other}", kind)
        assert f"{other}.onnx is a model of the kind {other} and a {kind} is needed" in caught.value.message
        assert f"known names: toy-{kind}" in caught.value.message


NEEDED = {
    **REQUIRED_CARD_KEYS,
    "classifier": {*REQUIRED_CARD_KEYS["classifier"], "face_model_sha256"},
    "face_model": REQUIRED_CARD_KEYS["face_model"].union(*OPTIONAL_OUTPUTS.values()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_card_without_required_key_is_refused(tmp_path: Path, kind: ModelKind) -> None:
    path = toy(kind, tmp_path / "mine.onnx")
    model = onnx.load(path)
    for key in NEEDED[kind]:
        toy_models.write(path, model, {name: value for name, value in card(kind).items() if name != key})
        with pytest.raises(ModelIncompatible) as caught:
            registry.load_model(str(path), kind)
        assert f"{path} lacks {key}; export the model again" in caught.value.message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b'{"models": []}',
        b'{"models": {"a": null}}',
        b'{"models": {"a": []}}',
        b'{"models": {"a": {"file": "a.onnx", "kind": "detector"}}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=lambda content: content[:20].decode("latin-1") or "empty",
)
def test_damaged_manifest_is_named(shipped: Path, content: bytes) -> None:
    (shipped / "manifest.json").write_bytes(content)
    with pytest.raises(ChecksumMismatch) as caught:
        registry.load_model("toy-face_model", "face_model")
    assert caught.value.message == f"{shipped / 'manifest.json'} is damaged; install fervid again"


def test_unreadable_manifest_is_named(shipped: Path) -> None:
    (shipped / "manifest.json").unlink()
    (shipped / "manifest.json").mkdir()
    with pytest.raises(ChecksumMismatch, match="install fervid again"):
        registry.load_model("toy-face_model", "face_model")


def test_models_dir_needs_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "site" / "fervid" / "models" / "registry.py"))
    with pytest.raises(ModelNotFound, match="install fervid again"):
        registry.models_dir()
    for place in (tmp_path / "site" / "models", tmp_path / "site" / "fervid" / "_models"):
        place.mkdir(parents=True)
        (place / "manifest.json").touch()
        assert registry.models_dir() == place


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("kind", KINDS)
def test_card_equal_to_manifest_is_verified(kind: ModelKind) -> None:
    assert registry.verify(f"toy-{kind}").card == card(kind)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"threshold": 0.1}, "differ in threshold"),
        ({"license": "of the manifest alone"}, "differ in license"),
        ({"threshold": 0.1, "license": "x", "name": "y"}, "differ in license, name, threshold"),
    ],
)
def test_card_that_differs_from_manifest_is_refused(shipped: Path, values: dict[str, Any], words: str) -> None:
    change(shipped / "manifest.json", "toy-detector", values)
    with pytest.raises(ChecksumMismatch, match=words) as caught:
        registry.verify("toy-detector")
    assert str(shipped / "detector.onnx") in caught.value.message
    assert "install fervid again" in caught.value.message


def test_only_models_in_manifest_can_be_verified(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model is named .*known models: affect3, .*yunet"):
        registry.verify(str(toy("face_model", tmp_path / "mine.onnx")))


@pytest.mark.parametrize("name", sorted(registry.manifest()))
def test_every_shipped_model_matches_manifest(name: str) -> None:
    registry.manifest.cache_clear()
    described = registry.manifest()[name]
    path = registry.models_dir() / described["file"]
    model = registry.verify(name)
    assert entry(path) == described
    assert model.identity.sha256 == described["sha256"]
    assert REQUIRED_CARD_KEYS[described["kind"]] <= model.card.keys()


def test_shipped_models_stay_below_20_megabytes() -> None:
    assert sum(path.stat().st_size for path in registry.models_dir().rglob("*") if path.is_file()) < 20e6


@pytest.mark.parametrize("error", [ModelNotFound, ChecksumMismatch, ModelIncompatible])
def test_every_refusal_is_a_model_error(error: type[Exception]) -> None:
    assert issubclass(error, ModelError)


def test_model_with_other_output_names_is_refused(tmp_path: Path) -> None:
    path = toy_models.classifier(tmp_path / "toy.onnx", [[1.0], [2.0], [3.0]])
    path.write_bytes(path.read_bytes().replace(b"probabilities", b"probabilitiez"))
    with pytest.raises(ModelIncompatible, match=r"toy\.onnx has no input or output named probabilities"):
        registry.load_model(str(path), "classifier")


def test_classifier_with_regressor_card_is_refused(tmp_path: Path) -> None:
    path = toy_models.classifier(tmp_path / "toy.onnx", [[1.0]], kind="regressor", target="valence")
    with pytest.raises(ModelIncompatible, match=r"toy\.onnx has no input or output named value"):
        registry.load_model(str(path), "regressor")
    with pytest.raises(
        ModelIncompatible, match=r"regressor and a classifier is needed \(`fervid evaluate` .* without --target\)"
    ):
        registry.load_model(str(path), "classifier")


# In another process


def again(model: registry.Model) -> registry.Model:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("kind", KINDS)
def test_unpickled_model_is_loaded_again(kind: ModelKind, tmp_path: Path) -> None:
    model = registry.load_model(str(toy(kind, tmp_path / "toy.onnx")), kind, 3, "auto")
    other = again(model)
    assert (other.identity, other.path, other.card) == (model.identity, model.path, model.card)
    assert (other.threads, other.device) == (3, "auto")
    assert other.session.get_session_options().intra_op_num_threads == 3


@pytest.mark.usefixtures("shipped")
def test_pickle_keeps_path_and_not_name(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shipped.parent)
    toy("face_model", Path("toy-face_model"), name="another")
    for name, identity in (("toy-face_model", "toy-face_model"), ("./toy-face_model", "another")):
        sent = pickle.dumps(registry.load_model(name, "face_model"))
        with monkeypatch.context() as moved:
            moved.chdir("/")
            assert pickle.loads(sent).identity.name == identity


def test_model_replaced_before_unpickling_is_refused(tmp_path: Path) -> None:
    model = registry.load_model(str(toy("face_model", tmp_path / "toy.onnx")), "face_model")
    toy("face_model", tmp_path / "toy.onnx", first_age=7)
    with pytest.raises(ChecksumMismatch, match=r"toy\.onnx was replaced while it was in use"):
        again(model)


# Devices


class Session:
    """A session that reports the providers of another machine."""

    def __init__(self, real: onnxruntime.InferenceSession, providers: list[str]) -> None:
        """Wrap a session and report other providers."""
        self._real, self._providers = real, providers

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return self._providers


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Simulate an onnxruntime with CUDA, which starts, is dropped, or raises an error."""

    def make(starts: bool = True, error: Exception | None = None) -> None:
        def session(data: bytes, options: Any, providers: list[str], **more: Any) -> Session:
            real = open_session(data, options, providers=[CPU], **more)
            if CUDA in providers and error:
                raise error
            return Session(real, providers if starts else [CPU])

        open_session = onnxruntime.InferenceSession
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)

    return make


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(toy("face_model", tmp_path / "toy.onnx"))


@pytest.mark.parametrize(("device", "first"), [("cpu", CPU), ("cuda", CUDA), ("auto", CUDA)])
def test_requested_device_is_used(device: Device, first: str, cuda: Callable[..., None], path: str) -> None:
    cuda()
    model = registry.load_model(path, "face_model", device=device)
    assert (model.session.get_providers()[0], model.device) == (first, device)


def test_missing_cuda_support_says_what_to_install(path: str) -> None:
    with pytest.raises(UsageError, match=r"cuda cannot be used.*pip install onnxruntime-gpu.*or use cpu"):
        registry.load_model(path, "face_model", device="cuda")
    assert registry.load_model(path, "face_model", device="auto").session.get_providers() == [CPU]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ({"starts": False}, "its libraries are missing"),
        ({"error": RuntimeError("CUDA failure 35: driver\nat line 7")}, r"\(CUDA failure 35: driver\)"),
        ({"error": onnx_errors.Fail("no device")}, r"\(no device\)"),
    ],
    ids=["left out", "raises", "fails"],
)
def test_cuda_that_does_not_start_fails_or_falls_back(
    failure: dict[str, Any], reason: str, cuda: Callable[..., None], path: str
) -> None:
    cuda(**failure)
    with pytest.raises(UsageError, match=rf"{reason}.*nvidia-smi.*or use cpu"):
        registry.load_model(path, "face_model", device="cuda")
    assert registry.load_model(path, "face_model", device="auto").session.get_providers() == [CPU]


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_damaged_model_is_not_reported_as_a_missing_device(
    device: Device, cuda: Callable[..., None], tmp_path: Path
) -> None:
    cuda()
    (tmp_path / "damaged.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelIncompatible, match=r"damaged\.onnx is no ONNX model"):
        registry.load_model(str(tmp_path / "damaged.onnx"), "face_model", device=device)


def test_unknown_device_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="cpu, cuda, auto, not 'tpu'"):
        registry.load_model(path, "face_model", device="tpu")
