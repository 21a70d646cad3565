"""The images of a run, read from the places that its opener has confirmed.

The manifest alone says where an image lies: the tables of the shards are not asked. A run that
this machine began is its user's own. Of any other run images are read only below the roots that
its opener confirms; without one, pages and exports do without photographs. An image that is not at
its place any more is looked for below the roots, by its path in the collection.
"""

import logging
import os.path
import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import pyarrow.compute

from ovseg_core.embedded import EMBEDDED_NOTE, SCENE_HEAD_BYTES, SCENE_MARK
from ovseg_core.images.decoding.decode import DecodedImage
from pipeline.collection import image_source, list_file, packed
from pipeline.collection.collect import collect
from pipeline.run.folder import RunFolder
from pipeline.run.trust.confirmed import Confirmed, confirmed, remember_manifest, remember_roots
from pipeline.storage import uris
from pipeline.storage.places import ImagePlaces, before_wildcard, outside, root_of
from schemas.config import ImageConfig, JobConfig
from schemas.errors import CollectionError, ErrorCode, ImageError, OvsegError, RunFolderError
from schemas.records import ImageRef
from schemas.redact import redact
from schemas.untrusted import printable

logger = logging.getLogger(__name__)
compute: Any = pyarrow.compute  # made at run time: unknown to type checkers
_SHOWN_ROOTS = 3
_SHARDS_KEPT = 16
_WHAT_TO_DO = (
    ". If the images have moved, give the folder where they lie now: the same command with "
    "--images-root FOLDER_OR_URL"
)
_Content = TypeVar("_Content", bytes, DecodedImage)

_SCENE_NAMES = r"(?:^|/)scene_\d{3,}[.]png$"
_SCENES_READ = 3


class RunImages:
    """Reads the images of a run; safe for threads.

    What the flags of the command confirm (`RunFolder.confirmed`) is remembered for the next time.

    Args:
        run: at any place.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._job = run.info.job()
        self._has_told = False
        self._shard = lru_cache(_SHARDS_KEPT)(self._read_shard)

    @cached_property
    def _confirmed(self) -> Confirmed:
        given, sha256 = self._run.confirmed, self._run.generations.sha256
        if given.roots or given.allow_private:
            remember_roots(sha256, given)
        return confirmed(sha256, self._run.folder.uri) | given

    @cached_property
    def places(self) -> ImagePlaces:
        """From where the images are read."""
        return self._confirmed.places

    @cached_property
    def config(self) -> ImageConfig:
        """The limits: the run's, for another machine's run no higher than the default ones."""
        config, default = self._job.image, ImageConfig()
        if self.places.roots is None:
            return config
        limits = {
            "max_pixels": min(config.max_pixels, default.max_pixels),
            "max_bytes": min(config.max_bytes, default.max_bytes),
        }
        return config.model_copy(update=limits)

    @cached_property
    def notice(self) -> str:
        """One line on why no image is read, and what to do; empty: images are read."""
        if self.places.roots != ():
            return ""
        roots = " ".join(f"--images-root {shlex.quote(root)}" for root in self._named_roots())
        return (
            "this run was not begun on this machine: its images are not read until you confirm "
            f"where they lie; the run names {roots or 'no place'}"
        )

    def ref(self, row: Mapping[str, Any]) -> ImageRef:
        """Return the reference of an image, as the manifest has it.

        Args:
            row: of the image, with its `shard` and `image_id`.

        Raises:
            ImageError: `not_found`, the manifest does not have it in this shard.
        """
        known = self._shard(row["shard"]).get(row["image_id"])
        if known is None:
            raise ImageError(ErrorCode.NOT_FOUND, "the run's manifest does not have this image")
        if self.places.roots is not None:
            # What a stranger's table says of sizes is not relied on.
            return known.model_copy(update={"size_bytes": None})
        return known

    def _read_shard(self, shard: int) -> dict[str, ImageRef]:
        if not 0 <= shard < self._run.num_shards:
            return {}
        return {ref.image_id: ref for ref in self._run.shards()[shard].refs}

    def read_bytes(self, row: Mapping[str, Any]) -> bytes:
        """Return an image of a row as the content of a file.

        Raises:
            ImageError: see `image_source.read_bytes`.
        """
        max_bytes = self.config.max_bytes
        return self._read(row, lambda ref, at: image_source.read_bytes(ref, max_bytes, at))

    def read_image(self, row: Mapping[str, Any], side_px: int = 0) -> DecodedImage:
        """Return the pixels of an image.

        Args:
            row: of the image.
            side_px: see `decode.decode`.

        Raises:
            ImageError: it may not be read, or cannot be read or decoded.
        """
        config = self.config
        return self._read(row, lambda ref, at: image_source.read_image(ref, config, at, side_px))

    def _read(
        self, row: Mapping[str, Any], read: Callable[[ImageRef, ImagePlaces], _Content]
    ) -> _Content:
        """Read an image at its place, or where it is below a root that was confirmed."""
        self.tell_once()
        ref, roots = self.ref(row), self._confirmed.roots
        try:
            return read(ref, self.places)
        except ImageError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            failure = error
        below_roots = replace(self.places, roots=roots)
        for root in roots:
            moved = {"uri": packed.moved_to(ref, root), "size_bytes": None}
            try:
                return read(ref.model_copy(update=moved), below_roots)
            except ImageError as error:
                if error.code not in (ErrorCode.NOT_FOUND, ErrorCode.PERMISSION_DENIED):
                    raise
        nor = f", nor as {redact(ref.path)} below {', '.join(map(redact, roots))}" if roots else ""
        raise ImageError(failure.code, f"{failure.message}{nor}{_WHAT_TO_DO}") from failure

    @property
    def note_on_models(self) -> str:
        """One line on models that do not fit the images; empty: there is nothing to say."""
        note = self.note_on_uploads
        return "" if not note or self._are_drawn_scenes() else note

    @property
    def note_on_uploads(self) -> str:
        """The same of images that are not the run's."""
        return EMBEDDED_NOTE if self._job.uses_embedded_models else ""

    def _are_drawn_scenes(self) -> bool:
        """Return whether `ovseg demo` drew the images: by all names and the first few contents."""
        images = self._run.manifest()
        names = pyarrow.compute.MatchSubstringOptions(_SCENE_NAMES)
        if not compute.all(compute.match_substring_regex(images["path"], options=names)).as_py():
            return False
        try:
            ids = images["image_id"][:_SCENES_READ].to_pylist()
            shards = map(self._run.shard_of, self._run.places(ids))
            return not self.notice and all(
                SCENE_MARK.encode() in self.read_bytes(row)[:SCENE_HEAD_BYTES]
                for row in (
                    {"shard": shard, "image_id": image_id}
                    for shard, image_id in zip(shards, ids, strict=True)
                )
            )
        except ImageError:
            return False

    def tell_once(self) -> None:
        """Log the notice, if there is one and it was not logged."""
        if self.notice and not self._has_told:
            self._has_told = True
            logger.warning("%s", self.notice)

    def _named_roots(self) -> list[str]:
        """Return the places that the run names, for people: not followed, and made printable."""
        images = str(self._job.images)
        if not list_file.is_list(images):
            named = [_or_empty(images)]
        else:
            named = _common_folders(self._run.manifest()["uri"].to_pylist())
        return [printable(redact(root)) for root in named[:_SHOWN_ROOTS] if root]


