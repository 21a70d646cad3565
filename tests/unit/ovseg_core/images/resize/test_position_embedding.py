"""Position embeddings at other grids; the published interpolations are golden tests."""

import pytest
import torch

from ovseg_core.images.resize.position_embedding import PositionTable


def test_position_table_is_cached_and_unchanged() -> None:
    table = torch.randn((1 + 12, 4))
    before = table.clone()
    positions = PositionTable(table, (3, 4))
    assert positions.at("size", (3, 4)) is table
    for rule in ("size", "scale01", "bilin", "antialias"):
        read = positions.at(rule, (5, 2))
        assert read.shape == (11, 4)
        assert torch.equal(read[0], table[0])
        assert positions.at(rule, (5, 2)) is read
    assert torch.equal(table, before)
    assert positions.at("size", (4, 3)).shape == table.shape
    assert not torch.equal(positions.at("size", (4, 3)), table)


def test_position_table_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs 13 rows, got 12"):
        PositionTable(torch.zeros((12, 4)), (3, 4))
