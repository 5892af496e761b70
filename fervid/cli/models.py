"""The commands that tell what is here: models, what works, how a record looks."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer

from fervid.cli import MODEL, OK, USAGE, examples
from fervid.cli.options import ProgressMode, complete_model_names
from fervid.core.errors import ModelError
from fervid.core.text import escape_control_chars

about_app = typer.Typer()
models_app = typer.Typer(
    no_args_is_help=True, help="The models: which there are, what they are, whether they are intact."
)
about_app.add_typer(models_app, name="models")


@models_app.command("list", epilog=examples("fervid models list", "fervid models list | grep network"))
def models_list() -> None:
    """Every model, what it is for, its size and licence; those that others publish can be pulled."""
    from fervid.models.registry import installed_models, manifest, model_path

    present = installed_models()
    for name, entry in [*manifest().items(), *manifest("optional").items()]:
        size = f"{model_path(entry).stat().st_size / 1e6:6.1f} MB" if name in present else "not pulled"
        print(f"{name:16} {entry['kind']:11} {size:>10}  {entry['licence']}")


@models_app.command(
    "info", epilog=examples("fervid models info mobilenetv1", "fervid models info emotion8 | jq .labels")
)
def models_info(
    name: Annotated[
        str, typer.Argument(help="A name from `fervid models list`.", autocompletion=complete_model_names())
    ],
) -> None:
    """The card of a model: data, licence, recipe, figures, limits."""
    from fervid.models.registry import installed_models, manifest_entry, verify

    entry = dict(manifest_entry(name))
    if "sha256" not in entry and name in installed_models():
        entry["sha256"] = verify(name).identity.sha256
    print(json.dumps(entry, indent=2, ensure_ascii=False))


@models_app.command("path", epilog=examples("fervid models path emotion8", "fervid models path hsemotion-b0"))
def models_path(
    name: Annotated[
        str, typer.Argument(help="A name from `fervid models list`.", autocompletion=complete_model_names())
    ],
) -> None:
    """Where the file of a model lies, or will lie when it is pulled."""
    from fervid.models.registry import manifest_entry, model_path

    print(model_path(manifest_entry(name)))


@models_app.command("verify", epilog=examples("fervid models verify", "fervid models verify mobilenetv1 emotion8"))
def models_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Default: all that are here.", autocompletion=complete_model_names())
    ] = None,
) -> None:
    """Compare files and cards with the manifest, by SHA-256 or, where their authors give none, by the id in git."""
    from fervid.models.registry import installed_models, verify

    failures = 0
    for name in names or installed_models():
        try:
            print(f"ok      {name:16} {verify(name).identity.sha256}")
        except ModelError as error:
            failures += 1
            print(f"failed  {name:16} {error.message}")
    raise typer.Exit(MODEL if failures else OK)


@models_app.command(
    "pull", epilog=examples("fervid models pull hsemotion-b0", "fervid models pull yunet --progress json")
)
def models_pull(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Optional models from `fervid models list`.", autocompletion=complete_model_names(shipped=False)
        ),
    ],
    progress: ProgressMode = "auto",
) -> None:
    """Fetch models that others publish into the user's data folder: verified, and continued where it broke off.

    No other command reaches the network. HTTPS_PROXY names a proxy.
    """
    from fervid.models.download import download_model
    from fervid.models.registry import manifest_entry, model_path

    for name in names:
        fetched = download_model(name, progress)
        print(f"{name} is here now" if fetched else f"{name} was here already", file=sys.stderr)
        print(model_path(manifest_entry(name)))


@about_app.command(epilog=examples("fervid doctor", "fervid doctor | grep -v ^ok"))
def doctor() -> None:
    """What works here, and what is wrong with the command that mends it: packages, codecs, CPUs, folders and models.

    Exit status: 0 all is well, 2 something is wrong, 4 a model is. Lines with `note` are no faults.
    """
    from fervid.cli.doctor import run_checks

    wrong = []
    for check in run_checks():
        print(f"{check.state:5} {check.name:24} {escape_control_chars(check.finding)}", flush=True)
        wrong += [check.name] * (check.state == "WRONG")
    raise typer.Exit(MODEL if any(name.startswith("model") for name in wrong) else USAGE if wrong else OK)


@about_app.command(epilog=examples("fervid schema > record.schema.json", "fervid schema timeline"))
def schema(
    command: Annotated[
        Literal["classify", "timeline"], typer.Argument(help="Which command writes the record.")
    ] = "classify",
) -> None:
    """The JSON Schema of a record."""
    from fervid.core.schema import record_json_schema

    print(json.dumps(record_json_schema(command), indent=2))
