"""Exceptions of one image become error codes."""

import pytest
import torch

from pipeline.annotate.image_errors import (
    BrokenDeviceError,
    error_summary,
    value_or_error,
)
from schemas.errors import ErrorCode, ImageError


def failing(error):
    def work():
        raise error

    return work


def too_large_for_this_machine():
    return torch.empty(10**15)


@pytest.mark.parametrize(
    ("work", "code"),
    [
        (failing(ImageError(ErrorCode.TRUNCATED, "half")), ErrorCode.TRUNCATED),
        (failing(MemoryError()), ErrorCode.OUT_OF_MEMORY),
        (failing(torch.OutOfMemoryError("CUDA out of memory")), ErrorCode.OUT_OF_MEMORY),
        (too_large_for_this_machine, ErrorCode.OUT_OF_MEMORY),
        (failing(RuntimeError("mat1 and mat2")), ErrorCode.INTERNAL),
        (failing(KeyError("x")), ErrorCode.INTERNAL),
    ],
)
def test_exception_becomes_an_error_code(work, code):
    assert value_or_error(work).code is code


def test_value_is_returned():
    assert value_or_error(max, 3, 42) == 42


@pytest.mark.skipif(
    BrokenDeviceError is torch.OutOfMemoryError, reason="this torch has no AcceleratorError"
)
def test_broken_device_is_raised():
    with pytest.raises(BrokenDeviceError):
        value_or_error(failing(BrokenDeviceError("device-side assert")))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_request_to_stop_is_raised(error):
    with pytest.raises(error):
        value_or_error(failing(error()))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad\nTraceback: long"), "ValueError: bad"),
        (ValueError(), "ValueError: "),
        (ValueError("x" * 9999), "ValueError: " + "x" * 488),
    ],
)
def test_error_summary_is_one_short_line(error, text):
    assert error_summary(error) == text
