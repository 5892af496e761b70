"""Track the faces of a clip between detections, so that the detector runs on few frames.

Faces are propagated from frame to frame by optical flow. The detector runs when a face is lost, when the scene changes,
and at regular intervals to find new faces.
"""

from __future__ import annotations

from math import inf

import numpy as np

from fervid.analysis.detector import Detector
from fervid.analysis.optical_flow import (
    GrayRoi,
    TrackedFace,
    extract_gray,
    extract_template,
    is_scene_cut,
    propagate_faces,
    pyramid_level,
    roi_around,
)
from fervid.core.boxes import intersection_over_min
from fervid.core.records import TIME_EPS_S, Face, Frame, Image

FULL_DETECT_FACTOR = 8  # a full detection replaces every eighth coarse one while faces are tracked
IDLE_INTERVAL_S = 0.2  # between detections while no face is tracked, and between checks of unconfirmed faces
IDLE_FULL_DETECT_S = 2.0  # after the last face for which idle detections are full ones; later ones begin coarse
_MIN_OVERLAP = 0.5  # fraction of the smaller box from which a detection and a tracked face are the same face
_MAX_AREA_RATIO = 3  # of the areas of two boxes, from which they are different faces
_UNCONFIRMED_S = 2.0  # for which a face below the threshold of new tracks is checked again
_MAX_ROI_CHECKS = 3  # faces that are checked one by one; for more of them one full detection is as fast


