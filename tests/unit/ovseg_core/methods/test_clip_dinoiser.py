"""CLIP-DINOiser's options: whose affinity, whose background, and heads that do not fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from jobs.demo.scenes import draw_scene
from ovseg_core.backbones.file_formats.head_file import file_sha256, head_bytes
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.dense.affinity import cosine_affinity
from ovseg_core.dense.encoder import DenseFeatures
from ovseg_core.methods import clip_dinoiser
from ovseg_core.segmenter import TextMatrix, encode_images
from ovseg_core.training.heads.shared.dinoiser_model import HEAD, TAP, load_dinoiser_heads, tap_map
from schemas.config import EMBEDDED, ClipConfig
from schemas.errors import WeightsError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import (
    TINY_CLIP,
    random_image,
    tiny_backbones,
    tiny_folder,
    trunk_of_pixels,
    write_clip,
    write_dinoiser_heads,
)

SIZES = [(60, 90), (45, 50)]


def levels(**options: object) -> list[Tensor]:
    method = clip_dinoiser.build(clip_dinoiser.Options.model_validate(options), tiny_backbones())
    features = encode_images(method, [random_image(n, *size) for n, size in enumerate(SIZES)])
    text = method.text_matrix(Vocabulary.model_validate(["cat", "dog"]))
    return [image[0] for image in method.score(features, text).levels]


@pytest.mark.parametrize("affinity", ["learned", "dino", "clip_keys"])
def test_affinities_differ_and_keep_to_their_networks_grid(affinity: str) -> None:
    ours = levels(affinity=affinity, background="none")
    plain = levels(affinity="clip_keys", background="none", gamma=1.0)
    # The tiny CLIP has patches of 16 px, the second network of 8.
    finer = 2 if affinity == "dino" else 1
    for one, other in zip(ours, plain, strict=True):
        assert one.shape[1:] == (finer * other.shape[1], finer * other.shape[2])
        assert one.shape != other.shape or (one - other).abs().max() > 1e-3


def scored(unit: Tensor, objectness: Tensor, **given: object) -> Tensor:
    text = TextMatrix(torch.eye(3), torch.arange(3), 3)
    options = clip_dinoiser.Options.model_validate({"logit_scale": 3.0, **given})
    features = DenseFeatures(unit, extra={clip_dinoiser.OBJECTNESS: objectness})
    return clip_dinoiser.with_background(options).score(features, text)


def test_background_is_where_nothing_is_seen_and_nothing_is_sure() -> None:
    """One window of 1 x 3 patches: no object and unsure, no object but sure, an object."""
    unit = torch.nn.functional.normalize(
        torch.tensor([[0.1, 0.7, 0.7], [0, 1, 0], [0.1, 0.7, 0.7]]).T[None, :, None], dim=1
    )
    objectness = torch.tensor([0.2, 0.5, 0.6]).view(1, 1, 1, 3)
    bare = scored(unit, objectness, background="none")
    sure = float(bare[0, 1, 0, 1])
    assert bare[0].amax(0)[0].tolist() < [sure] * 3
    relaxed = scored(unit, objectness, background="found", delta=sure)
    only = scored(unit, objectness, background="found_only", delta=sure)
    assert relaxed[0, 0, 0].eq(1).tolist() == [True, False, False]
    assert only[0, 0, 0].eq(1).tolist() == [True, True, False]
    for probabilities in (relaxed, only):  # the labels' own probabilities stay as they are
        assert torch.equal(probabilities[:, 1:], bare[:, 1:])


def test_an_image_of_one_colour_has_a_defined_result() -> None:
    method = clip_dinoiser.build(clip_dinoiser.Options(), tiny_backbones())
    images = [torch.zeros((3, 40, 60), dtype=torch.uint8), random_image(1, 9, 11)]
    text = method.text_matrix(Vocabulary.model_validate(["cat"]))
    maps = method.score(encode_images(method, images), text)
    assert all(torch.isfinite(image[0]).all() for image in maps.levels)
    assert decide(maps, [(40, 60), (9, 11)])[0].label_map.shape == (40, 60)


def test_heads_of_another_width_are_refused(tmp_path: Path) -> None:
    heads = write_dinoiser_heads(tmp_path / "wide.safetensors", width=48)
    with pytest.raises(WeightsError, match=r"\(12, 48, 3, 3\), expected \(E, 32, 3, 3\)"):
        clip_dinoiser.build(clip_dinoiser.Options(heads=str(heads)), tiny_backbones())


def test_heads_of_another_clip_of_the_same_width_are_refused(tmp_path: Path) -> None:
    tensors = load_file(write_dinoiser_heads(tmp_path / "plain.safetensors", width=32))
    own = file_sha256(tiny_folder() / "clip" / "open_clip_model.safetensors")
    file = tmp_path / "heads.safetensors"
    file.write_bytes(head_bytes(tensors, HEAD.name, own, {}))
    clip_dinoiser.build(clip_dinoiser.Options(heads=str(file)), tiny_backbones())
    other = write_clip(tmp_path / "clip", TINY_CLIP, seed=1)
    backbones = tiny_backbones(clip=ClipConfig(model=f"local-dir:{other}"))
    with pytest.raises(WeightsError, match=r"trained for a network whose weights have the SHA-256"):
        clip_dinoiser.build(clip_dinoiser.Options(heads=str(file)), backbones)


def test_the_embedded_heads_know_objects_and_who_belongs_together() -> None:
    """On scenes that no training saw, from CLIP's features alone."""
    backbones = Backbones(ClipConfig(model=EMBEDDED), EMBEDDED)
    heads = load_dinoiser_heads("", backbones)
    assert backbones.files()[HEAD.name].endswith("dinoiser/heads.safetensors")
    hit = union = 0
    same, other = [], []
    for seed in range(4):
        scene = draw_scene(930_000_000 + seed)
        image = torch.from_numpy(scene.image).permute(2, 0, 1)[None]
        tap = tap_map(trunk_of_pixels(backbones.clip, image, [TAP]))
        labels = torch.from_numpy(scene.label_map.astype(int))
        logits = torch.nn.functional.interpolate(
            heads.objectness(tap), size=labels.shape, mode="bilinear"
        )[0, 0]
        hit += int(((logits > 0) & (labels > 0)).sum())
        union += int(((logits > 0) | (labels > 0)).sum())
        middles = labels[4::8, 4::8].flatten()
        alike = middles[:, None] == middles
        affinity = cosine_affinity(heads.guide(tap))[0]
        same.append(affinity[alike].mean())
        other.append(affinity[~alike].mean())
    assert hit / union > 0.7
    assert min(same) - max(other) > 0.5


