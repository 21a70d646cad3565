import json

from pipeline.exporters import panoptic
from tests.helpers.drawn_runs import awkward_scenes, crowded_run, crowded_scene, make_run
from tests.helpers.exported_masks import READERS, counts_of


def test_export_components_are_things_and_class_masks_are_stuff(tmp_path):
    run = make_run(tmp_path, awkward_scenes())
    for segments, isthing in (("class", 0), ("components", 1)):
        panoptic.export(run, panoptic.Options(segments=segments))
        dataset = json.loads(run.folder.read_bytes("exports/panoptic/panoptic.json"))
        assert {category["isthing"] for category in dataset["categories"]} == {isthing}
        assert [a["image_id"] for a in dataset["annotations"]] == [
            i["id"] for i in dataset["images"]
        ]
        assert dataset["annotations"][-2]["segments_info"] == []
    assert len(READERS["panoptic"](run)) > 20


def test_instances_are_things_and_the_highest_score_is_on_top(tmp_path):
    run = crowded_run(tmp_path)
    panoptic.export(run, panoptic.Options())
    dataset = json.loads(run.folder.read_bytes("exports/panoptic/panoptic.json"))
    assert {category["isthing"] for category in dataset["categories"]} == {1}
    left, right, dog, _ = (mask for _, _, mask in crowded_scene("").instances)
    seen = [("cat", left), ("cat", right & ~left & ~dog), ("dog", dog & ~left)]
    assert READERS["panoptic"](run) == [
        (path, label, counts_of(mask))
        for path in ("a/one.png", "turned.jpg")
        for label, mask in seen
    ]
    losses = run.folder.read_bytes("exports/panoptic/LOSSES.txt").decode()
    assert "2  masks that lie wholly under others" in losses
    assert "4  masks that lie in part under others: hidden pixels are lost" in losses


def test_instances_joined_by_label_are_stuff(tmp_path):
    run = crowded_run(tmp_path)
    panoptic.export(run, panoptic.Options(segments="class"))
    dataset = json.loads(run.folder.read_bytes("exports/panoptic/panoptic.json"))
    assert {category["isthing"] for category in dataset["categories"]} == {0}
    left, right, dog, _ = (mask for _, _, mask in crowded_scene("").instances)
    cats = left | right  # of a higher mean score than the dog
    seen = [("cat", counts_of(cats)), ("dog", counts_of(dog & ~cats))]
    assert [mask[1:] for mask in READERS["panoptic"](run)] == [*seen, *seen]
