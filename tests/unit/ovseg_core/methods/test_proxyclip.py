"""ProxyCLIP's own parts: the proxy attention's edge cases, feature adjustment, the networks."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_core.backbones.registry import Backbones
from ovseg_core.dense.encoder import DenseFeatures
from ovseg_core.dense.scoring import SURGERY, WITHOUT_CLASS_TOKEN, Scoring
from ovseg_core.dense.segmenter import WindowSegmenter
from ovseg_core.methods import proxyclip
from ovseg_core.segmenter import TextMatrix, encode_images
from schemas.config import EMBEDDED, ClipConfig
from schemas.errors import ConfigError, WeightsError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones, write_timm

WORDS = Vocabulary.model_validate([{"name": "cat", "synonyms": ["kitten"]}, "dog"])
FAMILIES = {
    "dino": ("vit_base_patch8_224", {}, "dino"),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {}, "lvd142m"),
    "mae": ("vit_base_patch16_224", {}, "mae"),
    "sam": ("samvit_base_patch16", {"neck_chans": 12, "window_size": 3}, "sa1b"),
}


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_attention(proxy_EIJ: Tensor, v_MC: Tensor, beta: float, gamma: float) -> Tensor:
    """docs/methods.md 6.1 as it is written, for one window."""
    unit = F.normalize(proxy_EIJ.flatten(1), dim=0)
    similarity = unit.T @ unit
    similarity = gamma * (similarity - beta * similarity.mean())
    return similarity.masked_fill(similarity < 0, -torch.inf).softmax(-1) @ v_MC


@pytest.mark.parametrize("elements", [1, 700, 1 << 21], ids=["row by row", "some rows", "whole"])
def test_proxy_attention_equals_the_formula_in_any_parts(elements: int) -> None:
    """Means are of each window by itself: windows of a batch are independent."""
    shift = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1)
    guide, values = noise(0, 3, 16, 5, 9) + shift, noise(1, 3, 45, 8)
    found = proxyclip.proxy_attention(guide, values, 1.1, 3.0, elements)
    for index in range(3):
        expected = plain_attention(guide[index], values[index], 1.1, 3.0)
        torch.testing.assert_close(found[index], expected, atol=1e-5, rtol=0)


def test_proxy_attention_of_a_row_without_entries_keeps_the_value() -> None:
    """In a window of one colour every entry, 1 - beta * 1, is negative."""
    same = noise(2, 1, 16, 1, 1).expand(1, 16, 4, 6)
    values = noise(3, 2, 24, 8)
    assert plain_attention(same[0], values[0], 1.2, 3.0).isnan().all()
    guide = torch.cat([same, torch.zeros(1, 16, 4, 6)])
    guide[1, :, 0, 0] = 1.0
    found = proxyclip.proxy_attention(guide, values, 1.2, 3.0)
    torch.testing.assert_close(found[0], values[0])
    assert found.isfinite().all()


def test_image_of_one_colour_has_finite_scores() -> None:
    method = proxyclip.build(proxyclip.Options(), tiny_backbones())
    images = [torch.full((3, 40, 70), 90, dtype=torch.uint8), random_image(1, 40, 70)]
    maps = method.score(encode_images(method, images), method.text_matrix(WORDS))
    assert all(level.isfinite().all() for image in maps.levels for level in image)


def formula(reading: str, f_ND: Tensor, class_D: Tensor, text_QD: Tensor) -> Tensor:
    """docs/methods.md 9.3 and 9.2 written out: products of every patch, phrase and channel."""
    if reading == "literal":
        return f_ND @ text_QD.T - text_QD @ class_D
    w_Q = (2 * text_QD @ class_D).softmax(0)
    w_Q = w_Q / w_Q.mean()
    products_NQD = f_ND[:, None] * text_QD * w_Q[:, None]
    return (products_NQD - products_NQD.mean(dim=1, keepdim=True)).sum(-1)


@pytest.mark.parametrize(
    ("reading", "scoring"), [("literal", WITHOUT_CLASS_TOKEN), ("surgery", SURGERY)]
)
def test_feature_adjustment_equals_the_formula(reading: str, scoring: Scoring) -> None:
    unit = F.normalize(noise(4, 2, 24, 3, 5), dim=1)
    classes, rows = noise(5, 2, 24), F.normalize(noise(6, 7, 24), dim=1)
    text = TextMatrix(rows, torch.tensor([0, 1, 1, 2, 2, 3, 3]), 4)
    assert scoring.domain == "score"
    found = scoring.score(DenseFeatures(unit, classes).unit(), text)
    assert found.shape == (2, 7, 3, 5)
    for index in range(2):
        class_D = F.normalize(classes[index], dim=0)
        expected = formula(reading, unit[index].flatten(1).T, class_D, rows)
        torch.testing.assert_close(found[index].flatten(1).T, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("reading", ["literal", "surgery"])
def test_feature_adjustment_subtracts_clips_embedding_of_the_window(reading: str) -> None:
    """One window over the whole image: the class feature is CLIP's own embedding of it."""
    backbones = tiny_backbones()
    clip = backbones.clip
    side = clip.input_px
    options = {"short_side_px": 0, "window_px": 0, "pad_px": 16}
    images = [random_image(seed, side, side) for seed in range(2)]
    text = plain(backbones, **options).text_matrix(WORDS)
    bare = encode_images(plain(backbones, **options), images).images[1].dense.patches_BDhw
    class_D = F.normalize(clip.encode_images(torch.stack(images)), dim=1)[1]
    expected = formula(reading, bare[0].flatten(1).T, class_D, text.rows_QD)
    method = plain(backbones, adjust=reading, **options)
    level = method.score(encode_images(method, images), text).levels[1][0]
    torch.testing.assert_close(level.flatten(1).T, expected, atol=1e-5, rtol=0)


