"""The JSON Schema of a record, which `fervid schema` prints; the columns of CSV and parquet are derived from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from fervid.core.results import SCHEMA_VERSION, Status

MODEL_ROLES = ("detector", "face_model", "classifier")


def record_json_schema(command: Literal["classify", "timeline"] = "classify") -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one record, as `ClipResult.as_dict` and `WindowResult.as_dict` give it.

    Args:
        command: The command that writes the record: `classify` one per clip, `timeline` one per window.
    """
    text = {"type": "string"}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    probabilities = {"type": "object", "additionalProperties": probability}
    count = {"type": "integer", "minimum": 0}
    seconds = {"type": "number", "minimum": 0}
    window = command == "timeline"
    times = {
        "start_s": _nullable(seconds, "start of the window; null if the clip could not be read"),
        "end_s": _nullable(seconds, "end of the window"),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fervid window" if window else "fervid record",
        **_object(
            schema_version={"const": SCHEMA_VERSION},
            path=text | {"description": "the input as named by the user"},
            **(times if window else {}),
            status={"enum": list(get_args(Status))},
            label=_nullable(text, "the most probable class; null unless ok"),
            confidence=_nullable(probability),
            probabilities=_nullable(probabilities),
            people={
                "type": "array",
                "description": "the main person first",
                "items": _object(
                    id=count | {"description": "the same in every window"} if window else count,
                    seconds=seconds,
                    label=text,
                    probabilities=probabilities,
                    age=_nullable({"type": "number"}, "years; null without --attributes"),
                    gender=_nullable(text, "null without --attributes"),
                    ethnicity=_nullable(text, "null without --attributes"),
                    identity=_nullable(text, "the same for one person in all clips; null unless requested"),
                ),
            },
            duration_s=_nullable(seconds, "seconds of presentation time that were analysed"),
            frames_sampled=count,
            frames_with_face=count,
            model={
                "type": "object",
                "description": "detector, face_model and classifier",
                "additionalProperties": _object(name=text, sha256=text | {"pattern": "^[0-9a-f]{64}$"}),
            },
            error=_nullable(
                _object(code=text, message=text),
                "why there is no prediction; with ok or no_face: what was wrong with the clip",
            ),
            elapsed_s=seconds,
            baseline=_nullable(
                _object(kind={"enum": ["person", "rest"]}, clips={"type": "integer", "minimum": 1}),
                "what the prediction is relative to; null if it is not relative",
            ),
        ),
    }


def value_types(schema: Mapping[str, Any], labels: Sequence[str]) -> Any:
    """Return the Python types of a record's values: nested dictionaries, and a list of one type for an array.

    Args:
        schema: The schema of the record.
        labels: The classifier's labels.
    """
    match schema.get("anyOf", [schema])[0]:
        case {"properties": properties}:
            return {name: value_types(value, labels) for name, value in properties.items()}
        case {"additionalProperties": value}:
            kind = value_types(value, labels)
            return dict.fromkeys(labels if kind is float else MODEL_ROLES, kind)
        case {"items": items}:
            return [value_types(items, labels)]
        case {"type": "number"}:
            return float
        case {"type": "integer"} | {"const": int()}:
            return int
    return str


def flatten(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the columns of a record and their values, with nested fields as `error.code`; `people` stays a list."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _nullable(schema: Mapping[str, Any], description: str = "") -> dict[str, Any]:
    described = {**schema, "description": description} if description else schema
    return {"anyOf": [described, {"type": "null"}]}
