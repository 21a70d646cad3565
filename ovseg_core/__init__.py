"""Torch in, torch out: the segmenters and what is made of their scores.

Knows no Ray, no storage, no command line. From Python, `load` is the way in:

    import ovseg_core as ov

    segmenter = ov.load("clip_diy")
    result = segmenter("photo.jpg", ["cat", "dog"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovseg_core.prediction.prediction import Prediction, Segment
    from ovseg_core.prediction.predictor import Predictor, load

__all__ = ["Prediction", "Predictor", "Segment", "load"]

_HOMES = {
    "Prediction": "prediction",
    "Predictor": "predictor",
    "Segment": "prediction",
    "load": "predictor",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.prediction.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
