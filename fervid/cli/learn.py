"""The commands that need labelled clips: look at them, fit a classifier on them, measure one by them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import typer

from fervid.cli import examples
from fervid.cli.options import (
    Aspect,
    DetectorName,
    Device,
    EveryFrame,
    Force,
    Fps,
    Jobs,
    Labels,
    Memory,
    MinFace,
    NetworkName,
    ProgressMode,
    Recursive,
    Stream,
    Timeout,
    WhichFace,
    build_limits,
    build_options,
    complete_model_names,
    env_option,
    expand_option_groups,
    parse_labels,
    plan_workers,
)
from fervid.core.errors import UsageError
from fervid.core.text import escape_control_chars

if TYPE_CHECKING:
    from fervid.analysis.extractor import Extractor, Options
    from fervid.learn.dataset import Dataset
    from fervid.learn.feature_table import ClipFeaturesRow
    from fervid.learn.labeled_features import LabeledFeatures
    from fervid.media.inputs import PassedOver
    from fervid.models.registry import Model

_Name = TypeVar("_Name", bound=str)
LISTS = (".csv", ".tsv", ".jsonl", ".ndjson")

labelled_app = typer.Typer()


Labelled = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="A folder for each class, a CSV or JSON Lines list (path,label[,person][,split]), features as .npz, or a"
        " known set as NAME:FOLDER (afew, ck+, crema-d, kerc2020, ravdess, vgaf).",
    ),
]
Cache = Annotated[Path | None, env_option("--cache", "Where to keep features. Default: the user's cache folder.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionOptions:
    """How labelled clips are looked at."""

    fps: Fps = None
    every_frame: EveryFrame = False
    stream: Stream = None
    aspect: Aspect = None
    face: WhichFace = "main"
    min_face: MinFace = None
    network: NetworkName = "mobilenetv1"
    detector: DetectorName = "blazeface-back"
    device: Device = "cpu"
    cache: Cache = None
    jobs: Jobs = None
    timeout: Timeout = None
    memory: Memory = None
    progress: ProgressMode = "auto"

    def __post_init__(self) -> None:
        """Refuse what contradicts itself before anything is read."""
        _ = self.options

    @property
    def options(self) -> Options:
        """What to look at in a clip."""
        return build_options(
            fps=self.fps,
            every_frame=self.every_frame,
            stream=self.stream,
            aspect=self.aspect,
            face=self.face,
            min_face=self.min_face,
        )


OutputTarget = Annotated[
    str | None, typer.Option("--target", help="Fit on this rating instead of the labels: valence ...")
]
Group = Annotated[
    Literal["auto", "none"],
    typer.Option("--group", help="Keep the clips of a person together: by name, else by face; or not at all."),
]
Kinds = Annotated[
    str | None, typer.Option("--kind", help="Of linear, rbf (SVMs), mlp and logistic, with commas between.")
]
Statistics = Annotated[
    str | None,
    typer.Option(
        "--statistics",
        help="Such as mean+std,logit+std+max, with commas between: mean, std, min and max are of the embedding, and"
        " those after expression or logit, itself a mean, of the probabilities or their logits. Also group (with --face"
        " all).",
    ),
]
Folds = Annotated[int, typer.Option("--folds", help="Of cross-validation.", min=3)]
Seed = Annotated[int, typer.Option("--seed", help="Of folds and classifiers.", min=0, max=2**32 - 1)]
OutputFormat = Annotated[Literal["table", "json"], typer.Option("--format", help="Of what is printed.")]


@labelled_app.command(
    epilog=examples("fervid features videos/ -o features.npz", "fervid features ravdess:/data/RAVDESS -o r.parquet")
)
@expand_option_groups
def features(
    sources: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Clips, or one labelled data set.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="An .npz or .parquet file.")],
    recursive: Recursive = False,
    baseline: Annotated[
        Literal["person"] | None,
        typer.Option("--baseline", help="Subtract each person's average over the clips from the logits."),
    ] = None,
    force: Force = False,
    *,
    looking: ExtractionOptions,
) -> None:
    """Write the pooled statistics of each clip, to train on or to look at; those without a face are named."""
    from fervid.core.atomic_io import check_overwrite
    from fervid.core.progress import Summary, note
    from fervid.learn.feature_table import FeatureTable, make_feature_writer
    from fervid.learn.labeled_features import feature_provenance, relative_to_people
    from fervid.media.inputs import PassedOver

    check_overwrite(output, force=force)
    make_feature_writer(output)
    passed_over, summary = PassedOver(), Summary("clip")
    found = _clips(sources, recursive=recursive, passed_over=passed_over)
    note(str(passed_over), looking.progress)
    extractor, rows = _rows(found, looking)
    for row in rows:
        status = "ok" if row.problem is None else "no_face" if row.problem.code == "no_face" else "error"
        summary.add(str(row.sample.path), status, failed=status == "error")
        if row.problem:
            typer.echo(f"left out: {escape_control_chars(row.problem.message)}", err=True)
    table = FeatureTable.of(rows, feature_provenance(extractor))
    (relative_to_people(table) if baseline else table).save(output, force=force)
    summary.tell(output, looking.progress, "features are")
    raise typer.Exit(1 if summary.failures else 0)


@labelled_app.command(
    epilog=examples("fervid train videos/ -o mine.onnx", "fervid train kerc2020:kerc/ --target valence -o v.onnx")
)
@expand_option_groups
def train(
    dataset: Labelled,
    output: Annotated[Path, typer.Option("-o", "--output", help="The classifier, an .onnx file.")],
    labels: Labels = None,
    target: OutputTarget = None,
    group: Group = "auto",
    kinds: Kinds = None,
    statistics: Statistics = None,
    scalings: Annotated[
        str | None,
        typer.Option(
            "--scaling",
            help="Of l2 and standard, with commas between. Default: standard for logits, mlp and --center, else l2.",
        ),
    ] = None,
    center: Annotated[
        Literal["person"] | None,
        typer.Option(
            "--center",
            help="Subtract each person's mean over all clips of that person, which every use needs then too.",
        ),
    ] = None,
    folds: Folds = 5,
    seed: Seed = 2021,
    adaptive: Annotated[
        float | None,
        typer.Option(
            "--adaptive", help="Share of clips that an answer from few frames may get wrong, as 0.02.", min=0, max=1
        ),
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Go on without clips that cannot be read; the card says how many.")
    ] = False,
    force: Force = False,
    format: OutputFormat = "table",
    *,
    looking: ExtractionOptions,
) -> None:
    """Fit a clip classifier on labelled clips, chosen and measured by cross-validation that keeps people together."""
    from fervid.analysis.early_exit import STRIDES
    from fervid.core.atomic_io import atomic_write, check_overwrite
    from fervid.learn.candidate_choice import usual_candidates
    from fervid.learn.labeled_features import train_classifier as fitted
    from fervid.learn.model_selection import HYPERPARAMETERS, Scaling

    check_overwrite(output, force=force)
    if adaptive is not None and target:
        raise UsageError("--adaptive asks how sure a classifier is; a regression on --target cannot say")
    if center and adaptive is not None:
        raise UsageError("--adaptive is for one clip at a time, and --center person needs all clips of a person")
    if center and group == "none":
        raise UsageError("--center person has to know who is who, and --group none says that nobody does")
    named, wanted_kinds = _parse_statistics(statistics), _parse_choices(kinds, HYPERPARAMETERS)
    wanted_scalings = _parse_choices(scalings, dict.fromkeys(get_args(Scaling)))
    known = _study(
        dataset,
        looking,
        labels=parse_labels(labels),
        target=target,
        group=group,
        seed=seed,
        center=center,
        strides=() if adaptive is None else STRIDES,
        skip_broken=skip_broken,
    )
    ways = usual_candidates(
        known.table.statistics.keys(),
        everybody=looking.face == "all",
        centered=center is not None,
        statistics=named,
        kinds=wanted_kinds,
        scalings=wanted_scalings,
    )
    data, card = fitted(known, ways, output.stem, folds, adaptive)
    with atomic_write(output, force=force) as file:
        file.write(data)
    _show(card, format)


@labelled_app.command(
    epilog=examples("fervid evaluate videos/ --classifier mine.onnx", "fervid evaluate afew:AFEW/ --format json")
)
@expand_option_groups
def evaluate(
    dataset: Labelled,
    classifier: Annotated[
        str | None,
        env_option(
            "--classifier",
            "What to measure; without it, each way to fit one on these clips.",
            autocompletion=complete_model_names("classifier", "regressor"),
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="Another classifier, for a paired test.",
            autocompletion=complete_model_names("classifier"),
        ),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test", "all"] | None,
        typer.Option("--split", help="Which part to measure on. Default: what is not for training, else all."),
    ] = None,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate", help="Without a classifier: by person on all clips, not by the split.")
    ] = False,
    labels: Labels = None,
    target: OutputTarget = None,
    group: Group = "auto",
    kinds: Kinds = None,
    statistics: Statistics = None,
    folds: Folds = 5,
    seed: Seed = 2021,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="Answers from few frames too, and how few.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the confusion matrix: .png, .svg or .pdf.")] = None,
    force: Force = False,
    format: OutputFormat = "table",
    *,
    looking: ExtractionOptions,
) -> None:
    """Measure a clip classifier on labelled clips, or compare the ways to fit one."""
    from fervid.analysis.early_exit import exit_levels
    from fervid.core.atomic_io import check_overwrite
    from fervid.learn.model_evaluation import compare_configurations, evaluate_model
    from fervid.learn.model_selection import DEFAULT_STATISTICS, HYPERPARAMETERS, parse_statistics
    from fervid.render.evaluation_tables import plot_confusion_matrix, plot_format

    wanted, ways = _parse_statistics(statistics), _parse_choices(kinds, HYPERPARAMETERS) or ["linear"]
    model, other = (_classifier(name) for name in (classifier, against))
    card = model.card if model else {}
    if model is None and (against or plot or adaptive or split):
        raise UsageError("--against, --plot, --adaptive and --split need a --classifier to measure")
    if model and (kinds or statistics or cross_validate or target not in (None, card.get("target"))):
        raise UsageError("--kind, --statistics, --cross-validate and --target say what to fit, not what to measure")
    if model and "target" in card and (against or plot or adaptive):
        raise UsageError(f"--against, --plot and --adaptive need classes; {model.identity.name} says {card['target']}")
    if plot:
        plot_format(plot)
        check_overwrite(plot, force=force)
    known = _study(
        dataset,
        looking,
        labels=parse_labels(labels),
        target=card.get("target", target),
        group=group,
        seed=seed,
        strides=[level.stride for level in exit_levels(card)] if adaptive else (),
        judged=[one for one in (model, other) if one],
    )
    if model is None:
        able = [name for name in DEFAULT_STATISTICS if set(parse_statistics(name)) <= known.table.statistics.keys()]
        _show({"methods": compare_configurations(known, wanted or able, ways, folds, cross=cross_validate)}, format)
        return
    report = evaluate_model(known, model, other, parse_labels(labels), split, adaptive=adaptive)
    if plot:
        plot_confusion_matrix(report, plot, force=force)
    _show(report, format)


def _classifier(name: str | None) -> Model | None:
    """A classifier or a regressor by its name or path."""
    from fervid.core.errors import ModelIncompatible
    from fervid.models.registry import load_model

    if name is None:
        return None
    try:
        return load_model(name, "classifier")
    except ModelIncompatible:
        with suppress(ModelIncompatible):
            return load_model(name, "regressor")
        raise


def _split_commas(text: str | None) -> list[str]:
    """What lies between commas."""
    return [name.strip() for name in text.split(",")] if text else []


def _parse_statistics(text: str | None) -> list[str]:
    """Statistics with commas between, all of which can be read."""
    from fervid.learn.model_selection import parse_statistics

    names = _split_commas(text)
    for name in names:
        parse_statistics(name)
    return names


def _parse_choices(text: str | None, known: Mapping[_Name, Any]) -> list[_Name]:
    """Names with commas between, all of which are known."""
    names = {str(name): name for name in known}
    asked = _split_commas(text)
    if unknown := [name for name in asked if name not in names]:
        raise UsageError(f"there is no {', '.join(unknown)}; there are {', '.join(names)}")
    return [names[name] for name in asked]


def _clips(sources: Sequence[str], *, recursive: bool, passed_over: PassedOver) -> Dataset:
    """Labelled clips, if that is what one source names; else files, folders and globs without labels."""
    from fervid.learn.dataset import Dataset, Sample, load_dataset
    from fervid.learn.dataset_layouts import KNOWN_LAYOUTS
    from fervid.media import inputs

    (first, *more) = sources
    name, colon, _ = first.partition(":")
    if not more and (
        (colon and name.lower() in KNOWN_LAYOUTS) or first.lower().endswith(LISTS) or _classes(Path(first))
    ):
        passed_over.advice = ""
        return load_dataset(first, passed_over=passed_over)
    found = inputs.resolve_inputs(sources, recursive=recursive, passed_over=passed_over)
    return Dataset("clips", tuple(Sample(Path(path), None) for path in found))


def _classes(folder: Path) -> bool:
    """Whether a folder holds folders, and no videos but those in them, as one with a folder for each class does."""
    from fervid.media.inputs import find_videos

    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    flat = any(find_videos(str(folder), recursive=False))
    return bool(inside) and (not flat or any(any(find_videos(str(path), recursive=False)) for path in inside))


def _rows(
    found: Dataset,
    looking: ExtractionOptions,
    strides: Sequence[int] = (),
    judged: Sequence[Model] = (),
) -> tuple[Extractor, list[ClipFeaturesRow]]:
    """Look at every clip, unless what is to be judged by them was fitted on another network."""
    from fervid.analysis.extractor import load_extractor
    from fervid.core.progress import track_clips
    from fervid.learn.feature_table import extract_features
    from fervid.learn.labeled_features import feature_provenance
    from fervid.learn.model_evaluation import check_network

    jobs, threads = plan_workers(len(found.samples), looking.jobs, None)
    extractor = load_extractor(
        network=looking.network,
        detector=looking.detector,
        options=looking.options,
        threads=threads,
        device=looking.device,
    )
    for model in judged:
        check_network(model, feature_provenance(extractor))
    cache = looking.cache or _find_cache()
    rows = extract_features(
        found.samples, extractor, cache, jobs, strides, build_limits(looking.timeout, looking.memory)
    )
    return extractor, list(track_clips(rows, len(found.samples), looking.progress, lambda row: row.problem is not None))


def _find_cache() -> Path | None:
    """The user's folder for features; None, which is said, if nothing can be kept there."""
    from tempfile import TemporaryFile

    from fervid.core.atomic_io import user_dir
    from fervid.core.progress import log

    try:
        cache = user_dir("cache") / "features"
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=cache):
            return cache
    except (UsageError, OSError) as error:
        reason = error.message if isinstance(error, UsageError) else f"{error.filename or cache}: {error.strerror}"
        log(f"there is no cache that can be written ({reason}); features last for this run only, --cache keeps them")
        return None


