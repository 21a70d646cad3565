"""The report of `ovseg evaluate --instances`."""

import math

from pipeline.evaluation.instances.average_precision import CocoFigures
from pipeline.evaluation.instances.panoptic_quality import PanopticFigures
from pipeline.evaluation.instances.presence import PresenceFigures
from pipeline.importers.shared.notes import Note, NoteKind
from pipeline.run.tables.answers import Answer
from pipeline.run.tables.damaged import Damage
from schemas.base import Frozen
from schemas.records import Share


class InstanceFigures(Frozen):
    """The figures of one label, or of all labels; each None where it is not defined.

    That is where the truth has no object of the label (of this size), of PQ, SQ and RQ where the
    run has none either.
    """

    ap: float | None
    """COCO's AP, mean over IoU thresholds 0.5 to 0.95; all but `cgf1` and `il_mcc` 0 to 1."""
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    """Objects of at most 32 x 32 pixels."""
    ap_medium: float | None
    ap_large: float | None
    """Objects of at least 96 x 96 pixels."""
    ar1: float | None
    """Recall with the best segment of the label in each image."""
    ar10: float | None
    ar100: float | None
    pq: float | None
    """Panoptic quality."""
    sq: float | None
    """Mean IoU of the matches."""
    rq: float | None
    """F1 of the matches."""
    cgf1: float | None
    """SA-Co's 100 x `pmf1` x `il_mcc`."""
    pmf1: float | None
    """F1 of objects in the images that show the label, mean over IoU thresholds 0.5 to 0.95."""
    il_mcc: float | None
    """-1 to 1: correlation of the label's presence in images; None also where every image shows
    the label."""


class AnswerCheck(Frozen):
    """How often the run gave one answer, and was wrong or right to."""

    num: int
    """Images and labels with this answer."""
    num_shown: int
    """Those of them where the truth has an object of the label in the image."""


class InstanceLabelReport(Frozen):
    """One label."""

    name: str
    figures: InstanceFigures
    num_true: int
    """True objects, without crowd regions."""
    num_found: int
    """Segments of the run."""


class InstanceReport(Frozen):
    """Agreement of a run's segments with true objects."""

    truth: str
    method: str
    backbone: str
    """The CLIP of the run."""
    weights: dict[str, str]
    """SHA-256 of the run's weights."""
    segments: str
    """What a segment of the run is: `masks.segments`."""
    min_score: Share
    """Segments with a lower score were left out."""
    labels: tuple[InstanceLabelReport, ...]
    """Those that the truth has a name for, in the order of the vocabulary."""
    all_labels: InstanceFigures
    """Means over the labels; `cgf1`, `pmf1` and `il_mcc` of all images and labels together."""
    num_images: int
    """Images that were compared."""
    num_without_truth: int
    """Annotated images without truth."""
    num_wrong_size: int
    """Images left out because the truth has another size."""
    num_failed: int
    """Images of the run that failed; not compared."""
    num_left: int
    """Images of the run that are not annotated yet."""
    num_low_score: int
    """Segments that `min_score` left out."""
    num_not_compared: int
    """Segments of labels of which the truth says nothing: it has no name for them, or does not list
    them for the image (LVIS)."""
    answers: dict[Answer, AnswerCheck]
    """Answers of the run to "does this image show this label?", see `pipeline.run.tables.answers`,
    of all images and labels of which the truth tells it."""
    num_crowds: int
    """Crowd regions of the truth: segments in them are neither right nor wrong."""
    unknown_categories: tuple[str, ...]
    """Categories of the truth that the vocabulary lacks; their masks do not count."""
    missing_labels: dict[str, tuple[str, ...]]
    """Labels of the run that the truth has no name for, each with those of the unknown categories
    that may be the same."""
    damaged: dict[str, Damage]
    """What of the run and its review was left out, as no ovseg wrote it, by what it is."""
    notes: dict[NoteKind, Note]
    """What of the truth was left out or read in another way, with the first ten of each kind."""


def instance_figures(
    coco: CocoFigures, panoptic: PanopticFigures, presence: PresenceFigures
) -> InstanceFigures:
    """Return figures as a report has them: None for NaN."""
    values = coco._asdict() | panoptic._asdict() | presence._asdict()
    return InstanceFigures.model_validate(
        {name: None if math.isnan(value) else float(value) for name, value in values.items()}
    )
