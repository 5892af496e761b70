"""Measure how often the default agrees with the slow method, which runs the detector on every sampled frame.

python benchmarks/agreement.py [CLIP...] [--kerc DATA] [--ferplus DATA [--simulated 400] [--background CLIP]]
    [--every SECONDS] [--json FILE]

The clips are those of KERC 2020 (folders of frames), videos simulated from FER+ stills, and the given files. For each
clip, the two labels and the pooled embeddings are compared. A clip with a face in only one of the two methods counts as
a disagreement; a clip without a face in both does not count. The slow method on frames shifted by one pixel gives an
upper bound of the agreement.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simulate_video
from network import format_interval, show
from scipy.stats import binomtest
from timing import round_figures, save

from fervid.analysis.aggregate import aggregate_clip
from fervid.analysis.clip_classifier import ClipClassifier
from fervid.analysis.extractor import Extractor, load_extractor
from fervid.analysis.options import Options
from fervid.core.records import ClipFeatures, Face, FloatArray, Frame, FrameObservation, Image
from fervid.learn import dataset
from fervid.learn.clip_files import frame_files
from fervid.media import video
from fervid.media.sampling import Sampling
from fervid.models import registry
from fervid.training import ferplus

STATISTICS = ("embedding.mean", "embedding.std", "embedding.max")
WIDTH, HEIGHT, RATE, SECONDS = 640, 360, 5, 3  # of simulated videos
SIDES = 60, 200  # pixels, range of the size of simulated faces
SEED = 2021
STILL = Face((0, 0, 48, 48), np.array([[14, 20], [34, 20]], np.float32), 1.0)  # the position of faces in FER+

Clip = Callable[[Extractor], Iterator[FrameObservation]]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Result of one method for a clip; without label and features if it found no face."""

    label: str | None
    features: ClipFeatures | None
    frames: int  # number of processed frames
    with_face: int  # number of these with a tracked face


class ShiftedExtractor(Extractor):
    """Shifts every frame to the right by one pixel."""

    def observe_frames(self, frames: Iterable[Frame]) -> Generator[FrameObservation]:
        """Observe shifted frames."""
        yield from super().observe_frames(replace(one, image=np.roll(one.image, 1, axis=1)) for one in frames)


def classify_clip(clip: Clip, extractor: Extractor, classify: ClipClassifier) -> Outcome:
    """Classify a clip."""
    seen = aggregate_clip(clip(extractor), extractor.tracker_config)
    pool = seen.pool(extractor.options.face)
    features = pool.features() if pool else None
    return Outcome(features and classify(features).label, features, seen.frames, seen.frames_with_face)


def compare(pairs: Sequence[tuple[Outcome, Outcome]]) -> dict[str, Any]:
    """Compute the agreement of two methods.

    Args:
        pairs: For each clip, the result of the tested method and that of the slow one.

    Returns:
        `clips`; `faces`, the number with a face in either method; `alone`, how many have one in only the first or only
        the second; `agreement`, the fraction of `faces` with the same label, and its 95 % `interval` (Wilson, JASA 22,
        1927); for each statistic the median and the 99th percentile of the `cosine` distance and of the difference
        `relative` to the length of the second vector; and the fraction of frames with a face in each method.
    """
    detected = [(one, other) for one, other in pairs if one.features or other.features]
    same = sum(one.label == other.label for one, other in detected)
    both = [(one.features, other.features) for one, other in detected if one.features and other.features]
    alone = [sum(not other.features for _, other in detected), sum(not one.features for one, _ in detected)]
    found: dict[str, Any] = {"clips": len(pairs), "faces": len(detected), "alone": alone}
    if detected:
        interval = binomtest(same, len(detected)).proportion_ci(method="wilson")
        found |= {"agreement": same / len(detected), "interval": [float(interval.low), float(interval.high)]}
    for name in STATISTICS if both else ():
        rows = [(one.statistics[name], other.statistics[name]) for one, other in both]
        distances = {
            "cosine": [cosine_distance(*row) for row in rows],
            "relative": [relative_difference(*row) for row in rows],
        }
        found[name] = {kind: np.percentile(values, [50, 99]).tolist() for kind, values in distances.items()}
    ways = zip(*pairs, strict=True)
    fractions = [sum(one.with_face for one in way) / max(1, sum(one.frames for one in way)) for way in ways]
    return {**found, "frames with a face": fractions}


