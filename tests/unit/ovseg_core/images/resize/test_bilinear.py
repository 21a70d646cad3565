"""The bilinear resize by axis and band equals PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from ovseg_core.images.resize.bilinear import MeanMap, bilinear_taps


@pytest.mark.parametrize(("num_in", "num_out"), [(5, 13), (13, 5), (1, 4), (7, 7), (28, 448)])
def test_taps_equal_pytorchs_interpolation(num_in: int, num_out: int) -> None:
    values = torch.randn(num_in, generator=torch.Generator().manual_seed(num_in))
    taps = bilinear_taps(num_in, num_out)
    ours = torch.lerp(values[taps.low], values[taps.high], taps.weight)
    expected = F.interpolate(values[None, None], num_out, mode="linear")[0, 0]
    torch.testing.assert_close(ours, expected)


def test_mean_map_by_bands_equals_the_mean_of_resized_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn((3, *size), generator=generator) for size in ((4, 6), (7, 5))]
    expected = torch.stack(
        [F.interpolate(level[None], (20, 31), mode="bilinear")[0] for level in levels]
    ).mean(dim=0)
    mean = MeanMap(levels, (20, 31))
    bands = [mean.rows(slice(start, min(start + 8, 20))) for start in (0, 8, 16)]
    torch.testing.assert_close(torch.cat(bands, dim=1), expected)
    torch.testing.assert_close(mean.rows(slice(3, 9), slice(1, 2)), expected[1:2, 3:9])
