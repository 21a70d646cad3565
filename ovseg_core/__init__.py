"""Torch in, torch out: the segmenters and what is made of their scores.

Knows no Ray, no storage, no command line. From Python, `load` is the way in:

    import ovseg_core as ov

    segmenter = ov.load("clip_diy")
    result = segmenter("photo.jpg", ["cat", "dog"])
"""

from typing import TYPE_CHECKING

from schemas import lazy_names

if TYPE_CHECKING:
    from ovseg_core.prediction.prediction import Prediction, Segment
    from ovseg_core.prediction.predictor import Predictor, load

__all__ = ["Prediction", "Predictor", "Segment", "load"]

__getattr__, __dir__ = lazy_names(
    dict.fromkeys(("Prediction", "Segment"), "ovseg_core.prediction.prediction")
    | dict.fromkeys(("Predictor", "load"), "ovseg_core.prediction.predictor")
)
