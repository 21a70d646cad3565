"""From a YAML file, flags and `--set` to one checked model, or to one line per mistake."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.storage.local import NotAFileError, read_regular_file
from pipeline.storage.yaml_file import MAX_BYTES, check_references, parse_yaml
from schemas.base import Model, validated
from schemas.config import JobConfig
from schemas.errors import ConfigError, VocabularyError
from schemas.redact import redact
from schemas.vocabulary import BACKGROUND, has_background_label, spelled_out_vocabulary

logger = logging.getLogger(__name__)

_WORD_FILES = (".yaml", ".yml", ".json", ".txt")
_OPEN_FILES = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")
"""What a shell hands over for `<(...)` and `<`: pipes that somebody writes now."""
_HINTS = {
    "images": "give it in the file or with --images",
    "out": "give it in the file or with --out",
    "vocabulary": 'give `labels` in the job file, or --labels "cat,dog", or --vocabulary FILE',
    "head": "give `head: found` or `head: dinoiser` in the file, or --head",
}
"""How a missing field can be given."""

Fields = dict[str, Any]
"""Values of a model's fields as in a YAML file: nested mappings, possibly with short forms."""


class _FromFile(dict[str, Any]):
    """A mapping out of a file of its own: it replaces an earlier one instead of merging."""


def run_flags(local: bool, images_roots: Sequence[str] | None, allow_private: bool) -> Fields:
    """Return what the flags that annotation and training share set, by dotted field.

    A flag that is not given sets nothing, so that the file's value stands.
    """
    return {
        "run.local": local or None,
        "run.images_roots": list(images_roots or ()) or None,
        "run.allow_private_addresses": allow_private or None,
    }


def load_config(
    model: type[Model],
    path: str = "",
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    below: Callable[[Fields], Fields] | None = None,
) -> Model:
    """Return the model of a file, flags and `--set`; the later stand over the earlier.

    Args:
        model: class of the configuration.
        path: YAML file (path or URL); empty: none.
        flags: by dotted path of a field; None or an empty text is a flag that was not given.
        sets: `dotted.key=value` each; the value is read as YAML.
        below: returns fields that stand below all others, computed from those that are given.

    Raises:
        ConfigError: a file or `--set` that cannot be read, or one line per wrong field.
        VocabularyError: a vocabulary file without words.
    """
    given: Fields = {}
    for key, value in (flags or {}).items():
        if value not in (None, ""):
            given = merge(given, _nested(key, value))
    layers = [*([load_yaml(path)] if path else []), given, *map(_read_set, sets)]
    merged: Fields = {}
    for layer in layers:
        try:
            full = model.spelled_out(_with_files(layer))
        except ValueError as error:
            raise ConfigError(str(error)) from error
        merged = merge(merged, full)
    if below is not None:
        plain = {k: dict(v) if isinstance(v, _FromFile) else v for k, v in merged.items()}
        merged = merge(below(merged), plain)
    config = validated(model, merged, hints=_HINTS)
    if isinstance(config, JobConfig):
        _tell_labels(config, merged)
    return config


def _tell_labels(config: JobConfig, given: Fields) -> None:
    """Say what was made of the words where a person may have meant something else."""
    joined = next((name for name in config.vocabulary.names if ";" in name), "")
    if joined:
        logger.warning(
            "%r is one label: a comma parts labels, such as %s",
            joined, quote(",".join(part.strip() for part in joined.split(";"))),
        )  # fmt: skip
    if has_background_label(given.get("vocabulary")):
        logger.info(
            "the label %r is the background, class 0, and not counted among the %d labels; its "
            "phrases are: %s",
            BACKGROUND, len(config.vocabulary.labels), ", ".join(config.vocabulary.background),
        )  # fmt: skip


def merge(base: Fields, over: Fields) -> Fields:
    """Return `base` with `over` laid on top; mappings merge, everything else is replaced.

    Where a mapping names a plug-in, a name alone is short for it, and another plug-in inherits no
    options.
    """
    merged = dict(base)
    for key, new in over.items():
        old = merged.get(key)
        if isinstance(new, str) and _is_plug_in(old):
            new = {"name": new}
        if isinstance(old, str) and _is_plug_in(new):
            old = {"name": old}
        if isinstance(old, dict) and isinstance(new, dict) and not isinstance(new, _FromFile):
            is_another = "name" in old and "name" in new and old["name"] != new["name"]
            new = merge({} if is_another else old, new)
        merged[key] = new
    return merged


def _is_plug_in(value: Any) -> bool:
    """Return whether a value has the form of `NamedOptions`, or of a part of it."""
    return isinstance(value, dict) and bool(value) and value.keys() <= {"name", "options"}


def _nested(dotted: str, value: Any) -> Fields:
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def _read_set(text: str) -> Fields:
    """Return `a.b=value` as nested mappings."""
    key, equals, given = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set expects key=value, such as masks.min_area_px=50; got {text!r}")
    try:
        value: Any = OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"--set {key.strip()}: cannot read the value {redact(given)!r} "
            f"({str(error).splitlines()[0]}); text with signs such as {{ }} : in a list needs "
            "quotes of its own: '[\"a {}\"]'"
        ) from error
    return value


