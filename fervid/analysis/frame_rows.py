"""Observations of a clip -> the rows of its frames, and back to a record.

Who is who in a clip is known at its end. Until then the rows are in a file, with the tracks of the faces; then they are
read again, with the people.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, BinaryIO

import numpy as np

from fervid.analysis.aggregate import ClipObservations, TrackStats, aggregate_clip
from fervid.analysis.baseline import IDENTITY
from fervid.analysis.extractor import Extractor
from fervid.analysis.pooling import to_logits
from fervid.analysis.result_builder import ResultBuilder
from fervid.core.errors import UsageError, as_usage_error
from fervid.core.frame_rows import FrameColumns, FrameRow
from fervid.core.records import ClipFeatures, FaceOutputs, FloatArray, FrameObservation
from fervid.core.results import ClipResult

_EYES = ("right_eye", "left_eye")  # the landmarks of every detector, for those whose cards name none
_ROWS_PER_READ = 1024
_NO_TRACK = -1


def frame_columns(
    extractor: Extractor, *, identity: bool = False, logits: bool = False, embedding: bool = False
) -> FrameColumns:
    """Return the columns of the rows that an extractor gives, with the optional ones asked for.

    Its models name the landmarks and expressions; its options say whether there are attributes.
    """
    card, attributes = extractor.face_model.card, extractor.options.attributes
    return FrameColumns(
        landmarks=tuple(extractor.detector.card.get("landmarks", _EYES)),
        expressions=tuple(card["expressions"]),
        identity=identity,
        logits=logits,
        attributes=attributes,
        ethnicities=tuple(map(str, card["ethnicities"])) if attributes else (),
        embedding=int(card["embedding"]) if embedding else 0,
    )


@dataclass(frozen=True, slots=True)
class RecordedClip:
    """A clip whose rows are in a file.

    Attributes:
        result: The record of the clip, as of `Classifier.classify_or_error`.
        columns: The columns of the rows.
        person_of_track: The person of each track that belongs to one.
        people: What each person is recognised by in other clips; empty unless the rows have an identity.
    """

    result: ClipResult
    columns: FrameColumns
    person_of_track: Mapping[int, int]
    people: tuple[ClipFeatures, ...] = ()

    def rows(self, file: BinaryIO) -> Iterator[FrameRow]:
        """Read the rows of the clip from the file of `record_clip`, then the row of its error if it has one."""
        file.seek(0)
        layout = _layout(self.columns)
        while data := file.read(_ROWS_PER_READ * layout.itemsize):
            yield from map(self._make_row, np.frombuffer(data, layout))
        if self.result.error:
            yield FrameRow(self.result.path, error=self.result.error)

    def _make_row(self, row: Any) -> FrameRow:
        values: dict[str, Any] = {
            "path": self.result.path,
            "frame": int(row["frame"]),
            "timestamp": float(row["time"]),
            "duration_s": float(row["duration"]),
        }
        if row["track"] == _NO_TRACK:
            return FrameRow(**values)
        columns, probabilities = self.columns, row["expression"]
        values |= {
            "face_id": self.person_of_track.get(int(row["track"])),
            "confidence": float(row["score"]),
            "detected": bool(row["detected"]),
            "box": tuple(row["box"].tolist()),
            "landmarks": dict(zip(columns.landmarks, map(tuple, row["landmarks"].tolist()), strict=True)),
            "probabilities": dict(zip(columns.expressions, probabilities.tolist(), strict=True)),
        }
        if columns.logits:
            logits = to_logits(probabilities[None])[0].tolist()
            values["logits"] = dict(zip(columns.expressions, logits, strict=True))
        if columns.attributes:
            values |= {"age": float(row["age"]), "male_probability": float(row["gender"])}
            ethnicity = row["ethnicity"].tolist()
            values["ethnicity_probabilities"] = dict(zip(columns.ethnicities, ethnicity, strict=True))
        if columns.embedding:
            values["embedding"] = row["embedding"]
        return FrameRow(**values)


def record_clip(
    path: str, extractor: Extractor, results: ResultBuilder, columns: FrameColumns, file: BinaryIO
) -> RecordedClip:
    """Analyse a clip, write these columns of the rows of its frames to an empty binary file, and make its record."""
    started, layout = time.perf_counter(), _layout(columns)

    def write(observation: FrameObservation, track_ids: Sequence[int | None]) -> None:
        file.write(_pack(observation, track_ids, layout).tobytes())

    with closing(extractor.iter_observations(path)) as observations:
        clip = aggregate_clip(observations, extractor.tracker_config, on_frame=write)
    result = results.build(path, clip, started)
    person_of_track = {track: id for id, person in enumerate(clip.people) for track in person.track_ids}
    people = clip.select_features({IDENTITY}) if columns.identity else ()
    return RecordedClip(result, columns, person_of_track, people)


def pool_rows(rows: Iterable[FrameRow | Mapping[str, Any]], results: ResultBuilder) -> ClipResult:
    """Pool all rows of one clip, in order and as `FrameRow` or as its `as_dict`, to the record of the clip.

    Raises:
        UsageError: The rows are those of several clips or of none, are no rows of frames, or lack what the classifier
            needs.
    """
    started, clip, problem = time.perf_counter(), ClipObservations(), None
    people: dict[int, TrackStats] = {}
    paths: set[str] = set()
    with as_usage_error():
        parsed = (row if isinstance(row, FrameRow) else FrameRow.from_dict(row) for row in rows)
        for _, group in groupby(parsed, key=lambda row: row.frame):
            faces = list(group)
            paths |= {row.path for row in faces}
            if faces[0].frame is None:
                problem = faces[0].error
            else:
                _add_frame(clip, people, faces)
    if len(paths) != 1:
        raise UsageError(f"the rows are of {len(paths)} clips; pool the rows of one clip at a time")
    clip.people = [people[id] for id in sorted(people)]
    with as_usage_error():
        result = results.build(paths.pop(), clip, started)
    return replace(result, error=problem)


def _add_frame(clip: ClipObservations, people: dict[int, TrackStats], faces: Sequence[FrameRow]) -> None:
    """Add the rows of one frame to the people of a clip."""
    seconds = faces[0].duration_s or 0.0
    clip.frames += 1
    clip.frames_with_face += faces[0].success
    clip.seconds += seconds
    shown = [row for row in faces if row.face_id is not None]
    for row in shown:
        person = people.setdefault(row.face_id or 0, TrackStats())
        person.pool.update_group(_outputs([row]))
        person.seconds += seconds
    if shown:
        clip.group.update_group(_outputs(shown))


def _outputs(rows: Sequence[FrameRow]) -> FaceOutputs:
    """Restore the outputs of the face model; those that the rows lack have shape (n, 0)."""

    def column(values: Sequence[Any]) -> FloatArray:
        return np.array([() if value is None else value for value in values], np.float32)

    return FaceOutputs(
        embedding=column([row.embedding for row in rows]),
        expression=column([tuple((row.probabilities or {}).values()) for row in rows]),
        age=column([row.age for row in rows]),
        gender=column([row.male_probability for row in rows]),
        ethnicity=column([tuple((row.ethnicity_probabilities or {}).values()) for row in rows]),
        identity=column([None] * len(rows)),
    )


def _layout(columns: FrameColumns) -> np.dtype[np.void]:
    """Return the layout of a row in the file."""
    fields: list[tuple[Any, ...]] = [("frame", "i8"), ("time", "f8"), ("duration", "f8"), ("track", "i8")]
    fields += [("score", "f4"), ("detected", "?"), ("box", "f4", (4,))]
    fields += [("landmarks", "f4", (len(columns.landmarks), 2)), ("expression", "f4", (len(columns.expressions),))]
    if columns.attributes:
        fields += [("age", "f4"), ("gender", "f4"), ("ethnicity", "f4", (len(columns.ethnicities),))]
    if columns.embedding:
        fields += [("embedding", "f4", (columns.embedding,))]
    return np.dtype(fields)


def _pack(observation: FrameObservation, track_ids: Sequence[int | None], layout: np.dtype[np.void]) -> Any:
    """Convert the tracked faces of a frame to rows of that layout; without one it is one row."""
    tracks = {i: track for i, track in enumerate(track_ids) if track is not None}
    rows = np.zeros(max(1, len(tracks)), layout)
    rows["frame"], rows["time"], rows["duration"] = observation.index, observation.time, observation.duration
    rows["track"] = list(tracks.values()) or _NO_TRACK
    if tracks:
        faces, outputs = [observation.faces[i] for i in tracks], observation.outputs[list(tracks)]
        rows["score"], rows["detected"] = [face.score for face in faces], [face.detected for face in faces]
        rows["box"] = [face.box for face in faces]
        rows["landmarks"] = [face.landmarks[: rows["landmarks"].shape[1]] for face in faces]
        for name in {"expression", "age", "gender", "ethnicity", "embedding"} & set(layout.names or ()):
            rows[name] = getattr(outputs, name)
    return rows
