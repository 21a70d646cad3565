"""Out to a tool and back under any file names, label names and orders: no mask lost or moved."""

import json
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corrections.import_review import ImportRules, import_review
from pipeline.corrections.layer import ReviewedLayer
from pipeline.exporters import cvat
from pipeline.importers.shared.notes import NoteKind
from pipeline.run.folder import RunFolder
from tests.helpers.drawn_runs import RunSpec, Scene, label_map, make_run
from tests.helpers.exported_masks import coco_dataset, label_studio_tasks, run_masks

RULES = ImportRules(empty_means="reviewed", unchanged_means="reviewed")
PARTS = st.text(st.sampled_from("aB 1é猫%#&?*[]+='\"\\\n_-."), min_size=1, max_size=5)
PATHS = st.lists(
    st.lists(PARTS, min_size=1, max_size=2).map(lambda parts: "/".join(f"x{p}" for p in parts)),
    min_size=2, max_size=4, unique_by=str.casefold,
)  # fmt: skip
LABELS = st.lists(
    st.text(st.sampled_from("ab1é猫,;:=/\\'\"<&%{}[] "), min_size=1, max_size=6).map(
        lambda text: f"l{text}l"
    ),
    min_size=3, max_size=3, unique_by=str.casefold,
)  # fmt: skip


def _coco(run: RunFolder, random: Random) -> bytes:
    """The tool gives its own ids, in its own order, and puts a folder in front."""
    dataset = coco_dataset(run)
    ids = [category["id"] for category in dataset["categories"]]
    new = dict(zip(ids, random.sample(range(50), len(ids)), strict=True))
    for category in dataset["categories"]:
        category["id"] = new[category["id"]]
    for entry in dataset["annotations"]:
        entry["category_id"] = new[entry["category_id"]]
        del entry["attributes"]
    for image in dataset["images"]:
        image["file_name"] = f"images/default/{image['file_name']}"
    for key in ("images", "annotations", "categories"):
        random.shuffle(dataset[key])
    return json.dumps(dataset).encode()


def _cvat(run: RunFolder, random: Random) -> bytes:
    cvat.export(run, cvat.Options())
    return run.folder.read_bytes("exports/cvat/annotations.xml")


def _label_studio(run: RunFolder, random: Random) -> bytes:
    tasks = label_studio_tasks(run)
    for task in tasks:
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
    random.shuffle(tasks)
    return json.dumps(tasks).encode()


@pytest.mark.parametrize(
    ("tool", "write"), [("coco", _coco), ("cvat", _cvat), ("label-studio", _label_studio)]
)
@settings(max_examples=6)
@given(paths=PATHS, labels=LABELS, random=st.randoms(use_true_random=False))
def test_every_mask_comes_back_or_is_named(tool, write, paths, labels, random):
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{path}.png" for path in paths]
        scenes = [Scene(path, label_map(seed)) for seed, path in enumerate(paths)]
        run = make_run(Path(folder), scenes, RunSpec(labels=tuple(labels)))
        file = Path(folder, "review")
        file.write_bytes(write(run, random))
        report = import_review(run, tool, str(file), RULES)
        layer = ReviewedLayer(run)
        found = [
            (image.path, mask) for key, image in layer.images.items() for mask in layer.masks(key)
        ]
        assert {mask.verdict for _, mask in found} <= {"accepted"}
        ours = sorted((path, mask.label, mask.rle_counts) for path, mask in found)
        noted = report.notes.get(NoteKind.AMBIGUOUS_NAMES)
        lost = {name.removeprefix("images/default/") for name in noted.first} if noted else set()
        assert ours == [one for one in run_masks(run) if one[0] not in lost]
        assert not lost or tool == "coco"