def plain(backbones: Backbones, **options: object) -> WindowSegmenter:
    return proxyclip.build(proxyclip.Options.model_validate(options), backbones)


@pytest.mark.parametrize("family", FAMILIES)
def test_proxy_of_every_family(family: str, tmp_path: Path) -> None:
    """Non-square images, batches like single ones, masks of the image's size."""
    architecture, arguments, tag = FAMILIES[family]
    sizes = {"img_size": 112, "embed_dim": 32, "depth": 2, "num_heads": 2}
    folder = write_timm(tmp_path, architecture, {**sizes, **arguments}, tag)
    backbones = tiny_backbones()
    method = plain(backbones, proxy=f"local-dir:{folder}")
    images = [random_image(seed, 50, 83) for seed in range(2)]
    text = method.text_matrix(WORDS)
    together = method.score(encode_images(method, images), text)
    for index, image in enumerate(images):
        alone = method.score(encode_images(method, [image]), text)
        torch.testing.assert_close(together.levels[index][0], alone.levels[0][0], atol=1e-4, rtol=0)
    assert set(backbones.files()) == {"clip", "proxy"}


def test_every_option_changes_the_scores() -> None:
    backbones, images = tiny_backbones(), [random_image(0, 50, 83), random_image(1, 50, 83)]
    changes: list[dict[str, object]] = [
        {},
        {"proxy": EMBEDDED},
        {"proxy_feature": "k"},
        {"beta": 0.7},
        {"gamma": 9.0},
        {"adjust": "literal"},
        {"adjust": "surgery"},
        {"outlier_repair": True},
        {"global_attention": True},
    ]
    means = []
    for options in changes:
        # Windows of more than thirty patches, which outlier repair needs.
        method = plain(backbones, window_px=112, **options)
        maps = method.score(encode_images(method, images), method.text_matrix(WORDS))
        means.append(maps.levels[1][0].double().square().mean().item())
    assert len({round(mean, 9) for mean in means}) == len(changes)


def test_feature_that_the_proxy_lacks_is_refused(tmp_path: Path) -> None:
    folder = write_timm(tmp_path, FAMILIES["sam"][0], {"img_size": 32, "depth": 1, "embed_dim": 24})
    options = {"proxy": f"local-dir:{folder}", "proxy_feature": "k"}
    with pytest.raises(ConfigError, match=r"proxy_feature: local-dir:.* has tokens only, got 'k'"):
        plain(tiny_backbones(), **options)


def test_unknown_proxy_is_refused_with_near_names() -> None:
    with pytest.raises(WeightsError, match=r"Did you mean 'vit_base_patch8_224\.dino'"):
        plain(tiny_backbones(), proxy="vit_base_patch8_224.dinno")


def test_embedded_clip_takes_the_embedded_proxy() -> None:
    backbones = Backbones(ClipConfig(model=EMBEDDED), EMBEDDED)
    method = plain(backbones)
    assert method.decode_side_px == 72
    assert set(backbones.files()) == {"clip", "vision"}
    images = [random_image(0, 128, 160), random_image(1, 160, 128)]
    features = encode_images(method, images)
    assert [one.grid for one in features.images] == [(1, 2), (2, 1)]
    assert features.images[0].dense.patches_BDhw.shape[2:] == (9, 9)