def _with_files(layer: Fields) -> Fields:
    """Return the fields with the content of a vocabulary or calibration file for its name."""
    from pipeline.storage import uris

    layer = dict(layer)
    words, calibration = layer.get("vocabulary"), layer.get("calibration")
    if isinstance(words, str) and uris.without_query(words).lower().endswith(_WORD_FILES):
        layer["vocabulary"] = vocabulary_file(words)
    if isinstance(calibration, str):
        layer["calibration"] = _FromFile(load_yaml(calibration))
        _warn_of_undone_imports(calibration)
    return layer


def _warn_of_undone_imports(calibration: str) -> None:
    from pipeline.corrections.imports import undone_since

    undone = [] if "://" in calibration else undone_since(Path(calibration))
    if undone:
        logger.warning(
            "%s is older than the taking back of import %s, from which it may have been learned: "
            "`ovseg calibrate` learns it again",
            calibration, ", ".join(undone),
        )  # fmt: skip


@dataclass(frozen=True)
class ProtocolFlags:
    """`--protocol` and `--data`; an empty text is a flag that was not given."""

    name: str = ""
    data: str = ""

    def fields(self, given: Fields) -> Fields:
        """Return the fields that the protocol decides, for a job whose other fields are given.

        Raises:
            ConfigError: one of the two flags without the other.
            UserError: no such protocol, or no images of it in the folder.
        """
        if not self.name and not self.data:
            return {}
        if not self.name or not self.data:
            raise ConfigError(
                "--protocol NAME and --data FOLDER go together: the protocol says what is "
                "compared, the folder holds the data set"
            )
        from pipeline.evaluation.protocol import job_fields

        method: Any = given.get("method")
        name = method.get("name") if isinstance(method, dict) else method
        fields = job_fields(
            self.name, self.data, str(name or JobConfig.model_fields["method"].default.name)
        )
        if "images" in given:  # of the user's own: the data set's split does not name them
            del fields["image"]
        return fields

    def as_typed(self) -> str:
        """Return the flags for a command line; empty where none was given."""
        return f"--protocol {quote(self.name)} --data {quote(self.data)}" if self.name else ""


def load_yaml(path: str) -> Fields:
    """Return the mapping in a YAML (or JSON) file.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping; names file, line and column.
    """
    value = _parse_yaml(_read_text(path), path, with_references=True)
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path}: expected `key: value` lines, got {type(value).__name__}; "
            "`ovseg settings` lists the keys"
        )
    return value


def vocabulary_file(path: str) -> Fields:
    """Return the `vocabulary` in a file: .txt, one word per line; .yaml or .json, list or object.

    Raises:
        ConfigError: no such file, or not readable as such.
        VocabularyError: a file without words.
    """
    from pipeline.storage import uris

    text = _read_text(path)
    if uris.without_query(path).lower().endswith(".txt"):
        lines = (line.strip() for line in text.splitlines())
        value: Any = [line for line in lines if line and not line.startswith("#")]
    else:
        value = _parse_yaml(text, path)
    if not value:
        raise VocabularyError(f"{path}: no labels; expected a list of words or `labels: [...]`")
    if not isinstance(value, dict | list):
        raise VocabularyError(
            f"{path}: expected a list of words or `labels: [...]`, got {value!r:.60}"
        )
    return _FromFile(spelled_out_vocabulary(value))


def _read_text(path: str) -> str:
    """Return the UTF-8 text of a file at a local path or any fsspec URL."""
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except NotAFileError as error:
        raise ConfigError(
            f"{path} is {error.kind}, expected a file; a folder of images is given with --images"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a UTF-8 text file") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from error


def _read_bytes(path: str) -> bytes:
    if path.startswith(_OPEN_FILES):
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    if "://" not in path:
        return read_regular_file(path, MAX_BYTES)
    from pipeline.storage import uris
    from pipeline.storage.folder import Folder

    folder, name = uris.parent_and_name(uris.normalise(path))
    return Folder(folder).read_bytes(name, MAX_BYTES)


def _parse_yaml(text: str, where: str, *, with_references: bool = False) -> Any:
    """Return the value in a YAML text.

    Args:
        text: of a file that people wrote.
        where: the file, for messages.
        with_references: resolve `${key}` and `${oc.env:NAME}`: in job files, not in data.

    Raises:
        ConfigError: names file, line and column.
    """
    try:
        value = parse_yaml(text, by_hand=True)
        if with_references and isinstance(value, dict | list) and "${" in text:
            check_references(value)
            value = OmegaConf.to_container(OmegaConf.create(value), resolve=True)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise ConfigError(f"{place}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError, ValueError) as error:
        raise ConfigError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from error
    return {} if value is None else value
