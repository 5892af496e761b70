"""Which emotion a video clip shows: video files in, one labelled record per clip out.

>>> import fervid
>>> classifier = fervid.load_classifier()  # doctest: +SKIP
>>> classifier.classify("interview.mp4").label  # doctest: +SKIP
'happiness'
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fervid.analysis.options import Options as Options
    from fervid.analysis.pipeline import Classifier as Classifier
    from fervid.analysis.pipeline import load_classifier as load_classifier
    from fervid.analysis.windows import WindowSpec as WindowSpec
    from fervid.batch.tabular import to_arrow as to_arrow
    from fervid.batch.tabular import to_pandas as to_pandas
    from fervid.core.errors import FervidError as FervidError
    from fervid.core.errors import InputError as InputError
    from fervid.core.errors import ModelError as ModelError
    from fervid.core.errors import NoFaceError as NoFaceError
    from fervid.core.frame_rows import FrameRow as FrameRow
    from fervid.core.records import Frame as Frame
    from fervid.core.results import ClipResult as ClipResult
    from fervid.core.results import Person as Person
    from fervid.core.results import Prediction as Prediction
    from fervid.core.results import WindowResult as WindowResult
    from fervid.media.sampling import Sampling as Sampling

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # asked when onnxruntime is imported; its wheels would report

_LAZY_EXPORTS = {
    "Classifier": "analysis.pipeline",
    "ClipResult": "core.results",
    "FervidError": "core.errors",
    "Frame": "core.records",
    "FrameRow": "core.frame_rows",
    "InputError": "core.errors",
    "ModelError": "core.errors",
    "NoFaceError": "core.errors",
    "Options": "analysis.options",
    "Person": "core.results",
    "Prediction": "core.results",
    "Sampling": "media.sampling",
    "WindowResult": "core.results",
    "WindowSpec": "analysis.windows",
    "load_classifier": "analysis.pipeline",
    "to_arrow": "batch.tabular",
    "to_pandas": "batch.tabular",
}
__all__ = [*_LAZY_EXPORTS, "__version__"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import fervid` and `fervid --help` stay light."""
    if name not in _LAZY_EXPORTS:
        raise AttributeError(f"module 'fervid' has no attribute {name!r}")
    value = getattr(import_module(f"fervid.{_LAZY_EXPORTS[name]}"), name)
    globals()[name] = value
    return value