def cosine_distance(one: FloatArray, other: FloatArray) -> float:
    """Compute 1 minus the cosine of two vectors; 0 if they are equal, 1 if only one of them is 0."""
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    alike = float(one @ other) / lengths if lengths else float(np.array_equal(one, other))
    return max(0.0, 1 - alike)


def relative_difference(one: FloatArray, other: FloatArray) -> float:
    """Divide the length of the difference of two vectors by that of the second; 0 if they are equal."""
    apart = float(np.linalg.norm(one - other))
    return apart / max(float(np.linalg.norm(other)), 1e-12)


def render_video(stills: Sequence[Image], backdrop: Sequence[Image], rng: np.random.Generator) -> Iterator[Frame]:
    """Render one or two moving faces in front of a background, each in its part of the image; some appear late.

    `stills` are close face crops (h, w, 3), one per person; `backdrop` has images of the size of the video, which are
    repeated if there are too few.
    """
    count = RATE * SECONDS
    room = WIDTH / len(stills)
    people = [list(_render_person(still, count, room * (i + 0.5), room, rng)) for i, still in enumerate(stills)]
    for t, scene in enumerate(islice(cycle(backdrop), count)):
        image = scene.copy()
        for person in people:
            if person[t] is not None:
                image = _paste(image, *person[t])
        yield Frame(image, t / RATE, 1 / RATE)


