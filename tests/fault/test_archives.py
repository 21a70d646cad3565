"""A run over tar shards in a bucket that is killed, goes on and grows equals an undisturbed one."""

import json
import signal
from pathlib import Path

from pipeline.exporters import coco
from pipeline.job import job
from pipeline.job.progress import Progress
from pipeline.run.folder import RunFolder
from pipeline.run.images import RunImages
from pipeline.storage.folder import Folder
from tests.helpers.colour_segmenter import (
    BuildColourSegmenter,
    SegmenterFaults,
    colour_config,
    paint_collection,
    table_rows,
)
from tests.helpers.killed_processes import run_job
from tests.helpers.packed_images import tar_bytes

NUM_TARS, PER_TAR = 3, 7


def finish(config):
    report = job.run(config, Progress(), BuildColourSegmenter())
    assert report.exit_code == 0
    return report


def write_tar(bucket: str, files: list[Path], number: int) -> None:
    members = {}
    for file in files[number * PER_TAR :][:PER_TAR]:
        members |= {f"sub/{file.name}": file.read_bytes(), f"sub/{file.stem}.txt": b"a text"}
    Folder(bucket).atomic_write(f"{number:03d}.tar", tar_bytes(members))


def by_image(out, table):
    """Return a table's rows by the image's path, without its place."""
    rows = table_rows(out)
    paths = {row["image_id"]: row["path"] for row in rows["images"]}
    places = {"image_id", "path", "uri"}
    found: dict[str, list] = {}
    for row in rows[table]:
        kept = {key: value for key, value in row.items() if key not in places}
        found.setdefault(paths[row["image_id"]], []).append(kept)
    return found


def test_a_killed_run_over_tar_shards_equals_one_over_files(forks, s3_folder, tmp_path):
    paint_collection(tmp_path / "files", (NUM_TARS + 1) * PER_TAR)
    files = sorted((tmp_path / "files").iterdir())
    for number in range(NUM_TARS):
        write_tar(s3_folder, files, number)
    config = colour_config(s3_folder, f"{tmp_path}/run")
    for _ in range(3):  # each begins at a shard by chance, and goes as far as this image
        process = forks.Process(target=run_job, args=(config, SegmenterFaults(kill_on="011.png")))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    finish(config)
    write_tar(s3_folder, files, NUM_TARS)
    report = finish(
        config.model_copy(update={"run": config.run.model_copy(update={"update": True})})
    )
    assert report.num_new == PER_TAR
    over_files = colour_config(tmp_path / "files", tmp_path / "other")
    finish(over_files)
    for table in ("images", "scores", "annotations"):
        ours = {path.partition("/")[2]: rows for path, rows in by_image(config.out, table).items()}
        theirs = by_image(over_files.out, table)
        assert ours == {f"sub/{path}": rows for path, rows in theirs.items()}
    run = RunFolder.open(config.out)
    images = RunImages(run)
    (shard,) = run.shards()[-1:]
    row = {"shard": shard.index, "image_id": shard.refs[-1].image_id}
    assert images.read_bytes(row) == files[-1].read_bytes()


def test_masks_of_a_coco_list_line_up_with_its_ids(tmp_path):
    paint_collection(tmp_path / "val", 6)
    names = sorted(file.name for file in (tmp_path / "val").iterdir())
    ids = {name: 1000 - 7 * place for place, name in enumerate([*names, "gone.png"])}
    entries = [{"id": number, "file_name": name} for name, number in ids.items()]
    (tmp_path / "truth.json").write_text(json.dumps({"images": entries}))
    run = {"images_roots": [str(tmp_path / "val")], "max_error_share": 0.5}
    config = colour_config(tmp_path / "truth.json", tmp_path / "run", run=run)
    report = finish(config)
    assert report.errors == {"not_found": 1}
    coco.export(RunFolder.open(config.out), coco.Options())
    found = json.loads((tmp_path / "run/exports/coco/instances.json").read_text())
    assert {image["file_name"]: image["id"] for image in found["images"]} == {
        name: ids[name] for name in names
    }
    assert {entry["image_id"] for entry in found["annotations"]} <= set(ids.values())
    results = json.loads((tmp_path / "run/exports/coco/results_segm.json").read_text())
    assert len(results) == len(found["annotations"]) > 0
    assert {entry["image_id"] for entry in results} <= {ids[name] for name in names}
