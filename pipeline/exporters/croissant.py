"""Croissant and a dataset card: a folder to upload, whose tables other programs find by themselves.

`images.parquet` and `annotations.parquet` are the run's tables, with corrections. They are
described by `croissant.json` (Croissant 1.1, https://docs.mlcommons.org/croissant/) for programs,
and by `README.md` for people, whose head in YAML is what Hugging Face's hub reads. Both say how the
masks were made: method, weights and their licence, thresholds, calibration, review.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.exporters.shared.corrected_run import REJECTED_IMAGES
from pipeline.exporters.shared.export import Export, ExportOptions
from pipeline.exporters.shared.segments import resolve_kind
from pipeline.run.folder import RunFolder
from pipeline.run.reader import IMAGE_COLUMNS, Row
from pipeline.storage import uris
from schemas.base import counted
from schemas.errors import OvsegError
from schemas.redact import redact
from schemas.tables import ANNOTATIONS, IMAGES
from schemas.untrusted import printable

FOLDER = "exports/croissant"
FILES = r"README\.md|croissant\.json|(?:images|annotations)\.parquet"
_CARD, _DESCRIPTION = "README.md", "croissant.json"
_NOT_HELD = (
    "the images themselves: `path` says which one a row is of",
    "addresses of images, and seconds by stage",
    "the tables of scores, vectors and features",
)
_UNKNOWN = "unknown"
_MAX_LABELS = 100
"""That the card lists; the annotations name all."""
_BATCH = 4096
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"))  # fmt: skip
"""The hub's words for numbers of images."""
_IMAGE_SCHEMA = pa.schema([IMAGES.field(name) for name in IMAGE_COLUMNS])
_VERDICT = pa.field(
    "verdict",
    pa.string(),
    metadata={
        "description": "What people said: accepted, changed or added; null: nobody has decided."
    },
)
_SEGMENT_SCHEMA = pa.schema([*(field.with_nullable(True) for field in ANNOTATIONS), _VERDICT])
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The specification's own, which its readers compare."""


class Options(ExportOptions):
    """Options of the Croissant exporter."""

    name: str = ""
    """Of the dataset; empty: the run folder's."""
    licence: str = _UNKNOWN
    """Of the images, as the hub writes it (`cc-by-4.0`) or a URL; ovseg cannot know it."""
    creator: str = ""
    """Person or group who publishes the dataset; empty: not said."""
    date: str = ""
    """On which it is published, as `2026-11-29`; empty: not said."""


def export(run: RunFolder, options: Options) -> list[str]:
    """Write the tables, then the two descriptions, and return their paths."""
    title = "Croissant: what it does not hold of this run"
    with Export(run, FOLDER, options, title, _NOT_HELD, index=_DESCRIPTION) as export:
        facts = _Facts(export, options)
        tables = [export.local_file(f"{name}.parquet") for name in ("images", "annotations")]
        with (
            pq.ParquetWriter(tables[0], _IMAGE_SCHEMA, compression="zstd") as images,
            pq.ParquetWriter(tables[1], _SEGMENT_SCHEMA, compression="zstd") as segments,
        ):
            for rows, masks in _batches(export, facts):
                images.write_table(pa.Table.from_pylist(rows, _IMAGE_SCHEMA))
                segments.write_table(pa.Table.from_pylist(masks, _SEGMENT_SCHEMA))
        description = _croissant(facts, tables)
        export.upload(tables)
        export.write(_CARD, _card(facts).encode())
        text = json.dumps(description, indent=2, ensure_ascii=False)
        export.write(_DESCRIPTION, f"{text}\n".encode())
    return [f"{FOLDER}/{_CARD}", f"{FOLDER}/{_DESCRIPTION}"]


def _batches(export: Export, facts: "_Facts") -> Iterator[tuple[list[Row], list[Row]]]:
    """Yield rows of images with those of their masks, some thousand masks at once."""
    images: list[Row] = []
    masks: list[Row] = []
    for image, rows in export.images():
        facts.count(image, rows)
        images.append({name: image[name] for name in IMAGE_COLUMNS})
        masks += [{name: row.get(name) for name in _SEGMENT_SCHEMA.names} for row in rows]
        if len(masks) + len(images) >= _BATCH:
            yield images, masks
            images, masks = [], []
    yield images, masks


