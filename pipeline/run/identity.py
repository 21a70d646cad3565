"""What identifies a run, what `run.yaml` stores of it, and whether a resume is the same run."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Annotated, Any

import yaml
from pydantic import Field, JsonValue, ValidationError

from pipeline.annotate.versions import compared_versions, installed_versions
from pipeline.run.tables import old_versions
from pipeline.storage import uris
from pipeline.storage.yaml_file import parse_yaml
from schemas.base import Frozen, problems
from schemas.config import ComputeConfig, JobConfig
from schemas.errors import RunFolderError
from schemas.redact import redact, redact_all
from schemas.tables import READ_VERSIONS, RESUMED_VERSIONS, SCHEMA_VERSION
from schemas.untrusted import printable
from schemas.vocabulary import AS_STORED

_MAX_DIFFERENCES = 5
_MAX_CHARACTERS = 60
_MAX_WORDS = 12
_ABSENT = "(none)"
_NEVER_STORED: Any = {"run": {"webhook"}}
_LABELS, _LIMIT = "vocabulary.labels", "image.limit"
"""Fields of the identity whose change is said in words of its own."""
_VERSION = "versions."
_ADDED = {
    "image.column": "",
    **{f"compute.{key}": value for key, value in ComputeConfig().model_dump().items()},
}
"""Settings that runs of earlier versions do not record; they were computed so."""
NumImages = Annotated[int, Field(ge=0, le=1_000_000_000)]


@dataclass(frozen=True)
class RunIdentity:
    """All that can change an output of a run, before its images are listed.

    Attributes:
        config: the job; `out` and `run` change no output.
        weights: SHA-256 (hex) of each weights file in use, by role, and the activation in force as
            `clip.activation`.
        folders: the state of each folder that an option names, by dotted option.
    """

    config: JobConfig
    weights: dict[str, str]
    folders: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The settings that decide which images are listed, as canonical JSON."""
        image = self.config.image.model_dump(mode="json", exclude={"only"})
        if self.config.image.only:
            image["only"] = _absolute(self.config.image.only)
        return _canonical({"images": _absolute(self.config.images), "image": image})

    def fields(self, manifest_sha256: str) -> dict[str, Any]:
        """Return the identity of the run over a manifest, as flat dotted keys without secrets."""
        config = self.config
        fields = {
            key: value
            for key, value in _without_secrets(config.output_fields()).items()
            if key != "image.only" and key.partition(".")[0] != "calibration"
        }
        # Relative and absolute paths of one place are the same run.
        fields["images"] = _absolute(config.images)
        if config.image.only:
            fields["image.only"] = _absolute(config.image.only)
        if config.calibration is not None:
            fields["calibration"] = _sha256_of(config.calibration.model_dump())
        for role, digest in sorted(self.weights.items()):
            fields[f"weights.{role}"] = digest
        for option, state in self.folders.items():
            fields[f"{option}.files"] = state
        for library, version in compared_versions(self.weights).items():
            fields[f"{_VERSION}{library}"] = version
        return fields | {"manifest_sha256": manifest_sha256, "schema_version": SCHEMA_VERSION}


class RunInfo(Frozen):
    """The content of `run.yaml`."""

    schema_version: int
    """Of the tables."""
    begun: str = ""
    """When, in ISO 8601 to the microsecond (UTC): two drivers that begin at once differ in it."""
    fingerprint: str
    """SHA-256 of `identity`."""
    manifest_sha256: str
    num_images: NumImages
    num_shards: NumImages
    weights: dict[str, str]
    """SHA-256 of the weights files by role, and CLIP's activation."""
    versions: dict[str, str]
    """Of libraries, when the run was begun, see `pipeline.annotate.versions`."""
    config: dict[str, JsonValue]
    """The resolved job, without secrets."""
    identity: dict[str, JsonValue]
    """All that can change an output; a resume must have the same."""

    def job(self) -> JobConfig:
        """Return the job as a config.

        Raises:
            RunFolderError: it is not the job of this or an earlier version.
        """
        try:
            return JobConfig.model_validate(self.config, context=AS_STORED)
        except ValidationError as error:
            found = problems(error, JobConfig, "config")
            raise RunFolderError(
                f"run.yaml is damaged, or of another version of ovseg: {found[0]}"
            ) from error

    def to_yaml(self) -> bytes:
        """Return the file's content."""
        return yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        ).encode()


