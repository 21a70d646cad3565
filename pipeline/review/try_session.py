"""The workbench of the try page: a run's networks, any of the methods that they can carry.

An image is encoded once for a method; other words only score its features again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

import torch
from pydantic import ValidationError

from ovseg_core import methods
from ovseg_core.backbones.registry import Backbones
from ovseg_core.backbones.vit import DenseBackbone
from ovseg_core.decision.decide import decide_one
from ovseg_core.decision.image_rows import ImageMasks, image_rows
from ovseg_core.images.batch import ImageBatch
from ovseg_core.segmenter import Features, Segmenter
from pipeline.annotate.image_errors import stopwatch
from pipeline.collection.decode import DecodedImage
from pipeline.review.cache import BoundedCache
from pipeline.review.turns import Turns
from pipeline.storage import weights
from schemas import plugins
from schemas.base import problems
from schemas.config import JobConfig, MaskConfig, NamedOptions
from schemas.errors import ImageError, OvsegError, UserError, WeightsError
from schemas.vocabulary import Label, Vocabulary

MAX_WORDS = 64
_KEPT_FEATURES = 16
_WARM_HW = 48, 64


@dataclass(frozen=True)
class TryImage:
    """An image to try words on.

    Attributes:
        key: the same for the same pixels.
        path: for parts that look something up by name.
        decode: returns the pixels, of which so many on the shorter side are enough.
    """

    key: str
    path: str
    decode: Callable[[int], DecodedImage]


@dataclass(frozen=True)
class Encoded:
    """What a method knows of one image before the words."""

    features: Features
    size_hw: tuple[int, int]


@dataclass(frozen=True)
class Tried:
    """What came of it.

    Attributes:
        masks: segments and a score for every word.
        seconds: by stage; `decode` and `encode` are 0 where the image was known.
        encoded: whether the image went through the networks for this answer.
    """

    masks: ImageMasks
    size_hw: tuple[int, int]
    seconds: dict[str, float]
    encoded: bool


@dataclass(frozen=True)
class Offer:
    """A method, and why it cannot run here; empty: it can."""

    name: str
    title: str
    reason: str = ""


class _RunBackbones(Backbones):
    """The networks of a run: other methods get no others, nothing is fetched for a page's sake."""

    strict = True

    def network(self, model: str, role: str = "network") -> DenseBackbone:
        if self.strict and model != self.vision_model:
            raise WeightsError(f"needs {model}; the run has {self.vision_model}")
        return super().network(model, role)

    def network_or(self, published: str) -> str:
        return self.vision_model if self.strict else super().network_or(published)


