"""A try session: any method on the backbones of a run, with words that a person tries.

An image is encoded once per method; other words only score its features again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Condition, Event
from typing import Any, TypeVar

import torch
from cachetools import LRUCache
from pydantic import ValidationError

from ovseg_core import methods
from ovseg_core.backbones.checkpoint import nothing_fetched
from ovseg_core.backbones.clip import Clip
from ovseg_core.backbones.registry import Backbones, clip_names
from ovseg_core.backbones.vision.vit import DenseBackbone
from ovseg_core.decision.decide import decide_one
from ovseg_core.decision.image_rows import ImageMasks, image_rows
from ovseg_core.images.batch import ImageBatch, to_tensor
from ovseg_core.images.decoding.decode import DecodedImage
from ovseg_core.segmenter import Features, Segmenter, encode_images
from pipeline.annotate.build import labels_every_pixel
from pipeline.annotate.stopwatch import Stopwatch
from pipeline.run.trust.named_weights import NamedWeights
from pipeline.storage import weights
from schemas import plugins
from schemas.base import problems
from schemas.config import JobConfig, MaskConfig, NamedOptions
from schemas.errors import ImageError, OvsegError, UserError, WeightsError
from schemas.vocabulary import Label, Vocabulary

T = TypeVar("T")

MAX_WORDS = 64
_IMAGES_KEPT = 16
_WARM_UP_HW = 48, 64


@dataclass(frozen=True)
class TryImage:
    """An image to try words on.

    Attributes:
        key: the same for the same pixels.
        path: for per-image files of another tool, which are found by it.
        decode: returns the image; its argument is the number of pixels on the shorter side that
            are enough.
    """

    key: str
    path: str
    decode: Callable[[int], DecodedImage]


@dataclass(frozen=True)
class EncodedImage:
    """The features of one image for one method."""

    features: Features
    size_hw: tuple[int, int]


@dataclass(frozen=True)
class TryResult:
    """The masks of some words on one image.

    Attributes:
        masks: segments, and the scores of every word.
        size_hw: pixels of the image.
        seconds: by stage; `decode` and `encode` are 0 if the features were kept.
        encoded: whether the image was encoded for this result.
        is_everywhere: nothing stands for the background with this method, see
            `pipeline.annotate.build.labels_every_pixel`.
    """

    masks: ImageMasks
    size_hw: tuple[int, int]
    seconds: dict[str, float]
    encoded: bool
    is_everywhere: bool


@dataclass(frozen=True)
class MethodChoice:
    """A method that the page offers.

    Attributes:
        reason: why it cannot run on the run's backbones; empty: it can.
    """

    name: str
    title: str
    reason: str = ""


class RunBackbones(Backbones):
    """The backbones of a run; only the run's own method may load a further one.

    A visit to the page must not start a download, and loads nothing that only the run names.
    """

    restricted = True
    of_run: NamedWeights | None = None
    """Says which names may be looked up; None: only the embedded ones."""

    def check_names(self, *names: str) -> None:
        """Check that the run's weights of these names may be loaded."""
        (self.of_run or NamedWeights(())).check(*names)

    @cached_property
    def clip(self) -> Clip:
        """The CLIP model, see `Backbones`."""
        with self._fetching_what_was_given(*clip_names(self.clip_config)):
            return super().clip

    def network(self, model: str, role: str = "network") -> DenseBackbone:
        """Return a network, see `Backbones`; raises WeightsError for one that the run lacks."""
        if self.restricted and model != self.vision_model:
            raise WeightsError(f"needs {model}; the run has {self.vision_model}")
        with self._fetching_what_was_given(model):
            return super().network(model, role)

    def note_file(self, role: str, path: str | Path, *names: str) -> None:
        """Record a weights file, see `Backbones`, once it is the one that the run had."""
        if path and names and self.of_run is not None:
            self.of_run.check_file(path, *names)
        super().note_file(role, path, *names)

    def _fetching_what_was_given(self, *names: str) -> AbstractContextManager[None]:
        is_given = self.of_run is not None and self.of_run.are_given(*names)
        return nullcontext() if is_given else nothing_fetched()

    def network_or(self, published: str) -> str:
        """Return the run's second network in place of a published one."""
        return self.vision_model if self.restricted else super().network_or(published)


