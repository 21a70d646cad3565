"""PAMR as SCLIP and TCL use it, against their repositories."""

import re

import pytest
import torch
from torch import Tensor

from ovseg_core.decision.refine.pamr import Pamr
from tests.golden import reference

STEP = slice(None, None, 4)
"""SCLIP's result is kept at every fourth pixel (README)."""


def _given(key: str) -> Tensor:
    return torch.from_numpy(reference.tensors("pamr")[key])[0]


@pytest.mark.parametrize("key", reference.keys("pamr"))
def test_pamr_is_the_authors(key: str) -> None:
    found = re.fullmatch(
        r"(?P<image>.+)\.(?P<user>.+)_iter(?P<steps>\d+)_dil(?P<dilations>.+)", key
    )
    if found is None:
        assert key.endswith((".mask", ".tcl_image", ".tcl_mask")), "the results start from these"
        return
    image = found["image"]
    pamr = Pamr(int(found["steps"]), tuple(map(int, found["dilations"].split("_"))))
    if found["user"] == "tcl":
        ours = pamr(_given(f"{image}.tcl_image"), _given(f"{image}.tcl_mask"))
    else:
        ours = pamr(reference.image(image), _given(f"{image}.mask"))[:, STEP, STEP]
    reference.assert_alike(ours[None].numpy(), reference.tensors("pamr")[key])
