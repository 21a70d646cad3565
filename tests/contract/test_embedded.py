"""Every method runs on the embedded models and finds objects that they were trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as PillowImage

from jobs.demo.scenes import Scene, draw_scene
from ovseg_core import methods
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide
from ovseg_core.images.batch import ImageBatch
from ovseg_core.images.resize.nearest import to_size
from ovseg_core.methods import build_segmenter
from ovseg_core.proposals import build_proposer
from ovseg_core.segmenter import encode_images
from pipeline.evaluation.metrics import ConfusionMatrix
from pipeline.job.job import run
from schemas import plugins
from schemas.config import EMBEDDED, ClipConfig, ComputeConfig, JobConfig, NamedOptions
from schemas.vocabulary import Vocabulary

WORDS = Vocabulary.model_validate(["red star", "blue circle", "green house", "yellow fish"])


NAMES = [name for name in plugins.names(methods.PACKAGE) if methods.runs_by_name(name)]
"""A student knows what it was taught, and the package has none."""


@pytest.fixture(scope="module")
def backbones() -> Backbones:
    return Backbones(ClipConfig(model=EMBEDDED), EMBEDDED)


@pytest.fixture(scope="module")
def backbones_bf16() -> Backbones:
    return Backbones(ClipConfig(model=EMBEDDED), EMBEDDED, compute=ComputeConfig(precision="bf16"))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(70_000 + seed) for seed in range(6)]


def pixels_of(scenes: list[Scene]) -> list[torch.Tensor]:
    return [torch.from_numpy(scene.image).permute(2, 0, 1) for scene in scenes]


@pytest.mark.parametrize("name", NAMES)
def test_method_finds_and_names_drawn_objects(
    name: str, backbones: Backbones, scenes: list[Scene]
) -> None:
    """With each scene's own words the mean IoU is far above chance."""
    part = NamedOptions(name=name, options={"objectness": "found"})
    segmenter = build_segmenter(part, backbones)
    features = encode_images(segmenter, pixels_of(scenes))
    ious: list[float] = []
    for index, scene in enumerate(scenes):
        text = segmenter.text_matrix(Vocabulary.model_validate(list(scene.labels)))
        maps = segmenter.score(features, text)
        decision = decide(maps, [scene.label_map.shape] * len(scenes))[index]
        ours = to_size(decision.label_map, scene.label_map.shape)
        for number in range(1, len(scene.labels) + 1):
            mine, true = ours == number, scene.label_map == number
            ious.append(float((mine & true).sum() / max((mine | true).sum(), 1)))
    assert np.mean(ious) > 0.3


@pytest.mark.parametrize("name", NAMES)
def test_bf16_gives_the_labels_of_fp32(
    name: str, backbones: Backbones, backbones_bf16: Backbones, scenes: list[Scene]
) -> None:
    """Of 99.5 % of the pixels at least, and the mean IoU is within .2 points of 100."""
    part = NamedOptions(name=name, options={"objectness": "found"})
    words = Vocabulary.model_validate(sorted({word for it in scenes for word in it.labels}))
    decided: list[list[NDArray[np.integer]]] = []
    ious: list[float] = []
    for networks in (backbones, backbones_bf16):
        segmenter = build_segmenter(part, networks)
        features = encode_images(segmenter, pixels_of(scenes))
        maps = segmenter.score(features, segmenter.text_matrix(words))
        assert all(level.dtype is torch.float32 for image in maps.levels for level in image)
        decisions = decide(maps, [scene.label_map.shape for scene in scenes])
        decided.append([decision.label_map for decision in decisions])
        matrix = ConfusionMatrix(1 + len(words.labels))
        for decision, scene in zip(decisions, scenes, strict=True):
            index = np.array([0, *(1 + words.names.index(word) for word in scene.labels)])
            found = to_size(decision.label_map, scene.label_map.shape)
            matrix.add(found, index[scene.label_map])
        ious.append(matrix.mean_iou())
    exact, rounded = (np.concatenate([it.ravel() for it in maps]) for maps in decided)
    assert 0.995 <= np.mean(exact == rounded) < 1  # it was rounded
    assert abs(ious[0] - ious[1]) <= 0.002


@pytest.mark.parametrize("name", NAMES)
def test_method_runs_as_a_job(name: str, scenes: list[Scene], tmp_path: Path) -> None:
    """By its name alone, beside an embedded CLIP: what `--set method.name=X` does."""
    (tmp_path / "scenes").mkdir()
    for number, scene in enumerate(scenes[:2]):
        PillowImage.fromarray(scene.image).save(tmp_path / "scenes" / f"{number}.png")
    job = JobConfig.model_validate(
        {
            "images": str(tmp_path / "scenes"),
            "out": str(tmp_path / "run"),
            "labels": sorted({*scenes[0].labels, *scenes[1].labels}),
            "method": name,
            "clip": {"model": EMBEDDED},
            "run": {"local": True, "device": "cpu"},
        }
    )
    report = run(job)
    assert (report.exit_code, report.errors) == (0, {})
    assert report.num_segments > 0


def test_embedded_clip_separates_its_words() -> None:
    backbones = Backbones(ClipConfig(model=EMBEDDED), EMBEDDED)
    segmenter = build_segmenter(NamedOptions(name="clip_diy"), backbones)
    rows = segmenter.text_matrix(WORDS).rows_QD
    cosines = rows @ rows.T - torch.eye(len(rows))
    assert cosines.max() < 0.9
    assert set(backbones.files()) == {"clip", "vision", "found"}


def test_sam_proposes_most_drawn_objects(backbones: Backbones, scenes: list[Scene]) -> None:
    """From a grid of points, without a word; a guess of everything or of nothing finds none."""
    proposer = build_proposer(NamedOptions(name="sam"), backbones)
    assert proposer is not None
    paths = tuple(f"{number}.png" for number in range(len(scenes)))
    found = proposer.proposals(ImageBatch(tuple(pixels_of(scenes)), paths))
    best: list[float] = []
    for scene, proposals in zip(scenes, found, strict=True):
        size = scene.label_map.shape
        masks = F.interpolate(proposals.masks_Nhw[:, None].float(), size, mode="bilinear")[:, 0] > 0
        for number in range(1, len(scene.labels) + 1):
            true = torch.from_numpy(scene.label_map == number)
            ious = (masks & true).sum((1, 2)) / (masks | true).sum((1, 2))
            best.append(float(ious.max()))
    assert np.mean(np.array(best) >= 0.5) > 0.6