def describe_run(identity: RunIdentity, manifest_sha256: str, num_images: int) -> RunInfo:
    """Return what `run.yaml` stores of a run that begins now."""
    fields = identity.fields(manifest_sha256)
    return RunInfo(
        schema_version=SCHEMA_VERSION,
        begun=datetime.now(UTC).isoformat(timespec="microseconds"),
        fingerprint=_sha256_of(fields),
        manifest_sha256=manifest_sha256,
        num_images=num_images,
        num_shards=identity.config.num_shards(num_images),
        weights=identity.weights,
        versions=installed_versions(),
        config=_without_secrets(identity.config.model_dump(mode="json", exclude=_NEVER_STORED)),
        identity=fields,
    )


def parse_run_file(data: bytes, uri: str) -> RunInfo:
    """Return the content of a `run.yaml`.

    Args:
        data: the file.
        uri: the run folder, for messages.

    Raises:
        RunFolderError: the file is damaged, or the tables have another version.
    """
    try:
        content = parse_yaml(data)
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version is not None and version not in READ_VERSIONS:
            readable = " and ".join(map(str, READ_VERSIONS))
            raise RunFolderError(
                f"{uri} is a run folder of schema version {version}, but this ovseg reads versions "
                f"{readable}: choose another folder or another version of ovseg"
            )
        info = RunInfo.model_validate(content)
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RunFolderError(
            f"{uri}/run.yaml is damaged ({reason}): choose another folder"
        ) from error
    if info.schema_version < SCHEMA_VERSION:
        return info.model_copy(update={"config": old_versions.with_new_options(info.config)})
    return info


def check_same_run(
    info: RunInfo,
    identity: RunIdentity,
    uri: str,
    *,
    limit: int,
    is_finished: bool = False,
    updates: bool = False,
) -> None:
    """Check that a job continues the run of a folder.

    Args:
        info: of the folder's run.
        identity: of the job.
        uri: the run folder, for messages.
        limit: `image.limit` of the newest generation of the run's images.
        updates: the job adds a generation, which may have a higher limit.
        is_finished: nothing is left to compute, so that versions of libraries do not matter.

    Raises:
        RunFolderError: the tables are of an older version; or it names the settings or the
            libraries that differ.
    """
    if info.schema_version not in RESUMED_VERSIONS:
        raise RunFolderError(
            f"{uri} is a run folder of schema version {info.schema_version}: inspect, export, "
            "evaluate, compare and review work, but no images can be added to it; give another "
            "output folder to annotate them"
        )
    now = {**identity.fields(info.manifest_sha256), "schema_version": info.schema_version}
    # Earlier versions hid fewer secrets in what they wrote.
    before = _ADDED | _without_secrets(info.identity)
    if now[_LIMIT] == limit or (updates and _grows(limit, now[_LIMIT])):
        now[_LIMIT] = before.get(_LIMIT, 0)  # of generation 1, as the fingerprint has it
        if _sha256_of(now) in (info.fingerprint, _sha256_of(before)):
            return
    else:
        before[_LIMIT] = limit
    if differences := list(_changes(_settings(before), _settings(now))):
        raise RunFolderError(
            f"{uri} was begun with other settings: {_listed(differences)}. Give the old settings "
            f"to resume it, or another output folder (--out) for a new run{_advice(before, now)}"
        )
    if not (is_finished or identity.config.run.accept_versions):
        check_versions(info, uri)


def check_versions(info: RunInfo, uri: str) -> None:
    """Check that this process has the versions of libraries with which a run was begun.

    Args:
        info: of the run.
        uri: the run folder, for messages.

    Raises:
        RunFolderError: it names the libraries that differ.
    """
    differences = list(_differences(_versions_at_start(info), compared_versions(info.weights)))
    if differences:
        raise RunFolderError(
            f"{uri} was begun with other versions of libraries: {_listed(differences)}. Install "
            "the old ones to resume it, or accept that pixels and scores may differ slightly from "
            "here on (--set run.accept_versions=true), or choose another output folder"
        )


