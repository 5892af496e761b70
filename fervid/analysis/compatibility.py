"""Checks that a clip classifier, a face model and the options fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fervid.analysis.baseline import check_card
from fervid.analysis.clip_classifier import matches_face_model
from fervid.analysis.options import Options
from fervid.core.errors import ModelIncompatible, UsageError
from fervid.models import registry
from fervid.models.session import ONNX_ERRORS

# Each attribute, and the key of a face model's card that exists if the model estimates it
_ATTRIBUTE_KEYS = {"age": "first_age", "gender": "genders", "ethnicity": "ethnicities"}


def default_classifier(face_model: registry.Model) -> str:
    """Return the name of the classifier for a face model: that of its card, or a shipped one that fits it."""
    if "classifier" in face_model.card:
        return str(face_model.card["classifier"])
    default = registry.DEFAULTS["classifier"]
    card = registry.manifest_entry(default)
    fits = matches_face_model(card, face_model.sha256s, face_model.card["expressions"])
    return default if fits else registry.AVERAGING_CLASSIFIER


def check_compatible(face_model: registry.Model, classifier: registry.Model, options: Options) -> None:
    """Check that a clip classifier can classify the features of a face model under the given options.

    Raises:
        ModelIncompatible: The classifier was trained on another face model.
        UsageError: The classifier needs `--face all` or a baseline, or the face model estimates no attributes.
    """
    if not matches_face_model(classifier.card, face_model.sha256s, face_model.card["expressions"]):
        sha256 = classifier.card.get("face_model_sha256")
        trained_on = f"face model {str(sha256)[:12]}" if sha256 else "a face model with other expressions"
        raise ModelIncompatible(
            f"{classifier.identity.name} was trained on {trained_on}, not on {face_model.identity.name}"
            f" ({face_model.identity.sha256[:12]}); train it again, or select its face model with --face-model"
        )
    check_card(classifier.card, options.baseline)
    missing = [name for name, key in _ATTRIBUTE_KEYS.items() if key not in face_model.card]
    if options.attributes and missing:
        raise UsageError(
            f"{face_model.identity.name} estimates no {', '.join(missing)}; leave out --attributes, or use --face-model"
            f" {registry.DEFAULTS['face_model']}"
        )
    if options.face != "all" and classifier.card.get("face") == "all":
        raise UsageError(f"{classifier.identity.name} was trained on the faces of everybody in a clip; add --face all")


def check_labels(labels: Sequence[str] | None, card: Mapping[str, Any]) -> None:
    """Check that the labels to choose from, if given, are two or more different ones.

    Raises:
        UsageError: They are not.
    """
    if labels is not None and len(set(labels)) < max(len(labels), 2):
        raise UsageError(
            f"--labels needs two or more different labels of {', '.join(card['labels'])}, not"
            f" {', '.join(labels) or 'none'}"
        )


@contextmanager
def as_incompatible_model(model: registry.Model) -> Iterator[None]:
    """Convert errors from running a model or reading its card to `ModelIncompatible`."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, StopIteration, TypeError, ValueError, *ONNX_ERRORS) as error:
        reason = str(error).partition("\n")[0]
        raise ModelIncompatible(f"{model.path} does not match its model card ({reason}); re-export it") from error
