"""The table of `make bench-quality`: how it counts, and that the page shows what was measured."""

import json

import numpy as np
import pytest
import torch

from benchmarks.quality import (
    PAGE,
    RESULTS,
    embedded_backbones,
    figures,
    measure,
    text_of,
    text_of_world,
)
from benchmarks.quality_rows import quality_rows
from benchmarks.quality_table import BEGIN, END, tables, write_tables
from benchmarks.world import GROUPS, LabelledScene, labelled_scene
from ovseg_core import methods
from ovseg_core.methods import build_segmenter
from schemas import plugins
from schemas.config import NamedOptions
from schemas.vocabulary import Vocabulary

SCENES = {name: [labelled_scene(name, number) for number in range(2)] for name in GROUPS}


def test_figures_of_perfect_masks_are_a_hundred():
    found = figures(lambda one: one.truth, SCENES)
    assert set(found["groups"].values()) == {100.0}
    assert (found["all"], found["crowded"], found["a_scene"]) == (100.0, 100.0, 100.0)


def test_figures_pool_a_group_and_count_a_wrong_label_in_its_scene():
    def one_label_too_many(one: LabelledScene) -> np.ndarray:
        absent = next(k for k in range(1, len(one.labels) + 1) if not (one.truth == k).any())
        predicted = one.truth.copy()
        predicted[0, 0] = absent
        return predicted

    found = figures(one_label_too_many, SCENES)
    assert found["all"] > 99.5
    # Of one object's scene, background, the object and the stray label: 2 of 3 classes are left.
    alone = figures(one_label_too_many, dict.fromkeys(GROUPS, SCENES["one"]))
    assert alone["a_scene"] == pytest.approx(66.7, abs=0.2)


def test_figures_of_missed_objects_are_the_background():
    found = figures(lambda one: np.zeros_like(one.truth), dict.fromkeys(GROUPS, SCENES["one"]))
    truths = [one.truth for one in SCENES["one"]]
    background = sum(int((truth == 0).sum()) for truth in truths) / sum(t.size for t in truths)
    phrases = {label for one in SCENES["one"] for label in one.scene.labels}
    expected = 100 * background / (1 + len(phrases))
    assert found["groups"]["one"] == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("name", ["clip_diy", "sclip"])
def test_text_of_equals_the_text_matrix_of_the_vocabulary(name: str):
    options = {"templates": "diy"}
    segmenter = build_segmenter(NamedOptions(name=name, options=options), embedded_backbones())
    labels = SCENES["many"][0].labels
    own = segmenter.text_matrix(Vocabulary.model_validate(list(labels)))
    picked = text_of(labels, text_of_world(segmenter))
    assert torch.allclose(picked.rows_QD, own.rows_QD, atol=1e-5)
    assert torch.equal(picked.class_index_Q, own.class_index_Q)
    assert picked.num_classes == own.num_classes


def test_measure_objectness_improves_the_figures():
    gated = {"objectness": {"name": "found"}, "templates": "diy"}
    scenes = dict.fromkeys(GROUPS, SCENES["one"])
    found = [
        measure(
            build_segmenter(NamedOptions(name="sclip", options=o), embedded_backbones()), scenes
        )
        for o in (gated, {"templates": "diy"})
    ]
    assert found[0]["all"] > found[1]["all"] + 10


def test_results_have_every_row_with_its_current_options():
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    wanted = {row.key: row.described() for row in quality_rows()}
    assert set(filter(methods.runs_by_name, plugins.names(methods.PACKAGE))) <= set(wanted)
    assert list(rows) == list(wanted), "run `make bench-quality`"
    for key, described in wanted.items():
        assert {name: rows[key][name] for name in described} == json.loads(json.dumps(described))


def test_page_shows_the_committed_results():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == tables(results)


def test_write_tables_replaces_the_text_between_the_markers(tmp_path):
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_tables(results, page)
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n{tables(results)}\n{END}\nafter\n"
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="quality:begin"):
        write_tables(results, page)