def other_versions(info: RunInfo) -> dict[str, str]:
    """Return the versions of this process that are not those with which a run was begun."""
    start = _versions_at_start(info)
    now = compared_versions(info.weights)
    return {library: version for library, version in now.items() if start.get(library) != version}


def _versions_at_start(info: RunInfo) -> dict[str, str]:
    return {
        key.removeprefix(_VERSION): str(value)
        for key, value in info.identity.items()
        if key.startswith(_VERSION)
    }


def _settings(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if not key.startswith(_VERSION)}


def _listed(differences: list[str]) -> str:
    shown = "; ".join(differences[:_MAX_DIFFERENCES])
    hidden = len(differences) - _MAX_DIFFERENCES
    return f"{shown}; and {hidden} more" if hidden > 0 else shown


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence for each setting that differs; labels and the limit in a person's words."""
    before, now = _words(old), _words(new)
    if before != now:
        yield f"the words were: {_shown_words(before)}; now: {_shown_words(now)}"
    elif before:
        for label, other in zip(old[_LABELS], new[_LABELS], strict=True):
            yield from _differences(label, other, f"label {label['name']!r}:")
    if old.get(_LIMIT) != new.get(_LIMIT):
        yield f"it takes {_number(old.get(_LIMIT))} (image.limit), now {_number(new.get(_LIMIT))}"
    rest = [{k: v for k, v in side.items() if k not in (_LABELS, _LIMIT)} for side in (old, new)]
    yield from _differences(rest[0], rest[1])


def _advice(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return what else can be done about a change that people often want."""
    advice = ""
    if old.get(_LIMIT) != new.get(_LIMIT):
        grows = _grows(old.get(_LIMIT, 0), new.get(_LIMIT, 0))
        advice += (
            "; with --update this run grows to all of these"
            if grows
            else "; a run may grow to more images (--update), never to fewer"
        )
    if _words(old) != _words(new):
        advice += (
            "; `ovseg review` tries other words on single images of it (page `Try words`), and "
            "`ovseg relabel` gives them to all where --keep-features has stored features"
        )
    return advice


def _grows(before: int, now: int) -> bool:
    """Return whether a limit lets more images through than the one before; 0: all."""
    return before > 0 and not 0 < now <= before


def _words(fields: dict[str, Any]) -> list[str]:
    labels = fields.get(_LABELS)
    return [str(label["name"]) for label in labels] if isinstance(labels, list) else []


def _shown_words(words: list[str]) -> str:
    more = f" and {len(words) - _MAX_WORDS:,} more" if len(words) > _MAX_WORDS else ""
    return f"{', '.join(map(printable, words[:_MAX_WORDS]))}{more}"


def _number(limit: Any) -> str:
    return f"the first {limit} images" if limit else "all images"


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Yield a sentence for each leaf that differs between two nested values."""
    if old == new:
        return
    prefix = f"{key} " if key.endswith(":") else f"{key}." if key else ""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _differences(
                old.get(name, _ABSENT), new.get(name, _ABSENT), f"{prefix}{name}"
            )
    elif isinstance(old, list) and isinstance(new, list):
        for index, (before, after) in enumerate(zip_longest(old, new, fillvalue=_ABSENT)):
            yield from _differences(before, after, f"{prefix}{index}")
    else:
        yield f"{key} was {_shown(old)}, now {_shown(new)}"


def _shown(value: Any) -> str:
    text = value if value == _ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


def _canonical(value: Any) -> str:
    """Return JSON that is the same for equal values, models among them included."""
    plain = json.loads(json.dumps(value, default=lambda model: model.model_dump(mode="json")))
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _sha256_of(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _absolute(uri: str) -> str:
    return redact(uris.as_text(uris.normalise(uri)))


def _without_secrets(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a job's settings with secrets hidden; labels stay letter by letter as they are."""
    stored: dict[str, Any] = {}
    for key, value in settings.items():
        is_exact = key.partition(".")[0] in ("vocabulary", "calibration")
        stored |= {key: value} if is_exact else redact_all({key: value})
    return stored
