"""Whether more than mean, standard deviation and maximum of a clip's embeddings says more about it: KERC 2020.

python benchmarks/descriptors.py --kerc DATA --cache FILE.npz [--json FILE]

Beside the statistics of the paper: slopes over time, when an expression is highest (onset), the share of the time that
each expression is the likeliest, attention pooling fitted on the clips (a weight for each frame, learned with the
classifier), and the fusion of two classifiers by the mean of their probabilities. All cross-validated by person, hyper-
parameters inside; differences to the first row are paired by clip, with 95 % intervals by bootstrap over people.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import show
from numpy.typing import NDArray
from tqdm import tqdm

from fervid import dataset
from fervid.dataset import frames
from fervid.evaluate import compare
from fervid.extract import Extractor, load_extractor
from fervid.fit import Candidate, Examples, Kind, candidates, nested
from fervid.gather import Seen
from fervid.records import Face, FaceScores, Floats, Frame
from fervid.study import Study
from fervid.track import Tracker
from fervid.train import films
from fervid.video import read_pictures

DECAYS = (1e-4, 1e-3, 1e-2)
STEPS = 150


@dataclass(frozen=True, slots=True, eq=False)
class Film:
    """The frames in which the main person of a clip is seen.

    Attributes:
        time: (n,) from 0 at the first to 1 at the last.
        embedding: (n, d).
        expression: (n, 8) probabilities.
    """

    time: Floats
    embedding: Floats
    expression: Floats


def main_person(path: Path, extractor: Extractor) -> list[tuple[Frame, Face, FaceScores]]:
    """The faces of the main person of a clip, each with its frame and what the network says of it."""
    pictures = list(read_pictures(frames(path)))
    tracker, seen, faces = Tracker(extractor.rule), Seen(), []
    for picture, one in zip(pictures, extractor.observe(pictures), strict=True):
        numbers = tracker.update(one.time, one.faces, one.scores.identity)
        seen.add(one, numbers)
        faces += [
            (number, picture, face, one.scores[[i]])
            for i, (number, face) in enumerate(zip(numbers, one.faces, strict=True))
        ]
    groups = tracker.people()
    seen.settle(groups)
    main = next((group for group in groups if seen.people and min(group) == seen.people[0].number), ())
    return [(picture, face, scores) for number, picture, face, scores in faces if number in main]


def film(path: Path, extractor: Extractor) -> Film:
    """What the main person of a clip shows over time; no frames if nobody is seen."""
    shown = main_person(path, extractor)
    if not shown:
        return Film(*(np.zeros((0, width), np.float32) for width in (1, 1, 8)))
    time = np.array([picture.time for picture, _, _ in shown], np.float32)
    return Film(
        (time - time[0]) / max(float(np.ptp(time)), 1e-6),
        np.concatenate([scores.embedding for _, _, scores in shown]),
        np.concatenate([scores.expression for _, _, scores in shown]),
    )


def slopes(film: Film) -> Callable[[Floats], Floats]:
    """What gives the least-squares slope of each column (n, d) over the clip; 0 for one frame."""
    apart = film.time - film.time.mean()
    return lambda values: np.asarray(apart @ values / max(float(apart @ apart), 1e-6), np.float32)


def described(film: Film) -> Mapping[str, Floats]:
    """Every block that a descriptor is put together from."""
    embedding, expression = film.embedding, film.expression
    slope = slopes(film)
    return {
        "mean": embedding.mean(axis=0),
        "std": embedding.std(axis=0),
        "max": embedding.max(axis=0),
        "slope": slope(embedding),
        "expression": expression.mean(axis=0),
        "expression std": expression.std(axis=0),
        "expression max": expression.max(axis=0),
        "expression slope": slope(expression),
        "onset": film.time[expression.argmax(axis=0)],
        "share": np.eye(expression.shape[1], dtype=np.float32)[expression.argmax(axis=1)].mean(axis=0),
    }


PAPER = ("mean", "std", "max")
CURVES = ("expression", "expression std", "expression max")
TEMPORAL = ("expression slope", "onset", "share")
DESCRIPTORS: Mapping[str, tuple[Sequence[str], Kind]] = {
    "mean+std+max, linear": (PAPER, "linear"),
    "with slopes, linear": ((*PAPER, "slope"), "linear"),
    "with slope, onset and share of expressions, linear": ((*PAPER, *TEMPORAL), "linear"),
    "all of them, linear": ((*PAPER, "slope", *CURVES, *TEMPORAL), "linear"),
    "mean+std+max, rbf": (PAPER, "rbf"),
    "expressions: mean, std, max, rbf": (CURVES, "rbf"),
    "expressions: with slope, onset and share, rbf": ((*CURVES, *TEMPORAL), "rbf"),
}
FUSED = (
    ("mean+std+max, linear", "mean+std+max, rbf"),
    ("mean+std+max, linear", "expressions: mean, std, max, rbf"),
    ("mean+std+max, linear", "expressions: with slope, onset and share, rbf"),
    ("mean+std+max, linear", "attention"),
)


class Attention(torch.nn.Module):
    """Frames (n, t, d) -> logits (n, c) of their weighted mean; the weight of a frame is a soft-max over the clip."""

    def __init__(self, width: int, classes: int) -> None:
        """Begin with equal weights."""
        super().__init__()
        self.look = torch.nn.Linear(width, 1)
        self.answer = torch.nn.Linear(width, classes)
        torch.nn.init.zeros_(self.look.weight)

    def forward(self, frames: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Logits."""
        weights = self.look(frames).squeeze(2).masked_fill(~there, -torch.inf).softmax(1)
        answer: torch.Tensor = self.answer((weights[:, :, None] * frames).sum(1))
        return answer


