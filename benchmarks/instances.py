"""What proposals do on the drawn world, and what they cost: `python -m benchmarks.instances`.

The embedded models and the embedded SAM on the 200 scenes of `benchmarks.world` (tiny models on
made scenes, which rank nothing in the real world). The words of a scene are its own vocabulary.
Writes `benchmarks/results/instances.json`:

- mIoU in percent as in docs/quality.md, of SCLIP without and with each use of proposals;
- boundary F-score (2 px) in percent, mean over scenes, see `refine_gain`;
- AP and AP50 of instances by pooled classification, every phrase a label, as COCO counts them;
- of the presence gate, with 20 words to a scene: the share of the words that are searched for, and
  the share of the drawn objects' words among them (`python -m benchmarks.instances gate` alone);
- ratios of speed: see `costs`, which `python -m benchmarks.instances costs` measures alone.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from benchmarks.proposals import batched_over_pipeline, vote_over_no_vote
from benchmarks.quality import PHRASES, embedded_backbones, figures, predict, text_of, text_of_world
from benchmarks.quality_rows import COMPOSITIONS, FOUND
from benchmarks.refine_gain import boundary_f
from benchmarks.world import LabelledScene, labelled_scenes
from ovseg_core.decision.decide import decide_one
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.methods import build_segmenter
from ovseg_core.methods.shared.presence_gate import GateOptions, PresenceGate
from ovseg_core.rle.encode import encode_rle
from ovseg_core.rle.stack import encode_stack, whole
from ovseg_core.segmenter import Segmenter, encode_images
from pipeline.evaluation.instances.average_precision import AveragePrecision, mean_figures
from pipeline.evaluation.instances.image_pair import FoundInstance, ImagePair, TrueInstance
from schemas.config import MaskConfig, NamedOptions
from schemas.score_columns import PROPOSAL_SCORE, SCORE

RESULTS = Path(__file__).parent / "results" / "instances.json"
Scenes = Mapping[str, Sequence[LabelledScene]]
Options = dict[str, Any]

_METHOD, _BEST = COMPOSITIONS["sclip, closer"]
_WITHOUT_PAMR: Options = {
    key: value for key, value in _BEST.items() if not key.startswith(("pamr", "top_k"))
}
_SAM: Options = {"proposals": "sam", "region_vote": False}
ROWS: dict[str, Options] = {
    "gated": dict(FOUND),
    "gated, vote": {**FOUND, "proposals": "sam"},
    "gated, limited attention": {**FOUND, **_SAM, "limited_attention": True},
    "gated, refinement": {**FOUND, **_SAM, "refine_masks": True},
    "closer": dict(_BEST),
    "closer, vote": {**_BEST, "proposals": "sam"},
    "closer, refinement": {**_BEST, **_SAM, "refine_masks": True},
    "closer, limited attention, refinement": {
        **_BEST,
        **_SAM,
        "limited_attention": True,
        "refine_masks": True,
    },
}
"""Options of SCLIP by title: its published sizes behind the embedded objectness head, and the best
composition of docs/quality.md, each without proposals and with."""


def segmenter_of(options: Options, masks: MaskConfig | None = None) -> Segmenter[Any]:
    """Return SCLIP with the embedded models."""
    part = NamedOptions(name=_METHOD, options=options)
    return build_segmenter(part, embedded_backbones(), masks or MaskConfig())


def measure_row(options: Options, scenes: Scenes) -> dict[str, Any]:
    """Return mIoU and boundary F-score of label maps, in percent."""
    segmenter = segmenter_of(options)
    world = text_of_world(segmenter)
    boundary: list[float] = []
    held_out: dict[str, list[LabelledScene]] = {name: group[1::2] for name, group in scenes.items()}
    known: dict[int, NDArray[np.integer]] = {}

    def predicted(scene: LabelledScene) -> NDArray[np.integer]:
        if id(scene) not in known:
            known[id(scene)] = predict(segmenter, scene, world)
            boundary.append(boundary_f(known[id(scene)], scene.truth))
        return known[id(scene)]

    whole = figures(predicted, scenes)
    return {
        "all": whole["all"],
        "crowded": whole["crowded"],
        "held_out": figures(predicted, held_out)["all"],
        "boundary_f": round(100 * fmean(boundary), 1),
    }


def measure_instances(options: Options, scenes: Scenes) -> dict[str, float]:
    """Return AP and AP50 of instances by pooled classification."""
    masks = MaskConfig(segments="instances")
    segmenter = segmenter_of({**options, "proposals": "sam"}, masks)
    world, precision = text_of_world(segmenter), AveragePrecision(len(PHRASES))
    drawn = [scene for group in scenes.values() for scene in group]
    for number, scene in enumerate(drawn):
        image = torch.from_numpy(scene.scene.image).permute(2, 0, 1).contiguous()
        maps = segmenter.score(encode_images(segmenter, [image]), text_of(scene.labels, world))
        size_hw = (scene.truth.shape[0], scene.truth.shape[1])
        rows = image_rows(decide_one(maps, 0, size_hw), size_hw, scene.labels, masks).segments
        found = [
            FoundInstance(
                PHRASES[row.label],
                row.rle_counts,
                row.area_px,
                getattr(row, SCORE) * getattr(row, PROPOSAL_SCORE),
            )
            for row in rows
        ]
        precision.add(ImagePair(number, size_hw, true_instances(scene), found))
    mean = mean_figures(precision.figures())
    return {"ap": round(mean.ap, 3), "ap50": round(mean.ap50, 3), "ap75": round(mean.ap75, 3)}


def true_instances(scene: LabelledScene) -> list[TrueInstance]:
    """Return the visible part of every drawn object."""
    instances = scene.scene.instances
    objects = encode_rle(instances, (instances.shape[0], instances.shape[1]))
    return [
        TrueInstance(
            PHRASES[scene.labels[scene.truth[instances == number][0] - 1]], rle.counts, rle.area_px
        )
        for number, rle in objects.items()
    ]


def gate() -> dict[str, float]:
    """Return the share of 20 labels that pass the presence gate, and of the present ones."""
    made = PresenceGate(embedded_backbones().clip, GateOptions().gate_min_presence)
    world, decoded, present = text_of_world(made), [], []
    scenes = labelled_scenes(num_labels=20)
    for scene in (one for group in scenes.values() for one in group):
        image = torch.from_numpy(scene.scene.image).permute(2, 0, 1).contiguous()
        with torch.inference_mode():
            passes_K = made.passes(made.encode([image]), text_of(scene.labels, world))[0]
        decoded.append(float(passes_K[1:].float().mean()))
        shown = [scene.labels.index(label) + 1 for label in scene.scene.labels]
        present += passes_K[shown].float().tolist()
    return {
        "gate_share_decoded": round(fmean(decoded), 3),
        "gate_presence_recall": round(fmean(present), 3),
    }


def costs() -> dict[str, float]:
    """Return how many times as fast as the usual library ours is, in CPU time of one thread.

    SAM's proposals against transformers' pipeline; the RLE of 100 overlapping masks of two
    megapixels against pycocotools, in turns, the least of five each.
    """
    size_hw = (1200, 1600)
    rng = np.random.default_rng(0)
    stack = np.zeros((100, *size_hw), np.uint8)
    for mask in stack:
        centre = (int(rng.integers(1600)), int(rng.integers(1200)))
        axes = (int(rng.integers(40, 300)), int(rng.integers(40, 300)))
        cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 1, -1)
    masks = torch.from_numpy(stack.astype(bool))
    ours, theirs = [], []
    for _ in range(5):
        began = time.process_time()
        found = encode_stack(map(whole, masks), size_hw)
        ours.append(time.process_time() - began)
        began = time.process_time()
        expected = [coco_mask.encode(np.asfortranarray(mask)) for mask in stack]
        theirs.append(time.process_time() - began)
    if any(
        found[n].counts != rle["counts"].decode() for n, rle in enumerate(expected) if n in found
    ):
        raise RuntimeError("the run lengths differ from pycocotools'")
    return {
        "proposals_batched_over_pipeline": round(batched_over_pipeline(), 2),
        "vote_over_no_vote": round(vote_over_no_vote(), 3),
        "rle_stack_over_pycocotools": round(min(theirs) / min(ours), 2),
    }


def main(only: Sequence[str]) -> None:
    """Measure everything, or only the costs or the gate, and write the results."""
    alone = {"costs": costs, "gate": gate}
    if only:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
        for name in only:
            results |= alone[name]()
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        return
    scenes, rows = labelled_scenes(), {}
    for title, options in ROWS.items():
        began = time.perf_counter()
        rows[title] = measure_row(options, scenes)
        print(f"{title}: {rows[title]} ({time.perf_counter() - began:.0f} s)", flush=True)
    instances = measure_instances(_WITHOUT_PAMR, scenes)
    print(f"instances: {instances}", flush=True)

    def gain(name: str, figure: str = "crowded") -> float:
        return round(rows[f"gated, {name}"][figure] - rows["gated"][figure], 1)

    results = {
        "instances_ap50": instances["ap50"],
        "instances_ap": instances["ap"],
        "vote_gain_miou": gain("vote"),
        "limited_attention_gain_miou": gain("limited attention"),
        "refine_gain_miou": gain("refinement"),
        "refine_gain_boundary_f": gain("refinement", "boundary_f"),
        "best_composition_held_out_miou": max(row["held_out"] for row in rows.values()),
        **gate(),
        **costs(),
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
