"""The stored features of a run, from which another run gives the same images other words.

What an image's features depend on is the run's method with the options that its `encode` reads, its
networks and how they compute, and how images are decoded. A job that changes any of it is refused,
named by the setting.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ovseg_core.methods import feature_options
from pipeline.annotate.relabeler import StoredImage
from pipeline.annotate.stopwatch import Stopwatch
from pipeline.collection.manifest import coco_ids_of, with_coco_ids
from pipeline.run.folder import FEATURES, RunFolder
from pipeline.run.identity import RunIdentity
from pipeline.run.markers import marker_path
from pipeline.run.tables.shard_files import read_features
from pipeline.run.trust.confirmed import confirmed, remember_manifest, remember_roots
from pipeline.storage.waiting import StorageThreads
from schemas.base import counted
from schemas.config import JobConfig
from schemas.errors import ConfigError, FeaturesError, RunFolderError, UserError
from schemas.records import ImageRef, ImageResult
from schemas.tables import to_records

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

_GROUPS = ("clip", "vision", "compute", "image", "images")
"""First parts of the job's fields that features depend on, beside the method's options."""
_OVSEG = "versions.ovseg"
_FILES = ".files"
"""Ending of the fields that say the state of a folder."""
_KEPT_BYTES = 256 << 20
"""Features of shards that are kept when all their images were asked for, as the next images may be
of them too; the shard that is read ahead and those with images to come are beside it."""


class _Shard(NamedTuple):
    """What is stored of a shard, by `image_id`, and the seconds that reading an image took."""

    results: dict[str, ImageResult]
    vectors: dict[str, tuple[float, ...]]
    features: dict[str, pa.Scalar]
    num_bytes: int
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
        self._shards = _ShardsAhead(self._read_shard)

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
        """Return the current images, as rows of a new run's manifest, with COCO's ids of them."""
        manifest = self.run.manifest()
        schema = with_coco_ids(manifest.schema.remove_metadata(), coco_ids_of(manifest))
        return manifest.sort_by("path").replace_schema_metadata(schema.metadata)

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

    def read(
        self, refs: Sequence[ImageRef], then: Sequence[ImageRef] = ()
    ) -> Iterator[StoredImage]:
        """Yield what is stored of images, in their order; a thread reads the next shard meanwhile.

        Args:
            refs: the images.
            then: those that are probably asked for next.

        Raises:
            FeaturesError: a file of features is gone or damaged, or lacks an image.
            RunFolderError: a table is damaged.
        """
        shards = [self._shard_of(ref) for ref in refs]
        # A run that has grown has the images of a folder in several shards, in turns.
        in_turn = list(dict.fromkeys([*shards, *map(self._shard_of, then)]))
        next_shard = dict(pairwise(in_turn))
        num_left, held = Counter(shards), dict[int, _Shard]()
        for ref, number in zip(refs, shards, strict=True):
            if number < 0:
                raise FeaturesError(
                    f"{self.run.folder.uri} has no image {ref.path} any more: it was updated; "
                    "relabel it into another output folder"
                )
            if number not in held:
                held[number] = self._shards.get(number, next_shard.get(number, -1))
            shard = held[number]
            result, features = shard.results[ref.image_id], shard.features.get(ref.image_id)
            if result.error_code is None and features is None:
                raise FeaturesError(f"{self.run.folder.uri}: no features of {ref.path} are stored")
            data = b"" if features is None else features.as_py()
            vector = shard.vectors.get(ref.image_id)
            num_left[number] -= 1
            if not num_left[number]:
                del held[number]
            yield StoredImage(ref, result, vector, data, shard.read_s)

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._shards.close()

    @cached_property
    def _by_path(self) -> tuple[pa.Array, pa.Array, NDArray[np.int64]]:
        """Paths in order, with the ids and places of their images."""
        images, generations = self.run.manifest(), self.run.generations
        order = compute.sort_indices(images["path"].combine_chunks())
        places = np.arange(self.run.all_images().num_rows)
        if generations.has_superseded:
            places = np.flatnonzero(~generations.superseded)
        paths, ids = (images[name].combine_chunks().take(order) for name in ("path", "image_id"))
        return paths, ids, places[order.to_numpy()]

    def _shard_of(self, ref: ImageRef) -> int:
        """Return the shard that has an image; -1: none has."""
        paths, ids, places = self._by_path
        row = bisect_left(paths, ref.path, key=lambda path: path.as_py())
        if row == len(paths) or ids[row].as_py() != ref.image_id:
            return -1
        return self.run.shard_of(places[row])

    def _read_shard(self, shard: int) -> _Shard:
        run = self.run
        marker = run.marker(shard)
        if marker is None:
            raise FeaturesError(f"{run.folder.uri}: shard {shard} is not finished any more")
        with Stopwatch() as reading:
            results = to_records("images", run.stored_table(marker, "images"))
            vectors = to_records("vectors", run.stored_table(marker, "vectors"))
            features = read_features(run.folder, marker)
        of_images = dict(zip(features["image_id"].to_pylist(), features["features"], strict=True))
        by_id = {row.image_id: row for row in results}
        if unknown := sorted(of_images.keys() - by_id.keys()):
            raise FeaturesError(
                f"{run.folder.uri}: shard {shard} has features of {unknown[0]!r:.40}, none of "
                f"its images: the files were changed by hand; delete "
                f"{marker_path('done', shard)} and give the command that made the run again"
            )
        return _Shard(
            by_id,
            {row.image_id: row.vector for row in vectors},
            of_images,
            features.nbytes,
            reading.seconds / max(1, marker.tally.num_images),
        )


class _ShardsAhead:
    """Shards that are read once each, the next one by a thread while the one before is in use.

    Args:
        read: reads one.
    """

    def __init__(self, read: Callable[[int], _Shard]) -> None:
        self._read = read
        self._pool = StorageThreads(1, "features")
        self._reads: dict[int, Future[_Shard]] = {}  # those that were used last at the end

    def get(self, shard: int, then: int) -> _Shard:
        """Return a shard, and begin to read another; -1: none."""
        self._reads[shard] = self._reads.pop(shard, None) or self._pool.submit(self._read, shard)
        if then >= 0 and then not in self._reads:
            self._reads[then] = self._pool.submit(self._read, then)
        try:
            found = self._reads[shard].result()
        except Exception:
            del self._reads[shard]  # it is read again where it is asked for again
            raise
        except BaseException as error:
            self._end(error)
            raise
        self._let_go(shard, then)
        return found

    def close(self) -> None:
        """End the thread; what it does now is not waited for."""
        self._end(GeneratorExit())

    def _let_go(self, *in_use: int) -> None:
        """Forget shards until the others take no more than `_KEPT_BYTES`."""
        others = [shard for shard in self._reads if shard not in in_use]
        kept = 0
        for shard in reversed(others):
            one = self._reads[shard]
            kept += one.result().num_bytes if one.done() and not one.exception() else 0
            if kept > _KEPT_BYTES:
                del self._reads[shard]

    def _end(self, error: BaseException) -> None:
        self._pool.__exit__(type(error), error, error.__traceback__)
        self._pool, self._reads = StorageThreads(1, "features"), {}


def _depend_on(identity: Mapping[str, Any], config: JobConfig) -> dict[str, Any]:
    """Return all settings of a job that its features depend on, by dotted name.

    Args:
        identity: fields of the run's identity.
        config: the job.
    """
    settings = {key: value for key, value in identity.items() if key.partition(".")[0] in _GROUPS}
    settings = {key: value for key, value in settings.items() if not key.endswith(_FILES)}
    return settings | feature_options(config.method)