class RequestsFirst:
    """A lock that background work gets only while no request has it or waits for it.

    A plain lock would let a warm-up, which takes it again at once, delay a person for minutes.

    Attributes:
        num_requests: requests that have the lock or wait for it.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._is_taken = False
        self.num_requests = 0

    @property
    def is_used(self) -> bool:
        """Whether anybody has the lock, or a request waits for it."""
        return self._is_taken or self.num_requests > 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold the lock for something that a person waits for."""
        with self._changed:
            self.num_requests += 1
            self._changed.wait_for(lambda: not self._is_taken)
            self._is_taken = True
        try:
            yield
        finally:
            self._release(requests=1)

    @contextmanager
    def background(self) -> Iterator[None]:
        """Hold the lock for something that nobody waits for."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_taken or self.num_requests))
            self._is_taken = True
        try:
            yield
        finally:
            self._release(requests=0)

    def _release(self, requests: int) -> None:
        with self._changed:
            self._is_taken = False
            self.num_requests -= requests
            self._changed.notify_all()


class TrySession:
    """Segmenters on the backbones of a run, loaded at first use; one computation at a time.

    Args:
        job: of the run.
        of_run: says which of the run's weights may be loaded; None: only the embedded ones.

    Attributes:
        num_encoded: images that were encoded so far.
    """

    def __init__(self, job: JobConfig, of_run: NamedWeights | None = None) -> None:
        self._job = methods.with_published_clip(job)
        self._of_run = of_run
        self._lock = RequestsFirst()
        self._ended = Event()
        self._warm: set[str] = set()
        self._segmenters: dict[str, Segmenter[Any]] = {}
        self._backbones: RunBackbones | None = None
        self._reasons: dict[str, str] = {}
        self._encoded: LRUCache[tuple[str, str], EncodedImage] = LRUCache(_IMAGES_KEPT)
        self.num_encoded = 0

    def own_method(self) -> MethodChoice:
        """Return the run's own method; loads its backbones at the first call."""
        with self._lock.request():
            return self._choice(self._job.method.name)

    def other_methods(self) -> Iterator[MethodChoice]:
        """Yield all other methods, also those that cannot run on the run's backbones.

        Those that need options of their own, such as a student's weights, are left out.
        """
        for name in filter(methods.runs_by_name, plugins.names(methods.PACKAGE)):
            if name != self._job.method.name and not self._ended.is_set():
                with self._lock.background():
                    choice = self._choice(name)
                yield choice

    def warm_up(self) -> list[str]:
        """Use every other method once, because the first use of a network is slow.

        Requests go first. A method that fails reports its error when a person chooses it.

        Returns:
            The methods that were used by this call.
        """
        image = ImageBatch((torch.zeros(3, *_WARM_UP_HW, dtype=torch.uint8),), ("",))
        used: list[str] = []
        for choice in self.other_methods():
            if choice.reason or choice.name in self._warm:
                continue
            self._warm.add(choice.name)
            used.append(choice.name)
            steps, step = self._use_once(choice.name, image), ""
            with suppress(OvsegError, ImageError):
                while step is not None and not self._ended.is_set():
                    with self._lock.background(), torch.inference_mode():
                        step = next(steps, None)
        return used

    def with_clip(self, work: Callable[[Clip], T]) -> T:
        """Return what is made of the run's CLIP, which is loaded at first use.

        Raises:
            WeightsError: it cannot be had, or may not be loaded.
        """
        with self._lock.request(), torch.inference_mode():
            return work(self._of_job().clip)

    def end(self) -> None:
        """Stop the warm-up."""
        self._ended.set()

    @property
    def is_computing(self) -> bool:
        """Whether something is computed, for a request or as the warm-up."""
        return self._lock.is_used

    def _use_once(self, name: str, image: ImageBatch) -> Iterator[str]:
        """Encode and score an image, in two steps: a request may come in between."""
        vocabulary = self._vocabulary(["thing"])
        segmenter = self._segmenter(name)
        features = encode_images(segmenter, image)
        yield "encoded"
        maps = segmenter.score(features, segmenter.text_matrix(vocabulary))
        image_rows(decide_one(maps, 0, _WARM_UP_HW), _WARM_UP_HW, vocabulary.names, MaskConfig())
        yield "scored"

    def segment(self, image: TryImage, words: Sequence[str], method: str) -> TryResult:
        """Segment an image with words as its labels.

        Args:
            image: of the run or uploaded.
            words: 1 to `MAX_WORDS`; a label of the run brings its synonyms.
            method: a method's name.

        Raises:
            UserError: the method cannot run here, no word, too many words, or a word given twice.
            ImageError: the image cannot be read.
        """
        vocabulary, job = self._vocabulary(words), self._job_with(method)
        with self._lock.request(), torch.inference_mode():
            segmenter = self._segmenter(method)
            with Stopwatch() as whole:
                seconds = {"decode": 0.0, "encode": 0.0}
                kept = self._encoded.get((image.key, method))
                encoded = kept or self._encode(segmenter, image, seconds)
                self._encoded[image.key, method] = encoded
                with Stopwatch() as scoring:
                    maps = segmenter.score(encoded.features, segmenter.text_matrix(vocabulary))
                with Stopwatch() as deciding:
                    decision = decide_one(maps, 0, encoded.size_hw)
                    masks = image_rows(decision, encoded.size_hw, vocabulary.names, job.masks)
            seconds |= {"score": scoring.seconds, "decide": deciding.seconds}
            seconds["total"] = whole.seconds
            return TryResult(masks, encoded.size_hw, seconds, kept is None, labels_every_pixel(job))

    def _encode(
        self, segmenter: Segmenter[Any], image: TryImage, seconds: dict[str, float]
    ) -> EncodedImage:
        with Stopwatch() as decoding:
            decoded = image.decode(segmenter.decode_side_px)
            pixels = to_tensor(decoded.rgb)
        with Stopwatch() as encoding:
            features = encode_images(segmenter, ImageBatch((pixels,), (image.path,)))
        self.num_encoded += 1
        seconds |= {"decode": decoding.seconds, "encode": encoding.seconds}
        return EncodedImage(features, (decoded.height, decoded.width))

    def _choice(self, name: str) -> MethodChoice:
        title = plugins.load_plugin(methods.PACKAGE, name).CARD.title
        if name not in self._reasons:
            try:
                self._segmenter(name)
                self._reasons[name] = ""
            except OvsegError as error:
                self._reasons[name] = str(error)
        return MethodChoice(name, title, self._reasons[name])

    def _segmenter(self, name: str) -> Segmenter[Any]:
        backbones = self._of_job()
        if name not in self._segmenters:
            job = self._job_with(name)
            backbones.restricted = name != self._job.method.name
            backbones.check_names(*methods.option_folders(job.method).values())
            self._segmenters[name] = methods.build_segmenter(job.method, backbones, job.masks)
        return self._segmenters[name]

    def _of_job(self) -> RunBackbones:
        """Return the backbones of the run, none of which is loaded before it is used."""
        if self._backbones is None:
            cuda = self._job.run.device != "cpu" and torch.cuda.is_available()
            device = "cuda" if cuda else "cpu"
            self._backbones = RunBackbones.from_config(self._job, device, weights.resolve)
            self._backbones.of_run = self._of_run
        return self._backbones

    def _job_with(self, method: str) -> JobConfig:
        """Return the run's job with a method: its own as it is, another with its defaults.

        Segments are as in the run by its own method, else one of each word: other methods may have
        nothing that instances come from.
        """
        if method == self._job.method.name:
            masks = MaskConfig(segments=self._job.masks.segments)
            return self._job.model_copy(update={"masks": masks})
        other = {"method": NamedOptions(name=method), "masks": MaskConfig()}
        return self._job.model_copy(update=other)

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