class _Facts:
    """What both descriptions say of the run."""

    def __init__(self, export: Export, options: Options) -> None:
        reader = export.reader
        run, self.options = reader.run, options
        self.reader = reader
        self.info, self.job = run.info, run.info.job()
        self.name = printable(options.name or uris.parent_and_name(run.folder.uri)[1])
        self.kind = resolve_kind(reader, "as_run")
        self.generation = run.generations.number
        self.note = export.photographs.note_on_models
        self.num_images = self.num_reviewed = 0
        self.masks: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()

    def count(self, image: Row, rows: Sequence[Row]) -> None:
        """Count an image and its masks."""
        self.num_images += 1
        self.num_reviewed += self.reader.is_reviewed(image["image_id"])
        self.masks.update(row["label"] for row in rows)
        self.verdicts.update(row["verdict"] for row in rows if row.get("verdict"))

    @property
    def summary(self) -> str:
        """One paragraph for both."""
        version = self.info.versions.get("ovseg", "")
        what = {"class": "one for each label and image", "components": "connected regions"}
        return (
            f"{self.masks.total():,} masks ({what.get(self.kind, 'one for each object')}) of "
            f"{len(self.job.vocabulary.names):,} labels in {self.num_images:,} images, made by "
            f"ovseg {version} with the method {self.job.method.name}: open-vocabulary "
            f"segmentation, without training on these labels. {self.reviewed}"
        )

    @property
    def reviewed(self) -> str:
        """How much people have looked at."""
        if not self.num_reviewed and not self.verdicts:
            return "No image was reviewed by people."
        verdicts = ", ".join(f"{number:,} {name}" for name, number in sorted(self.verdicts.items()))
        masks = f" (masks: {verdicts})" if verdicts else ""
        rejected = self.reader.num_left_out.get(REJECTED_IMAGES)
        others = f" People rejected {counted(rejected, 'other image')}." if rejected else ""
        return (
            f"{self.num_reviewed:,} of {self.num_images:,} images were reviewed by people{masks}."
            f"{others}"
        )

    def weights(self) -> list[str]:
        """Return networks with their source and licence, one line each."""
        from ovseg_core.methods import needed_files  # these import the model libraries

        try:
            files = needed_files(self.job, lambda uri: "")
        except OvsegError:  # a file of the machine that made the run
            return [f"{role}: SHA-256 {digest}" for role, digest in self.info.weights.items()]
        lines = []
        for file in files:
            source = _public(file.source)
            licence = file.licence or ("as ovseg's" if "part of ovseg" in source else _UNKNOWN)
            lines.append(f"{file.network} ({source}), licence: {licence}")
        return lines

    def settings(self) -> list[str]:
        """Return method, thresholds and calibration, one line each."""
        job = self.job
        method = json.dumps(_public(job.method.options), sort_keys=True)
        masks = json.dumps(job.masks.model_dump(mode="json"), sort_keys=True)
        fit = job.calibration
        calibrated = (
            "none: scores are the model's own probabilities"
            if fit is None
            else f"fitted to {fit.num_segments:,} reviewed segments; thresholds of "
            f"{len(fit.thresholds):,} labels, else {fit.default_threshold:g}"
        )
        return [
            f"method: {job.method.name}, options {method}",
            f"masks: {masks}",
            f"calibration: {calibrated}",
        ]


def _public(value: Any) -> Any:
    """Return a setting without secrets, and of an absolute path its last part only."""
    if isinstance(value, dict):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_public(inner) for inner in value]
    if not isinstance(value, str):
        return value
    return PurePath(value).name if PurePath(value).is_absolute() else redact(value)


