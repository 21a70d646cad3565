import json

from pipeline.exporters import panoptic
from tests.helpers.drawn_runs import awkward_scenes, make_run
from tests.helpers.exported_masks import READERS


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
