"""CLIPtrase's clusters of patches and their region maps, against plain NumPy and SciPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import median_filter
from torch import Tensor
from torch.nn import functional

from ovseg_core.images.batch import ImageBatch
from ovseg_core.methods import build_segmenter, check_options, cliptrase
from ovseg_core.segmenter import ScoreMaps, encode_images
from schemas.config import NamedOptions
from schemas.errors import ConfigError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones

WORDS = Vocabulary.model_validate(["cat", "dog", "sofa"])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_dbscan(rows: NDArray[Any], eps: float, min_samples: int) -> list[int]:
    """The textbook's: clusters grow one after the other, a border point goes to the first."""
    near = np.linalg.norm(rows[:, None] - rows[None], axis=2) <= eps
    core = near.sum(axis=1) >= min_samples
    labels = [-1] * len(rows)
    clusters = 0
    for first in np.flatnonzero(core):
        if labels[first] >= 0:
            continue
        labels[first], growing = clusters, [first]
        while growing:
            point = growing.pop()
            for other in np.flatnonzero(near[point]) if core[point] else ():
                if labels[other] < 0:
                    labels[other] = clusters
                    growing.append(other)
        clusters += 1
    return labels


def test_recovered_correlation_is_the_mean_cosine_over_heads_and_tensors() -> None:
    tokens = [randn(2, 3, 5, 4, seed=seed) for seed in range(3)]  # B, H, L, d
    expected = torch.zeros(2, 5, 5)
    for one in tokens:
        for head in range(3):
            part = one[:, head]
            expected += torch.cosine_similarity(part[:, :, None], part[:, None], dim=3) / 9
    torch.testing.assert_close(cliptrase.recovered_correlation(*tokens), expected)


def test_denoised_subtracts_the_class_tokens_row() -> None:
    correlation = randn(2, 5, 5)
    ours = cliptrase.denoised(correlation)
    for image, row, column in np.ndindex(2, 4, 4):
        given = correlation[image, row + 1, column + 1] - correlation[image, 0, column + 1]
        assert ours[image, row, column] == max(float(given), 0.0)
    assert 0 < (ours == 0).float().mean() < 1


@pytest.mark.parametrize(("patches", "expected"), [(196, (0.7, 3)), (441, (1.1, 7))])
def test_dbscan_density_at_published_sizes(patches: int, expected: tuple[float, int]) -> None:
    assert cliptrase.dbscan_density(patches) == pytest.approx(expected)
    assert cliptrase.dbscan_density(patches, 0.3, 9) == (0.3, 9)


def test_dbscan_density_grows_with_the_grid() -> None:
    epses, samples = zip(
        *(cliptrase.dbscan_density(n) for n in (1, 36, 196, 300, 441, 900)), strict=True
    )
    assert sorted(epses) == list(epses)
    assert epses[0] > 0
    assert samples == (2, 2, 3, 5, 7, 14)


@pytest.mark.parametrize(("eps", "min_samples"), [(0.1, 1), (0.25, 3), (0.35, 4), (5.0, 2)])
def test_dbscan_equals_the_textbook(eps: float, min_samples: int) -> None:
    rows = torch.cat([0.15 * randn(14, 3, seed=1), 0.15 * randn(14, 3, seed=2) + 0.6, randn(8, 3)])
    rows = rows[torch.randperm(36, generator=torch.Generator().manual_seed(3))]
    ours = cliptrase.dbscan(rows, eps, min_samples)
    assert ours.tolist() == plain_dbscan(rows.numpy(), eps, min_samples)


def test_cluster_maps_are_mean_rows_enlarged() -> None:
    rows, clusters = randn(6, 6), np.array([1, 0, -1, 1, 1, 0])
    ours = cliptrase.cluster_maps(rows, clusters, (2, 3))
    assert ours.shape == (2, 8, 12)
    means = torch.stack([rows[[1, 5]].mean(0), rows[[0, 3, 4]].mean(0)]).view(1, 2, 2, 3)
    expected = functional.interpolate(means, size=(8, 12), mode="bilinear")[0]
    torch.testing.assert_close(ours, expected)


def test_median_filtered_equals_scipy_map_by_map() -> None:
    maps = randn(3, 8, 12)
    expected = [median_filter(one.numpy(), size=7, mode="reflect") for one in maps]
    np.testing.assert_array_equal(cliptrase.median_filtered(maps).numpy(), np.stack(expected))


@pytest.mark.parametrize("elements", [1, 500, 1 << 22])
def test_region_map_in_bands_and_without_padding(elements: int) -> None:
    maps = randn(4, 8, 12)  # of 2 x 3 patches of 16 px: 32 x 48
    whole = functional.interpolate(maps[None], size=(32, 48), mode="bilinear")[0].argmax(0)
    assert torch.equal(cliptrase.region_map(maps, (32, 48), 16, elements), whole.int())
    assert torch.equal(cliptrase.region_map(maps, (25, 44), 16, elements), whole[3:28, 2:46].int())
    spread = functional.interpolate(maps[None], size=(40, 50), mode="bilinear")[0].argmax(0)
    assert torch.equal(cliptrase.region_map(maps, (40, 50), 0, elements), spread.int())


def maps_of(size: tuple[int, int], **options: Any) -> ScoreMaps:
    method = build_segmenter(NamedOptions(name="cliptrase", options=options), tiny_backbones())
    images = [random_image(0, *size), random_image(1, 40, 50)]
    return method.score(encode_images(method, images), method.text_matrix(WORDS))


def test_regions_have_the_size_of_the_resized_image() -> None:
    maps = maps_of((45, 61), eps=9.0, min_samples=1)
    assert maps.regions is not None
    assert maps.stitches is not None
    for regions, stitch in zip(maps.regions, maps.stitches, strict=True):
        assert regions[0].shape == (stitch.rows.side_px, stitch.columns.side_px)
        assert not regions[0].any(), "all patches are one cluster"


def test_no_region_map_if_all_patches_are_noise() -> None:
    assert maps_of((45, 61), eps=1e-6, min_samples=2).regions == ((), ())


@pytest.mark.parametrize("size", [(45, 61), (7, 300), (1, 1)])
def test_regions_cover_the_whole_image_with_global_attention(size: tuple[int, int]) -> None:
    maps = maps_of(size, eps=9.0, min_samples=1, global_attention=True, outlier_repair=True)
    assert maps.regions is not None
    assert maps.stitches is not None
    stitch = maps.stitches[0]
    assert maps.regions[0][0].shape == (stitch.rows.side_px, stitch.columns.side_px)


def test_masks_of_a_folder_vote_after_the_clusters(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1, 1]], np.uint8)).save(tmp_path / "a.png")
    folder = {"name": "folder", "options": {"folder": str(tmp_path)}}
    options = {"proposals": folder, "eps": 9.0, "min_samples": 1}
    method = build_segmenter(NamedOptions(name="cliptrase", options=options), tiny_backbones())
    batch = ImageBatch((random_image(0, 45, 61),), ("a.jpg",))
    maps = method.score(encode_images(method, batch), method.text_matrix(WORDS))
    assert maps.regions is not None
    clusters, masks = maps.regions[0]
    assert not clusters.any()
    assert masks.tolist() == [[-1, 0, 0]]


def test_sliding_windows_are_refused() -> None:
    with pytest.raises(ConfigError, match="cliptrase clusters the whole image"):
        check_options(NamedOptions(name="cliptrase", options={"window_px": 224}))
