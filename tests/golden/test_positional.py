"""Position embeddings at other grids, against the authors' interpolations."""

import pytest
import torch

from ovseg_core.images.resize.position_embedding import PositionTable
from tests.golden import reference


def _table(network: str) -> torch.Tensor:
    if network == "clip":
        return reference.weights()["clip.visual.positional_embedding"]
    return reference.weights()[f"{network}.pos_embed"][0]


def _read(rule: str, height: str, width: str, network: str = "clip") -> torch.Tensor:
    table = _table(network or "clip")
    side = round((len(table) - 1) ** 0.5)
    return PositionTable(table, (side, side)).at(rule, (int(height), int(width)))


CHECKS = [
    (r"(?P<rule>size|scale01|bilin)\.(?P<height>\d+)x(?P<width>\d+)", _read),
    (r"(?P<network>dino\d+)_(?P<rule>[a-z0-9]+)\.(?P<height>\d+)x(?P<width>\d+)", _read),
]


@pytest.mark.parametrize("key", reference.keys("positional"))
def test_interpolation_equals_the_authors(key: str) -> None:
    expected = reference.tensors("positional")[key]
    ours = reference.computed(key, CHECKS)[:, : expected.shape[1]]
    reference.assert_alike(ours, expected)
