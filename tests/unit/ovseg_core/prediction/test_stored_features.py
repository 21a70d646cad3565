"""Stored features come from a shared folder: whatever is wrong with them is said."""

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from ovseg_core.backbones.file_formats.head_file import record_in, tensors_in
from ovseg_core.backbones.registry import ScoringBackbones
from ovseg_core.methods import build_segmenter
from ovseg_core.prediction.stored_features import FeaturePrecision, pack_features, unpack_features
from ovseg_core.segmenter import Segmenter, encode_images
from schemas.config import NamedOptions
from schemas.errors import FeaturesError
from schemas.vocabulary import Vocabulary
from tests.helpers.tiny_models import random_image, tiny_backbones

WORDS = Vocabulary.model_validate(["cat", "dog"])
IMAGES = [random_image(seed, 40, 60 + 10 * seed) for seed in range(2)]
PATCHES = "images.0.dense.patches_BDhw"


def built(name: str = "sclip", **options: Any) -> Segmenter[Any]:
    return build_segmenter(NamedOptions(name=name, options=options), tiny_backbones())


@pytest.fixture(scope="module")
def segmenter() -> Segmenter[Any]:
    return built(proposals="superpixels")


@pytest.fixture(scope="module")
def data(segmenter: Segmenter[Any]) -> bytes:
    return pack_features(encode_images(segmenter, IMAGES).image(1), "int8")


@pytest.fixture(scope="module")
def plain() -> tuple[Segmenter[Any], bytes]:
    segmenter = built()
    return segmenter, pack_features(encode_images(segmenter, IMAGES).image(1), "int8")


def changed(
    data: bytes, described: dict[str, Any] | None = None, **tensors: Tensor | None
) -> bytes:
    """The bytes with other tensors (None: without it) and another description."""
    record = record_in(data)
    if described is not None:
        record["features"] = json.dumps(described)
    named = {PATCHES if name == "patches" else name: one for name, one in tensors.items()}
    kept = {name: one for name, one in (tensors_in(data) | named).items() if one is not None}
    return save(kept, {"ovseg": json.dumps(record)})


def described(data: bytes) -> dict[str, Any]:
    return json.loads(record_in(data)["features"])


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_vectors_keep_their_direction(precision: FeaturePrecision) -> None:
    segmenter = built()
    features = encode_images(segmenter, IMAGES)
    for index in range(len(IMAGES)):
        one = features.image(index)
        stored = unpack_features(pack_features(one, precision), segmenter)
        before, after = (it.images[0].dense.patches_BDhw for it in (one, stored))
        assert after.dtype == torch.float32
        assert torch.cosine_similarity(before, after, dim=1).min() > 1 - 1e-4
        assert torch.equal(one.images[0].stitch.rows.matrix, stored.images[0].stitch.rows.matrix)


def test_numbers_that_half_precision_cannot_hold_stay_as_they_are() -> None:
    segmenter = built("clip_diy", objectness="none")
    features = encode_images(segmenter, IMAGES).image(0)
    features = replace(features, crops_BND=features.crops_BND * 1e6)
    stored = unpack_features(pack_features(features, "float16"), segmenter)
    assert torch.equal(stored.crops_BND, features.crops_BND)


def test_small_and_empty_vectors_keep_their_values() -> None:
    segmenter = built("clip_diy", objectness="none")
    features = encode_images(segmenter, IMAGES).image(0)
    small_BND = features.crops_BND * 1e-6
    small_BND[:, 0] = 0
    features = replace(features, crops_BND=small_BND)
    kept_BND = unpack_features(pack_features(features, "int8"), segmenter).crops_BND
    limits_BN1 = small_BND.abs().amax(dim=2, keepdim=True) / 250
    assert ((kept_BND - small_BND).abs() <= limits_BN1).all()


def test_regions_and_bits_are_as_they_were(segmenter: Segmenter[Any]) -> None:
    features = encode_images(segmenter, IMAGES)
    for index in range(len(IMAGES)):
        one = features.image(index)
        (before,) = one.proposals
        (after,) = unpack_features(pack_features(one, "int8"), segmenter).proposals
        assert torch.equal(before.region_map(), after.region_map())
        assert before.region_map().dtype == after.region_map().dtype
        assert torch.equal(before.masks_Nhw, after.masks_Nhw)


def test_features_of_a_batch_are_not_of_an_image(segmenter: Segmenter[Any]) -> None:
    with pytest.raises(ValueError, match="of one image, got those of 2"):
        pack_features(encode_images(segmenter, IMAGES), "float16")


def test_features_that_need_a_network_again_are_not_stored() -> None:
    options = {"refine_masks": True, "proposals": {"name": "sam", "options": {}}}
    backbones = tiny_backbones(vision_model="embedded")
    segmenter = build_segmenter(NamedOptions(name="sclip", options=options), backbones)
    features = encode_images(segmenter, IMAGES)
    with pytest.raises(FeaturesError, match=r"prompted\.sam is a PromptedSam"):
        pack_features(features.image(0), "float16")


