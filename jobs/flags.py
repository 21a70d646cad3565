"""What several commands take, and texts of `--help` that are made; imports nothing heavy."""

import pkgutil
from pathlib import Path
from typing import Annotated

import typer

_EXPORTERS = Path(__file__).parents[1] / "pipeline" / "exporters"


def formats() -> str:
    """Return the names of the export formats: those of their files, so that none is forgotten."""
    modules = pkgutil.iter_modules([str(_EXPORTERS)])
    return ", ".join(sorted(module.name for module in modules if not module.ispkg))


def _override(what: str) -> typer.models.OptionInfo:
    return typer.Option("--set", metavar="KEY=VALUE", help=f"{what}; repeatable.")


JobFields = Annotated[list[str] | None, _override("Override any field that `ovseg settings` lists")]
TrainingFields = Annotated[list[str] | None, _override("Override any field of the training file")]
FormatOptions = Annotated[
    list[str] | None, _override("An option of the format; a wrong one lists what there is")
]
Rules = Annotated[
    list[str] | None, _override("Another rule of counting; a wrong one lists what there is")
]

Run = Annotated[str, typer.Argument(help="Run folder: a path or any fsspec URL.", metavar="RUN")]
Images = Annotated[str, typer.Option("--images", help="Folder, glob, bucket prefix or list file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Local = Annotated[bool, typer.Option("--local", help="In this process, without Ray.")]
Config = Annotated[
    str, typer.Argument(help="Job file (YAML): a path or URL.", metavar="CONFIG.yaml")
]
ProtocolName = Annotated[
    str,
    typer.Option("--protocol", help="Data set as published: voc21, ade20k, ... or a .yaml file."),
]
Data = Annotated[str, typer.Option("--data", help="The data set's folder, with --protocol.")]
