"""The commands `network`: train, export and evaluate the face network.

Modules that need torch are imported inside the commands, so that help works without it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fervid.cli.commands import add_command
from fervid.core.errors import UsageError, as_usage_error
from fervid.core.packages import missing_extra
from fervid.core.text import escape_control_chars, plural

if TYPE_CHECKING:
    from fervid.learn.figures import Figure

network_app = typer.Typer(
    no_args_is_help=True,
    help="Train, export and evaluate the face network. Needs the extra `training`.",
)

DataFolder = Annotated[Path, typer.Option("--data", help="Folder of the data sets, as models/README.md lists them.")]
CropCache = Annotated[Path | None, typer.Option("--cache", help="Folder for cached face crops. Default: DATA/cache.")]


@contextmanager
def _training_errors(output: Path | None = None) -> Iterator[None]:
    """Convert missing packages and wrong settings to usage errors.

    Checks first that `output` is writable, because training takes hours.
    """
    if output is not None:
        from tempfile import TemporaryFile

        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=output.parent):
            pass
    try:
        with as_usage_error():
            yield
    except ModuleNotFoundError as error:
        raise missing_extra("`fervid network`", "training") from error


@add_command(
    network_app,
    "fervid network train --data faces/ -o mine.onnx",
    "fervid network train --data sets/ --weights faceres.json -o run.safetensors",
    "fervid network train --data sets/ --weights faceres.json -o other.safetensors --recipe mine.json",
    "fervid network train --data sets/ --weights faceres.json -o b0.safetensors --backbone efficientnet_b0",
    "fervid network train --data sets/ --weights faceres.json -o pupil.safetensors --teacher mobilenetv1-fp32",
    name="train",
)
def network_train(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="Folder of your own faces: a folder per class (anger, contempt, disgust, fear, happiness, neutral,"
            " sadness, surprise), and optionally unlabelled/. With --weights: folder of the data sets, as"
            " models/README.md lists them.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="The .onnx file; its checkpoint is NAME.safetensors beside it. With --weights: the checkpoint."
            " Training continues if the checkpoint exists.",
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="Train from these initial weights: faceres.json of the npm package @vladmandic/human. Default:"
            " fine-tune the shipped network.",
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="JSON file of settings that differ from the default.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="Backbone: mobilenetv1, or a model name of timm. Overrides --recipe."),
    ] = None,
    earlier: Annotated[
        Path | None,
        typer.Option("--from", help="Start from the weights of a checkpoint, or of a float32 ONNX file."),
    ] = None,
    pretrained: Annotated[
        Path | None,
        typer.Option("--pretrained", help="Initial weights of a timm backbone, .safetensors."),
    ] = None,
    teachers: Annotated[
        list[str] | None,
        typer.Option("--teacher", help="Distil from this checkpoint, ONNX file or model name. Can be repeated."),
    ] = None,
    fer2013_teachers: Annotated[
        list[str] | None,
        typer.Option(
            "--fer2013-teacher",
            help="Like --teacher, but it gets the faces in the style of FER2013: grey, 48 pixels, cropped at the box.",
        ),
    ] = None,
    cache: CropCache = None,
) -> None:
    """Fine-tune the shipped network on your own faces; with --weights, train one on the published data sets.

    Prints lines of JSON with the losses.
    """
    if weights is None:
        options = {
            "--backbone": backbone,
            "--from": earlier,
            "--pretrained": pretrained,
            "--teacher": teachers,
            "--fer2013-teacher": fer2013_teachers,
            "--cache": cache,
        }
        if given := [name for name, value in options.items() if value]:
            raise UsageError(f"{', '.join(given)} cannot be used without --weights; add --weights or leave it out")
        _finetune(data, output, recipe)
        return
    with _training_errors(output):
        from fervid.training import fit, mobilenet
        from fervid.training.batches import TrainingSets
        from fervid.training.config import TrainConfig
        from fervid.training.dataset_paths import DatasetPaths
        from fervid.training.predict import load_teacher

        settings = TrainConfig.from_json(recipe) if recipe else TrainConfig()
        settings = replace(settings, backbone=backbone or settings.backbone)
        base_weights = mobilenet.read_tensorflowjs(weights)
        # Load all weights before the data, so that a wrong file is reported at once.
        start = fit.initial_weights(settings, base_weights, earlier, pretrained)
        loaded_teachers = [load_teacher(name) for name in teachers or ()]
        loaded_teachers += [load_teacher(name, fer2013_style=True) for name in fer2013_teachers or ()]
        run = fit.make_trainer(
            settings,
            start,
            TrainingSets.read(DatasetPaths(data), cache or data / "cache", base_weights, loaded_teachers, settings),
        )
        for figures in run.run(output):
            _print_progress(figures)


def _finetune(data: Path, output: Path, recipe: Path | None) -> None:
    """Fine-tune the shipped network on a folder of faces, and export it."""
    if output.suffix != ".onnx":
        raise UsageError(f"{output} must end in .onnx; or add --weights to train on the published data sets")
    with _training_errors(output):
        from fervid.training import finetune
        from fervid.training.own_faces import OwnFaces

        settings = finetune.FinetuneConfig.from_json(recipe) if recipe else finetune.FinetuneConfig()
        faces = OwnFaces.read(data)
        if missed := [str(path) for path in faces.without_face]:
            count = plural(len(missed), "image")
            note = f"{count} left out, because no face was found; leave more room around the face: {', '.join(missed)}"
            typer.echo(escape_control_chars(f"fervid: {note}"), err=True)
        print(json.dumps(faces.counts()), flush=True)
        run = output.with_suffix(".safetensors")
        for figures in finetune.fit(settings, faces, run):
            _print_progress(figures)
        for name, scores in finetune.save(run, faces, output).items():
            _print_figures(name, scores)


def _print_progress(figures: Mapping[str, float]) -> None:
    print(json.dumps({name: round(float(value), 4) for name, value in figures.items()}), flush=True)


@add_command(
    network_app,
    "fervid network export run.safetensors --data sets/ -o models/mobilenetv1.onnx",
    "fervid network export run.safetensors --data sets/ -o mine.onnx --cache faces/",
    "fervid network export run.safetensors start-fp32.onnx --data sets/ -o mine.onnx --weights faceres.json",
    name="export",
)
def network_export(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Checkpoint of `fervid network train`. The weights of several that started with the same --from are"
            " averaged, and those of this float32 ONNX file too, if it is given.",
        ),
    ],
    data: DataFolder,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="Output file of the int8 model; the float32 model is written beside it as NAME-fp32."
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="faceres.json of the npm package @vladmandic/human, to fit the identity of an average."
        ),
    ] = None,
    cache: CropCache = None,
) -> None:
    """Export the network as ONNX in float32 and int8, evaluate it, and write its card."""
    with _training_errors(output):
        from fervid.training import export, mobilenet
        from fervid.training.dataset_paths import DatasetPaths

        initial = mobilenet.read_tensorflowjs(weights) if weights else None
        exported = export.export(runs, DatasetPaths(data), cache or data / "cache", output, initial)
        for name, figures in exported.items():
            _print_figures(name, figures)


@add_command(
    network_app,
    "fervid network evaluate mobilenetv1 --data sets/",
    "fervid network evaluate mine.onnx --data sets/ --json",
    name="evaluate",
)
def network_evaluate(
    network: Annotated[str, typer.Argument(help="Model name from `fervid models list`, or an ONNX file.")],
    data: DataFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Evaluate a network on the test sets, with the detector, crop and inference of `fervid classify`."""
    with _training_errors():
        from fervid.models import registry
        from fervid.training.dataset_paths import DatasetPaths
        from fervid.training.evaluate import Tests

        model = registry.load_model(network, "face_model", 2)
        figures = Tests.read(DatasetPaths(data), model.card["input"]["size"], model.card["margin"]).measure(model)
    if as_json:
        print(json.dumps([figure.as_dict() for figure in figures], indent=2))
    else:
        _print_figures(network, figures)


@add_command(
    network_app,
    "fervid network ensemble one.onnx two.onnx three.onnx -o ensemble3.onnx",
    "fervid network ensemble mobilenetv1.onnx mine.onnx -o both.onnx",
    name="ensemble",
)
def network_ensemble(
    networks: Annotated[list[Path], typer.Argument(metavar="NETWORK...", help="Two or more ONNX files.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Output file of the ensemble, .onnx.")],
) -> None:
    """Merge networks into one that averages their probabilities."""
    with _training_errors(output):
        from fervid.training import ensemble

        ensemble.fuse(networks, output)


def _print_figures(title: str, figures: Iterable[Figure]) -> None:
    """Print figures as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("data set", "split", "protocol", "metric", "value", "95 % interval", title=title)
    for figure in figures:
        interval = "{:.4f} to {:.4f}".format(*figure.interval) if figure.interval else ""
        table.add_row(figure.dataset, figure.split, figure.protocol, figure.metric, f"{figure.value:g}", interval)
    Console().print(table)
