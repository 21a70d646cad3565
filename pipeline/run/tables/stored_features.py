"""The stored features of a run, from which another run gives the same images other words.

What an image's features depend on is the run's method with the options that its `encode` reads, its
networks and how they compute, and how images are decoded. A job that changes any of it is refused,
named by the setting.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa

from ovseg_core.methods import feature_options
from pipeline.annotate.relabeler import StoredImage
from pipeline.annotate.stopwatch import Stopwatch
from pipeline.run.folder import FEATURES, RunFolder
from pipeline.run.identity import RunIdentity
from pipeline.run.tables.shard_files import read_features
from pipeline.run.trust.confirmed import confirmed, remember_manifest, remember_roots
from schemas.base import counted
from schemas.config import JobConfig
from schemas.errors import ConfigError, FeaturesError, RunFolderError, UserError
from schemas.records import ImageRef, ImageResult
from schemas.tables import to_records

_GROUPS = ("clip", "vision", "compute", "image", "images")
"""First parts of the job's fields that features depend on, beside the method's options."""
_OVSEG = "versions.ovseg"
_FILES = ".files"
"""Ending of the fields that say the state of a folder."""
_SHARDS_IN_MEMORY = 2


class _Shard(NamedTuple):
    """What is stored of a shard, by `image_id`, and the seconds that reading an image took."""

    results: dict[str, ImageResult]
    vectors: dict[str, tuple[float, ...]]
    features: dict[str, pa.Scalar]
    read_s: float


class StoredFeatures:
    """The features of a run's current images.

    Args:
        uri: the run folder.

    Raises:
        RunFolderError: there is none.
    """

    def __init__(self, uri: str) -> None:
        self.run = RunFolder.open(uri)
        self._shard = lru_cache(_SHARDS_IN_MEMORY)(self._read_shard)

    @property
    def folders(self) -> dict[str, str]:
        """What the identity of a run made from these features has beside its job and weights."""
        named = {
            key.removesuffix(_FILES): str(state)
            for key, state in self.run.info.identity.items()
            if key.endswith(_FILES)
        }
        return {**named, "features_of": self.run.fingerprint}

    def images(self) -> pa.Table:
        """Return the current images, as rows of a new run's manifest."""
        return self.run.manifest().sort_by("path").replace_schema_metadata()

    def check(self, config: JobConfig) -> None:
        """Check that a job can score these features.

        Raises:
            ConfigError: a setting that changes features, or this ovseg is another one.
            UserError: images are not annotated yet, or were without keeping their features.
        """
        run, info = self.run, self.run.info
        theirs = _depend_on(info.identity, info.job())
        identity = RunIdentity(config, info.weights).fields("")
        ours = _depend_on(identity, config)
        if names := [name for name in theirs | ours if theirs.get(name) != ours.get(name)]:
            listed = "; ".join(
                f"{name} was {theirs.get(name, '(none)')}, now {ours.get(name, '(none)')}"
                for name in sorted(names)[:5]
            )
            raise ConfigError(
                f"the features in {run.folder.uri} are of other settings: {listed}. Leave these as "
                "they were: words, thresholds and masks can change; or annotate the images again"
            )
        self._check_ovseg(identity, config)
        done = run.done()
        if left := run.shards_left(done):
            raise UserError(
                f"{run.folder.uri} is not finished, {counted(len(left), 'shard')} are left: give "
                "the command that made it again, then this one"
            )
        without, there = 0, run.folder.sizes(FEATURES)
        for marker in done.values():
            missing = run.num_annotated(marker)
            if marker.features and marker.features.name in there:
                missing -= marker.features.num_rows
            without += max(0, missing)
        if without:
            raise UserError(
                f"{run.folder.uri}: no features of {counted(without, 'image')} are stored: "
                "annotate the collection with --keep-features into another output folder, then "
                "relabel that run"
            )

    def _check_ovseg(self, identity: Mapping[str, Any], config: JobConfig) -> None:
        """Check that the method is of this version of ovseg."""
        before, now = self.run.info.identity.get(_OVSEG), identity.get(_OVSEG)
        if before != now and not config.run.accept_versions:
            raise ConfigError(
                f"the features in {self.run.folder.uri} were made by ovseg {before}, this is "
                f"{now}: install that one, or accept that scores may differ (--set "
                "run.accept_versions=true)"
            )

    def checked_weights(self, loaded: Mapping[str, str]) -> dict[str, str]:
        """Return the weights of the run, those that a scoring segmenter has loaded compared.

        Args:
            loaded: SHA-256 by role, and settings of networks.

        Raises:
            RunFolderError: other weights than those that made the features.
        """
        theirs = self.run.info.weights
        for role, digest in loaded.items():
            if theirs.get(role) != digest:
                raise RunFolderError(
                    f"the features in {self.run.folder.uri} were made with other weights: {role} "
                    f"was {theirs.get(role, '(none)')[:16]}, is {digest[:16]} here: bring the same "
                    "file"
                )
        return dict(theirs)

    def confirm(self, made: RunFolder) -> None:
        """Let a run that was made from these features read the images that this one may."""
        config = made.info.job()
        known = confirmed(self.run.generations.sha256, self.run.folder.uri)
        if known.is_own:
            remember_manifest(made.generations.sha256, config)
        elif known.roots:
            remember_roots(made.generations.sha256, known)

    def read(self, refs: Sequence[ImageRef]) -> Iterator[StoredImage]:
        """Yield what is stored of images, in their order.

        Raises:
            FeaturesError: a file of features is gone or damaged, or lacks an image.
            RunFolderError: a table is damaged.
        """
        places = self.run.places([ref.image_id for ref in refs])
        for ref, place in zip(refs, places, strict=True):
            if place < 0:
                raise FeaturesError(
                    f"{self.run.folder.uri} has no image {ref.path} any more: it was updated; "
                    "relabel it into another output folder"
                )
            shard = self._shard(self.run.shard_of(place))
            result, features = shard.results[ref.image_id], shard.features.get(ref.image_id)
            if result.error_code is None and features is None:
                raise FeaturesError(f"{self.run.folder.uri}: no features of {ref.path} are stored")
            data = b"" if features is None else features.as_py()
            vector = shard.vectors.get(ref.image_id)
            yield StoredImage(ref, result, vector, data, shard.read_s)

    def _read_shard(self, shard: int) -> _Shard:
        run = self.run
        marker = run.marker(shard)
        if marker is None:
            raise FeaturesError(f"{run.folder.uri}: shard {shard} is not finished any more")
        with Stopwatch() as reading:
            results = to_records("images", run.stored_table(marker, "images"))
            vectors = to_records("vectors", run.stored_table(marker, "vectors"))
            features = read_features(run.folder, marker)
        return _Shard(
            {row.image_id: row for row in results},
            {row.image_id: row.vector for row in vectors},
            dict(zip(features["image_id"].to_pylist(), features["features"], strict=True)),
            reading.seconds / max(1, marker.tally.num_images),
        )


def _depend_on(identity: Mapping[str, Any], config: JobConfig) -> dict[str, Any]:
    """Return all settings of a job that its features depend on, by dotted name.

    Args:
        identity: fields of the run's identity.
        config: the job.
    """
    settings = {key: value for key, value in identity.items() if key.partition(".")[0] in _GROUPS}
    settings = {key: value for key, value in settings.items() if not key.endswith(_FILES)}
    return settings | feature_options(config.method)
