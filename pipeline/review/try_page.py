"""The try page: words on one image, of the run or uploaded, and the masks that they give."""

import base64
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray
from pydantic import Field

from ovseg_core.images.decoding.decode import DecodedImage, decode
from ovseg_core.images.label_colours import css_colour, label_colours
from pipeline.review import new_run
from pipeline.review.pictures import SIDE_PX, number_png, photo_jpeg
from pipeline.review.session import ReviewSession
from pipeline.run.folder import FEATURES
from schemas.base import Frozen
from schemas.config import ImageConfig, JobConfig
from schemas.errors import ErrorCode, ImageError, OvsegError, UserError
from schemas.redact import redact
from schemas.score_columns import SCORE_COLUMNS
from schemas.vocabulary import Word

if TYPE_CHECKING:
    from pipeline.review.try_session import MethodChoice, TryImage, TrySession

logger = logging.getLogger(__name__)

MAX_UPLOAD_BYTES = 32 << 20
MAX_UPLOAD_PIXELS = 40_000_000
_DECODERS = 2
"""Uploads decoded at the same time: each may take half a gigabyte."""
_EVERYWHERE = (
    "Nothing stands for the background with this method, so most pixels or all get one of the "
    "words: add what surrounds the objects, such as wall, grass."
)
_SHOWN = (
    "label", "category_id", "segment_index", "kind",
    *(column.name for column in SCORE_COLUMNS.values() if "try" in column.pages),
)  # fmt: skip


class _TryRequest(Frozen):
    """The body of a request for masks."""

    source: Literal["run", "upload"]
    id: str = Field(max_length=4096)
    words: tuple[Word, ...]
    method: str = Field(max_length=64)


@dataclass(frozen=True)
class Upload:
    """An image file from the browser that can be decoded; its key is the hash of its bytes."""

    key: str
    data: bytes
    height: int
    width: int


class Uploads:
    """The last uploads, in memory only.

    Args:
        config: limits of the job; those of uploads count where they are tighter.
        kept_bytes: of all uploads in memory.
    """

    def __init__(self, config: ImageConfig, kept_bytes: int = 4 * MAX_UPLOAD_BYTES) -> None:
        max_pixels = min(MAX_UPLOAD_PIXELS, config.max_pixels)
        self._config = config.model_copy(
            update={"max_pixels": max_pixels, "max_bytes": MAX_UPLOAD_BYTES}
        )
        self._kept: LRUCache[str, Upload] = LRUCache(kept_bytes, lambda one: len(one.data))
        self._lock = Lock()
        self._decoders = BoundedSemaphore(_DECODERS)

    def add(self, data: bytes) -> Upload:
        """Keep an image file.

        Raises:
            ImageError: too large, or it cannot be decoded.
        """
        if len(data) > MAX_UPLOAD_BYTES:
            raise ImageError(ErrorCode.TOO_LARGE, f"more than {MAX_UPLOAD_BYTES >> 20} MB")
        with self._decoders:
            decoded = decode(data, self._config, side_px=64)
        upload = Upload(hashlib.sha256(data).hexdigest(), data, decoded.height, decoded.width)
        with self._lock:
            self._kept[upload.key] = upload
        return upload

    def decoder(self, key: str) -> Callable[[int], DecodedImage]:
        """Return a function that decodes an upload, see `decode.decode` for its argument.

        Raises:
            UserError: the upload is not kept any more.
        """
        with self._lock:
            upload = self._kept.get(key)
        if upload is None:
            raise UserError("this image is not kept any more: upload it again")

        def decode_upload(side_px: int) -> DecodedImage:
            with self._decoders:
                return decode(upload.data, self._config, side_px)

        return decode_upload


