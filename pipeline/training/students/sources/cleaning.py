"""Which pixels of the teacher's masks are learned: all, but those that cleaning takes out."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ovseg_core.images.resize.nearest import SizeHW
from ovseg_core.training.students import IGNORED, Labels
from pipeline.run.folder import RunFolder
from pipeline.run.reader import paint_places
from pipeline.run.tables.damaged import Row
from pipeline.storage import uris
from pipeline.storage.folder import Folder
from pipeline.storage.yaml_file import MAX_BYTES
from schemas.config import Calibration, CleaningConfig
from schemas.errors import UserError
from schemas.redact import redact
from schemas.score_columns import SCORE


class Cleaning:
    """Turns the masks of an image into what is learned of them.

    Args:
        config: the rules.
        calibration: the content of the file that `config.thresholds` names; None: none is named.
    """

    def __init__(self, config: CleaningConfig, calibration: Calibration | None = None) -> None:
        self._config = config
        self._calibration = calibration

    @classmethod
    def of_run(cls, config: CleaningConfig, run: RunFolder) -> "Cleaning":
        """Return the rules for a run.

        Raises:
            UserError: the calibration cannot be read, is of another method, or the run's scores
                are calibrated already.
        """
        if not config.thresholds:
            return cls(config)
        job = run.info.job()
        if job.calibration is not None:
            raise UserError(
                "cleaning.thresholds: the scores of this run are calibrated already, and segments "
                "below the thresholds are not in it: leave it out"
            )
        calibration = _read_calibration(config.thresholds)
        if calibration.method != job.method.name:
            raise UserError(
                f"cleaning.thresholds: the calibration is of the method {calibration.method!r}, "
                f"the run's is {job.method.name!r}: their scores cannot be compared"
            )
        return cls(config, calibration)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All of the rules, by name; a calibration with its content."""
        values = self._config.model_dump(mode="json")
        if self._calibration is not None:
            values["thresholds"] = self._calibration.model_dump(mode="json")
        return values

    def keeps(self, row: Row) -> bool:
        """Return whether a mask is learned, given its row with label and score."""
        score = row[SCORE]
        if score < self._config.min_score:
            return False
        if self._calibration is None:
            return True
        found = self._calibration
        calibrated = float(np.interp(score, found.scores, found.probabilities))
        return calibrated >= found.threshold(row["label"])

    def paint(self, rows: Sequence[Row], size_hw: SizeHW) -> "PaintedMasks":
        """Paint the masks of an image.

        Args:
            rows: its segments, none damaged.
            size_hw: of the image.
        """
        place = paint_places(rows, size_hw)
        categories = [row["category_id"] for row in rows]
        kept = [row["category_id"] if self.keeps(row) else IGNORED for row in rows]
        painted = np.array([0, *categories], np.int16)[place]
        cleaned = np.array([0, *kept], np.int16)[place]
        if self._config.edge_px:
            cleaned[_near_edges(painted, self._config.edge_px)] = IGNORED
        return PaintedMasks(place, painted, cleaned)


class PaintedMasks:
    """The masks of one image as maps (H, W).

    Attributes:
        place: uint32, 0 where there is no mask, else the place of the mask's row, from 1.
        painted: the label of each pixel.
        cleaned: the same, IGNORED where cleaning takes it out.
    """

    def __init__(self, place: NDArray[np.uint32], painted: Labels, cleaned: Labels) -> None:
        self.place = place
        self.painted = painted
        self.cleaned = cleaned


def _near_edges(labels: Labels, edge_px: int) -> NDArray[np.bool_]:
    """Return the pixels with another label at most `edge_px` away, in either direction."""
    side = 2 * edge_px + 1
    window = cv2.getStructuringElement(cv2.MORPH_RECT, (side, side))
    values: Any = labels.astype(np.uint16)
    # OpenCV's default border takes no part, so the image's own rim is no edge.
    highest, lowest = cv2.dilate(values, window), cv2.erode(values, window)
    return np.asarray(highest != lowest)


def _read_calibration(uri: str) -> Calibration:
    folder, name = uris.parent_and_name(uris.normalise(uri))
    place = redact(uri)
    try:
        return Calibration.model_validate_json(Folder(folder).read_bytes(name, MAX_BYTES))
    except FileNotFoundError as error:
        raise UserError(f"cleaning.thresholds: there is no file {place}") from error
    except ValidationError as error:
        raise UserError(
            f"cleaning.thresholds: {place} is not a file of `ovseg calibrate`: "
            f"{error.errors()[0]['msg']}"
        ) from error
