"""What a file says of the labels that an image has no mask of, in LVIS's words."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.exporters.shared.corrected_run import CorrectedRun
from pipeline.run.tables.answers import ABSENT, ANSWER_COLUMNS, answers_by_image
from pipeline.run.tables.rows import Row


class LabelAnswers(NamedTuple):
    """Category ids of one image. A label of neither that has no mask may be there or not."""

    absent: list[int]
    """Labels that the image does not show; LVIS's `neg_category_ids`."""
    not_exhaustive: list[int]
    """Labels that it has masks of, but perhaps not all; LVIS's `not_exhaustive_category_ids`."""


class AnswerReader:
    """Finds the answers of images, which are asked for in the run's order.

    Where people went through an image, theirs count: a label without a mask is absent, unless their
    tool does not know it. Else a label is absent as `pipeline.run.tables.answers` has it; of a file
    of reviewed masks alone, the model's answers are no part.

    Args:
        reader: of the run.
        unsure_from: see `pipeline.run.tables.answers.UNSURE_FROM`.
    """

    def __init__(self, reader: CorrectedRun, unsure_from: float) -> None:
        self._reader = reader
        self._unsure_from = unsure_from
        self._names = reader.run.info.job().vocabulary.names
        self._markers = {marker.shard: marker for marker in reader.markers}
        self._shard = -1
        self._absent: dict[str, list[int]] = {}

    def of(self, image: Row, rows: list[Row]) -> LabelAnswers:
        """Return the answers of one image.

        Args:
            image: its row, with the labels that are `left_out` in part.
            rows: its masks in the file.
        """
        hidden = image["left_out"]
        absent = self._absent_of_model(image)
        if self._reader.masks == "predicted" and not hidden:
            return LabelAnswers(absent, [])
        image_id, shown = image["image_id"], {row["category_id"] for row in rows}
        if self._reader.is_reviewed(image_id):
            unknown = self._reader.labels_not_reviewed(image_id)
            known = {k for k, name in enumerate(self._names, start=1) if name not in unknown}
            absent = sorted(known.union(absent))
        elif self._reader.masks == "reviewed":
            return LabelAnswers([], sorted(shown))
        return LabelAnswers(
            [k for k in absent if k not in shown and k not in hidden], sorted(shown & hidden)
        )

    def _absent_of_model(self, image: Row) -> list[int]:
        if self._shard != image["shard"]:  # all images of a shard at once
            self._shard = image["shard"]
            run, marker = self._reader.run, self._markers[self._shard]
            scores = run.shard_table(marker, "scores", ANSWER_COLUMNS)
            ids = scores["image_id"].unique().cast(pa.string()).to_pylist()
            answers = answers_by_image(scores, ids, len(self._names), self._unsure_from)
            places, labels = np.nonzero(answers == ABSENT)
            bounds = np.searchsorted(places, np.arange(len(ids) + 1)).tolist()
            absent = (labels + 1).tolist()
            self._absent = {
                image_id: absent[bounds[k] : bounds[k + 1]] for k, image_id in enumerate(ids)
            }
        return self._absent.get(image["image_id"], [])