@pytest.mark.parametrize(
    ("name", "options"), [("sclip", {}), ("clip_diy", {"proposals": "superpixels"})]
)
def test_features_of_another_method_are_refused(
    name: str, options: dict[str, Any], data: bytes
) -> None:
    with pytest.raises(FeaturesError, match=r"expected .*, got .*: compute them again"):
        unpack_features(data, built(name, **options))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (None, f"the tensor {PATCHES} is missing"),
        (torch.zeros(3, dtype=torch.int8), "scales are not those of its vectors"),
        (torch.zeros(1, 24, 2, 3), "scales are not those of its vectors"),
    ],
)
def test_wrong_tensor_is_named(
    tensor: Tensor | None, message: str, plain: tuple[Segmenter[Any], bytes]
) -> None:
    segmenter, data = plain
    with pytest.raises(FeaturesError, match=message):
        unpack_features(changed(data, patches=tensor), segmenter)


def test_damage_is_said(plain: tuple[Segmenter[Any], bytes]) -> None:
    segmenter, data = plain
    scales = f"{PATCHES}.scales"
    nan = torch.full_like(tensors_in(data)[scales], torch.nan)
    cases = {
        "holds NaN": changed(data, **{scales: nan}),
        "is named more": changed(data, more=torch.zeros(2)),
        "cut off": data[:200],
        "not features of ovseg": save({"a": torch.zeros(1)}),
        "version 9": save({}, {"ovseg": json.dumps({"kind": "features", "version": "9"})}),
        "expected images, obj": changed(data, described={"images": []}),
        "Expecting value": save({}, {"ovseg": json.dumps({"kind": "features", "version": "1"})}),
    }
    for message, wrong in cases.items():
        with pytest.raises(FeaturesError, match=message):
            unpack_features(wrong, segmenter)


def test_numbers_that_lie_take_no_memory(segmenter: Segmenter[Any], data: bytes) -> None:
    """Billions of patches or masks, and numbers of more digits than a number has."""
    for path, lie, message in (
        (("features", "images", 0, "stitch", "rows", "num_patches"), 1 << 30, "billion|weights"),
        (("features", "images", 0, "stitch", "rows", "num_patches"), 10**40, "expected <class"),
        (("features", "images", 0, "grid", 0), 7, "windows and patches"),
        (("features", "images", 0, "stitch", "rows", "spans"), [[5, 9]], "cover an axis"),
        (("proposals", 0, "masks_Nhw", "bits", 0), 1 << 30, "bits, got"),
        (("proposals", 0, "masks_Nhw", "bits", 0), -1, "expected bits"),
        (("proposals", 0, "masks_Nhw", "type"), ["float32"], "expected <class 'str'>"),
        (("proposals", 0, "regions_hw"), 5, "expected <class 'dict'>"),
        (("features", "images"), [], "expected the features of one image|named"),
    ):
        lying = described(data)
        place: Any = lying
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = lie
        with pytest.raises(FeaturesError, match=message):
            unpack_features(changed(data, described=lying), segmenter)


def forged(data: bytes, path: tuple[Any, ...], value: Any) -> bytes:
    """The bytes with one value of their description replaced."""
    lying = described(data)
    place: Any = lying
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed(data, described=lying)


STITCH = ("images", 0, "stitch", "rows")


@pytest.mark.parametrize("name", ["sclip", "clearclip", "maskclip", "naclip"])
@pytest.mark.parametrize("merged", [False, True])
def test_features_are_read_for_the_size_of_their_image_and_for_no_other(
    name: str, merged: bool
) -> None:
    segmenter = built(name, global_attention=merged, short_side_px=48, window_px=32, stride_px=16)
    for seed, size_hw in enumerate([(40, 60), (61, 40), (33, 200), (900, 500)]):
        features = encode_images(segmenter, [random_image(seed, *size_hw), IMAGES[0]]).image(0)
        data = pack_features(features, "int8")
        assert len(unpack_features(data, segmenter, size_hw=size_hw)) == 1
        longer = size_hw[0], round(size_hw[1] * 1.5)
        turned = size_hw[1], size_hw[0]
        for other in (longer, turned, (1, 60), (10_000, 20)):
            with pytest.raises(FeaturesError, match=r"expected windows on about \(\d+, \d+\) pix"):
                unpack_features(data, segmenter, size_hw=other)


def test_a_method_that_squashes_images_has_one_size_for_all() -> None:
    segmenter = built("clip_surgery", short_side_px=48)
    features = encode_images(segmenter, IMAGES).image(1)
    data = pack_features(features, "int8")
    for size_hw in ((40, 60), (900, 20)):
        assert len(unpack_features(data, segmenter, size_hw=size_hw)) == 1