def attended(frames: torch.Tensor, there: torch.Tensor, truth: NDArray[np.int64], decay: float) -> Attention:
    """Attention pooling and a linear classifier, fitted together; all classes weigh the same."""
    torch.manual_seed(0)
    model = Attention(frames.shape[2], int(truth.max()) + 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=decay * 100)
    loss = torch.nn.CrossEntropyLoss(torch.from_numpy(1 / np.bincount(truth)).float())
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(model(frames, there), torch.from_numpy(truth)).backward()
        optimiser.step()
    return model


def attention(films_: Sequence[Film], known: Examples) -> Floats:
    """(n, c) probabilities by attention pooling, of people whom neither the fit nor the choice of decay has seen."""
    longest = max(len(film.time) for film in films_)
    frames = torch.zeros(len(films_), longest, films_[0].embedding.shape[1])
    there = torch.zeros(len(films_), longest, dtype=torch.bool)
    for i, one in enumerate(films_):
        unit = one.embedding / np.linalg.norm(one.embedding, axis=1, keepdims=True)
        frames[i, : len(unit)], there[i, : len(unit)] = torch.from_numpy(10 * unit), True

    def said(train: NDArray[np.int64], test: NDArray[np.int64], decay: float) -> Floats:
        model = attended(frames[train], there[train], np.asarray(known.truth[train], np.int64), decay)
        with torch.no_grad():
            answers: Floats = model(frames[test], there[test]).softmax(1).numpy()
        return answers

    found = np.zeros((len(films_), int(known.truth.max()) + 1), np.float32)
    for train, test in known.folds(5):
        inner = known[train]
        recalls = []
        for decay in DECAYS:
            answers = np.zeros(len(train), np.int64)
            for fitted, tried in inner.folds(4):
                answers[tried] = said(train[fitted], train[tried], decay).argmax(axis=1)
            right = [(answers == c)[inner.truth == c].mean() for c in np.unique(inner.truth)]
            recalls.append(float(np.mean(right)))
        found[test] = said(train, test, DECAYS[int(np.argmax(recalls))])
    return found


def table(films_: Sequence[Film], known: Study) -> list[dict[str, Any]]:
    """A row for each descriptor and each fusion."""
    blocks = [described(film) for film in films_]
    said: dict[str, Floats] = {}
    for name, (parts, kind) in DESCRIPTORS.items():
        matrix = np.stack([np.concatenate([block[part] for part in parts]) for block in blocks])
        ways: list[Candidate] = candidates([name], [kind], ["l2"])
        said[name] = nested(Examples({name: matrix}, known.truth, known.groups, known.seed), ways)[0]
    said["attention"] = attention(films_, Examples({}, known.truth, known.groups, known.seed))
    said |= {f"fused: {one} and {other}": (said[one] + said[other]) / 2 for one, other in FUSED}
    first = known.predictions(next(iter(said.values())))
    return [
        {
            "descriptor": name,
            "UAR": _text(known.report(answers)["answered"]["uar"]),
            "better than the first by": _text(compare(known.predictions(answers), first)["difference"]["uar"]),
        }
        for name, answers in said.items()
    ]


def _text(figure: Mapping[str, Any]) -> str:
    low, high = figure["interval"]
    return f"{100 * figure['value']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def read(kerc: Path, cache: Path) -> list[Film]:
    """What the main person of every clip shows, in the order of the set; kept in a file."""
    if not cache.exists():
        extractor = load_extractor()
        found = [film(sample.path, extractor) for sample in tqdm(dataset.read(f"kerc2020:{kerc}").samples)]
        columns = {f"{i}/{name}": getattr(one, name) for i, one in enumerate(found) for name in Film.__slots__}
        np.savez(cache, count=len(found), **columns)
    with np.load(cache) as stored:
        return [Film(*(stored[f"{i}/{name}"] for name in Film.__slots__)) for i in range(int(stored["count"]))]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kerc", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="what the frames show, kept as .npz")
    parser.add_argument("--features", type=Path, help="the cache of features of fervid")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    known = films.read(arguments.kerc, arguments.features)
    paths = (sample.path for sample in dataset.read(f"kerc2020:{arguments.kerc}").samples)
    by_path = dict(zip(paths, read(arguments.kerc, arguments.cache), strict=True))
    shown = [by_path[sample.path] for sample in known.table.samples]
    kept = np.array([len(one.time) > 0 for one in shown])
    groups = None if known.groups is None else known.groups[kept]
    known = replace(known, table=known.table[kept], groups=groups)
    show(table([one for one in shown if len(one.time)], known), arguments.json)


if __name__ == "__main__":
    main()
