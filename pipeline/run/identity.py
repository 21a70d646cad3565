"""What a run is: the content of `run.yaml`, and whether a resume is the same run."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import yaml
from pydantic import ValidationError

from pipeline.storage import uris
from schemas.base import Frozen
from schemas.config import JobConfig
from schemas.errors import RunFolderError
from schemas.redact import redact
from schemas.tables import SCHEMA_VERSION

_PACKAGES = (
    "ovseg", "torch", "open_clip_torch", "timm", "ray", "numpy", "pillow", "pyarrow",
    "pycocotools", "fsspec",
)  # fmt: skip
_SHOWN_DIFFERENCES = 5
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class RunPlan:
    """What a driver is about to do.

    Attributes:
        config: the job.
        weights: SHA-256 (hex) of each weights file in use, by a name free of local paths.
        manifest: lists the images; called only where the run folder is new.
        folders: the state of each folder that an option names, by dotted option.
    """

    config: JobConfig
    weights: dict[str, str]
    manifest: Callable[[], pa.Table]
    folders: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """All that decides which images the manifest holds, as JSON."""
        image = self.config.image.model_dump(mode="json", exclude={"only"})
        return _canonical({"images": _absolute(self.config.images), "image": image | self._only})

    def identity(self, manifest_sha256: str) -> dict[str, Any]:
        """Return all that can change an output, as flat dotted keys."""
        fields = _without_secrets(self.config.output_fields())
        fields["images"] = _absolute(self.config.images)
        del fields["image.only"]
        fields = {key: value for key, value in fields.items() if not _is_of_calibration(key)}
        fields |= self._calibration
        fields |= {f"image.{key}": value for key, value in self._only.items()}
        fields |= {f"weights.{name}": digest for name, digest in sorted(self.weights.items())}
        fields |= {f"{option}.files": state for option, state in self.folders.items()}
        return fields | {"manifest_sha256": manifest_sha256, "schema_version": SCHEMA_VERSION}

    @property
    def _calibration(self) -> dict[str, str]:
        """The hash of the calibration's content; nothing where there is none."""
        given = self.config.calibration
        if given is None:
            return {}
        return {"calibration": hashlib.sha256(_canonical(given.model_dump()).encode()).hexdigest()}

    @property
    def _only(self) -> dict[str, str]:
        """The list of names as an absolute place; nothing where none is given."""
        only = self.config.image.only
        return {"only": _absolute(only)} if only else {}


class RunInfo(Frozen):
    """The content of `run.yaml`."""

    schema_version: int
    """Of the tables."""
    fingerprint: str
    """SHA-256 of `identity`."""
    manifest_sha256: str
    num_images: int
    num_shards: int
    weights: dict[str, str]
    """SHA-256 of the weights files."""
    versions: dict[str, str]
    """Of Python packages, when the run was begun."""
    config: dict[str, Any]
    """The resolved job, without secrets."""
    identity: dict[str, Any]
    """All that can change an output; a resume must have the same."""

    def job(self) -> JobConfig:
        """Return the job as a config."""
        return JobConfig.model_validate(self.config)

    def to_yaml(self) -> bytes:
        """Return the file's content."""
        return yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        ).encode()


def describe(plan: RunPlan, manifest_sha256: str, num_images: int) -> RunInfo:
    """Return the run's description."""
    identity = plan.identity(manifest_sha256)
    return RunInfo(
        schema_version=SCHEMA_VERSION,
        fingerprint=fingerprint(identity),
        manifest_sha256=manifest_sha256,
        num_images=num_images,
        num_shards=plan.config.num_shards(num_images),
        weights=plan.weights,
        versions=_versions(),
        config=_without_secrets(plan.config.model_dump(mode="json")),
        identity=identity,
    )


def parse(data: bytes, uri: str) -> RunInfo:
    """Return the description that a run folder holds.

    Raises:
        RunFolderError: if it is damaged or of another version of the tables.
    """
    try:
        content = yaml.safe_load(data)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version is not None and version != SCHEMA_VERSION:
            raise RunFolderError(
                f"{uri} holds tables of version {version}, this ovseg reads and writes "
                f"{SCHEMA_VERSION}: choose another folder or another ovseg"
            )
        return RunInfo.model_validate(content)
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RunFolderError(
            f"{uri}/run.yaml is damaged ({reason}): choose another folder"
        ) from error


def check_same(info: RunInfo, plan: RunPlan, uri: str) -> None:
    """Make sure that the plan goes on with the run that the folder holds.

    Raises:
        RunFolderError: names the settings that differ.
    """
    now = plan.identity(info.manifest_sha256)
    # Earlier versions hid fewer secrets in what they wrote.
    before = _without_secrets(info.identity)
    if fingerprint(now) in (info.fingerprint, fingerprint(before)):
        return
    differences = list(_differences(before, now))
    shown = "; ".join(differences[:_SHOWN_DIFFERENCES])
    more = len(differences) - _SHOWN_DIFFERENCES
    raise RunFolderError(
        f"{uri} was begun with other settings: {shown}{f'; and {more} more' if more > 0 else ''}. "
        "Give the old settings to go on with it, or another output folder for the new ones"
    )


def fingerprint(identity: dict[str, Any]) -> str:
    """Return the SHA-256 (hex) of the canonical JSON."""
    return hashlib.sha256(_canonical(identity).encode()).hexdigest()


def _canonical(value: Any) -> str:
    plain = json.loads(json.dumps(value, default=lambda model: model.model_dump(mode="json")))
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _is_of_calibration(key: str) -> bool:
    return key.partition(".")[0] == "calibration"


def _absolute(uri: str) -> str:
    return redact(uris.as_text(uris.normalise(uri)))


def _without_secrets(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a job's settings with secrets hidden; labels stay letter by letter as they are."""
    return {
        key: value if key.partition(".")[0] in ("vocabulary", "calibration") else _redacted(value)
        for key, value in settings.items()
    }


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return value


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    if old == new:
        return
    dot = f"{key}." if key else ""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(
                old.get(name, "(none)"), new.get(name, "(none)"), f"{dot}{name}"
            )
    elif isinstance(old, list) and isinstance(new, list):
        for place, (was, now) in enumerate(zip_longest(old, new, fillvalue="(none)")):
            yield from _differences(was, now, f"{dot}{place}")
    else:
        yield f"{key} was {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    text = value if value == "(none)" else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
