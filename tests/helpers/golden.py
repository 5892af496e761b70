"""Golden records and features of the clips of examples/; `python tests/helpers/golden.py` rewrites them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fervid
from fervid.analysis.extractor import load_extractor
from fervid.learn.feature_extraction import FEATURE_VERSION, compute_clip_features

ROOT = Path(__file__).parents[2]
CLIPS = sorted((ROOT / "examples").glob("*.mp4"))
RECORDS, FEATURES = ROOT / "tests/golden/records.json", ROOT / "tests/golden/features.json"
VALUES_PER_STATISTIC = 8


def compute_records() -> dict[str, Any]:
    """Compute the record of each clip, without fields that depend on the machine or the model files."""
    classifier = fervid.load_classifier(options=fervid.Options(attributes=True), threads=1)
    records = {}
    for clip in CLIPS:
        record = classifier.classify_or_error(clip).as_dict()
        records[clip.name] = {key: record[key] for key in record if key not in ("path", "model", "elapsed_s", "error")}
    return records


def compute_features() -> dict[str, Any]:
    """Compute the first values of each statistic for each clip with a face, and `FEATURE_VERSION`."""
    extractor = load_extractor(threads=1)
    vectors = {}
    for clip in CLIPS:
        features = compute_clip_features(clip, extractor, (1,))[1]
        if features is not None:
            vectors[clip.name] = {
                name: [round(float(value), 4) for value in values[:VALUES_PER_STATISTIC]]
                for name, values in features.statistics.items()
            }
    return {"version": FEATURE_VERSION, "features": vectors}


if __name__ == "__main__":
    for path, content in ((RECORDS, compute_records()), (FEATURES, compute_features())):
        path.write_text(json.dumps(content, indent=1) + "\n")
