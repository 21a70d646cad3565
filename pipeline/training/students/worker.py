"""A worker that trains a student: alone in this process, or one of several that share each batch.

Which images a step takes is a function of the seed and the step; a worker takes its contiguous part
of every batch, so that several see what one alone would see. All of them validate a part of the
images and come to the same decisions; only the first writes. Everything is made at the first call.
"""

import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ovseg_core.segmenter import TextMatrix
from ovseg_core.training.sampler import ImageSampler
from ovseg_core.training.students import (
    StudentTask,
    TextShape,
    TrainingView,
    build_network,
    build_task,
)
from ovseg_core.training.students.shared.student_file import student_bytes
from ovseg_core.training.students.shared.trainer import Averaging, StudentTrainer
from pipeline.annotate.prefetch import map_ahead
from pipeline.job.worker_process import enter_worker_process
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from pipeline.training.store import Checkpoint
from pipeline.training.students.board import StudentTally
from pipeline.training.students.data import StudentData
from pipeline.training.students.results.metrics import Metrics
from pipeline.training.students.results.write import write_results
from pipeline.training.students.setup import Preparation, check_config
from pipeline.training.students.store import StudentStore
from pipeline.training.students.validation import Validator
from schemas.config import StudentConfig
from schemas.errors import CollectionError, ImageError, TrainingError

REPORT_EVERY_S = 2.0
"""`advance` returns this often, so that the progress is shown."""
_MAX_UNREADABLE = 20
"""The training ends with an error when this many images in a row cannot be read."""
_MAX_EMPTY_STEPS = 20
"""The same, when all pixels of this many steps in a row are ignored."""
_BEST = "best."


@dataclass(frozen=True)
class StudentSetup:
    """All that a worker needs to know; travels to another machine.

    Attributes:
        config: the training.
        device: `cpu` or `cuda`.
        folder: relative paths in the config start here; the current folder of the driver.
        rank: place among the workers, from 0.
        num_workers: that share a batch; more than one need an initialised process group of torch.
    """

    config: StudentConfig
    device: str
    folder: str = field(default_factory=os.getcwd)
    rank: int = 0
    num_workers: int = 1


class _View(NamedTuple):
    """An image as one step sees it, and the error codes of those that were tried before it."""

    view: TrainingView
    failed: dict[str, str]


@dataclass
class _Best:
    """The best validation so far.

    Attributes:
        miou: None: there was none in which anything could be compared.
        step: of the weights.
        worse: validations since.
        last: mIoU of the last validation.
        weights: those weights.
    """

    miou: float | None = None
    step: int = 0
    worse: int = 0
    last: float | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)


