"""Stored features: bytes an image, and what their rounding changes.

Run by `python -m benchmarks.grow stored_features`.

Bytes: one photograph of 480 x 640 through every method at its published sizes, on random networks
of the published shapes (CLIP ViT-B/16, DINO ViT-B/8). Error: 30 drawn scenes of
`benchmarks.world` on the embedded models, each encoded once and scored from its features as they
are, in float16 and in int8. The second call is processor seconds of what other words cost: reading
the features, score, decision and rows, for 30 labels. Methods with networks of their own (`sam3`,
`owlv2_sam2`, `student`) are left out.

Writes `benchmarks/results/stored_features.json` and the table between the markers in
docs/relabel.md.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.photographs import photograph
from benchmarks.proxyclip import random_vit_b16
from benchmarks.quality import embedded_backbones, figures, text_of, text_of_world
from benchmarks.world import LabelledScene, labelled_scenes
from ovseg_core import methods
from ovseg_core.decision.decide import decide_one
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.images.resize.nearest import to_size
from ovseg_core.methods import build_segmenter, runs_by_name
from ovseg_core.prediction.stored_features import FeaturePrecision, pack_features, unpack_features
from ovseg_core.segmenter import Features, Segmenter, TextMatrix, encode_images
from schemas import plugins
from schemas.config import MaskConfig, NamedOptions
from schemas.vocabulary import Vocabulary

RESULTS = Path(__file__).parent / "results" / "stored_features.json"
PAGE = Path(__file__).parents[1] / "docs" / "relabel.md"
BEGIN, END = "<!-- stored features:begin -->", "<!-- stored features:end -->"
PRECISIONS: tuple[FeaturePrecision, ...] = ("float16", "int8")
SIZE_HW = (480, 640)
NUM_LABELS = 30
SCENES_PER_GROUP = 6
ROUNDS = 5


def measure() -> dict[str, float]:
    """Measure every method, write file and table, and return the worst of them."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, one_thread():
        for name, options in cases(Path(folder)):
            rows[name] = sizes(name, options, Path(folder))
            for key, found in errors(name).items():
                rows[name][key] = rows[name].get(key, {}) | found if key in PRECISIONS else found
            print(name, json.dumps(rows[name]), flush=True)
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    write_table(rows)
    found: dict[str, float] = {}
    for precision, short in (("float16", "f16"), ("int8", "int8")):
        found |= {
            f"features_pixels_equal_{short}": min(
                row[precision]["pixels_equal"] for row in rows.values()
            ),
            f"features_miou_change_{short}": max(
                abs(row[precision]["miou"] - row["miou"]) for row in rows.values()
            ),
            f"features_cosine_error_{short}": max(
                row[precision]["cosine_error"] for row in rows.values()
            ),
            f"features_mb_maskclip_{short}": rows["maskclip"][precision]["mb"],
        }
    return {name: round(value, 9) for name, value in found.items()}


