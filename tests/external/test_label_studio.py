"""A real Label Studio: tasks imported, images served, predictions submitted, export read back."""

from pathlib import Path

import pytest

from pipeline.corrections.import_review import import_review
from pipeline.corrections.layer import ReviewedLayer
from pipeline.run.folder import RunFolder
from tests.external.label_studio import Server, opt_in
from tests.helpers.annotated_instances import annotated_instances, overlapping_pairs
from tests.helpers.drawn_runs import awkward_scenes, make_run, odd_scenes
from tests.helpers.exported_masks import run_masks

pytestmark = opt_in


def _submit_all(studio: Server, run: RunFolder, review: Path, **options: int) -> None:
    """Submit every prediction; check that the server's export brings back the run's masks."""
    photos = Path(run.folder.uri).parent / "photos"
    project = studio.new_project(run, photos, **options)
    scores = {}
    for task in studio.tasks(project):
        photo = studio.fetch(task["data"]["image"])
        path = task["data"]["file_name"]
        assert photo == (photos / path).read_bytes(), path
        (prediction,) = studio.call(f"/api/predictions/?task={task['id']}")
        scores[path] = prediction["score"]
        submitted = {"result": prediction["result"], "lead_time": 12.0}
        studio.call(f"/api/tasks/{task['id']}/annotations/", submitted)
    assert len(set(scores.values())) > 3
    review.write_bytes(studio.fetch(f"/api/projects/{project}/export?exportType=JSON"))
    report = import_review(run, "label-studio", str(review))
    layer = ReviewedLayer(run)
    masks = [mask for image_id in layer.images for mask in layer.masks(image_id)]
    assert {mask.verdict for mask in masks} == {"accepted"}
    paths = {image_id: image.path for image_id, image in layer.images.items()}
    ours = sorted((paths[mask.image_id], mask.label, mask.rle_counts) for mask in masks)
    assert ours == run_masks(run)
    assert report.num_images == len(scores) == report.num_images_with_time
    assert report.minutes == pytest.approx(0.2 * len(scores))


def test_every_mask_survives_the_server(studio: Server, tmp_path: Path) -> None:
    run = make_run(studio.root / "api", [*awkward_scenes(), *odd_scenes()])
    _submit_all(studio, run, tmp_path / "review.json", max_bytes=8_000)
    assert len(list(run.folder.list("exports/label_studio"))) > 3, "one batch only"


def test_overlapping_instances_of_a_label_stay_two(studio: Server, tmp_path: Path) -> None:
    run = annotated_instances(studio.root / "instances")
    assert overlapping_pairs(run)
    _submit_all(studio, run, tmp_path / "review.json")
