"""The windows of a clip -> a picture: what each person shows over time, and when nobody was seen."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from fervid.core.atomic_io import atomic_write
from fervid.core.records import Prediction, WindowResult
from fervid.render.colors import colours
from fervid.render.evaluation_tables import plot_format

PEOPLE = 6  # that are drawn; of more, those who are seen longest
_WIDTH = 10.0  # inches
_HEIGHT = 2.1  # of each person
_BAND = 0.16  # of the axis, under it
_LEAST = 1e-3  # seconds that are drawn, of still images too
_JITTER = 1e-6  # seconds; sums of times are not exact
_STYLES = ("-", "--", "-.", ":")  # beside colours, from one label to the next

_Spans = list[tuple[float, float, Prediction]]  # where an answer begins and ends


def plot_timeline(parts: Sequence[WindowResult], path: Path, *, force: bool = False) -> None:
    """Draw the windows of one clip.

    Each person has lines for the probabilities, a band in the colour of the label, and gaps where the face was not
    seen. The answer of a window stands in its middle. A clip without a face has a picture that says so.

    Args:
        parts: What `Classifier.timeline` gave for the clip.
        path: Its suffix, one of `evaluation.PICTURES`, decides the format.
        force: Whether an existing file may be replaced.

    Raises:
        UsageError: Another suffix, or matplotlib is not installed.
        OutputError: The file exists, or cannot be written.
    """
    picture = _picture(parts, plot_format(path))
    with atomic_write(path, force=force) as file:
        file.write(picture)


def person_spans(parts: Sequence[WindowResult]) -> dict[int, _Spans]:
    """For each person, by falling time in view, what is said of which time.

    Windows overlap, so each stands for the time around its middle, as far as the windows beside it; the first reaches
    back to its beginning and the last on to its end. Those in which a person is seen for less than half of the time
    are a gap, but for people who are nowhere seen for longer.
    """
    windows = [
        (part.start_s, part.end_s, part) for part in parts if part.start_s is not None and part.end_s is not None
    ]
    middles = [(start + end) / 2 for start, end, _ in windows]
    bounds = [(before + after) / 2 for before, after in pairwise(middles)]
    step = min((after - before for before, after in pairwise(middles)), default=math.inf)
    found: dict[int, _Spans] = {}
    seconds: dict[int, float] = {}
    longest: dict[int, float] = {}
    for person in (person for *_, part in windows for person in part.people):
        seconds[person.id] = seconds.get(person.id, 0.0) + person.seconds
        longest[person.id] = max(longest.get(person.id, 0.0), person.seconds)
    for number, (start, end, part) in enumerate(windows):
        left = start if number == 0 else max(bounds[number - 1], middles[number] - step)
        right = end if number == len(windows) - 1 else min(bounds[number], middles[number] + step)
        for person in part.people:
            if person.seconds >= min(part.duration_s or 0.0, longest[person.id]) / 2:
                found.setdefault(person.id, []).append((left, right, person.answer))
    return {number: found[number] for number in sorted(found, key=lambda number: (-seconds[number], number))}


def _picture(parts: Sequence[WindowResult], format: str) -> bytes:
    from matplotlib.figure import Figure

    found = person_spans(parts)
    shown = list(found)[:PEOPLE]
    figure = Figure(figsize=(_WIDTH, 1.1 + _HEIGHT * max(1, len(shown))), dpi=150, layout="constrained")
    axes = figure.subplots(max(1, len(shown)), sharex=True, squeeze=False)[:, 0]
    labels = list(next(iter(found.values()))[0][2].probabilities) if found else []
    for axis, person in zip(axes, shown, strict=False):
        _person(axis, person, found[person], labels)
    _frame(figure, axes, parts, len(found))
    if labels:
        handles, _ = axes[0].get_legend_handles_labels()
        names = list(map(_plain, labels))
        figure.legend(handles, names, loc="outside lower center", ncols=min(8, len(labels)), frameon=False)
    else:
        axes[0].text(0.5, 0.5, "no face was seen", transform=axes[0].transAxes, ha="center", va="center", color="0.4")
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # of names in letters that the font has not
        figure.savefig(picture, format=format)
    return picture.getvalue()


def _person(axis: Any, person: int, said: _Spans, labels: Sequence[str]) -> None:
    """Lines and a band for one person; between them the hatched ground of the axis shows where it was not seen."""
    named = colours(labels)
    runs: list[_Spans] = []
    for span in said:
        if runs and span[0] - runs[-1][-1][1] <= _JITTER:
            runs[-1].append(span)
        else:
            runs.append([span])
    for run in runs:
        axis.axvspan(run[0][0], run[-1][1], color="white", zorder=0.5, linewidth=0)
        axis.broken_barh(
            [(left, right - left) for left, right, _ in run],
            (-_BAND, 0.75 * _BAND),
            facecolors=[named[answer.label] for *_, answer in run],
            linewidth=0,
        )
    for number, label in enumerate(labels):
        times: list[float] = []
        values: list[float] = []
        for run in runs:
            middles = [(left + right) / 2 for left, right, _ in run]
            told = [answer.probabilities[label] for *_, answer in run]
            times += [run[0][0], *middles, run[-1][1], math.nan]
            values += [told[0], *told, told[-1], math.nan]
        axis.plot(times, values, _STYLES[number % len(_STYLES)], color=named[label], label=label, linewidth=1.6)
    axis.set_title(f"person {person}", loc="left", fontsize="medium")


def _frame(figure: Any, axes: Any, parts: Sequence[WindowResult], people: int) -> None:
    """What every axis has, the time under the last, and what there is to say of the clip over the first."""
    times = [time for part in parts for time in (part.start_s, part.end_s) if time is not None]
    start, end = (min(times), max(times)) if times else (0.0, 0.0)
    end = max(end, start + _LEAST)
    for axis in axes:
        axis.axvspan(start, end, facecolor="0.96", edgecolor="0.85", hatch="//", zorder=0, linewidth=0)
        axis.set(ylim=(-_BAND, 1.02), xlim=(start, end), ylabel="probability")
        axis.set_yticks([0, 0.5, 1])
        axis.grid(axis="y", color="0.85", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("seconds; hatched where the face was not seen")
    said = [Path(parts[0].path).name] if parts else []
    if people > PEOPLE:
        said.append(f"the {PEOPLE} of {people} people who are seen longest")
    said += [part.problem.code for part in parts if part.problem][-1:]
    figure.suptitle(_plain(", ".join(said)), fontsize="large")


def _plain(text: str) -> str:
    """Text that is set as it is: a pair of $ would be a formula, and a name may hold anything."""
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return shown.replace("$", r"\$")