def test_an_image_that_a_decoder_has_reduced_has_its_own_size() -> None:
    """Its sides are rounded once more than the file's."""
    segmenter = built("sclip", short_side_px=48, window_px=32, stride_px=16)
    reduced = encode_images(segmenter, [random_image(0, 51, 89)]).image(0)
    data = pack_features(reduced, "float16")
    assert len(unpack_features(data, segmenter, size_hw=(401, 710))) == 1


def test_windows_and_patches_that_lie_are_refused_for_an_image(
    plain: tuple[Segmenter[Any], bytes],
) -> None:
    segmenter, data = plain
    size_hw = IMAGES[1].shape[1], IMAGES[1].shape[2]
    assert len(unpack_features(data, segmenter, size_hw=size_hw)) == 1
    spans = described(data)["images"][0]["stitch"]["rows"]["spans"]
    far = [*spans[:-1], [spans[-1][0], spans[-1][1] + 300]]
    short = [[0, spans[0][1] - 1], *spans[1:]]
    for path, lie, message in (
        ((*STITCH, "spans"), far, "expected windows on about"),
        ((*STITCH, "margins"), [0, 9000], "or at other places"),
        ((*STITCH, "spans"), short, "other places|cover an axis|about"),
    ):
        with pytest.raises(FeaturesError, match=message):
            unpack_features(forged(data, path, lie), segmenter, size_hw=size_hw)


def test_many_small_patches_and_another_guide_are_refused_for_an_image() -> None:
    segmenter = built("naclip", short_side_px=48, window_px=0, pamr_steps=2)
    image = random_image(0, 48, 72)
    data = pack_features(encode_images(segmenter, [image]).image(0), "float16")
    tensors = tensors_in(data)
    fine = torch.full((1, tensors[PATCHES].shape[1], 40, tensors[PATCHES].shape[3]), 0.1).half()
    lying = changed(forged(data, (*STITCH, "num_patches"), 40), patches=fine)
    assert len(unpack_features(lying, segmenter)) == 1
    with pytest.raises(FeaturesError, match="with at most 13 patches each, got 1 with 40"):
        unpack_features(lying, segmenter, size_hw=(48, 72))
    guide = next(name for name in tensors if "guides" in name)
    wide = changed(data, None, **{guide: torch.zeros(3, 96, 72, dtype=torch.uint8)})
    with pytest.raises(FeaturesError, match=r"expected a resized image of \(48, 72\), got"):
        unpack_features(wide, segmenter, size_hw=(48, 72))


def test_proposals_and_regions_that_no_source_finds_are_refused(
    segmenter: Segmenter[Any], data: bytes
) -> None:
    size_hw, count = (IMAGES[1].shape[1], IMAGES[1].shape[2]), 30_000
    assert len(unpack_features(data, segmenter, size_hw=size_hw)) == 1
    masks = "proposals.0.masks_Nhw"
    many = changed(
        forged(data, ("proposals", 0, "masks_Nhw", "bits"), [count, 1, 1]),
        None,
        **{
            masks: torch.zeros(-(-count // 8), dtype=torch.uint8),
            "proposals.0.scores_N": torch.ones(count).half(),
        },
    )
    with pytest.raises(FeaturesError, match=r"at most 20,000 proposals .* got \(30000, 1, 1\)"):
        unpack_features(many, segmenter, size_hw=size_hw)
    regions = "proposals.0.regions_hw"
    for number in (-2, 1 << 30):
        numbers = tensors_in(data)[regions].int()
        numbers[0, 0] = number
        lying = changed(data, None, **{regions: numbers})
        with pytest.raises(FeaturesError, match="expected a map of regions -1 to"):
            unpack_features(lying, segmenter, size_hw=size_hw)


@settings(max_examples=300, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans())
def test_no_damage_is_a_traceback(
    where: float, byte: int, cut: bool, plain: tuple[Segmenter[Any], bytes]
) -> None:
    segmenter, data = plain
    # Half of the changes are in the header.
    place = int(where * 2 * len(data)) % len(data) if where < 0.5 else int((where - 0.5) * 2000)
    damaged = data[:place] + (b"" if cut else bytes([byte]) + data[place + 1 :])
    with suppress(FeaturesError):
        assert len(unpack_features(damaged, segmenter)) == 1


def test_features_of_another_width_are_refused_when_they_are_scored(
    plain: tuple[Segmenter[Any], bytes],
) -> None:
    whole, _ = plain
    features = encode_images(whole, IMAGES).image(0)
    data = pack_features(features, "float16")
    narrow = changed(data, patches=tensors_in(data)[PATCHES][:, :8].contiguous())
    backbones = tiny_backbones()
    blind = ScoringBackbones(backbones.clip_config, "local-dir:/nowhere")
    scorer = build_segmenter(NamedOptions(name="sclip"), blind)
    with pytest.raises(FeaturesError, match="do not fit"):
        scorer.score(unpack_features(narrow, scorer), scorer.text_matrix(WORDS))
