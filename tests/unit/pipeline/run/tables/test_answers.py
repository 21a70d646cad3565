"""Whether an image shows a label, from the scores table of a run."""

import numpy as np

from pipeline.run.reader import RunReader
from pipeline.run.tables.answers import (
    ABSENT,
    ANSWERS,
    NOT_ASKED,
    PRESENT,
    UNSURE,
    answers_by_image,
    scored_answers,
)
from schemas.records import ScoreRow
from schemas.tables import to_table
from tests.helpers.drawn_runs import RunSpec, Scene, make_run


def scores_of(*rows: tuple[str, int, float, float]):
    return to_table(
        "scores",
        [
            ScoreRow(
                image_id=image,
                label=f"label {category}",
                category_id=category,
                max_prob=highest,
                mean_prob=0.0,
                area_frac=area,
            )
            for image, category, highest, area in rows
        ],
    )


def test_a_label_is_present_unsure_or_absent():
    table = scores_of(("a", 1, 0.05, 0.2), ("a", 2, 0.1, 0.0), ("b", 1, 0.0999, 0.0))
    assert scored_answers(table).tolist() == [PRESENT, UNSURE, ABSENT]
    assert scored_answers(table, 0.01).tolist() == [PRESENT, UNSURE, UNSURE]
    assert scored_answers(table, 0.2).tolist() == [PRESENT, ABSENT, ABSENT]


def test_answers_lie_in_the_order_of_images_and_labels_and_what_has_no_row_was_not_asked():
    table = scores_of(("b", 2, 0.9, 0.1), ("a", 1, 0.0, 0.0), ("c", 1, 0.0, 0.0))
    found = answers_by_image(table, ["a", "x", "b"], 2)
    assert found.tolist() == [[ABSENT, NOT_ASKED], [NOT_ASKED] * 2, [NOT_ASKED, PRESENT]]
    assert ANSWERS[NOT_ASKED] == "not_asked"
    assert answers_by_image(table.slice(0, 0), ["a"], 2).tolist() == [[NOT_ASKED] * 2]


def test_a_shard_gives_the_answers_of_its_annotated_images(tmp_path):
    """The labels that a drawn image does not show have the highest probabilities .27, .43, .6."""
    cat, plant = np.ones((6, 9), np.uint16), np.full((6, 9), 3, np.uint16)
    scenes = [Scene("a.png", cat), Scene("broken.png", None), Scene("b.png", plant)]
    [shard] = RunReader(make_run(tmp_path, scenes, RunSpec())).shards()
    assert shard.answers(0.5).tolist() == [[PRESENT, ABSENT, UNSURE], [ABSENT, ABSENT, PRESENT]]
    assert shard.answers()[0].tolist() == [PRESENT, UNSURE, UNSURE]
