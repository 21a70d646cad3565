"""A run of instances as a user makes one: drawn scenes, embedded models, `ovseg annotate`."""

from itertools import combinations
from pathlib import Path

from typer.testing import CliRunner

from jobs.cli import app
from jobs.demo.draw import draw_scenes
from jobs.demo.shapes import SHAPES
from pipeline.corrections.matching import overlap
from pipeline.run.folder import RunFolder
from pipeline.run.reader import Row, RunReader

NUM_SCENES = 6


def annotated_instances(folder: Path) -> RunFolder:
    """Return a run at `folder/run` of `folder/photos`, in which instances of a label overlap."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    draw_scenes(photos, NUM_SCENES, seed=0)
    given = ["annotate", "--images", f"{photos}/scene_*.png", "--labels", ",".join(SHAPES)]
    settings = (
        "clip.model=embedded",
        "method.name=clip_diy",
        "method.options.proposals=sam",
        "masks.segments=instances",
        "shard_size=4",
    )
    for setting in settings:
        given += ["--set", setting]
    result = CliRunner().invoke(app, [*given, "--out", str(folder / "run"), "--local"])
    assert result.exit_code == 0, result.output
    return RunFolder.open(str(folder / "run"))


def overlapping_pairs(run: RunFolder) -> list[tuple[Row, Row]]:
    """Return the pairs of instances of one image and label that share pixels."""
    rows = [row for shard in RunReader(run).shards() for row in shard.segments()]
    return [
        (one, other)
        for one, other in combinations(rows, 2)
        if (one["image_id"], one["label"]) == (other["image_id"], other["label"])
        and _shared_px(one, other)
    ]


def _shared_px(one: Row, other: Row) -> int:
    size_hw = one["height"], one["width"]
    return overlap([one["rle_counts"]], [other["rle_counts"]], size_hw)[0]
