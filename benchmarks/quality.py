"""Quality of every method on the drawn world: `make bench-quality`.

    python -m benchmarks.quality [confirmation | missing]

Every method at its published defaults, each once more behind the embedded objectness head, and the
options that no paper has, on 200 scenes of `benchmarks.world` with the embedded models: tiny models
on made scenes, which rank nothing in the real world. The words of a scene are its own vocabulary.
Writes `benchmarks/results/quality.json` and the tables between the markers in docs/quality.md.

Three figures, in percent:

- mIoU of a group: one confusion matrix over its 40 scenes, as benchmarks do, and the mean over
  background and all phrases that are drawn in the group;
- `all`: the mean of the five groups; `crowded`: of `world.CROWDED`;
- `a scene`: the mean over all scenes of the mIoU of the scene alone, as `ovseg evaluate` counts
  it: a label that is nowhere in the scene but in the masks counts as 0, if it is a single pixel.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.quality_rows import QualityRow, quality_rows
from benchmarks.quality_table import write_tables
from benchmarks.world import CROWDED, GROUPS, SCENES_PER_GROUP, LabelledScene, labelled_scenes
from jobs.demo.scenes import all_phrases
from ovseg_core.backbones.registry import Backbones
from ovseg_core.decision.decide import decide_one
from ovseg_core.images.resize.nearest import to_size
from ovseg_core.methods import build_segmenter
from ovseg_core.methods.shared.presence_gate import PresenceGate
from ovseg_core.segmenter import Segmenter, TextMatrix, encode_images
from pipeline.evaluation.metrics import ConfusionMatrix
from schemas.config import EMBEDDED, ClipConfig, NamedOptions
from schemas.vocabulary import Vocabulary

RESULTS = Path(__file__).parent / "results" / "quality.json"
PAGE = Path(__file__).parents[1] / "docs" / "quality.md"
PHRASES = {phrase: number for number, phrase in enumerate(all_phrases(), start=1)}
"""Class of each phrase in a group's confusion matrix; 0 is background."""


def embedded_backbones() -> Backbones:
    """Return the embedded backbones."""
    return Backbones(ClipConfig(model=EMBEDDED), EMBEDDED)


def text_of_world(segmenter: Segmenter[Any] | PresenceGate) -> TextMatrix:
    """Return the rows of all phrases of the world, encoded once; background is row 0."""
    return segmenter.text_matrix(Vocabulary.model_validate(list(PHRASES)))


def text_of(labels: Sequence[str], world: TextMatrix) -> TextMatrix:
    """Return the text matrix of a scene's vocabulary, as the segmenter itself would make it."""
    rows_Q = torch.tensor([0, *(PHRASES[label] for label in labels)])
    return TextMatrix(world.rows_QD[rows_Q], torch.arange(len(rows_Q)), len(rows_Q))


def predict(
    segmenter: Segmenter[Any], scene: LabelledScene, world: TextMatrix
) -> NDArray[np.uint16]:
    """Return the label map (H, W) of a scene: 0 background, k the scene's label k."""
    image = torch.from_numpy(scene.scene.image).permute(2, 0, 1).contiguous()
    maps = segmenter.score(encode_images(segmenter, [image]), text_of(scene.labels, world))
    size_hw = (scene.truth.shape[0], scene.truth.shape[1])
    return to_size(decide_one(maps, 0, size_hw).label_map, size_hw)


def measure(
    segmenter: Segmenter[Any], scenes: Mapping[str, Sequence[LabelledScene]]
) -> dict[str, Any]:
    """Return the figures of one segmenter; see the module."""
    world = text_of_world(segmenter)
    return figures(lambda scene: predict(segmenter, scene, world), scenes)


def figures(
    predict_scene: Callable[[LabelledScene], NDArray[np.integer]],
    scenes: Mapping[str, Sequence[LabelledScene]],
) -> dict[str, Any]:
    """Return the figures of label maps (H, W), 0 background, k the scene's label k."""
    groups, of_scenes = {}, []
    for name, group in scenes.items():
        pooled = ConfusionMatrix(len(PHRASES) + 1, ignore=-1)
        for scene in group:
            predicted = predict_scene(scene)
            alone = ConfusionMatrix(len(scene.labels) + 1, ignore=-1)
            alone.add(predicted, scene.truth)
            of_scenes.append(alone.mean_iou())
            phrases = np.array([0, *(PHRASES[label] for label in scene.labels)])
            pooled.add(phrases[predicted], phrases[scene.truth])
        groups[name] = pooled.mean_iou(np.flatnonzero(pooled.counts.sum(axis=1)).tolist())
    return {
        "groups": {name: _percent(value) for name, value in groups.items()},
        "all": _percent(fmean(groups.values())),
        "crowded": _percent(fmean(groups[name] for name in CROWDED)),
        "a_scene": _percent(fmean(of_scenes)),
    }


def measure_row(
    row: QualityRow, backbones: Backbones, scenes: Mapping[str, Sequence[LabelledScene]]
) -> dict[str, Any]:
    """Return a row with its figures."""
    part = NamedOptions(name=row.method, options=row.options)
    return row.described() | measure(build_segmenter(part, backbones), scenes)


def measure_all(backbones: Backbones, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return every row with its figures; those of known rows as they are."""
    scenes, rows = labelled_scenes(), {}
    for row in quality_rows():
        if row.key in known:
            rows[row.key] = known[row.key]
            continue
        began = time.perf_counter()
        rows[row.key] = measure_row(row, backbones, scenes)
        seconds = time.perf_counter() - began
        print(f"{row.key}: {rows[row.key]['all']} ({seconds:.0f} s)", flush=True)
    return rows


def confirm(
    rows: Mapping[str, Any], backbones: Backbones, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the rows of our compositions and of the best published method on further scenes.

    Those of known rows are as they are.
    """
    published = [key for key, row in rows.items() if row["kind"] == "published"]
    best = max(published, key=lambda key: rows[key]["all"])
    scenes = labelled_scenes("confirmation")
    return {
        row.key: known.get(row.key) or measure_row(row, backbones, scenes)
        for row in quality_rows()
        if row.key == best or row.kind == "composition"
    }


def main(again: Sequence[str]) -> int:
    """Measure all rows, only those that are missing, or these and the confirmation; write them."""
    torch.set_num_threads(2)
    start, backbones = time.perf_counter(), embedded_backbones()
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if again else {}
    rows = measure_all(backbones, stored.get("rows", {}))
    confirmed = {} if list(again) == ["confirmation"] else stored.get("confirmation", {})
    results = {
        "scenes": SCENES_PER_GROUP * len(GROUPS),
        "groups": {name: group.title for name, group in GROUPS.items()},
        "rows": rows,
        "confirmation": confirm(rows, backbones, confirmed),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_tables(results, PAGE)
    print(f"written: {RESULTS.name} and docs/quality.md, {time.perf_counter() - start:.0f} s")
    return 0


def _percent(value: float) -> float:
    return round(100 * value, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