def _render_person(
    still: Image, count: int, middle: float, room: float, rng: np.random.Generator
) -> Iterator[tuple[Image, FloatArray] | None]:
    """Yield for each frame the view of a face and its affine matrix (2, 3), or None until the person appears."""
    views = simulate_video.simulate_clip(still, STILL, count, rng)
    side = float(np.exp(rng.uniform(*np.log(SIDES))))
    ranges = {"x": (-0.5, 0.5), "y": (-0.5, 0.5), "roll": (-0.2, 0.2), "size": (-0.1, 0.1)}
    paths = {name: simulate_video.smooth_curve(count, *ends, rng) for name, ends in ranges.items()}
    x = middle + rng.uniform(-0.5, 0.5) * max(0, room - 2 * side)
    y = HEIGHT / 2 + rng.uniform(-0.5, 0.5) * max(0, HEIGHT - 2 * side)
    comes = int(rng.integers(0, count // 2)) if rng.random() < 0.3 else 0
    for t, (view, _) in enumerate(views):
        at = {name: float(path[t]) for name, path in paths.items()}
        scale = side * np.exp(at["size"]) / view.shape[0]
        cos, sin = scale * np.cos(at["roll"]), scale * np.sin(at["roll"])
        half = view.shape[0] / 2
        right, down = x + side * at["x"], y + side * at["y"]
        matrix = np.array([[cos, -sin, right - half * (cos - sin)], [sin, cos, down - half * (sin + cos)]], np.float32)
        yield (view, matrix) if t >= comes else None


def _paste(image: Image, view: Image, matrix: FloatArray) -> Image:
    """Paste the view of a face onto an image, with soft borders."""
    side = view.shape[0]
    border = side // 4  # the stills have less margin than the detector needs
    padded = cv2.copyMakeBorder(view, *[border] * 4, cv2.BORDER_REPLICATE)
    mask = np.zeros(padded.shape[:2], np.float32)
    mask[border // 2 : -border // 2, border // 2 : -border // 2] = 1
    mask = cv2.GaussianBlur(mask, (0, 0), border / 4)
    matrix = np.column_stack([matrix[:, :2], matrix[:, 2] - matrix[:, :2].sum(axis=1) * border])
    cover = cv2.warpAffine(mask, matrix, (WIDTH, HEIGHT))[..., None]
    moved = cv2.warpAffine(padded, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(image * (1 - cover) + moved * cover, np.uint8)


def render_noise(rng: np.random.Generator) -> list[Image]:
    """Render blurred coloured clouds with camera noise."""
    clouds = cv2.resize(rng.uniform(80, 160, (6, 10, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    noisy = (clouds + rng.normal(0, 4, clouds.shape) for _ in range(RATE * SECONDS))
    return [np.clip(scene, 0, 255).astype(np.uint8) for scene in noisy]


def simulate_videos(folder: Path, count: int, background: Path | None) -> list[Clip]:
    """Simulate videos from FER+ test stills with a confident detection and a majority class."""
    detector = ferplus.stills_detector()
    split = ferplus.read_split(folder, "PrivateTest", detector)
    rng = np.random.default_rng(SEED)
    sure = [face.score >= detector.card["new_track_threshold"] for face in split.faces]
    stills = np.flatnonzero(split.majority & sure)
    shown = [rng.choice(stills, 2 if rng.random() < 0.3 else 1, replace=False) for _ in range(count)]
    frames = video.read_frames(background, Sampling(fps=RATE)) if background else ()
    scenery = [np.asarray(cv2.resize(frame.image, (WIDTH, HEIGHT)), np.uint8) for frame in frames]

    def clip(number: int, extractor: Extractor) -> Iterator[FrameObservation]:
        own = np.random.default_rng((SEED, number))
        start = int(own.integers(len(scenery))) if scenery else 0
        backdrop = [*scenery[start:], *scenery[:start]] or render_noise(own)
        return extractor.observe_frames(render_video(split.images[shown[number]], backdrop, own))

    return [partial(clip, number) for number in range(count)]


def observe_folder(path: Path, extractor: Extractor) -> Iterator[FrameObservation]:
    """Observe a folder or pattern of frames as a clip."""
    return extractor.observe_frames(video.read_image_sequence(frame_files(path)))


def row(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Format the agreement on a set as a row of the table."""
    same_label = None
    if "agreement" in found:
        same_label = format_interval({"value": found["agreement"], "interval": found["interval"]}, ".1%", 1)
    distances = {
        f"{statistic}, {kind}": " / ".join(f"{round_figures(value):g}" for value in values)
        for statistic in STATISTICS
        for kind, values in found.get(statistic, {}).items()
    }
    return {
        "set": name,
        "clips": found["clips"],
        "with a face": found["faces"],
        "face in only one": " / ".join(map(str, found["alone"])),
        "same label": same_label,
        **distances,
        "frames with a face": " / ".join(f"{value:.1%}" for value in found["frames with a face"]),
    }


def main() -> None:
    """Measure the agreement on each set and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--kerc", type=Path)
    parser.add_argument("--ferplus", type=Path)
    parser.add_argument("--simulated", type=int, default=400, help="films of FER+ stills")
    parser.add_argument("--background", type=Path, help="film without faces to put them in; otherwise coloured noise")
    parser.add_argument("--every", type=float, help="detection interval in seconds, instead of the default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sets: dict[str, list[Clip]] = {}
    if arguments.clips:
        sets["files"] = [lambda extractor, path=path: extractor.iter_observations(path) for path in arguments.clips]
    if arguments.kerc:
        samples = dataset.load_dataset(f"kerc2020:{arguments.kerc}").samples
        sets["KERC 2020"] = [partial(observe_folder, sample.path) for sample in samples]
    if arguments.ferplus:
        sets["simulated"] = simulate_videos(arguments.ferplus, arguments.simulated, arguments.background)
    if not sets:
        parser.error("name clips, --kerc or --ferplus")
    default = Options() if arguments.every is None else Options(detection_interval_s=arguments.every)
    slow = replace(default, detection_interval_s=0)
    ways = [load_extractor(options=options, threads=1) for options in (default, slow)]
    ways.append(ShiftedExtractor(ways[1].detector, ways[1].face_model, slow, 1))
    model = registry.load_model(registry.DEFAULTS["classifier"], "classifier")
    classify = ClipClassifier(model.session, model.card)

    def classify_all(clip: Clip) -> list[Outcome]:
        return [classify_clip(clip, extractor, classify) for extractor in ways]

    found = {}
    for name, clips in sets.items():
        with ThreadPoolExecutor(cv2.getNumberOfCPUs()) as pool:
            outcomes = list(pool.map(classify_all, clips))
        found[name] = compare([(one, reference) for one, reference, _ in outcomes])
        found[f"{name}, shifted by a pixel"] = compare([(moved, reference) for _, reference, moved in outcomes])
    show([row(name, figures) for name, figures in found.items()], None)
    save({"detect_every": default.detection_interval_s, "sets": found}, arguments.json)


if __name__ == "__main__":
    main()
