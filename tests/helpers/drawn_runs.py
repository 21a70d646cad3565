"""Runs of drawn scenes, without any model: photographs and label maps in, committed shards out.

For runs without image files see `imageless_runs`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from ovseg_core.decision.decide import Decision
from ovseg_core.decision.image_rows import image_rows
from ovseg_core.decision.instances.instances import Instances
from ovseg_core.images.decoding.decode import DecodedImage
from ovseg_core.rle.encode import encode_rle
from pipeline.annotate.rows import (
    FailedImage,
    StageSeconds,
    annotated_rows,
    failed_rows,
    join_rows,
    tally_of,
)
from pipeline.collection.changes import Changes
from pipeline.run.folder import RunFolder
from pipeline.run.identity import RunIdentity
from schemas.config import JobConfig
from schemas.errors import ErrorCode, ImageError
from schemas.records import ImageRef, Shard, ShardRows
from schemas.score_columns import SCORE_COLUMNS
from schemas.tables import to_table
from tests.helpers.imageless_runs import unit_vector

EXIF_ORIENTATION = 0x0112
LABELS = ("cat", "dog", "potted plant")
ODD_NAMES = (
    "plain.jpg",
    "with space.png",
    "sub folder/ünï çødé 猫.png",
    "50%20off.png",
    "a#b?c&d.png",
    "<script>alert(1)<script>.png",
    "quote\"and'tick.png",
    "sub folder/plain.jpg",
)


@dataclass(frozen=True)
class Scene:
    """One image of a made run; `label_map` (H, W) of 0 and label numbers, None: it failed."""

    path: str
    label_map: np.ndarray | None
    confidence: float = 0.75
    orientation: int = 1
    """EXIF's; 6: the file is stored turned to the left. The label map is as displayed."""
    instances: tuple[tuple[int, float, np.ndarray], ...] | None = None
    """Label number, score and mask (H, W) of each, by label; they may overlap."""


@dataclass(frozen=True)
class RunSpec:
    """Shards and configuration of a made run."""

    shard_size: int = 3
    labels: tuple[str, ...] = LABELS
    masks: dict = field(default_factory=dict)
    unfinished: tuple[int, ...] = ()
    """Shards that are not committed."""
    words: dict = field(default_factory=dict)
    """Further fields of the vocabulary."""
    job: dict = field(default_factory=dict)
    """Further fields of the job."""


def label_map(seed: int, height: int = 40, width: int = 56, num_labels: int = 3) -> np.ndarray:
    """Blocks of random labels, background among them."""
    coarse = np.random.default_rng(seed).integers(0, num_labels + 1, (5, 7))
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 7 // width
    return coarse[rows][:, columns].astype(np.uint16)


def odd_scenes() -> list[Scene]:
    """Odd names; one image without segments, one that failed."""
    scenes = [Scene(name, label_map(i), 0.5 + i / 20) for i, name in enumerate(ODD_NAMES)]
    empty = Scene("nothing.png", np.zeros((33, 21), np.uint16))
    return [*scenes[:4], empty, Scene("broken #1.jpg", None), *scenes[4:]]


def awkward_scenes() -> list[Scene]:
    """Masks that lose something on the way: holes, pixels, lines, whole images, turned images."""
    hole = np.zeros((31, 47), np.uint16)
    hole[4:25, 6:40], hole[10:15, 12:20], hole[12, 14] = 1, 0, 1
    hole[26:30, 1:45:2] = 2
    speck = np.zeros((17, 29), np.uint16)
    speck[3, 5], speck[9, 2:27], speck[1:16, 28], speck[16, 0] = 1, 2, 3, 3
    noise = np.random.default_rng(3).integers(0, 4, (23, 37)).astype(np.uint16)
    full = np.full((12, 19), 3, np.uint16)
    return [
        Scene("a b/hole #1.jpg", hole, 0.9),
        Scene("a b/hole #1.png", noise, 0.4),
        Scene("ünï/猫 50%.jpg", speck, 0.6),
        Scene("full.v2.JPG", full, 0.8),
        Scene("images/turned.jpg", label_map(4, 50, 34), 0.7, orientation=6),
        Scene("empty.jpg", np.zeros((9, 14), np.uint16)),
        Scene("pixel.png", np.ones((1, 1), np.uint16)),
    ]


def make_run(folder: Path, scenes: list[Scene], spec: RunSpec | None = None) -> RunFolder:
    """Write photographs, commit the shards, return the run at `folder/run`."""
    spec = spec or RunSpec()
    photos = folder / "photos"
    config = JobConfig.model_validate(
        {
            "images": str(photos),
            "out": str(folder / "run"),
            "vocabulary": {"labels": list(spec.labels), **spec.words},
            "shard_size": spec.shard_size,
            "masks": spec.masks,
            **spec.job,
        }
    )
    manifest = to_table("manifest", [_ref(scene, photos) for scene in scenes])
    run = RunFolder.create_or_resume(config.out, RunIdentity(config, {}), manifest)
    for shard in run.shards():
        rows = drawn_rows(shard, scenes, config)
        if shard.index not in spec.unfinished:
            run.commit(shard.index, "test", rows, tally_of(rows, {"wall": 1.0}))
    return run


