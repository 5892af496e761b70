"""The tree of errors: stable codes, and a drawing in ARCHITECTURE.md that matches the classes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fervid.core import errors
from fervid.core.errors import FervidError
from fervid.core.text import plural


def subclasses(kind: type[FervidError]) -> Iterator[type[FervidError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from subclasses(child)


def read_drawing() -> dict[str, tuple[str, str]]:
    """Map each class in the drawing to its parent and the first word beside it."""
    tree: dict[str, tuple[str, str]] = {}
    above = [FervidError.__name__]
    text = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text()
    for branch, name, word in re.findall(r"^([│ ]*)[├└]── (\w+) +(\w+)", text, re.MULTILINE):
        above = [*above[: len(branch) // 4 + 1], name]
        tree[name] = (above[-2], word)
    return tree


KINDS = list(subclasses(FervidError))
CODES = {
    "InputError": "input",
    "InputNotFound": "not_found",
    "InputUnreadable": "unreadable",
    "EmptyInput": "empty_file",
    "UnsupportedFormat": "not_a_video",
    "NoVideoStream": "no_video_stream",
    "Undecodable": "undecodable",
    "TruncatedVideo": "truncated",
    "CorruptVideo": "damaged",
    "Discontinuity": "discontinuity",
    "SeveralStreams": "several_streams",
    "NoFramesInRange": "nothing_sampled",
    "FramesDropped": "dropped",
    "FrameTooLarge": "too_large",
    "ClipTooLong": "too_long",
    "WorkerCrashed": "crashed",
    "TimedOut": "timeout",
    "OutOfMemory": "memory",
    "NoFaceError": "no_face",
    "UsageError": "usage",
    "DatasetError": "dataset",
    "NoInputsFound": "nothing_matched",
    "OutputError": "output",
    "ModelError": "model",
    "ModelNotFound": "model_not_found",
    "ChecksumMismatch": "model_unverified",
    "DownloadFailed": "download_failed",
    "ModelIncompatible": "model_incompatible",
}


def test_codes_are_stable() -> None:
    assert {kind.__name__: kind.code for kind in KINDS} == CODES


def test_codes_are_unique() -> None:
    assert all("code" in vars(kind) for kind in KINDS)
    assert len({kind.code for kind in [FervidError, *KINDS]}) == len(KINDS) + 1


def test_drawing_matches_class_hierarchy() -> None:
    drawing = read_drawing()
    assert {name: parent for name, (parent, _) in drawing.items()} == {
        kind.__name__: kind.__bases__[0].__name__ for kind in KINDS
    }
    assert [kind for kind in KINDS if not kind.__subclasses__() and drawing[kind.__name__][1] != kind.code] == []


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 clips, 0 people"), (1, "1 clip, 1 person"), (2000, "2,000 clips, 2,000 people")]
)
def test_plural(count: int, words: str) -> None:
    assert f"{plural(count, 'clip')}, {plural(count, 'person', 'people')}" == words