def check_own(run: RunFolder, config: JobConfig) -> None:
    """Check that the images of a run that is resumed are those that the job names.

    A run that another machine has begun may have been changed since; the images of its manifest
    must lie in the folder, or stand in the list, that this job is given.

    Args:
        run: of the same identity as the job.
        config: the job.

    Raises:
        RunFolderError: some do not.
    """
    sha256 = run.generations.sha256
    if confirmed(sha256, "").is_own:
        return
    roots = [root_of(root) for root in config.run.images_roots]
    column = run.manifest()["uri"]
    if list_file.is_list(config.images):
        with suppress(CollectionError):  # it is gone: only the roots count
            listed = collect(config.images, config.image, roots)["uri"]
            column = column.filter(compute.invert(compute.is_in(column, value_set=listed)))
    else:
        roots.append(root_of(config.images))
    others = outside(column, roots)
    if others:
        raise RunFolderError(
            f"{run.folder.uri}: another machine has begun this run, and {len(others):,} of its "
            f"images are not in {redact(config.images)}, the first is {redact(others[0])!r}; "
            "--images-root FOLDER_OR_URL confirms where they lie"
        )
    remember_manifest(sha256, config)


def other_size(image: DecodedImage, row: Mapping[str, Any]) -> str:
    """Return in words that an image has not the size which the run annotated; empty: it has.

    Masks fit no other size, and what a stranger's table says of a size may be untrue.

    Args:
        image: as it was read.
        row: of the annotated image.
    """
    now, then = (image.height, image.width), (row["height"], row["width"])
    if now == then:
        return ""
    return (
        f"it was replaced since the run: it is {now[1]} x {now[0]} pixels now and was {then[1]} x "
        f"{then[0]}; the masks are those of the old one"
    )


def _or_empty(images: str) -> str:
    try:
        return before_wildcard(uris.normalise(images))  # nothing is looked up
    except OvsegError:
        return ""


def _common_folders(places: Iterable[str]) -> list[str]:
    """Return the folder that the images of each store have in common."""
    by_store: dict[str, tuple[str, str]] = {}
    for place in places:
        store = uris.store(place)
        low, high = by_store.get(store, (place, place))
        by_store[store] = min(low, place), max(high, place)
    pairs = by_store.values()
    shared = [os.path.commonprefix(pair) for pair in pairs]  # noqa: RUF071 - a URL's `//` stays
    return [prefix.rpartition("/")[0] or "/" for prefix in shared]
