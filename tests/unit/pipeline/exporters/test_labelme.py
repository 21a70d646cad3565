import json

from pipeline.exporters import labelme
from tests.helpers.drawn_runs import make_run, odd_scenes


def test_export_masks_have_score_and_group(tmp_path):
    run = make_run(tmp_path, odd_scenes())
    labelme.export(run, labelme.Options(segments="components"))
    document = json.loads(run.folder.read_bytes("exports/labelme/50%20off.json"))
    assert {shape["shape_type"] for shape in document["shapes"]} == {"mask"}
    assert {shape["group_id"] for shape in document["shapes"]} == {0, 1, 2}
    assert all(shape["description"].startswith("score 0.") for shape in document["shapes"])
    assert document["imageData"] is None
