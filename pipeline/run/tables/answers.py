"""The answer of a run to "does this image show this label?", for every image and every label.

- `present`: the image has a segment of the label.
- `unsure`: it has none, but somewhere the label is not improbable (`UNSURE_FROM`).
- `absent`: it has none, and the label is improbable at every pixel.
- `failed`: the image could not be annotated.
- `not_asked`: the image is not annotated yet, or the label is none of the run's.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

Answer = Literal["present", "absent", "unsure", "failed", "not_asked"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)
"""The names of the numbers below, in order."""
PRESENT, ABSENT, UNSURE, FAILED, NOT_ASKED = range(len(ANSWERS))
UNSURE_FROM = 0.1
"""Highest probability at any pixel (`max_prob`) from which a label without a segment is `unsure`.

On 100 drawn scenes with 130 labels it makes 1.9 % of the labels without a segment unsure, and 7 of
the 12 that were overlooked are among them."""
ANSWER_COLUMNS = ["image_id", "category_id", "max_prob", "area_frac"]
"""Columns of the scores table that answers are made of."""

Answers = NDArray[np.int8]
"""Numbers of answers."""


def scored_answers(scores: pa.Table, unsure_from: float = UNSURE_FROM) -> Answers:
    """Return (N,) the answer of each row of a scores table."""
    area_frac, max_prob = (scores[name].to_numpy() for name in ("area_frac", "max_prob"))
    unsure = np.where(max_prob >= unsure_from, UNSURE, ABSENT)
    return np.where(area_frac > 0, PRESENT, unsure).astype(np.int8)


def answers_by_image(
    scores: pa.Table,
    image_ids: Sequence[str],
    num_labels: int,
    unsure_from: float = UNSURE_FROM,
) -> Answers:
    """Return (images, labels) the answers of some images of one scores table.

    Args:
        scores: its `ANSWER_COLUMNS`.
        image_ids: of annotated images.
        num_labels: of the run.
        unsure_from: see `UNSURE_FROM`.

    Returns:
        `not_asked` where the table has no row.
    """
    found = np.full((len(image_ids), num_labels), NOT_ASKED, np.int8)
    ids: Any = scores["image_id"].unify_dictionaries().combine_chunks()
    known = compute.index_in(ids.dictionary, value_set=pa.array(image_ids, ids.dictionary.type))
    rows = known.fill_null(-1).to_numpy(zero_copy_only=False)[ids.indices.to_numpy()]
    places = scores["category_id"].to_numpy() - 1
    is_wanted = (rows >= 0) & (places < num_labels)
    answers = scored_answers(scores, unsure_from)
    found[rows[is_wanted], places[is_wanted]] = answers[is_wanted]
    return found
