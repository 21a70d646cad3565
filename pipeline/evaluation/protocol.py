"""Benchmark protocols by name, and where their files lie in a data set's folder."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.storage import uris
from pipeline.storage.folder import Folder
from pipeline.storage.yaml_file import MAX_BYTES, parse_yaml
from schemas.base import did_you_mean, problems
from schemas.errors import ConfigError, UserError
from schemas.protocol import BenchmarkProtocol, ImageFiles, Words
from schemas.redact import redact

PROTOCOL_FOLDER = Path(__file__).parent / "protocols"
_SUFFIXES = (".yaml", ".yml")


def protocol_names() -> tuple[str, ...]:
    """Return the protocols that ship with the package."""
    return tuple(sorted(file.stem for file in PROTOCOL_FOLDER.glob("*.yaml")))


def load_protocol(name: str) -> BenchmarkProtocol:
    """Return a protocol.

    Args:
        name: of one that ships with the package, or the path or URL of a YAML file.

    Raises:
        ConfigError: no such protocol, or a file that is not a protocol; one line per mistake.
    """
    is_file = name.endswith(_SUFFIXES)
    if not is_file and name not in protocol_names():
        raise ConfigError(
            f"there is no protocol {name!r}: {did_you_mean(name, protocol_names())} "
            f"(all: {', '.join(protocol_names())}; or a .yaml file of your own)"
        )
    place = name if is_file else str(PROTOCOL_FOLDER / f"{name}.yaml")
    try:
        return BenchmarkProtocol.model_validate(_read(place))
    except ValidationError as error:
        lines = (f"{name}: {line}" for line in problems(error, BenchmarkProtocol))
        raise ConfigError(*lines) from error


def job_fields(name: str, data: str, method: str) -> dict[str, Any]:
    """Return the fields of a job file that a protocol sets.

    Args:
        name: of the protocol.
        data: the data set's folder.
        method: name of the method, which selects the recipe.

    Raises:
        UserError: no such protocol, or no images in the folder.
    """
    protocol = load_protocol(name)
    recipe = protocol.recipe(method)
    files, folder = find_images(name, protocol, data)
    labels = [
        label.model_dump(mode="json", exclude_defaults=True) for label in protocol.labels(recipe)
    ]
    return {
        "images": uris.join(data.rstrip("/"), folder),
        "image": {"only": uris.join(data.rstrip("/"), files.split) if files.split else ""},
        "vocabulary": {"labels": labels, "background": list(protocol.background_of(recipe))},
        "method": {"name": method, "options": recipe.options},
    }


def find_images(name: str, protocol: BenchmarkProtocol, data: str) -> tuple[ImageFiles, str]:
    """Return the first of a protocol's image folders that exists, and its path in the data set.

    Raises:
        UserError: none exists; the message says what was expected.
    """
    for files in protocol.images:
        folder = first_folder_with(data, files.folder, files.ending)
        if folder:
            return files, folder
    expected = [f"{folder}/*{files.ending}" for files in protocol.images for folder in files.folder]
    raise missing_files(name, data, "images", expected)


def first_folder_with(data: str, folders: Words, ending: str) -> str:
    """Return the first of the folders with files of this ending; empty: there is none."""
    for folder in folders:
        if any(file.endswith(ending) for file in _files(Folder(data).child(folder))):
            return folder
    return ""


def missing_files(name: str, data: str, what: str, expected: list[str]) -> UserError:
    """Return an error that says what a data set's folder should hold."""
    return UserError(
        f"{name}: no {what} in {redact(data)}: expected {' or '.join(expected)} there; "
        "--data is the folder that holds them"
    )


def _files(folder: Folder) -> list[str]:
    try:
        return folder.list()
    except FileNotFoundError:
        return []


def _read(place: str) -> dict[str, Any]:
    folder, file = uris.parent_and_name(uris.normalise(place))
    try:
        content = parse_yaml(Folder(folder).read_bytes(file, MAX_BYTES))
    except FileNotFoundError as error:
        raise ConfigError(f"{place}: no such protocol file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{place}: expected the fields of a protocol, got {content!r:.60}")
    return content
