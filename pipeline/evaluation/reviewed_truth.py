"""The corrections of a run as a truth: `ovseg evaluate RUN --truth reviewed`."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.rle.label_map import paint_label_map
from pipeline.corrections.layer import ReviewedLayer
from pipeline.evaluation.truth import LabelMap
from pipeline.importers.shared.notes import Notes
from pipeline.run.tables.damaged import Damage
from schemas.errors import UserError
from schemas.review import ReviewedMask

REVIEWED = "reviewed"
"""The value of `--truth`; a folder of that name is `./reviewed`."""


class ReviewedTruth:
    """Label maps of the images that were reviewed; see `truth.Truth`.

    Where masks overlap the one with fewer pixels is on top, of instances first that of the higher
    score. Pixels without a mask are background, also where a predicted mask was rejected.

    Raises:
        UserError: nothing is reviewed.
    """

    unknown: tuple[str, ...] = ()
    values = ""

    def __init__(self, layer: ReviewedLayer) -> None:
        self.notes = Notes()
        self._layer = layer
        self._image_id = {image.path: key for key, image in layer.images.items()}
        self.num_images = len(self._image_id)
        if not self.num_images:
            raise UserError(
                "no image of the run is reviewed: review it with `ovseg review`, or import another "
                "tool's file with `ovseg import-review`"
            )

    @cached_property
    def num_unchanged(self) -> int:
        """Images that were imported as predicted, from a tool that tells no time of a person."""
        return self._layer.num_unchanged

    def left_out(self) -> dict[str, Damage]:
        """Return what of the review does not count, as far as it was read."""
        return self._layer.left_out()

    def masks(self, path: str) -> Sequence[ReviewedMask] | None:
        """Return the masks of one image; None: it is not reviewed."""
        image_id = self._image_id.get(path)
        return None if image_id is None else self._layer.masks(image_id)

    def label_map(self, path: str) -> LabelMap | None:
        """Paint the masks of one image."""
        if path not in self._image_id:
            return None
        image_id = self._image_id[path]
        return paint_masks(self._layer.bottom_first(image_id), self._layer.size_hw(image_id))


def paint_masks(masks: Sequence[ReviewedMask], size_hw: SizeHW) -> LabelMap:
    """Paint people's masks; of two that overlap the later one is on top."""
    counts, values = [m.rle_counts for m in masks], [m.category_id for m in masks]
    return paint_label_map(counts, values, size_hw).astype(np.int32)