def test_heads_that_cannot_be_had_are_explained(tmp_path: Path) -> None:
    folder = tiny_folder()
    clip, vision = (f"local-dir:{folder / name}" for name in ("clip", "vision"))
    bare = Backbones(ClipConfig(model=clip), vision)
    with pytest.raises(WeightsError, match=r"last\.pt.*ovseg train-heads --head dinoiser"):
        clip_dinoiser.build(clip_dinoiser.Options(), bare)
    with pytest.raises(WeightsError, match=r"no weights file at .*nowhere\.pt"):
        clip_dinoiser.build(clip_dinoiser.Options(heads=str(tmp_path / "nowhere.pt")), bare)


def test_a_clip_with_too_few_blocks_is_refused(tmp_path: Path) -> None:
    vision_cfg = {**TINY_CLIP["vision_cfg"], "layers": 2}
    clip = write_clip(tmp_path / "clip", {**TINY_CLIP, "vision_cfg": vision_cfg})
    backbones = tiny_backbones(clip=ClipConfig(model=f"local-dir:{clip}"))
    with pytest.raises(WeightsError, match="third block from the end; this CLIP has 2 blocks"):
        clip_dinoiser.build(clip_dinoiser.Options(), backbones)


def test_without_learned_parts_no_heads_are_needed() -> None:
    folder = tiny_folder()
    clip, vision = (f"local-dir:{folder / name}" for name in ("clip", "vision"))
    bare = Backbones(ClipConfig(model=clip), vision)
    options = clip_dinoiser.Options(
        affinity="dino", background="found", found_head=str(folder / "head.safetensors")
    )
    clip_dinoiser.build(options, bare)
    assert set(bare.files()) == {"clip", "vision", "found"}
