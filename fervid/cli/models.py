"""The commands `models`, `doctor` and `schema`, which describe the installation."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer

from fervid.cli import ExitCode
from fervid.cli.commands import add_command
from fervid.cli.flags import ProgressMode, complete_model_names
from fervid.core.errors import ModelError
from fervid.core.text import escape_control_chars

info_app = typer.Typer()
models_app = typer.Typer(no_args_is_help=True, help="List, inspect, verify and download models.")
info_app.add_typer(models_app, name="models")

ModelName = Annotated[
    str, typer.Argument(help="Model name from `fervid models list`.", autocompletion=complete_model_names())
]


@add_command(models_app, "fervid models list", "fervid models list | grep face_model", name="list")
def models_list() -> None:
    """List all models with their kind, size and license. Models that are not shipped can be downloaded."""
    from fervid.models.registry import installed_models, manifest, model_path

    installed = installed_models()
    for name, entry in [*manifest().items(), *manifest("optional").items()]:
        size = f"{model_path(entry).stat().st_size / 1e6:6.1f} MB" if name in installed else "not pulled"
        print(f"{name:16} {entry['kind']:11} {size:>10}  {entry['license']}")


@add_command(models_app, "fervid models info mobilenetv1", "fervid models info emotion8 | jq .labels", name="info")
def models_info(name: ModelName) -> None:
    """Print the card of a model as JSON: training data, license, recipe, figures and limitations."""
    from fervid.models.registry import installed_models, manifest_entry, verify

    entry = dict(manifest_entry(name))
    if "sha256" not in entry and name in installed_models():
        entry["sha256"] = verify(name).identity.sha256
    print(json.dumps(entry, indent=2, ensure_ascii=False))


@add_command(models_app, "fervid models path emotion8", "fervid models path hsemotion-b0", name="path")
def models_path(name: ModelName) -> None:
    """Print the path of a model's file; for a model that is not downloaded yet, its future path."""
    from fervid.models.registry import manifest_entry, model_path

    print(model_path(manifest_entry(name)))


@add_command(models_app, "fervid models verify", "fervid models verify mobilenetv1 emotion8", name="verify")
def models_verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Model names. Default: all installed models.", autocompletion=complete_model_names()),
    ] = None,
) -> None:
    """Verify files and cards against the manifest, by SHA-256 or, where the authors publish none, by Git blob id."""
    from fervid.models.registry import installed_models, verify

    failures = 0
    for name in names or installed_models():
        try:
            print(f"ok      {name:16} {verify(name).identity.sha256}")
        except ModelError as error:
            failures += 1
            print(f"failed  {name:16} {error.message}")
    raise typer.Exit(ExitCode.MODEL_UNUSABLE if failures else ExitCode.OK)


@add_command(models_app, "fervid models pull hsemotion-b0", "fervid models pull yunet --progress json", name="pull")
def models_pull(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Names of optional models from `fervid models list`.",
            autocompletion=complete_model_names(shipped=False),
        ),
    ],
    progress: ProgressMode = "auto",
) -> None:
    """Download third-party models into the user's data folder, and verify them.

    No other command accesses the internet. HTTPS_PROXY sets a proxy.
    """
    from fervid.models.download import download_model
    from fervid.models.registry import manifest_entry, model_path

    for name in names:
        downloaded = download_model(name, progress)
        print(f"{name}: downloaded" if downloaded else f"{name}: already installed", file=sys.stderr)
        print(model_path(manifest_entry(name)))


@add_command(info_app, "fervid doctor", "fervid doctor | grep -v ^ok")
def doctor() -> None:
    """Check the installation; each problem is listed with the command that fixes it.

    Checks packages, codecs, CPUs, folders and models. Lines with `note` are not problems.

    Exit status: 0 no problem, 2 a problem, 4 a problem with a model.
    """
    from fervid.cli.doctor import run_checks

    codes = {ExitCode.OK}
    for check in run_checks():
        print(f"{check.state:5} {check.name:24} {escape_control_chars(check.message)}", flush=True)
        if check.state == "error":
            codes.add(ExitCode.MODEL_UNUSABLE if check.name.startswith("model") else ExitCode.USAGE)
    raise typer.Exit(max(codes))


@add_command(info_app, "fervid schema > record.schema.json", "fervid schema timeline")
def schema(
    command: Annotated[
        Literal["classify", "timeline"], typer.Argument(help="Command that writes the record.")
    ] = "classify",
) -> None:
    """Print the JSON Schema of a record."""
    from fervid.core.schema import record_json_schema

    print(json.dumps(record_json_schema(command), indent=2))
