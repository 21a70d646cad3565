"""The one place where an exception becomes the error code of an image."""

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from ovseg_core.backbones.compute import is_out_of_memory
from schemas.errors import ErrorCode, FeaturesError, ImageError

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

BrokenDeviceError: type[Exception] = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)
"""What torch raises when the GPU context is lost; every later call in the process fails as well."""


def value_or_error(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | ImageError:
    """Return what `work(*args, **kwargs)` returns, or its exception as the error of an image.

    Raises:
        FeaturesError: stored features are damaged.
        BrokenDeviceError: nothing more can be computed in this process; no image is the cause.
    """
    try:
        return work(*args, **kwargs)
    except FeaturesError:
        raise
    except ImageError as error:
        return ImageError(error.code, error.message)  # without frames, which hold the pixels
    except Exception as error:  # one image must not stop the shard
        if is_out_of_memory(error):
            return ImageError(ErrorCode.OUT_OF_MEMORY, error_summary(error))
        if isinstance(error, BrokenDeviceError):
            raise
        logger.warning("unexpected failure of an image", exc_info=error)
        return ImageError(ErrorCode.INTERNAL, error_summary(error))


def error_summary(error: BaseException) -> str:
    """Return an exception's class and first line, short enough for a table's cell."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:500]