class FlowTracker:
    """Finds the faces of one clip, frame by frame, with as few detections as possible.

    The first frame gets a full detection. From then on there are two states:

    - *Faces are tracked*: they are propagated by optical flow. Every `interval` seconds a coarse detection finds new
      faces and corrects drift, and every `FULL_DETECT_FACTOR`-th time a full one finds small faces too. A lost face is
      searched for around its last position. Faces with a low score are checked again for `_UNCONFIRMED_S` seconds.
      A scene cut, or the loss of the last face, causes a full detection.
    - *No face is tracked*: a detection every `IDLE_INTERVAL_S`, full for `IDLE_FULL_DETECT_S`, then coarse, and still
      full every `interval` seconds. A face in a coarse one causes a full detection.

    A frame of another size, or one that is earlier than the last detection, begins a new clip.
    """

    def __init__(self, detector: Detector, interval: float) -> None:
        """Begin a clip; an interval of 0 seconds between coarse detections runs a full one on every frame."""
        self._detector, self._interval = detector, interval
        self._last_full = self._last_detection = self._last_recheck = -inf
        self._idle_since = inf  # time of the last tracked face, or of the first frame if there was none
        self._image: Image = np.zeros((0, 0, 3), np.uint8)
        self._gray: GrayRoi | None = None
        self._tracked: list[TrackedFace] = []

    def update(self, frame: Frame) -> list[Face]:
        """Return the faces of the next frame, the largest first; keeps a reference to its image, not a copy."""
        interval = self._interval * (FULL_DETECT_FACTOR if self._tracked else 1)
        since_full = frame.time - self._last_full
        if not 0 <= since_full < interval - TIME_EPS_S or frame.image.shape != self._image.shape:
            return self._detect_full(frame)
        if self._tracked:
            return self._propagate(frame)
        if frame.time - self._last_detection < IDLE_INTERVAL_S - TIME_EPS_S:
            return []
        recently_idle = frame.time - self._idle_since < IDLE_FULL_DETECT_S - TIME_EPS_S
        self._last_detection = frame.time
        if recently_idle or self._detector.detect_coarse(frame.image):
            return self._detect_full(frame)
        return []

    def _propagate(self, frame: Frame) -> list[Face]:
        """Propagate the tracked faces to this frame, and run whatever detection the result calls for."""
        self._idle_since = frame.time
        roi = roi_around((old.face for old in self._tracked), self._tracked[0].level, frame.image)
        before = self._gray if self._gray and self._gray.roi == roi else extract_gray(self._image, roi)
        after = extract_gray(frame.image, roi)
        propagated = propagate_faces(self._tracked, before, after)
        lost = [old for old, new in zip(self._tracked, propagated, strict=True) if new is None]
        tracked = [new for new in propagated if new is not None]
        if lost and is_scene_cut(self._image, frame.image):
            return self._detect_full(frame)
        if frame.time - self._last_detection >= self._interval - TIME_EPS_S:
            return self._detect_coarse(frame, tracked, lost)
        for old in lost:
            face = self._redetect(frame, old.face)
            if face and not any(_overlap(face, other.face) > _MIN_OVERLAP for other in tracked):
                tracked.append(old.reinitialise(face, frame.image))
        if not tracked:
            return self._detect_full(frame)
        if frame.time - self._last_recheck >= IDLE_INTERVAL_S - TIME_EPS_S:
            tracked = self._recheck_unconfirmed(frame, tracked)
        self._tracked = sorted(tracked, key=lambda new: -new.face.area)
        self._image, self._gray = frame.image, after
        return [new.face for new in self._tracked]

    def _detect_full(self, frame: Frame) -> list[Face]:
        self._last_full = self._last_detection = frame.time
        self._idle_since = min(self._idle_since, frame.time)
        return self._start_tracking(frame, [(face, False) for face in self._detector.detect(frame.image)])

    def _detect_coarse(self, frame: Frame, tracked: list[TrackedFace], lost: list[TrackedFace]) -> list[Face]:
        """Replace the tracked faces by those of a coarse detection.

        Tracked faces that no coarse detection has found so far are too small for one and are checked one by one. A face
        that was lost, or that an earlier coarse detection found, and that this one misses, causes a full detection.
        """
        self._last_detection = frame.time
        detections = [
            face
            for face in self._detector.detect_coarse(frame.image)
            if not any(_is_fragment(face, new.face) for new in tracked)
        ]

        def is_missed(tracked_face: TrackedFace) -> bool:
            return not any(_overlap(tracked_face.face, face) > _MIN_OVERLAP for face in detections)

        if any(is_missed(face) for face in (*lost, *(new for new in tracked if new.seen_coarse))):
            return self._detect_full(frame)
        small = [new.face for new in tracked if is_missed(new)]
        if len(small) > _MAX_ROI_CHECKS:
            return self._detect_full(frame)
        faces = [(face, True) for face in detections]
        faces += [(self._redetect(frame, face) or face, False) for face in small]
        return self._start_tracking(frame, sorted(faces, key=lambda item: -item[0].area))

    def _redetect(self, frame: Frame, face: Face) -> Face | None:
        """Detect a face again around its last position; None if there is none of a similar size."""
        candidates = [
            new
            for new in self._detector.detect_around(frame.image, face.box)
            if _overlap(new, face) > 0 and _similar_size(new, face)
        ]
        return max(candidates, key=lambda new: _overlap(new, face), default=None)

    def _recheck_unconfirmed(self, frame: Frame, tracked: list[TrackedFace]) -> list[TrackedFace]:
        """Detect faces with a low score again, each around its position."""
        self._last_recheck = frame.time
        checked = []
        for old in tracked:
            is_due = old.face.score < self._detector.new_track_threshold and frame.time < old.unconfirmed_until
            face = self._redetect(frame, old.face) if is_due else None
            checked.append(old.reinitialise(face, frame.image) if face else old)
        return checked

    def _start_tracking(self, frame: Frame, faces: list[tuple[Face, bool]]) -> list[Face]:
        """Track these faces from here on, each given with whether a coarse detection found it."""
        before = self._tracked
        self._image, self._tracked, self._last_recheck = frame.image, [], frame.time
        if not faces:
            return []
        level = pyramid_level(face for face, _ in faces)
        gray = self._gray = extract_gray(frame.image, roi_around((face for face, _ in faces), level, frame.image))
        for face, seen_coarse in faces:
            earlier = (old.unconfirmed_until for old in before if _overlap(old.face, face) > _MIN_OVERLAP)
            is_confirmed = face.score >= self._detector.new_track_threshold
            until = -inf if is_confirmed else next(earlier, frame.time + _UNCONFIRMED_S)
            self._tracked.append(TrackedFace(face, extract_template(gray, face), level, seen_coarse, until))
        return [face for face, _ in faces]


def _overlap(a: Face, b: Face) -> float:
    return float(intersection_over_min([a.box], [b.box])[0, 0])


def _is_fragment(detection: Face, face: Face) -> bool:
    """Return whether a detection is only a part of a face that has a better score."""
    return (
        detection.score < face.score and _overlap(detection, face) > _MIN_OVERLAP and not _similar_size(detection, face)
    )


def _similar_size(a: Face, b: Face) -> bool:
    return max(a.area, b.area) < _MAX_AREA_RATIO * min(a.area, b.area)