def cases(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the methods, with the heads that the random networks need."""
    write_heads(folder)
    found = {"name": "found", "options": {"head": str(folder / "found.safetensors")}}
    needed = {
        "clip_diy": {"objectness": found},
        "clip_dinoiser": {"heads": str(folder / "dinoiser.safetensors")},
    }
    for name in plugins.names(methods.PACKAGE):
        if runs_by_name(name):
            yield name, needed.get(name, {})


def write_heads(folder: Path) -> None:
    """Write random heads for networks of width 768."""
    weight = torch.randn(1, 768, 1, 1) / 10
    head = {"decoder.weight": weight, "decoder.bias": torch.zeros(1)}
    save_file(head, folder / "found.safetensors")
    heads = {
        "obj_proj.weight": torch.randn(256, 768, 3, 3) / 100,
        "obj_proj.bias": torch.zeros(256),
        "bkg_decoder.weight": weight.clone(),
        "bkg_decoder.bias": torch.zeros(1),
    }
    save_file(heads, folder / "dinoiser.safetensors")


def sizes(name: str, options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return megabytes and times of one method at its published sizes."""
    networks = folder / name
    networks.mkdir()
    segmenter = build_segmenter(NamedOptions(name=name, options=options), random_vit_b16(networks))
    image = torch.from_numpy(photograph(0, SIZE_HW)).permute(2, 0, 1).contiguous()
    labels = [f"thing {number}" for number in range(NUM_LABELS)]
    words = Vocabulary.model_validate({"labels": labels, "templates": ["{}"]})
    text = segmenter.text_matrix(words)

    def label(features: Features) -> object:
        decision = decide_one(segmenter.score(features, text), 0, SIZE_HW)
        return image_rows(decision, SIZE_HW, words.names, MaskConfig())

    features = encode_images(segmenter, [image])
    first_s = seconds(lambda: label(encode_images(segmenter, [image])), 1)
    found: dict[str, Any] = {"first_s": round(first_s, 3)}
    for precision in PRECISIONS:
        data = pack_features(features, precision)
        again_s = seconds(lambda data=data: label(unpack_features(data, segmenter)), ROUNDS)
        found[precision] = {"mb": round(len(data) / 1e6, 3), "again_s": round(again_s, 4)}
    return found


def errors(name: str) -> dict[str, Any]:
    """Return how labels and features change on the drawn scenes, and the mIoU of each."""
    options = {"objectness": "found"} if name == "clip_diy" else {}
    segmenter = build_segmenter(NamedOptions(name=name, options=options), embedded_backbones())
    world = text_of_world(segmenter)
    scenes = {name: some[:SCENES_PER_GROUP] for name, some in labelled_scenes().items()}
    encoded = {id(one): features_of(segmenter, one) for some in scenes.values() for one in some}
    maps = {
        key: [label_map(segmenter, features, scene, world) for features in kept]
        for scene, (key, kept) in zip(
            (one for some in scenes.values() for one in some), encoded.items(), strict=True
        )
    }
    found: dict[str, Any] = {"miou": figures(lambda scene: maps[id(scene)][0], scenes)["all"]}
    for place, precision in enumerate(PRECISIONS, start=1):
        equal = np.concatenate([(three[0] == three[place]).ravel() for three in maps.values()])
        found[precision] = {
            "pixels_equal": round(float(equal.mean()), 6),
            "miou": figures(lambda scene, place=place: maps[id(scene)][place], scenes)["all"],
            "cosine_error": max(cosine_error(three[0], three[place]) for three in encoded.values()),
        }
    return found


def features_of(segmenter: Segmenter[Any], scene: LabelledScene) -> list[Features]:
    """Return the features of a scene as they are, and as each precision keeps them."""
    image = torch.from_numpy(scene.scene.image).permute(2, 0, 1).contiguous()
    features = encode_images(segmenter, [image])
    kept = [pack_features(features, precision) for precision in PRECISIONS]
    return [features, *(unpack_features(data, segmenter) for data in kept)]


def label_map(
    segmenter: Segmenter[Any], features: Features, scene: LabelledScene, world: TextMatrix
) -> np.ndarray:
    """Return the label map (H, W) of a scene's features."""
    size_hw = (scene.truth.shape[0], scene.truth.shape[1])
    maps = segmenter.score(features, text_of(scene.labels, world))
    return to_size(decide_one(maps, 0, size_hw).label_map, size_hw)


def cosine_error(before: Features, after: Features) -> float:
    """Return the largest 1 - cosine of a vector and the same one after it was stored."""
    pairs = zip(vectors(before), vectors(after), strict=True)
    return max(float((1 - torch.cosine_similarity(*pair, dim=-1)).max()) for pair in pairs)


def vectors(features: Any) -> list[Tensor]:
    """Return the embeddings in CLIP's space, (..., D)."""
    if hasattr(features, "crops_BND"):
        return [features.crops_BND.double()]
    return [image.dense.patches_BDhw.double().movedim(1, -1) for image in features.images]


def seconds(function: Callable[[], object], rounds: int) -> float:
    """Return the processor seconds of a call."""
    began = time.process_time()
    for _ in range(rounds):
        function()
    return (time.process_time() - began) / rounds


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread, without gradients."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of docs/relabel.md."""
    heads = ("", "MB, float16", "MB, int8", "first time, s", "again, s", "times faster")
    heads += ("pixels equal, float16", "int8", "mIoU", "float16", "int8")
    lines: list[Sequence[str]] = [heads, ["---"] * len(heads)]
    for name, row in rows.items():
        half, byte = (cast(Mapping[str, float], row[precision]) for precision in PRECISIONS)
        lines.append(
            (
                f"`{name}`",
                *(f"{one['mb']:.2f}" for one in (half, byte)),
                f"{row['first_s']:.1f}",
                f"{half['again_s']:.3f}",
                f"{row['first_s'] / half['again_s']:.0f}",
                *(f"{one['pixels_equal']:.2%}" for one in (half, byte)),
                f"{row['miou']:.1f}",
                *(f"{one['miou'] - row['miou']:+.1f}" for one in (half, byte)),
            )
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_table(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace what stands between the markers of the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", encoding="utf-8")
