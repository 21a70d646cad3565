"""The worker that trains a head, in this process or as a Ray actor, on one device.

Threads read and augment the images of the next steps while a step is computed. Everything is made
at the first call, so that an actor that Ray has restarted resumes from the checkpoint by itself.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

import pyarrow as pa
from torch import Tensor

from ovseg_core.backbones.file_formats.head_file import head_bytes
from ovseg_core.backbones.registry import Backbones
from ovseg_core.images.batch import to_tensor
from ovseg_core.training.heads import HeadTask, build_head, check_head
from ovseg_core.training.heads.shared.trainer import HeadTrainer
from ovseg_core.training.sampler import ImageSampler
from pipeline.annotate.image_errors import value_or_error
from pipeline.annotate.prefetch import map_ahead
from pipeline.annotate.versions import compared_versions
from pipeline.collection.collect import own_places
from pipeline.collection.image_source import read_image
from pipeline.job.worker_process import enter_worker_process
from pipeline.storage.weights import remember_names, resolve, weights_sha256
from pipeline.training.heads.store import HeadStore
from pipeline.training.progress import TrainingTally
from pipeline.training.store import Checkpoint, images_sha256
from schemas.config import HeadConfig
from schemas.errors import CollectionError, ImageError
from schemas.records import ImageRef
from schemas.tables import to_records

REPORT_EVERY_S = 2.0
"""`advance` returns this often, so that the progress is shown."""
_MAX_UNREADABLE = 20
"""The training ends with an error when this many images in a row cannot be read."""


@dataclass(frozen=True)
class HeadSetup:
    """All that the worker needs to know; travels to another machine.

    Attributes:
        config: the training.
        images: rows of the manifest's schema.
        device: `cpu` or `cuda`.
        folder: relative paths in the config start here; the current folder of the driver.
    """

    config: HeadConfig
    images: pa.Table
    device: str
    folder: str = field(default_factory=os.getcwd)


@dataclass(frozen=True)
class _View:
    """An image as one step sees it, and the error codes of those that were tried before it."""

    pixels: Tensor
    failed: dict[str, str]


class HeadWorker:
    """One head and its training."""

    def __init__(self, setup: HeadSetup) -> None:
        self._setup = setup
        self._failed: dict[str, str] = {}
        enter_worker_process(setup.config.run, setup.folder)

    def prepare(self) -> TrainingTally:
        """Load the networks and the checkpoint; return what is done already.

        Raises:
            UserError: weights that cannot be found, fetched or used, or files of another training.
        """
        if self._store.is_finished():
            return TrainingTally(self._options.steps, None, {})
        return self._tally([])

    def advance(self) -> TrainingTally:
        """Train for 2 s, at most to the next checkpoint; write it, or the head at the end.

        Raises:
            CollectionError: too many images in a row cannot be read.
        """
        started, losses = time.monotonic(), []
        config, steps, trainer = self._setup.config, self._options.steps, self._trainer
        while trainer.step < steps:
            views = list(itertools.islice(self._views, self._options.batch))
            for view in views:
                self._failed.update(view.failed)
            losses.append(trainer.advance([view.pixels for view in views]))
            if trainer.step == steps:
                self._finish()
            elif trainer.step % config.checkpoint_every == 0:
                self._store.save(Checkpoint(trainer.step, trainer.state(), self._failed))
                break
            if time.monotonic() - started > REPORT_EVERY_S:
                break
        return self._tally(losses)

    def _finish(self) -> None:
        heads = self._setup.config.head.name
        network = weights_sha256(self._task.network_file)
        self._store.finish(head_bytes(self._task.weights, heads, network, self._store.record))

    def _tally(self, losses: list[float]) -> TrainingTally:
        mean = fmean(losses) if losses else None
        codes = dict(Counter(self._failed.values()))
        return TrainingTally(self._trainer.step, mean, codes)

    @cached_property
    def _options(self):  # noqa: ANN202 - what check_head returns
        return check_head(self._setup.config.head)

    @cached_property
    def _backbones(self) -> Backbones:
        return Backbones.from_config(self._setup.config, self._setup.device, resolve)

    @cached_property
    def _task(self) -> HeadTask:
        config = self._setup.config
        task = build_head(config.head, self._backbones, config.seed)
        remember_names(self._backbones.names())
        return task

    @cached_property
    def _store(self) -> HeadStore:
        config, task = self._setup.config, self._task
        identity = {
            "heads": config.head.name,
            **{f"options.{k}": v for k, v in self._options.model_dump(mode="json").items()},
            "size_px": task.size_px,
            "seed": config.seed,
            "images": images_sha256(self._setup.images),
            "image.color_profiles": config.image.color_profiles,
            **{
                f"weights.{role}": weights_sha256(path)
                for role, path in self._backbones.files().items()
            },
        }
        return HeadStore(config, identity, compared_versions(self._backbones.files()))

    @cached_property
    def _trainer(self) -> HeadTrainer:
        trainer = HeadTrainer(self._task)
        last = self._store.last()
        if last is not None:
            steps = self._options.steps
            if not 0 < last.step < steps:
                raise self._store.damaged(f"step {last.step}, expected one before {steps}")
            try:
                trainer.restore(last.step, last.state)
            except ValueError as error:
                raise self._store.damaged(str(error)) from error
            self._failed = dict(last.failed)
        return trainer

    @cached_property
    def _sampler(self) -> ImageSampler:
        config = self._setup.config
        return ImageSampler(self._setup.images.num_rows, self._options.sample, config.seed)

    @cached_property
    def _views(self) -> Iterator[_View]:
        """The images of all steps from the trainer's step on, in the order of the steps."""
        batch, steps = self._options.batch, self._options.steps
        places = range(self._trainer.step * batch, steps * batch)
        return map_ahead(self._view, places, self._setup.config.run.prefetch_threads, 2 * batch)

    def _view(self, place: int) -> _View:
        """Return the image of one draw, or another one if it cannot be read."""
        rng, failed = self._sampler.rng(place), {}
        index, side_px = self._sampler.index(place), self._task.size_px
        config, places = self._setup.config, own_places(self._setup.config)
        for _ in range(_MAX_UNREADABLE):
            ref = self._ref(index)
            image = value_or_error(read_image, ref, config.image, places, side_px)
            if not isinstance(image, ImageError):
                return _View(self._task.view(to_tensor(image.rgb), rng), failed)
            failed[ref.path] = str(image.code)
            index, last = self._sampler.substitute(rng), f"{ref.path}: {image}"
        raise CollectionError(f"{_MAX_UNREADABLE} images in a row cannot be read, the last {last}")

    def _ref(self, index: int) -> ImageRef:
        return next(iter(to_records("manifest", self._setup.images.slice(index, 1))))
