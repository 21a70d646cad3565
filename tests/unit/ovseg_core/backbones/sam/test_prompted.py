"""SAM and SAM 2 by transformers: prompts and sizes as the library's own processors have them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovseg_core.backbones.compute import Compute
from ovseg_core.backbones.file_formats.transformers_folder import load_network
from ovseg_core.backbones.sam.prompted import SAM, PromptedSam
from schemas.errors import WeightsError
from tests.helpers.tiny_models import random_image
from tests.helpers.tiny_sams import write_sam

SIZES = [(60, 90), (90, 60), (48, 33)]
IMAGES = [random_image(seed, *size) for seed, size in enumerate(SIZES)]
POINTS = torch.tensor(
    [[[10.0, 20.0], [30.0, 5.0]], [[50.0, 80.0], [3.0, 2.0]], [[1.0, 47.0], [20.0, 20.0]]]
)
BOXES = torch.tensor([[[5.0, 6, 40, 50]], [[0.0, 0, 59, 89]], [[10.0, 3, 20, 30]]])
OPTION = "method.options.proposals.options.weights"
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["sam", "sam2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(f"{request.param}-")
    write_sam(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def sam(folder: Path) -> PromptedSam:
    return PromptedSam(load_network(f"local-dir:{folder}", CPU, OPTION, SAM), Compute(CPU))


def library(folder: Path) -> tuple[Any, Any]:
    """Return the library's network and processor, those of AutoModel."""
    from transformers import AutoModelForMaskGeneration, AutoProcessor

    model = AutoModelForMaskGeneration.from_pretrained(folder).eval()
    return model, AutoProcessor.from_pretrained(folder)


def test_masks_of_points_and_boxes_are_the_librarys(folder: Path, sam: PromptedSam) -> None:
    model, processor = library(folder)
    embedded = sam.embed(IMAGES)
    for index, image in enumerate(IMAGES):
        pixels = image.permute(1, 2, 0).numpy()
        read = processor(
            images=pixels, input_points=[[[p] for p in POINTS[index].tolist()]], return_tensors="pt"
        )
        with torch.no_grad():
            expected = model(
                pixel_values=read["pixel_values"],
                input_points=read["input_points"].float(),
                input_labels=torch.ones(read["input_points"].shape[:3], dtype=torch.int64),
            )
        masks, ious = sam.masks(embedded.image(index), POINTS[index][None, :, None], multimask=True)
        torch.testing.assert_close(masks, expected.pred_masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ious, expected.iou_scores, atol=1e-4, rtol=1e-4)
        boxed = processor(images=pixels, input_boxes=[BOXES[index].tolist()], return_tensors="pt")
        with torch.no_grad():
            expected = model(
                pixel_values=boxed["pixel_values"],
                input_boxes=boxed["input_boxes"].float(),
                multimask_output=False,
            )
        masks, ious = sam.masks(
            embedded.image(index), boxes_BP4=BOXES[index][None], multimask=False
        )
        torch.testing.assert_close(masks, expected.pred_masks, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ious, expected.iou_scores, atol=1e-4, rtol=1e-4)


def test_a_batch_of_sizes_is_what_each_image_is_alone(sam: PromptedSam) -> None:
    together = sam.masks(sam.embed(IMAGES), POINTS[:, :, None], multimask=True)
    for index, image in enumerate(IMAGES):
        alone = sam.masks(sam.embed([image]), POINTS[index][None, :, None], multimask=True)
        for batch, one in zip(together, alone, strict=True):
            torch.testing.assert_close(batch[index], one[0], atol=1e-4, rtol=1e-4)


def test_masks_at_the_image_are_the_librarys_after_its_processing(
    folder: Path, sam: PromptedSam
) -> None:
    _, processor = library(folder)
    coarse = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (sam.mask_px, sam.mask_px), mode="bicubic")
    inputs_hw = sam.embed(IMAGES).inputs_hw
    for index, size in enumerate(SIZES):
        sizes = {"original_sizes": [size]}
        if "sam2" not in folder.name:
            sizes["reshaped_input_sizes"] = [inputs_hw[index]]
        [expected] = processor.post_process_masks(smooth[index][None, None], **sizes)
        ours = sam.of_image(smooth[index], inputs_hw[index])
        enlarged = torch.nn.functional.interpolate(ours[:, None], size, mode="bilinear")[:, 0] > 0
        # The library enlarges SAM's masks in two steps, ours are enlarged in one.
        assert (enlarged == expected[0]).float().mean() > 0.99


def test_a_coarse_mask_changes_the_answer(sam: PromptedSam) -> None:
    embedded = sam.embed(IMAGES)
    coarse = torch.full((3, sam.mask_px, sam.mask_px), -6.0)
    coarse[:, :8, :8] = 6
    plain, _ = sam.masks(embedded, boxes_BP4=BOXES, multimask=False)
    led, _ = sam.masks(embedded, boxes_BP4=BOXES, coarse_BMM=coarse, multimask=False)
    assert led.shape == plain.shape == (3, 1, 1, sam.mask_px, sam.mask_px)
    assert not torch.allclose(led, plain)


def test_what_is_no_sam_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(WeightsError, match=message):
            load_network(name, CPU, OPTION, SAM)

    refused(
        "sam2-tiny", r"expected hf-hub:ORG/REPO .*, local-dir:FOLDER or `embedded`, got 'sam2-tiny'"
    )
    refused(f"local-dir:{tmp_path}", "is no folder of transformers: expected config.json")
    config = (folder / "config.json").read_text()
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "detr"}')
    refused(f"local-dir:{tmp_path}", "of the kind 'detr', expected SAM or SAM 2")
    (tmp_path / "config.json").write_text("{")
    refused(f"local-dir:{tmp_path}", "cannot be loaded")
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(f"local-dir:{tmp_path}", "cannot be loaded")


def test_weights_without_a_part_or_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    name = "mask_decoder.iou_token.weight"
    save_file(
        {key: value for key, value in tensors.items() if key != name},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(
        WeightsError, match=r"1 of its tensors are missing, such as mask_decoder\.iou_token"
    ):
        load_network(f"local-dir:{tmp_path}", CPU, OPTION, SAM)
    save_file({**tensors, name: tensors[name] * np.nan}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="not finite"):
        load_network(f"local-dir:{tmp_path}", CPU, OPTION, SAM)
