"""Train the shipped valence classifier `affect3`: negative, neutral or positive, the classes of VGAF.

    python -m fervid.training.train_valence_classifier --kerc DATA -o models/affect3.onnx

The same as `fervid train kerc2020:DATA`, with the model card of a shipped model. It is trained on the training clips of
KERC 2020, film scenes whose mean valence rating is below 4 (negative), above 5.5 (positive) or between, and evaluated
on the validation clips and by cross-validation over people, who are identified by face because the set does not name
them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import onnx

from fervid.analysis.early_exit import STRIDES
from fervid.learn.model_selection import make_candidates
from fervid.learn.training import train_classifier
from fervid.training import kerc
from fervid.training.model_card import save_with_card

EARLY_EXIT_ERROR = 0.02  # allowed fraction of clips that an early exit gets wrong
CANDIDATES = [
    *make_candidates(("logit+std", "logit+std+max+min")),
    *make_candidates(("mean+std", "mean+std+min+max", "mean+std+logit+std+max+min"), ("linear",)),
]
CARD = {
    "title": "Valence of a film clip: negative, neutral or positive",
    "license": "fitted on KERC 2020, competition data, for research only",
    "source": "python -m fervid.training.train_valence_classifier",
    "limitations": "Korean film scenes with trained actors, 8 to 9 frames each; the same actors occur in both parts."
    " Negative and positive are what annotators saw in a scene, not what somebody felt.",
}


def main() -> None:
    """Extract features, select and train a classifier, export and report it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerc", type=Path, required=True, help="folder with frame_img/, new_Test_img/ and the tables")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    known = kerc.load_features(arguments.kerc, arguments.cache, strides=STRIDES)
    data, card, _ = train_classifier(known, CANDIDATES, arguments.output.stem, early_exit_error=EARLY_EXIT_ERROR)
    save_with_card(onnx.load_model_from_string(data), {**card, **CARD}, arguments.output)
    print(json.dumps(card["figures"], indent=2))


if __name__ == "__main__":
    main()
