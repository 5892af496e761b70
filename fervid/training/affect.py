"""The second clip classifier that ships: how pleasant a scene is for the person in it, in the three classes of VGAF.

    python -m fervid.training.affect --kerc DATA -o models/affect3.onnx

What `fervid train kerc2020:DATA` does, with the card of a shipped model: fitted on the training clips of KERC 2020,
film scenes whose mean rating of valence is below 4 (negative), above 5.5 (positive) or between, and measured on its
validation clips and by cross-validation over people, whom the faces tell apart because the set does not name them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import onnx

from fervid.analysis.early_exit import STRIDES
from fervid.learn.labeled_features import train_classifier
from fervid.learn.model_selection import candidates
from fervid.training import films
from fervid.training.card import save_with_card

ERROR = 0.02  # share of the clips that an answer from few frames may get wrong
WAYS = [
    *candidates(("logit+std", "logit+std+max+min")),
    *candidates(("mean+std", "mean+std+min+max", "mean+std+logit+std+max+min"), ("linear",)),
]
CARD = {
    "title": "Valence of a film clip: negative, neutral or positive",
    "licence": "fitted on KERC 2020, competition data, for research only",
    "source": "python -m fervid.training.affect",
    "limits": "Korean film scenes with trained actors, 8 to 9 frames each; the same actors occur in both parts."
    " Negative and positive are what annotators saw in a scene, not what somebody felt.",
}


def main() -> None:
    """Look at the clips, choose, fit, export, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerc", type=Path, required=True, help="folder with frame_img/, new_Test_img/ and the tables")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    known = films.read(arguments.kerc, arguments.cache, strides=STRIDES)
    data, card = train_classifier(known, WAYS, arguments.output.stem, error=ERROR)
    save_with_card(onnx.load_model_from_string(data), {**card, **CARD}, arguments.output)
    print(json.dumps(card["figures"], indent=2))


if __name__ == "__main__":
    main()
