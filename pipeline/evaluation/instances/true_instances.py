"""True objects of single images, in the frame of the run: from a COCO file or a review."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ovseg_core.images.resize.nearest import SizeHW
from pipeline.corrections.frames import SAME, Frame, possible_frames
from pipeline.corrections.matching import count_px, mean_best_iou
from pipeline.evaluation.instances.image_pair import TrueInstance
from pipeline.evaluation.reviewed_truth import ReviewedTruth
from pipeline.evaluation.truth import CocoTruth, FolderTruth, ProtocolTruth, Truth
from pipeline.importers.shared.notes import NoteKind
from pipeline.importers.shared.tool_file import ToolImage
from pipeline.run.reader import Row
from pipeline.run.tables.answers import Answers
from schemas.errors import UserError

_CLEARLY = 0.1
"""By how much the mean IoU with the segments must differ to tell one frame from another."""


@dataclass(frozen=True)
class TrueImage:
    """The objects of one image.

    Attributes:
        size_hw: as the truth says it; another one than the run's cannot be compared.
        frames: the frames that its masks may lie in, the likeliest first; none: another size.
        statement: of a COCO file; None: the truth is a review.
        reviewed: of a review, in the frame of the run.
    """

    size_hw: SizeHW | None
    frames: Sequence[Frame]
    statement: ToolImage | None = None
    reviewed: Sequence[TrueInstance] = ()


class TrueInstances:
    """Reads the objects of a truth.

    Args:
        truth: a COCO file or the review of the run.
        num_labels: of the run.

    Raises:
        UserError: label images, in which touching objects of one label are one.

    Attributes:
        covered: the labels of which the truth says where their objects are.
    """

    def __init__(self, truth: Truth, num_labels: int) -> None:
        if isinstance(truth, FolderTruth | ProtocolTruth):
            raise UserError(
                "label images do not tell touching objects apart: expected for --instances a COCO "
                "file with a mask for each object (--truth instances.json), or the review of the "
                "run (--truth reviewed)"
            )
        self._truth = truth
        is_file = isinstance(truth, CocoTruth)
        self.covered = truth.covered if is_file else frozenset(range(1, num_labels + 1))

    def image(self, row: Row) -> TrueImage | None:
        """Return what the truth says of an image of the run; None: nothing."""
        if isinstance(self._truth, ReviewedTruth):
            masks = self._truth.masks(row["path"])
            if masks is None:
                return None
            objects = [TrueInstance(m.category_id, m.rle_counts, m.area_px) for m in masks]
            return TrueImage((row["height"], row["width"]), [SAME], reviewed=objects)
        if not isinstance(self._truth, CocoTruth):
            raise TypeError(f"expected a COCO truth or a review, got {type(self._truth)}")
        statement = self._truth.statement(row["path"])
        if statement is None:
            return None
        frames = possible_frames(statement, row)
        wanted = [frame for frame in frames if frame.kind in ("same", "ignored")]
        return TrueImage(statement.size_hw, wanted, statement)

    def asked(self, image: TrueImage) -> frozenset[int]:
        """Return the labels of which the truth says where all their objects in an image are.

        LVIS says it of labels with masks and of those in `neg_category_ids`, but not of those in
        `not_exhaustive_category_ids`; other files say it of all labels.
        """
        statement = image.statement
        if statement is None or statement.absent is None or not isinstance(self._truth, CocoTruth):
            return self.covered
        told = statement.absent.union(mask.label for mask in statement.masks)
        numbers = {self._truth.label_number(name) for name in told - statement.not_exhaustive}
        return frozenset(numbers - {0})

    def objects(self, image: TrueImage, frame: Frame, size_hw: SizeHW) -> list[TrueInstance]:
        """Return the objects of an image that have a label of the run and a pixel."""
        if image.statement is None or not isinstance(self._truth, CocoTruth):
            return list(image.reviewed)
        found = []
        for mask in image.statement.masks:
            label = self._truth.label_number(mask.label)
            if not label:
                continue
            counts = frame.counts(mask, size_hw)
            if num_px := count_px(counts, size_hw):
                area_px = mask.area_px or num_px
                found.append(TrueInstance(label, counts, area_px, mask.is_crowd))
        return found


@dataclass(frozen=True)
class ComparedImage:
    """An image whose truth may lie in two frames, with what the run says of it."""

    row: Row
    truth: TrueImage
    segments: Sequence[Row]
    answers: Answers


class FramesOfTruth:
    """Whether a truth ignores EXIF orientations: one answer for all images.

    Sizes tell it where they can; else the frame counts that fits the segments clearly better, over
    all images together. The images that wait for the answer are kept, as run lengths.

    Args:
        truth: its notes get the images that are turned.
    """

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._told: Counter[str] = Counter()
        self._untold: list[ComparedImage] = []

    def told(self, row: Row, truth: TrueImage) -> Frame:
        """Note an image whose frame is clear, and return it."""
        [frame] = truth.frames
        if row["exif_orientation"] != 1:
            self._told[frame.kind] += 1
            self._note(row, frame)
        return frame

    def keep(self, image: ComparedImage) -> None:
        """Keep an image until all were seen."""
        self._untold.append(image)

    def settled(self) -> Iterator[tuple[ComparedImage, Frame]]:
        """Yield the images that were kept, each with its frame."""
        if len(self._told) == 1:
            [kind] = self._told
        else:
            kind = "ignored" if self._fits_better_turned() else "same"
        for image in self._untold:
            frame = next(frame for frame in image.truth.frames if frame.kind == kind)
            self._note(image.row, frame)
            yield image, frame

    def _fits_better_turned(self) -> bool:
        ious = {"same": 0.0, "ignored": 0.0}
        for image in self._untold:
            size_hw = image.row["height"], image.row["width"]
            segments = [segment["rle_counts"] for segment in image.segments]
            masks = image.truth.statement.masks if image.truth.statement else ()
            for frame in image.truth.frames:
                counts = [frame.counts(mask, size_hw) for mask in masks]
                ious[frame.kind] += mean_best_iou(counts, segments, size_hw) / len(self._untold)
        return ious["ignored"] >= ious["same"] + _CLEARLY

    def _note(self, row: Row, frame: Frame) -> None:
        if frame.note:
            self._truth.notes.add(NoteKind.FRAMES, f"{row['path']}: {frame.note}")