def _card(facts: _Facts) -> str:
    """Return the dataset card: YAML for the hub, then text for people."""
    licence = facts.options.licence
    is_url = "://" in licence
    head: dict[str, Any] = {
        "license": "other" if is_url else licence.lower(),
        **({"license_link": licence} if is_url else {}),
        "pretty_name": facts.name,
        "task_categories": ["image-segmentation"],
        "tags": ["ovseg", "open-vocabulary-segmentation", "croissant"],
        "size_categories": [_size(facts.num_images)],
        "configs": [
            {"config_name": name, "data_files": f"{name}.parquet"}
            for name in ("annotations", "images")
        ],
    }
    errors = ", ".join(f"{code} {count:,}" for code, count in sorted(facts.reader.errors.items()))
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {facts.name}",
        "",
        facts.summary,
        *(["", f"**{facts.note}**"] if facts.note else []),
        "",
        "## What is in it",
        "",
        "- `images.parquet`: one row an image; `path` is its name in the collection. The images "
        "themselves are not here.",
        "- `annotations.parquet`: one row a mask; `rle_counts` with `height` and `width` is COCO's "
        "RLE, `image_id` is the key of the image.",
        f"- images that failed: {errors or 'none'}; not annotated yet: {facts.reader.num_left:,}",
        f"- licence of the images: {printable(licence)}",
        "",
        "## How the masks were made",
        "",
        *(f"- {line}" for line in facts.settings()),
        *(f"- weights: {line}" for line in facts.weights()),
        f"- {facts.reader.summary}",
        f"- generation {facts.generation} of the collection; fingerprint of the run "
        f"`{facts.info.fingerprint}`",
        "",
        "Scores are a model's: they say how sure it is, not how right. Look at masks before you "
        "rely on them.",
        "",
        "## Labels",
        "",
        "| label | masks |",
        "|---|---|",
    ]
    names = facts.job.vocabulary.names
    for name in names[:_MAX_LABELS]:
        lines.append(f"| {_cell(name)} | {facts.masks[name]:,} |")
    if more := names[_MAX_LABELS:]:
        lines.append(f"| {len(more):,} more | {sum(facts.masks[name] for name in more):,} |")
    return "\n".join(lines) + "\n"


def _cell(name: str) -> str:
    return printable(name).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _size(number: int) -> str:
    return next((words for limit, words in _SIZES if number < limit), "n>10M")


def _croissant(facts: _Facts, tables: Sequence[Path]) -> dict[str, Any]:
    """Return the content of `croissant.json`."""
    options = facts.options
    description = " ".join(filter(None, [facts.summary, facts.note]))
    protocol = "; ".join((*facts.settings(), *facts.weights(), facts.reader.summary))
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": facts.name,
        "description": description,
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "license": options.licence,
        "version": f"{facts.generation}.0.0",
        **({"datePublished": options.date} if options.date else {}),
        **({"creator": {"@type": "sc:Person", "name": options.creator}} if options.creator else {}),
        "keywords": ["segmentation", "open vocabulary", *facts.job.vocabulary.names[:_MAX_LABELS]],
        "isLiveDataset": False,
        "rai:dataAnnotationProtocol": protocol,
        "rai:dataAnnotationAnalysis": facts.reviewed,
        "distribution": [_file_object(table) for table in tables],
        "recordSet": [
            _record_set("images", _IMAGE_SCHEMA, key="image_id"),
            _record_set("annotations", _SEGMENT_SCHEMA, references={"image_id": "images/image_id"}),
        ],
    }


def _file_object(table: Path) -> dict[str, Any]:
    with table.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": table.name,
        "name": table.name,
        "contentUrl": table.name,
        "contentSize": f"{table.stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": digest,
    }


def _record_set(
    name: str, schema: pa.Schema, key: str = "", references: dict[str, str] | None = None
) -> dict[str, Any]:
    fields = []
    for column in schema:
        described = (column.metadata or {}).get(b"description", b"").decode()
        field: dict[str, Any] = {
            "@type": "cr:Field",
            "@id": f"{name}/{column.name}",
            "name": column.name,
            "description": described or column.name,
            "dataType": _data_type(column.type),
            "source": {
                "fileObject": {"@id": f"{name}.parquet"},
                "extract": {"column": column.name},
            },
        }
        if pa.types.is_fixed_size_list(column.type):
            field |= {"isArray": True, "arrayShape": str(column.type.list_size)}
        if target := (references or {}).get(column.name):
            field["references"] = {"field": {"@id": target}}
        fields.append(field)
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        **({"key": {"@id": f"{name}/{key}"}} if key else {}),
        "field": fields,
    }


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return "sc:Boolean"
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