def _study(
    source: str,
    looking: ExtractionOptions,
    *,
    labels: Sequence[str] | None,
    target: str | None,
    group: Literal["auto", "none"],
    seed: int,
    center: Literal["person"] | None = None,
    strides: Sequence[int] = (),
    judged: Sequence[Model] = (),
    skip_broken: bool = False,
) -> LabeledFeatures:
    """Labelled clips with their features, from the clips or from a file of features."""
    import numpy as np

    from fervid.core.progress import log, note
    from fervid.learn.dataset import Dataset, filter_labels, load_dataset
    from fervid.learn.feature_table import FeatureTable
    from fervid.learn.labeled_features import build_feature_table, feature_provenance, label_features, validate_dataset
    from fervid.media.inputs import PassedOver

    pooled = source.lower().endswith(".npz")
    if pooled and strides:
        raise UsageError("--adaptive has to look at the clips again; give the data set, not its features")
    table = FeatureTable.load(Path(source)) if pooled else None
    passed_over = PassedOver(advice="")
    if table:
        found = Dataset(Path(source).stem, (*table.samples, *table.faceless))
    else:
        found = load_dataset(source, passed_over=passed_over)
    note(str(passed_over), looking.progress)
    if labels:
        found = filter_labels(found, labels)
    validate_dataset(found, target=target, group=group, answerable=judged[0].card.get("labels") if judged else None)
    if table is None:
        extractor, rows = _rows(found, looking, strides, judged)
        table = build_feature_table(rows, feature_provenance(extractor), skip_broken=skip_broken)
        for row in rows if skip_broken else ():
            if row.problem and row.problem.code != "no_face":
                log(f"left out: {row.problem.message}")
    elif labels:
        faceless = tuple(sample for sample in table.faceless if sample.label in labels)
        table = replace(table[np.array([sample.label in labels for sample in table.samples])], faceless=faceless)
    return label_features(found, table, target=target, group=group, seed=seed, center=center)


def _show(report: Mapping[str, Any], format: str) -> None:
    """Print a card or a report."""
    if format == "json":
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    from fervid.render.evaluation_tables import render_report

    for table in render_report(report):
        Console().print(table)