def grow_run(
    run: RunFolder,
    new: Sequence[Scene] = (),
    changed: Sequence[Scene] = (),
    vanished: Collection[str] = (),
    limit: int | None = None,
) -> RunFolder:
    """Add a generation to a made run, annotate it, and return the run as it is then.

    `limit` is the generation's `image.limit`; None: that of the run.
    """
    config, before = run.info.job(), run.manifest()
    photos = Path(config.images)

    def listed(scenes: Sequence[Scene]) -> pa.Table:
        return to_table("manifest", [_ref(scene, photos) for scene in scenes])

    is_gone = pa.array([path in vanished for path in before["path"].to_pylist()])
    found = Changes(listed(new), listed(changed), before.filter(is_gone))
    run.updated(found, config.image.limit if limit is None else limit).write_update(config)
    grown = RunFolder.open(run.folder.uri)
    for index in grown.shards_left(grown.done()):
        rows = drawn_rows(grown.shards()[index], [*new, *changed], config)
        grown.commit(index, "test", rows, tally_of(rows, {"wall": 1.0}))
    return grown


def _ref(scene: Scene, photos: Path) -> ImageRef:
    return ImageRef(image_id=f"id-{scene.path}", path=scene.path, uri=str(photos / scene.path))


def drawn_rows(shard: Shard, scenes: list[Scene], config: JobConfig) -> ShardRows:
    """Write the photographs of a shard and return its rows."""
    by_path = {scene.path: scene for scene in scenes}
    return join_rows(_rows(ref, by_path[ref.path], config) for ref in shard.refs)


def _rows(ref: ImageRef, scene: Scene, config: JobConfig) -> ShardRows:
    seconds = StageSeconds()
    if scene.label_map is None:
        error = ImageError(ErrorCode.TRUNCATED, "ran out of bytes")
        return failed_rows(FailedImage(ref, seconds, error))
    _photograph(scene, Path(ref.uri))
    names = config.vocabulary.names
    decision, size_hw = _decision(scene, len(names)), scene.label_map.shape
    masks = image_rows(decision, size_hw, names, config.masks, image_id=ref.image_id)
    pixels = np.zeros((0, 0, 3), np.uint8)
    image = DecodedImage(pixels, *size_hw, scene.orientation)
    return annotated_rows(ref, image, masks, seconds, unit_vector(ref.path))


def _photograph(scene: Scene, file: Path) -> None:
    colours = np.array([[90, 90, 90], [220, 60, 60], [60, 180, 80], [70, 90, 220]], np.uint8)
    pixels = colours[scene.label_map % 4]
    exif = Image.Exif()
    if scene.orientation == 6:
        pixels, exif[EXIF_ORIENTATION] = np.rot90(pixels), 6
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", exif=exif)


def _decision(scene: Scene, num_labels: int) -> Decision:
    plane = np.full(scene.label_map.shape, scene.confidence, np.float32)
    probs = np.linspace(0.1, 0.6, num_labels + 1)
    maps = plane * 0.5, 1 - plane, plane
    return Decision(
        scene.label_map, plane, *maps, probs / 2, probs, instances=_instances(scene.instances)
    )


def _instances(drawn: tuple[tuple[int, float, np.ndarray], ...] | None) -> Instances | None:
    if drawn is None:
        return None
    score = np.array([score for _, score, _ in drawn], np.float64)
    names = SCORE_COLUMNS.keys() - {"area_frac", "num_components"}
    return Instances(
        labels=np.array([label for label, _, _ in drawn], np.int64),
        columns=dict.fromkeys(names, score),
        num_components=np.ones(len(drawn), np.int64),
        rles=tuple(encode_rle(mask.astype(np.uint8), mask.shape)[1] for _, _, mask in drawn),
    )


def crowded_scene(path: str, orientation: int = 1) -> Scene:
    """A scene of instances (30 x 44): two cats that touch, a dog over one of them, a plant in it.

    By segment index: the left cat (score .9), the right cat (.6), the dog (.7), the plant (.4).
    """
    masks = np.zeros((4, 30, 44), bool)
    masks[0, 4:20, 3:18] = True
    masks[1, 4:20, 18:36] = True
    masks[2, 12:27, 12:30] = True  # over both cats: the right one has the lower score
    masks[3, 14:18, 20:24] = True  # in the dog, with a lower score
    drawn = tuple(zip((1, 1, 2, 3), (0.9, 0.6, 0.7, 0.4), masks, strict=True))
    painted = np.zeros(masks.shape[1:], np.uint16)
    for label, _, mask in drawn:
        painted[mask] = label
    return Scene(path, painted, orientation=orientation, instances=drawn)


def crowded_run(folder: Path, spec: RunSpec | None = None) -> RunFolder:
    """Return a run of two crowded scenes, one turned by EXIF, and one without any instance."""
    nothing = Scene("nothing.png", np.zeros((12, 20), np.uint16), instances=())
    scenes = [crowded_scene("a/one.png"), crowded_scene("turned.jpg", orientation=6), nothing]
    spec = spec or RunSpec()
    return make_run(folder, scenes, replace(spec, masks={"segments": "instances"}))