class Workbench:
    """Methods on the networks of a run; one computation at a time.

    Args:
        job: of the run.
    """

    def __init__(self, job: JobConfig) -> None:
        """Load nothing yet."""
        self._job = methods.with_published_clip(job)
        self._turns = Turns()
        self._ended = Event()
        self._warm: set[str] = set()
        self._segmenters: dict[str, Segmenter] = {}
        self._backbones: _RunBackbones | None = None
        self._reasons: dict[str, str] = {}
        self._encoded: BoundedCache[Encoded] = BoundedCache(_KEPT_FEATURES, lambda _: 1)
        self.num_encoded = 0
        """Images that went through the networks so far."""

    def own(self) -> Offer:
        """Return the run's own method; loads its networks when first called."""
        with self._turns.person():
            return self._offer(self._job.method.name)

    def others(self) -> tuple[Offer, ...]:
        """Return all other methods, and which of them cannot run on these networks."""
        return tuple(self._others())

    def _others(self) -> Iterator[Offer]:
        for name in plugins.names(methods.PACKAGE):
            if name != self._job.method.name and not self._ended.is_set():
                with self._turns.ahead():
                    offer = self._offer(name)
                yield offer

    def warm(self) -> None:
        """Use every other method once that can run here: a first use loads what later ones have.

        People who try something meanwhile go first. A method that fails says why when it is asked.
        """
        image = ImageBatch((torch.zeros(3, *_WARM_HW, dtype=torch.uint8),), ("",))
        for offer in self._others():
            if offer.reason or offer.name in self._warm:
                continue
            self._warm.add(offer.name)
            steps, step = self._use_once(offer.name, image), ""
            with suppress(OvsegError, ImageError):
                while step is not None and not self._ended.is_set():
                    with self._turns.ahead(), torch.inference_mode():
                        step = next(steps, None)

    def end(self) -> None:
        """Stop warming up."""
        self._ended.set()

    def _use_once(self, name: str, image: ImageBatch) -> Iterator[str]:
        vocabulary = self._vocabulary(["thing"])
        segmenter = self._segmenter(name)
        features = segmenter.encode(image)
        yield "encoded"
        maps = segmenter.score(features, segmenter.text_matrix(vocabulary))
        image_rows(decide_one(maps, 0, _WARM_HW), _WARM_HW, vocabulary.names, MaskConfig())
        yield "scored"

    def segment(self, image: TryImage, words: Sequence[str], method: str) -> Tried:
        """Find words in an image.

        Raises:
            UserError: a method that is not offered, no words, or a word given twice.
            ImageError: the image cannot be read.
        """
        vocabulary = self._vocabulary(words)
        with self._turns.person(), torch.inference_mode():
            segmenter = self._segmenter(method)
            with stopwatch() as whole:
                seconds = {"decode": 0.0, "encode": 0.0}
                known = self._encoded.find((image.key, method))
                encoded = known or self._encode(segmenter, image, seconds)
                self._encoded.keep((image.key, method), encoded)
                with stopwatch() as scoring:
                    maps = segmenter.score(encoded.features, segmenter.text_matrix(vocabulary))
                with stopwatch() as deciding:
                    decision = decide_one(maps, 0, encoded.size_hw)
                    masks = image_rows(decision, encoded.size_hw, vocabulary.names, MaskConfig())
            seconds |= {"score": scoring.seconds, "decide": deciding.seconds}
            seconds["total"] = whole.seconds
            return Tried(masks, encoded.size_hw, seconds, encoded=known is None)

    def _encode(self, segmenter: Segmenter, image: TryImage, seconds: dict[str, float]) -> Encoded:
        with stopwatch() as decoding:
            decoded = image.decode(segmenter.decode_side_px)
            pixels = torch.from_numpy(decoded.rgb).permute(2, 0, 1).contiguous()
        with stopwatch() as encoding:
            features = segmenter.encode(ImageBatch((pixels,), (image.path,)))
        self.num_encoded += 1
        seconds |= {"decode": decoding.seconds, "encode": encoding.seconds}
        return Encoded(features, (decoded.height, decoded.width))

    def _offer(self, name: str) -> Offer:
        title = plugins.load(methods.PACKAGE, name).CARD.title
        if name not in self._reasons:
            try:
                self._segmenter(name)
                self._reasons[name] = ""
            except OvsegError as error:
                self._reasons[name] = str(error)
        return Offer(name, title, self._reasons[name])

    def _segmenter(self, name: str) -> Segmenter:
        if name not in self._segmenters:
            own = name == self._job.method.name
            part = self._job.method if own else NamedOptions(name=name)
            backbones = self._networks()
            backbones.strict = not own
            self._segmenters[name] = methods.build_segmenter(part, backbones)
        return self._segmenters[name]

    def _networks(self) -> _RunBackbones:
        if self._backbones is None:
            cuda = self._job.run.device != "cpu" and torch.cuda.is_available()
            device = "cuda" if cuda else "cpu"
            self._backbones = _RunBackbones.from_config(self._job, device, weights.resolve)
        return self._backbones

    def _vocabulary(self, words: Sequence[str]) -> Vocabulary:
        if not 1 <= len(words) <= MAX_WORDS:
            raise UserError(f"expected 1 to {MAX_WORDS} words, got {len(words)}")
        of_run = self._job.vocabulary
        known: dict[str, Label] = {label.name.casefold(): label for label in of_run.labels}
        labels: list[Any] = [known.get(word.casefold(), word) for word in words]
        try:
            return Vocabulary(
                labels=tuple(labels), background=of_run.background, templates=of_run.templates
            )
        except ValidationError as error:
            raise UserError(problems(error, Vocabulary, "words")[0]) from error
