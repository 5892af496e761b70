"""Which emotion a video clip shows: video files in, one labelled record per clip out.

>>> import fervid
>>> classifier = fervid.load()  # doctest: +SKIP
>>> classifier.classify("interview.mp4").label  # doctest: +SKIP
'happiness'
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fervid.columns import to_arrow as to_arrow
    from fervid.columns import to_pandas as to_pandas
    from fervid.errors import FervidError as FervidError
    from fervid.errors import InputError as InputError
    from fervid.errors import ModelError as ModelError
    from fervid.errors import NoFaces as NoFaces
    from fervid.extract import Options as Options
    from fervid.gather import Windows as Windows
    from fervid.pipeline import Classifier as Classifier
    from fervid.pipeline import load as load
    from fervid.records import Answer as Answer
    from fervid.records import ClipResult as ClipResult
    from fervid.records import Frame as Frame
    from fervid.records import Person as Person
    from fervid.records import WindowResult as WindowResult
    from fervid.sampling import Sampling as Sampling

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # asked when onnxruntime is imported; its wheels would report

_HOMES = {
    "Answer": "records",
    "Classifier": "pipeline",
    "ClipResult": "records",
    "FervidError": "errors",
    "Frame": "records",
    "InputError": "errors",
    "ModelError": "errors",
    "NoFaces": "errors",
    "Options": "extract",
    "Person": "records",
    "Sampling": "sampling",
    "WindowResult": "records",
    "Windows": "gather",
    "load": "pipeline",
    "to_arrow": "columns",
    "to_pandas": "columns",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import fervid` and `fervid --help` stay light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fervid' has no attribute {name!r}")
    value = getattr(import_module(f"fervid.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