class TryPage:
    """Answers the requests of the try page; the backbones are loaded at the first one.

    Args:
        session: of the run whose images and backbones are used.
        weights: names that the user gave of weights which the run may load.
    """

    def __init__(self, session: ReviewSession, weights: Sequence[str] = ()) -> None:
        self._session = session
        self._weights = tuple(weights)
        self._job = session.run.info.job()
        self._uploads = Uploads(self._job.image)
        self._loading = Lock()
        self._loaded: TrySession | None = None
        self._features_of: str | None = None

    @property
    def _try_session(self) -> "TrySession":
        with self._loading:
            if self._loaded is None:
                # Imported here, because it imports torch, which takes seconds.
                from pipeline.review.try_session import TrySession
                from pipeline.run.trust.named_weights import NamedWeights

                of_run = NamedWeights(self._weights, self._session.run)
                self._loaded = TrySession(self._job, of_run)
            return self._loaded

    def own_method(self) -> dict[str, Any]:
        """Return the run's own method; loads its backbones. A page asks once, when it is loaded."""
        self._features_of = self._place_of_features()
        return {
            "max_bytes": MAX_UPLOAD_BYTES,
            "method": _choice_facts(self._try_session.own_method()),
        }

    def other_methods(self) -> dict[str, Any]:
        """Return the methods that can run on the run's backbones, and why the others cannot."""
        choices = [_choice_facts(one) for one in self._try_session.other_methods()]
        return {
            "methods": [one for one in choices if not one["reason"]],
            "refused": [one for one in choices if one["reason"]],
        }

    def warm_up(self) -> dict[str, Any]:
        """Use every other method once, see `TrySession.warm_up`."""
        return {"used": self._try_session.warm_up()}

    def text_vector(self, text: str) -> NDArray[np.float32]:
        """Return the unit vector of words that the review page searches for; loads the run's CLIP.

        It is the CLIP of the try page, so that there is one in memory.

        Raises:
            UserError: there are no words, or the run has no vectors.
            WeightsError: the run's CLIP cannot be had, or may not be loaded.
        """
        from pipeline.curation.search import check_words, text_vector

        check_words(text)
        run = self._session.run
        return self._try_session.with_clip(lambda clip: text_vector(run, clip, text))

    def end(self) -> None:
        """Stop background work, because the server ends."""
        if self._loaded is not None:
            self._loaded.end()

    @property
    def is_computing(self) -> bool:
        """Whether masks are computed, perhaps for nobody any more: that may take minutes."""
        return self._loaded is not None and self._loaded.is_computing

    def upload(self, data: bytes) -> dict[str, Any]:
        """Keep an uploaded image.

        Raises:
            ImageError: too large, or it cannot be decoded.
        """
        upload = self._uploads.add(data)
        return {"upload": upload.key, "height": upload.height, "width": upload.width}

    def photo(self, key: str) -> bytes:
        """Return an upload as JPEG, in the frame of its masks.

        Raises:
            UserError: the upload is not kept any more.
        """
        return photo_jpeg(self._uploads.decoder(key)(SIDE_PX["large"]), "large")

    def segment(self, body: Any) -> dict[str, Any]:
        """Return masks, scores and times of words on an image.

        Args:
            body: JSON of a `_TryRequest`.
        """
        wanted = _TryRequest.model_validate(body)
        is_own = wanted.method == self._job.method.name
        if self._features_of is None:
            self._features_of = self._place_of_features()
        features_of = self._features_of if is_own else ""
        command = new_run.command(self._job_now(), wanted.words, wanted.method, features_of)
        result = self._try_session.segment(self._image(wanted), wanted.words, wanted.method)
        segments = [vars(one) for one in result.masks.segments]
        may_overlap = any(one.kind == "instance" for one in result.masks.segments)
        numbers = number_png(segments, result.size_hw, may_overlap)
        of_run = self._job.vocabulary.names
        words = list(dict.fromkeys(name.casefold() for name in (*of_run, *wanted.words)))
        # A label of the run has the colour that it has on the review page.
        colours = dict(zip(words, label_colours(words), strict=True))
        return {
            "caution": _EVERYWHERE if result.is_everywhere else "",
            "height": result.size_hw[0],
            "width": result.size_hw[1],
            "segments": [{name: one[name] for name in _SHOWN} for one in segments],
            "words": [
                {
                    "id": one.category_id,
                    "name": one.label,
                    "colour": css_colour(colours[one.label.casefold()]),
                    "max_prob": one.max_prob,
                }
                for one in result.masks.label_scores
            ],
            "review_priority": result.masks.review_priority,
            "segments_png": base64.b64encode(numbers).decode(),
            "seconds": {f"{stage}_s": seconds for stage, seconds in result.seconds.items()},
            "encoded": result.encoded,
            "command": command,
            "command_lacks": new_run.lacks(self._job, wanted.words, features_of),
            "num_encoded": self._try_session.num_encoded,
        }

    def _job_now(self) -> JobConfig:
        """Return the run's job with the limit of its newest generation: a run may have grown."""
        limit = self._session.snapshot.index.run.generations.limit
        image = self._job.image.model_copy(update={"limit": limit})
        return self._job.model_copy(update={"image": image})

    def _place_of_features(self) -> str:
        """Return the run folder as a command names it, where `ovseg relabel` takes it; else empty.

        Features may be deleted, and shards finished without any, while the server runs.
        """
        folder = self._session.run.folder
        if not folder.sizes(FEATURES):
            return ""
        # Imported here, because it imports torch, which takes seconds.
        from pipeline.run.tables.stored_features import StoredFeatures

        try:
            stored = StoredFeatures(folder.uri)
            images = stored.run.info.identity["images"]
            stored.check(self._job.model_copy(update={"images": images}))
        except OvsegError as error:
            logger.info("no command without images is offered: %s", error)
            return ""
        return new_run.place(self._job, folder.uri)

    def _image(self, wanted: _TryRequest) -> "TryImage":
        from pipeline.review.try_session import TryImage

        if wanted.source == "upload":
            return TryImage(f"upload {wanted.id}", "upload", self._uploads.decoder(wanted.id))
        index, images = self._session.snapshot.index, self._session.images
        row = index.row(wanted.id)
        if row is None:
            raise UserError("the run has no image of this id")
        image = index.image(row)
        return TryImage(
            f"run {index.run.generations.number} {wanted.id}",
            image["path"],
            lambda side: images.read_image(image, side),
        )


def _choice_facts(choice: "MethodChoice") -> dict[str, Any]:
    return {**asdict(choice), "reason": redact(choice.reason)}