class StudentWorker:
    """One student, and this worker's part of its training."""

    def __init__(self, setup: StudentSetup) -> None:
        self._setup = setup
        self._config = setup.config
        self._is_first = setup.rank == 0
        self._failed: dict[str, str] = {}
        self._best = _Best()
        self._empty_steps = 0
        self._is_finished = False
        enter_worker_process(setup.config.run, setup.folder)

    def prepare(self) -> StudentTally:
        """Load data, networks and checkpoint; return what is done already.

        Raises:
            UserError: see `Preparation` and `StudentData`, or files of another training.
        """
        check_config(self._config)
        if self._store.is_finished():
            self._is_finished = True
            return StudentTally(self._options.steps, None, {}, None, True, self._data.counts)
        return self._tally([])

    def advance(self) -> StudentTally:
        """Train for 2 s, at most to the next checkpoint; write it, or the student at the end.

        Raises:
            TrainingError: the loss is not finite, or all pixels are ignored.
            CollectionError: too many images in a row cannot be read.
        """
        started, losses = time.monotonic(), []
        config, trainer, _ = self._config, self._trainer, self._metrics  # its clock starts
        while not self._is_finished:
            losses.append(self._step())
            is_last = trainer.step == self._options.steps
            if self._data.validation and (is_last or trainer.step % config.validate_every == 0):
                self._validate()
            if is_last or (config.patience and self._best.worse >= config.patience):
                self._finish()
            elif trainer.step % config.checkpoint_every == 0:
                self._save()
                break
            if time.monotonic() - started > REPORT_EVERY_S:
                break
        return self._tally(losses)

    def _step(self) -> float:
        trainer, seed = self._trainer, self._config.seed
        views = list(itertools.islice(self._views, self._part.stop - self._part.start))
        for view in views:
            self._failed.update(view.failed)
        # Networks may draw random numbers; those of a step are the same after a resume.
        draw = np.random.default_rng([seed, 4, trainer.step, self._setup.rank])
        torch.manual_seed(int(draw.integers(1 << 62)))
        rate = trainer.learning_rate
        try:
            loss = trainer.advance([view.view for view in views])
        except TrainingError as error:
            raise TrainingError(f"{error}{self._what_stays()}") from error
        self._empty_steps = 0 if trainer.counted else self._empty_steps + 1
        if self._empty_steps >= min(_MAX_EMPTY_STEPS, self._options.steps):
            raise TrainingError(
                f"all pixels of the last {self._empty_steps} steps are ignored, so that nothing is "
                "learned: give a smaller cleaning.min_score or cleaning.edge_px, other thresholds, "
                "or a truth whose labels are those of the run"
            )
        self._metrics.add_step(trainer.step, loss, rate)
        return loss

    def _what_stays(self) -> str:
        before = self._trainer.step - self._trainer.step % self._config.checkpoint_every
        if not before:
            return ""
        return f"; the checkpoint of step {before:,} stays"

    def _validate(self) -> None:
        """Validate the weights of the moment; all workers come to the same figure."""
        rank, count = self._setup.rank, self._setup.num_workers
        weights = self._trainer.result()
        matrix = self._validator.confusion(weights, self._data.validation[rank::count])
        matrix.counts = self._summed(torch.from_numpy(matrix.counts)).numpy()
        self._failed.update(self._validator.failed)
        miou = self._validator.mean_iou(matrix)
        best, step = self._best, self._trainer.step
        best.last = None if miou != miou else miou  # NaN where nothing could be compared
        if best.last is None:
            return
        self._metrics.add_validation(step, miou)
        if best.miou is None or miou > best.miou:
            best.miou, best.step, best.worse, best.weights = miou, step, 0, weights
        else:
            best.worse += 1

    def _save(self) -> None:
        """Replace the checkpoint by the state of the moment.

        Raises:
            TrainingError: a weight is not finite; the checkpoint stays.
        """
        if not self._is_first:
            return
        state = self._trainer.state()
        for name, value in state.items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise TrainingError(
                    f"after step {self._trainer.step} {name} holds NaN or infinity: the training "
                    "has diverged; use a smaller learning rate (student.options.learning_rate)"
                )
        best = self._best
        state |= {f"{_BEST}{name}": value for name, value in best.weights.items()}
        figures = {"miou": best.miou, "step": best.step, "worse": best.worse, "last": best.last}
        notes = {"best": json.dumps(figures), "metrics": self._metrics.to_json()}
        self._metrics.write(self._folder)
        self._store.save(Checkpoint(self._trainer.step, state, self._failed, notes))

    def _finish(self) -> None:
        """Write everything that the training makes, the student's own file last."""
        self._is_finished = True
        if not self._is_first:
            return
        best, step = self._best, self._trainer.step
        weights = best.weights or self._trainer.result()
        of_step = best.step if best.weights else step
        training = self._training(of_step)
        record = self._preparation.record(training)
        write_results(self._folder, self._validator, weights, self._data, record, self._metrics)
        self._store.finish(student_bytes(weights, self._preparation.text, record))

    def _training(self, of_step: int) -> dict[str, Any]:
        """Return what the student's file says of its training."""
        return {
            "version": version("ovseg"),
            "versions": self._preparation.versions,
            "identity": self._preparation.identity,
            "steps": self._trainer.step,
            "step_of_weights": of_step,
            "validation_miou": self._best.miou,
            "images": self._data.counts,
            "unreadable": dict(Counter(self._failed.values())),
            **self._data.source.facts,
        }

    def _tally(self, losses: list[float]) -> StudentTally:
        return StudentTally(
            step=self._trainer.step,
            loss=fmean(losses) if losses else None,
            failed=dict(Counter(self._failed.values())),
            miou=self._best.last,
            best_miou=self._best.miou,
            best_step=self._best.step,
            is_finished=self._is_finished,
            counts=self._data.counts,
            images_per_s=self._metrics.images_per_s,
            peak_bytes=self._metrics.peak_bytes,
        )

    @cached_property
    def _data(self) -> StudentData:
        return StudentData(self._config)

    @cached_property
    def _preparation(self) -> Preparation:
        return Preparation(self._config, self._data)

    @property
    def _options(self):  # noqa: ANN202 - what check_config returns
        return self._preparation.options

    @cached_property
    def _folder(self) -> Folder:
        return Folder(uris.normalise(self._config.out))

    @cached_property
    def _store(self) -> StudentStore:
        preparation = self._preparation
        return StudentStore(self._config, preparation.identity, preparation.versions)

    @cached_property
    def _metrics(self) -> Metrics:
        return Metrics(self._options.steps, self._options.batch, self._setup.device)

    @cached_property
    def _task(self) -> StudentTask:
        return build_task(self._config.student, self._config.seed)

    def _network(self) -> nn.Module:
        torch.manual_seed(self._config.seed)
        preparation = self._preparation
        num_phrases, width = preparation.text.rows_QD.shape
        part, file = self._config.student, preparation.first_weights
        return build_network(part, TextShape(num_phrases, width), file)

    @cached_property
    def _validator(self) -> Validator:
        preparation, config = self._preparation, self._config
        return Validator(
            self._network(),
            preparation.text,
            preparation.record({}),
            self._data,
            config.run,
            self._setup.device,
        )

    @cached_property
    def _trainer(self) -> StudentTrainer:
        setup, config = self._setup, self._config
        network: nn.Module = self._network().to(setup.device)
        if setup.num_workers > 1:
            network = _shared(network, setup.device)
        text, known = self._preparation.text, self._data.known
        device = torch.device(setup.device)
        on_device = TextMatrix(
            text.rows_QD.to(device), text.class_index_Q.to(device), text.num_classes
        )
        averaging = Averaging(config.ema_decay, setup.num_workers, self._summed)
        trainer = StudentTrainer(
            network,
            self._task,
            on_device,
            averaging,
            config.precision,
            None if known is None else known.to(device),
        )
        self._resume(trainer)
        return trainer

    def _resume(self, trainer: StudentTrainer) -> None:
        """Continue from the checkpoint, if there is one.

        Raises:
            RunFolderError: it is of another training, or damaged.
        """
        last = self._store.last()
        if last is None:
            return
        if not 0 < last.step < self._options.steps:
            why = f"step {last.step}, expected one before {self._options.steps}"
            raise self._store.damaged(why)
        best = {
            name.removeprefix(_BEST): value
            for name, value in last.state.items()
            if name.startswith(_BEST)
        }
        try:
            trainer.restore(last.step, last.state)
            figures = json.loads(last.notes["best"])
            self._best = _Best(
                miou=None if figures["miou"] is None else float(figures["miou"]),
                step=int(figures["step"]),
                worse=int(figures["worse"]),
                last=None if figures["last"] is None else float(figures["last"]),
                weights=best,
            )
            self._metrics.restore(last.notes["metrics"])
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise self._store.damaged(str(error)) from error
        self._failed = dict(last.failed)

    def _summed(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the workers."""
        if self._setup.num_workers > 1:
            device = values.device
            values = values.to(self._setup.device)
            torch.distributed.all_reduce(values)
            return values.to(device)
        return values

    @property
    def _part(self) -> range:
        """This worker's places in a batch."""
        rank, count = self._setup.rank, self._setup.num_workers
        batch = self._options.batch
        return range(batch * rank // count, batch * (rank + 1) // count)

    @cached_property
    def _sampler(self) -> ImageSampler:
        return ImageSampler(len(self._data.training), 0, self._config.seed)

    @cached_property
    def _views(self) -> Iterator[_View]:
        """This worker's images of all steps from the trainer's step on, in their order."""
        steps = range(self._trainer.step, self._options.steps)
        places = (step * self._options.batch + place for step in steps for place in self._part)
        threads = self._config.run.prefetch_threads
        return map_ahead(self._view, places, threads, 2 * len(self._part))

    def _view(self, place: int) -> _View:
        """Return the image of one draw, or another one if it cannot be read."""
        rng, failed = self._sampler.rng(place), {}
        index, last = self._sampler.index(place), ""
        numbers: Sequence[int] = self._data.training
        for _ in range(_MAX_UNREADABLE):
            example = self._data.example(numbers[index])
            if not isinstance(example, ImageError):
                labels = example.labels
                view = self._task.view(example.image, labels.labels, labels.teacher, rng)
                return _View(view, failed)
            path = self._data.source.path(numbers[index])
            failed[path], last = str(example.code), f"{path}: {example}"
            index = self._sampler.substitute(rng)
        raise CollectionError(f"{_MAX_UNREADABLE} images in a row cannot be read, the last {last}")


def _shared(network: nn.Module, device: str) -> nn.Module:
    """Return the wrapper that gives every worker the mean of all gradients."""
    from torch.nn.parallel import DistributedDataParallel

    if device == "cuda":  # the CPU has none: there each worker normalises its own part
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return DistributedDataParallel(network, device_ids=[torch.cuda.current_device()])
    return DistributedDataParallel(network)
