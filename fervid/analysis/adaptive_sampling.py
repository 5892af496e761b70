"""Early exit: analyse a clip at rising frame rates until the classifier is confident (Savchenko, ICML 2023)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from fervid.analysis.aggregate import ClipObservations, aggregate_clip
from fervid.analysis.early_exit import ExitLevel
from fervid.analysis.extractor import Extractor
from fervid.core.records import ClipFeatures, FrameObservation


def observe_with_early_exit(
    extractor: Extractor,
    path: str | os.PathLike[str],
    levels: Sequence[ExitLevel],
    confidence_of: Callable[[ClipFeatures], float],
) -> ClipObservations:
    """Analyse a clip at each level's frame rate in turn, and stop at the first confident prediction.

    Each level analyses only the frames that the levels before it left out. After the last level comes the full frame
    rate, and after that, if no face was found, the full frame rate with stretched frames.

    Args:
        extractor: Detector and face model.
        path: Path of the clip.
        levels: Reduced frame rates, the lowest first, with the confidence that each needs.
        confidence_of: Confidence of the classifier in its prediction from the features of a clip.
    """
    face, config = extractor.options.face, extractor.tracker_config
    cache: dict[float, FrameObservation] = {}
    for level in levels:
        clip = aggregate_clip(extractor.observe_at_stride(path, level.stride, cache), config, level.stride)
        pool = clip.pool(face)
        if not clip.frames or (pool and confidence_of(pool.features()) >= level.confidence):
            return clip
    clip = aggregate_clip(extractor.observe_at_stride(path, 1, cache), config)
    if clip.people or not clip.frames:
        return clip
    stretched = aggregate_clip(extractor.observe_stretched(path), config)
    stretched.error = clip.error
    return stretched if stretched.people else clip
