"""The table of `make bench-quality`: how it counts, and that the README shows what was measured."""

import json

import numpy as np
import pytest
import torch

from benchmarks.quality import (
    README,
    RESULTS,
    embedded_backbones,
    figures,
    measure,
    text_of,
    text_of_world,
)
from benchmarks.quality_table import BEGIN, END, tables, write_tables
from benchmarks.recipes import recipes
from benchmarks.world import GROUPS, Exam, exam
from ovseg_core import methods
from ovseg_core.methods import build_segmenter
from schemas import plugins
from schemas.config import NamedOptions
from schemas.vocabulary import Vocabulary

SCENES = {name: [exam(name, number) for number in range(2)] for name in GROUPS}


def test_perfect_masks_are_a_hundred_everywhere():
    found = figures(lambda one: one.truth, SCENES)
    assert set(found["groups"].values()) == {100.0}
    assert (found["all"], found["crowded"], found["a_scene"]) == (100.0, 100.0, 100.0)


def test_a_group_pools_its_scenes_and_a_wrong_label_counts_where_it_is():
    def one_label_too_many(one: Exam) -> np.ndarray:
        absent = next(k for k in range(1, len(one.words) + 1) if not (one.truth == k).any())
        predicted = one.truth.copy()
        predicted[0, 0] = absent
        return predicted

    found = figures(one_label_too_many, SCENES)
    assert found["all"] > 99.5
    # Of one object's scene, background, the object and the stray label: 2 of 3 classes are left.
    alone = figures(one_label_too_many, dict.fromkeys(GROUPS, SCENES["one"]))
    assert alone["a_scene"] == pytest.approx(66.7, abs=0.2)


def test_objects_missed_leave_background_alone():
    found = figures(lambda one: np.zeros_like(one.truth), dict.fromkeys(GROUPS, SCENES["one"]))
    truths = [one.truth for one in SCENES["one"]]
    background = sum(int((truth == 0).sum()) for truth in truths) / sum(t.size for t in truths)
    phrases = {label for one in SCENES["one"] for label in one.scene.labels}
    expected = 100 * background / (1 + len(phrases))
    assert found["groups"]["one"] == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("name", ["clip_diy", "sclip"])
def test_the_text_of_a_scene_is_what_its_vocabulary_gives(name: str):
    options = {"templates": "diy"}
    segmenter = build_segmenter(NamedOptions(name=name, options=options), embedded_backbones())
    words = SCENES["many"][0].words
    own = segmenter.text_matrix(Vocabulary.model_validate(list(words)))
    picked = text_of(words, text_of_world(segmenter))
    assert torch.allclose(picked.rows_QD, own.rows_QD, atol=1e-5)
    assert torch.equal(picked.class_index_Q, own.class_index_Q)
    assert picked.num_classes == own.num_classes


def test_a_segmenter_is_measured_through_its_own_masks():
    gated = {"objectness": {"name": "found"}, "templates": "diy"}
    scenes = dict.fromkeys(GROUPS, SCENES["one"])
    found = [
        measure(
            build_segmenter(NamedOptions(name="sclip", options=o), embedded_backbones()), scenes
        )
        for o in (gated, {"templates": "diy"})
    ]
    assert found[0]["all"] > found[1]["all"] + 10


def test_every_method_is_measured_with_the_options_of_today():
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    wanted = {recipe.key: recipe.described() for recipe in recipes()}
    assert set(plugins.names(methods.PACKAGE)) <= set(wanted)
    assert list(rows) == list(wanted), "run `make bench-quality`"
    for key, described in wanted.items():
        assert {name: rows[key][name] for name in described} == json.loads(json.dumps(described))


def test_the_readme_shows_the_committed_results():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = README.read_text(encoding="utf-8")
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == tables(results)


def test_tables_replace_what_was_between_the_markers(tmp_path):
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write_tables(results, page)
    assert page.read_text(encoding="utf-8") == f"before\n{BEGIN}\n{tables(results)}\n{END}\nafter\n"
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="quality:begin"):
        write_tables(results, page)
