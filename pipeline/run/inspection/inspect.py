"""The content of a run folder in numbers: counts, errors, slow images, images left."""

import heapq
from collections import Counter

import numpy as np
import pyarrow as pa

from pipeline.annotate.bottleneck import Bottleneck, bottleneck_of
from pipeline.collection.left_out import LeftOut, left_out_of
from pipeline.run.folder import RunFolder
from pipeline.run.images import RunImages
from pipeline.run.tables.answers import ANSWERS, FAILED, NOT_ASKED, Answer, scored_answers
from pipeline.run.tables.rows import rows_of
from pipeline.run.vectors import num_vectors
from schemas.base import Frozen
from schemas.errors import PASSING_CODES
from schemas.records import STAGES, THREAD_TIMES, ShardFailed

_SECONDS = tuple(f"{stage}_s" for stage in STAGES)
_TIMES = (*STAGES, *THREAD_TIMES)
_NUM_SLOWEST = 10
_NUM_EXAMPLES = 3


class SlowImage(Frozen):
    """One of the images that took longest."""

    path: str
    seconds: float
    stages: dict[str, float]
    """Seconds by stage, see `schemas.records.STAGES`."""
    height: int
    width: int


class ImageProblem(Frozen):
    """An example of a failed image."""

    path: str
    code: str
    message: str


class Inspection(Frozen):
    """A run folder at one moment; every count is of committed shards only."""

    run: str
    fingerprint: str
    method: str
    note_on_models: str
    """That the models do not fit the images; empty: there is nothing to say."""
    generation: int
    """Of the images, from 1; later ones are of `--update`."""
    num_images: int
    """In the collection."""
    num_superseded: int
    """Images of earlier generations that vanished, or that a changed one has replaced."""
    left_out: tuple[LeftOut, ...]
    """What the listing of the collection left out."""
    num_ok: int
    num_errors: int
    num_left: int
    """Images of shards without a done marker."""
    num_shards: int
    num_shards_done: int
    """Those in which nothing is left."""
    num_segments: int
    segments_by_label: dict[str, int]
    """Labels without segments are included, with 0."""
    answers: dict[Answer, int]
    """Answers to "does this image show this label?", one for each image and label, see
    `pipeline.run.tables.answers`."""
    errors: dict[str, int]
    """Failed images by code."""
    num_vectors: int
    """Images with a vector, see `pipeline.run.vectors`."""
    num_multi_frame: int
    """Images whose files have several frames or pages, of which one was annotated."""
    waiting: dict[str, int]
    """Those of them with a passing error, by code: the next call of the same command tries them
    again."""
    problems: tuple[ImageProblem, ...]
    """The first few failed images of each code."""
    slowest: tuple[SlowImage, ...]
    seconds: dict[str, float]
    """Summed over images by stage, and of the compute threads (`schemas.records.THREAD_TIMES`)."""
    bottleneck: Bottleneck
    """What limited the workers."""
    failed_shards: tuple[ShardFailed, ...]
    """Shards that were given up; the next run tries them again."""
    orphans: tuple[str, ...]
    """Files that no done marker names, left by workers that were killed."""
    links: tuple[str, ...]
    """Symbolic links in the folder; none is followed."""
    other_versions: dict[str, int]
    """Shards by library and version, where it is not the version with which the run was begun."""


class _ImageSummary:
    """Counts of one pass over the image rows, and the slowest images."""

    def __init__(self) -> None:
        self.num_ok = 0
        self.errors: Counter[str] = Counter()
        self.problems: list[ImageProblem] = []
        self.slowest: list[tuple[float, str, SlowImage]] = []

    def add(self, row: dict) -> None:
        """Count one row of the image table."""
        if row["status"] == "ok":
            self.num_ok += 1
        else:
            code = str(row["error_code"])
            self.errors[code] += 1
            if self.errors[code] <= _NUM_EXAMPLES:
                problem = ImageProblem(path=row["path"], code=code, message=row["error_message"])
                self.problems.append(problem)
        total = sum(row[name] for name in _SECONDS)
        if len(self.slowest) == _NUM_SLOWEST and total <= self.slowest[0][0]:
            return
        stages = {stage: round(row[f"{stage}_s"], 4) for stage in STAGES}
        slow = SlowImage(
            path=row["path"],
            seconds=round(total, 4),
            stages=stages,
            height=row["height"],
            width=row["width"],
        )
        heapq.heappush(self.slowest, (total, row["path"], slow))
        if len(self.slowest) > _NUM_SLOWEST:
            heapq.heappop(self.slowest)


def inspect_folder(run: RunFolder) -> Inspection:
    """Read a run folder once and sum it up; memory does not grow with the number of images."""
    done = run.done()
    seconds: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    for marker in done.values():
        seconds.update(marker.tally.seconds)
        versions.update(" ".join(pair) for pair in marker.other_versions.items())
    images = _ImageSummary()
    columns = ["path", "status", "error_code", "error_message", "height", "width", *_SECONDS]
    for batch in run.read_table("images", columns):
        for row in rows_of(batch):
            images.add(row)
    config = run.info.job()
    labels: Counter[str] = Counter(dict.fromkeys(config.vocabulary.names, 0))
    for batch in run.read_table("annotations", ["label"]):
        for pair in batch.column(0).value_counts().to_pylist():
            labels[pair["values"]] += pair["counts"]
    answers = np.zeros(len(ANSWERS), np.int64)
    for batch in run.read_table("scores", ["max_prob", "area_frac"]):
        scored = scored_answers(pa.Table.from_batches([batch]))
        answers += np.bincount(scored, minlength=len(ANSWERS))
    num_labels = len(config.vocabulary.names)
    num_done = sum(marker.tally.num_images for marker in done.values())
    num_failed = sum(images.errors.values())
    answers[FAILED] = num_failed * num_labels
    answers[NOT_ASKED] = run.num_images * num_labels - answers.sum()
    return Inspection(
        run=run.folder.uri,
        fingerprint=run.fingerprint,
        method=config.method.name,
        note_on_models=RunImages(run).note_on_models,
        generation=run.generations.number,
        num_images=run.num_images,
        num_superseded=run.all_images().num_rows - run.num_images,
        left_out=left_out_of(run.manifest()),
        num_ok=images.num_ok,
        num_errors=num_failed,
        num_left=run.num_images - num_done,
        num_shards=run.num_shards,
        num_shards_done=run.num_shards - len(run.shards_left(done)),
        num_segments=sum(labels.values()),
        segments_by_label=dict(labels),
        answers=dict(zip(ANSWERS, answers.tolist(), strict=True)),
        errors=dict(images.errors.most_common()),
        num_vectors=num_vectors(run),
        num_multi_frame=sum(marker.tally.num_multi_frame for marker in done.values()),
        waiting={code: n for code, n in images.errors.most_common() if code in PASSING_CODES},
        problems=tuple(images.problems),
        slowest=tuple(slow for _, _, slow in sorted(images.slowest, reverse=True)),
        seconds={name: round(seconds[name], 3) for name in _TIMES if name in seconds},
        bottleneck=bottleneck_of(seconds, num_done),
        failed_shards=tuple(run.failed().values()),
        orphans=tuple(run.orphans()),
        links=tuple(run.links()),
        other_versions=dict(versions),
    )
