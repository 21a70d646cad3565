"""The try page: words on one image, of the run or from the browser, with the masks they give."""

import base64
from dataclasses import asdict
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from pipeline.collection.image_source import read_image, ref_of
from pipeline.collection.overlay import hex_colour
from pipeline.review.desk import Desk
from pipeline.review.pictures import number_png, photo_jpeg
from pipeline.review.uploads import MAX_BYTES, Uploads
from schemas.base import Frozen
from schemas.errors import UserError
from schemas.redact import redact
from schemas.vocabulary import Word

if TYPE_CHECKING:
    from pipeline.review.try_session import TryImage, Workbench

_SHOWN = ("label", "category_id", "segment_index", "area_frac", "mean_prob", "margin_mean")


class _Wanted(Frozen):
    """What the page asks for."""

    source: Literal["run", "upload"]
    id: str = Field(max_length=4096)
    words: tuple[Word, ...]
    method: str = Field(max_length=64)


class TryPage:
    """Answers the try page.

    Args:
        desk: the run; its images and its networks are the ones to try.
    """

    max_bytes = MAX_BYTES

    def __init__(self, desk: Desk) -> None:
        """Load nothing yet."""
        self._desk = desk
        self._job = desk.run.info.job()
        self._uploads = Uploads(self._job.image)
        self._making = Lock()
        self._made: Workbench | None = None

    @property
    def _bench(self) -> "Workbench":
        with self._making:  # one for all who ask while it is made
            if self._made is None:
                # Here, because it imports the model libraries, which takes seconds.
                from pipeline.review.try_session import Workbench

                self._made = Workbench(self._job)
            return self._made

    def own_method(self) -> dict[str, Any]:
        """Return the run's own method; loads its networks."""
        offer = asdict(self._bench.own())
        return {
            "max_bytes": self.max_bytes,
            "method": {**offer, "reason": redact(offer["reason"])},
            "embedded": self._job.clip.model == "embedded",
        }

    def other_methods(self) -> dict[str, Any]:
        """Return the methods that can run on the same networks, and why others cannot."""
        offers = [{**asdict(one), "reason": redact(one.reason)} for one in self._bench.others()]
        return {
            "methods": [one for one in offers if not one["reason"]],
            "refused": [one for one in offers if one["reason"]],
        }

    def warm(self) -> dict[str, Any]:
        """Use every method once, behind what people ask for, see `Workbench.warm`."""
        self._bench.warm()
        return {}

    def end(self) -> None:
        """Stop what runs ahead of people: the server ends."""
        if self._made is not None:
            self._made.end()

    def upload(self, data: bytes) -> dict[str, Any]:
        """Take an image in; raises ImageError for what is none, or too large."""
        upload = self._uploads.add(data)
        return {"upload": upload.key, "height": upload.height, "width": upload.width}

    def photo(self, key: str) -> bytes:
        """Return an upload as JPEG, as the masks see it."""
        upload = self._uploads.find(key)
        if upload is None:
            raise UserError("this image was forgotten: give it again")
        return photo_jpeg(self._uploads.decode(upload, 2048), "large")

    def segment(self, wanted: Any) -> dict[str, Any]:
        """Return masks, scores and times for words on an image."""
        asked = _Wanted.model_validate(wanted)
        tried = self._bench.segment(self._image(asked), asked.words, asked.method)
        segments = [vars(one) for one in tried.masks.segments]
        regions = number_png(segments, tried.size_hw)
        return {
            "height": tried.size_hw[0],
            "width": tried.size_hw[1],
            "segments": [{name: one[name] for name in _SHOWN} for one in segments],
            "words": [
                {
                    "id": one.category_id,
                    "name": one.label,
                    "colour": hex_colour(one.category_id),
                    "max_prob": one.max_prob,
                }
                for one in tried.masks.label_scores
            ],
            "review_priority": tried.masks.review_priority,
            "regions": base64.b64encode(regions).decode(),
            "seconds": {f"{stage}_s": seconds for stage, seconds in tried.seconds.items()},
            "encoded": tried.encoded,
            "num_encoded": self._bench.num_encoded,
        }

    def _image(self, asked: _Wanted) -> "TryImage":
        from pipeline.review.try_session import TryImage

        if asked.source == "upload":
            upload = self._uploads.find(asked.id)
            if upload is None:
                raise UserError("this image was forgotten: give it again")
            return TryImage(
                f"upload {upload.key}", "upload", lambda side: self._uploads.decode(upload, side)
            )
        index = self._desk.table.index
        row = index.row(asked.id)
        if row is None:
            raise UserError("no such image in this run")
        image, config = index.image(row), self._job.image
        return TryImage(
            f"run {asked.id}",
            image["path"],
            lambda side: read_image(ref_of(image), config, side),
        )
