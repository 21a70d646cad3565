"""The orders of the grid: by doubt, by doubt and another run's word on the masks, and plain ones.

`ovseg compare RUN OTHER` writes what an agreement is read from; the doubt that follows is that of
the exporters (`exporters/_order.py`). Each is read when it is first chosen.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ovseg_core.decision.review_priority import combined_by_image, mask_priority
from pipeline.evaluation.compare import comparison_files, read_comparison_columns
from pipeline.review.cache import BoundedCache
from pipeline.review.index import ReviewIndex, Rows
from schemas.errors import UserError

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

DOUBT = "doubt"
_COMPARED = "compare:"
_KEPT = 3


@dataclass(frozen=True)
class Agreement:
    """What another run says of this one's masks; NaN: nothing.

    Attributes:
        of_mask: (N,) IoU of each segment's label with the other run's in the same image.
        of_image: (I,) mean IoU of the labels that either run has in an image.
        doubt: (I,) review priority by both runs.
        order: (I,) rows by it, failed ones last.
    """

    of_mask: NDArray[np.float32]
    of_image: NDArray[np.float32]
    doubt: NDArray[np.float64]
    order: Rows


class Orders:
    """Orders of a run's images; safe for threads.

    Args:
        index: the run's images.
    """

    def __init__(self, index: ReviewIndex) -> None:
        """Read nothing yet."""
        self._index = index
        self._files: dict[str, int] = {}
        self._agreements: BoundedCache[Agreement] = BoundedCache(_KEPT, lambda _: 1)

    def compared(self) -> dict[str, str]:
        """Look for comparisons; return their orders by name, with a word for the other run."""
        self._files = comparison_files(self._index.run)
        stems = [_stem(file) for file in self._files]
        methods = [stem.rpartition("-")[0] or stem for stem in stems]
        own = self._index.run.info.job().method.name
        return {
            _COMPARED + stem: stem if methods.count(method) > 1 or method == own else method
            for stem, method in zip(stems, methods, strict=True)
        }

    def rows(self, name: str) -> Rows:
        """Return all rows in an order, failed images last.

        Raises:
            UserError: there is no such order.
        """
        if name.startswith(_COMPARED):
            self.compared()  # a list begins with what there is now
        agreement = self.agreement(name)
        if agreement is not None:
            return agreement.order
        plain = {DOUBT: lambda: self._index.order, "score": self._by_score, "path": self._by_path}
        if name not in plain:
            raise UserError(f"no such order: {name}")
        return plain[name]()

    def agreement(self, name: str) -> Agreement | None:
        """Return what the other run of an order says; None: the order needs none.

        Raises:
            UserError: the run does not hold this comparison.
        """
        if not name.startswith(_COMPARED):
            return None
        if name not in map(_order_of, self._files):
            self.compared()
        # Looked up among those that there are: nothing from a browser becomes a path.
        files = {_order_of(file): (file, size) for file, size in self._files.items()}
        if name not in files:
            raise UserError(
                f"the run has no comparison {name.removeprefix(_COMPARED)} (any more): make it "
                "with `ovseg compare`"
            )
        return self._agreements.get(files[name], lambda: self._read(files[name][0]))

    def _by_path(self) -> Rows:
        rank = np.argsort(compute.sort_indices(self._index.paths).to_numpy())
        return _failed_last(self._index, rank)

    def _by_score(self) -> Rows:
        segments = self._index.segments
        lowest = np.full(len(self._index), np.inf, np.float32)
        np.minimum.at(lowest, segments.row, segments.score)
        return _failed_last(self._index, lowest)

    def _read(self, file: str) -> Agreement:
        index, segments = self._index, self._index.segments
        columns = ["image_id", "label", "iou", "image_agreement"]
        table = read_comparison_columns(index.run, file, columns)
        rows = _places(table, "image_id", index.ids)
        labels = _places(table, "label", pa.array(index.labels))
        ours = rows >= 0
        of_image = np.full(len(index), np.nan, np.float32)
        of_image[rows[ours]] = table["image_agreement"].to_numpy()[ours]
        known = ours & (labels >= 0)
        of_mask = _looked_up(
            _keys(rows[known], labels[known] + 1, index),
            table["iou"].to_numpy()[known],
            _keys(segments.row, segments.label, index),
        )
        scores = {**index.more_scores(), "mean_prob": segments.score.astype(np.float64)}
        doubts = mask_priority(scores, np.nan_to_num(of_mask.astype(np.float64), nan=1.0))
        both = combined_by_image(doubts, segments.row, len(index))
        doubt = np.where(index.num_segments > 0, both, index.doubt)
        return Agreement(of_mask, of_image, doubt, _failed_last(index, -doubt))


def _failed_last(index: ReviewIndex, value: NDArray[Any]) -> Rows:
    return np.lexsort((value, index.failed)).astype(np.int32)


def _order_of(file: str) -> str:
    return _COMPARED + _stem(file)


def _stem(file: str) -> str:
    return file.rpartition("/")[2].removesuffix(".parquet")


def _places(table: Any, column: str, among: Any) -> NDArray[np.int64]:
    """Return the place of each word of a column in a list; -1: it is not there."""
    words = table[column].unify_dictionaries().combine_chunks()
    places = compute.fill_null(compute.index_in(words.dictionary, value_set=among), -1)
    return places.to_numpy().astype(np.int64)[words.indices.to_numpy()]


def _keys(row: NDArray[Any], label: NDArray[Any], index: ReviewIndex) -> NDArray[np.int64]:
    return row.astype(np.int64) * (len(index.labels) + 1) + label


def _looked_up(
    keys: NDArray[np.int64], values: NDArray[np.float32], wanted: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the value of each wanted key; NaN where it has none."""
    found = np.full(len(wanted), np.nan, np.float32)
    if len(keys):
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = keys[places] == wanted
        found[hit] = values[order[places[hit]]]
    return found
