"""From a YAML file, flags and `--set` to one checked `JobConfig`, or to a line per mistake."""

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jobs.files import parse_yaml, read_text
from jobs.words import vocabulary_file
from schemas.base import validated
from schemas.config import JobConfig
from schemas.errors import ConfigError

_WORD_FILES = (".yaml", ".yml", ".json", ".txt")
_HINTS = {
    "images": "give it in the file or with --images",
    "out": "give it in the file or with --out",
    "vocabulary": 'give `labels` in the job file, or --labels "cat,dog", or --vocabulary FILE',
}
"""How a missing field can be given."""


@dataclass(frozen=True)
class Flags:
    """The flags of `annotate`; an empty text or None is a flag that was not given."""

    images: str = ""
    labels: str = ""
    vocabulary: str = ""
    out: str = ""
    limit: int | None = None
    workers: int | None = None
    local: bool = False

    def values(self) -> dict[str, Any]:
        """Return what was given, shaped as in a job file.

        Raises:
            ConfigError: both ways of giving the words at once, or a file that cannot be read.
            VocabularyError: no words.
        """
        if self.labels and self.vocabulary:
            raise ConfigError("give either --labels or --vocabulary, not both")
        values: dict[str, Any] = {
            key: text for key, text in (("images", self.images), ("out", self.out)) if text
        }
        if self.labels:
            values["labels"] = self.labels
        if self.vocabulary:
            values["vocabulary"] = vocabulary_file(self.vocabulary)
        if self.limit is not None:
            values["image"] = {"limit": self.limit}
        run = {"workers": self.workers, "local": self.local or None}
        given = {key: value for key, value in run.items() if value is not None}
        return {**values, "run": given} if given else values


@dataclass(frozen=True)
class ProtocolFlags:
    """`--protocol` and `--data`; an empty text is a flag that was not given."""

    name: str = ""
    data: str = ""

    def again(self) -> str:
        """Return them as they are typed."""
        return f"--protocol {quote(self.name)} --data {quote(self.data)}" if self.name else ""


def job_config(
    path: str,
    flags: dict[str, Any],
    overrides: Sequence[str],
    protocol: ProtocolFlags = ProtocolFlags(),
) -> JobConfig:
    """Merge file, flags and overrides, the later over the earlier, and check the whole.

    Args:
        path: YAML file (path or URL); empty: none.
        flags: values of the command's own flags, shaped as in the file. `labels` replaces the
            words of the file's vocabulary, `vocabulary` all of it.
        overrides: `dotted.key=value` each; the value is read as YAML.
        protocol: gives the fields that are not given otherwise.

    Raises:
        ConfigError: a file or override that cannot be read, or a line per wrong key.
        VocabularyError: a vocabulary without words.
    """
    base = _normal(load_yaml(path)) if path else {}
    if "vocabulary" in flags:
        base.pop("vocabulary", None)
    merged = _over(base, _normal(flags))
    for override in overrides:
        merged = _over(merged, _normal(dotlist([override])))
    if isinstance(merged.get("method"), dict):
        merged["method"] = {"name": JobConfig.model_fields["method"].default.name} | merged[
            "method"
        ]
    if protocol.name or protocol.data:
        merged = _under(protocol, merged)
    return validated(JobConfig, merged, hints=_HINTS)


def _under(protocol: ProtocolFlags, given: dict[str, Any]) -> dict[str, Any]:
    """Lay what was given over the fields that a protocol decides."""
    from pipeline.evaluation.protocol import job_fields

    if not protocol.name or not protocol.data:
        raise ConfigError(
            "--protocol NAME and --data FOLDER go together: the protocol says what is compared, "
            "the folder holds the data set"
        )
    method = _name(given) or JobConfig.model_fields["method"].default.name
    fields = job_fields(protocol.name, protocol.data, method)
    if "images" in given:  # of the user's own: the data set's split does not name them
        del fields["image"]
    return merge(fields, given)


def load_yaml(path: str) -> dict[str, Any]:
    """Return the mapping in a YAML (or JSON) file.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping; names file, line and column.
    """
    value = parse_yaml(read_text(path), path)
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path}: expected `key: value` lines, got {type(value).__name__}; "
            "`ovseg settings` lists the keys"
        )
    return value


def dotlist(overrides: Sequence[str]) -> dict[str, Any]:
    """Return `a.b=value` overrides as a nested mapping.

    Raises:
        ConfigError: one that is not `key=value`, or whose value is not YAML.
    """
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set expects key=value, such as masks.min_area_px=50; got {override!r}"
            )
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)), resolve=True)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"--set: cannot read a value: {str(error).splitlines()[0]}") from error
    return {str(key): inner for key, inner in value.items()} if isinstance(value, dict) else {}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on top; mappings merge, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        if isinstance(inner, dict) and isinstance(value, dict):
            value = merge(inner, value)
        merged[key] = value
    return merged


def _over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge; another method or calibration inherits nothing from the one that it replaces."""
    if "scores" in (over.get("calibration") or {}):
        base = {key: value for key, value in base.items() if key != "calibration"}
    old, new = _name(base), _name(over)
    return merge({**base, "method": {}} if new and old and new != old else base, over)


def _name(config: dict[str, Any]) -> str:
    method = config.get("method")
    return str(method.get("name", "")) if isinstance(method, dict) else ""


def _normal(value: dict[str, Any]) -> dict[str, Any]:
    """Return the mapping with its short forms spelled out, so that overrides can reach inside."""
    normal = dict(value)
    words: Any = normal.get("vocabulary")
    if isinstance(words, str) and words.lower().endswith(_WORD_FILES):
        normal["vocabulary"] = vocabulary_file(words)
    try:
        normal = JobConfig.spelled_out(normal)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if isinstance(normal.get("method"), str):
        normal["method"] = {"name": normal["method"]}
    if isinstance(normal.get("calibration"), str):
        normal["calibration"] = load_yaml(normal["calibration"])
    return normal
