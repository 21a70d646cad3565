"""The sort orders of the grid: by review priority, also with another run's masks, and others.

The disagreement comes from a comparison, the file that `ovseg compare RUN OTHER` writes; it changes
the review priority as it does for the exporters (`exporters/shared/priorities.py`). A comparison is
read when its order is first chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from cachetools import LRUCache, cached
from numpy.typing import NDArray

from ovseg_core.decision.review_priority import PRIORITY_COLUMNS, combined_by_image, mask_priority
from pipeline.evaluation.compare import compared_run, comparison_files, read_comparison_columns
from pipeline.review.index import ReviewIndex, Rows, doubt_of
from pipeline.storage import uris
from schemas.errors import UserError

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers

PRIORITY = "priority"
_COMPARED = "compare:"
_COMPARISONS_KEPT = 3


@dataclass(frozen=True)
class Agreement:
    """Agreement of a run's masks with another run's; NaN: not compared.

    Attributes:
        of_mask: (N,) per segment, the IoU of its label with the other run's in the same image.
        of_image: (I,) mean IoU of the labels that either run has in an image.
        priority: (I,) review priority with the disagreement taken into account.
        doubt: (I,) share of the images that have a lower `priority`; NaN: failed.
        order: (I,) rows by falling `priority`, failed images last.
    """

    of_mask: NDArray[np.float32]
    of_image: NDArray[np.float32]
    priority: NDArray[np.float64]
    doubt: NDArray[np.float64]
    order: Rows


class SortOrders:
    """Sort orders of a run's images; safe for threads.

    Args:
        index: the run's images.
    """

    def __init__(self, index: ReviewIndex) -> None:
        self._index = index
        self._files: dict[str, int] = {}
        kept: LRUCache[tuple[str, int], Agreement] = LRUCache(_COMPARISONS_KEPT)
        # By size too: a comparison that was made again is read again.
        self._read: Callable[[str, int], Agreement] = cached(
            kept, key=lambda file, size: (file, size), condition=Condition()
        )(lambda file, size: self._read_agreement(file))

    def compared(self) -> dict[str, str]:
        """List the run's comparisons: by name of their order, a short name of the other run.

        The name is that of the run's folder, with its method where two have it, and the file's
        where that does not tell them apart.
        """
        run = self._index.run
        self._files = comparison_files(run)
        own = uris.parent_and_name(run.folder.uri)[1]
        own_names = _names(own, run.info.job().method.name)
        names = [[*_names(*compared_run(file)), _stem(file)] for file in self._files]
        taken = [*own_names, run.info.job().method.name, *(name for each in names for name in each)]
        return {
            _order_of(file): next((name for name in each if taken.count(name) == 1), each[-1])
            for file, each in zip(self._files, names, strict=True)
        }

    def rows(self, name: str) -> Rows:
        """Return all rows in a sort order, failed images last.

        Args:
            name: `priority`, `score`, `path` or a name that `compared` returns.

        Raises:
            UserError: there is no such order.
        """
        if name.startswith(_COMPARED):
            self.compared()  # it may have been made again or deleted
        agreement = self.agreement(name)
        if agreement is not None:
            return agreement.order
        if name == PRIORITY:
            return self._index.by_priority
        if name == "score":
            segments = self._index.segments
            lowest = np.full(len(self._index), np.inf, np.float32)
            np.minimum.at(lowest, segments.row, segments.score)
            return _failed_last(self._index, lowest)
        if name == "path":
            rank = np.argsort(compute.sort_indices(self._index.paths).to_numpy())
            return _failed_last(self._index, rank)
        raise UserError(
            f"{name} is not a sort order: expected priority, score, path or compare:NAME"
        )

    def agreement(self, name: str) -> Agreement | None:
        """Return the agreement that an order sorts by; None: the order is not of a comparison.

        Raises:
            UserError: the run does not have this comparison.
        """
        if not name.startswith(_COMPARED):
            return None
        if name not in map(_order_of, self._files):
            self.compared()
        # Looked up in the listing: a name from a browser never becomes a path.
        files = {_order_of(file): (file, size) for file, size in self._files.items()}
        if name not in files:
            raise UserError(
                f"the comparison {name.removeprefix(_COMPARED)} is not in the run folder (any "
                "more): make it with `ovseg compare`"
            )
        return self._read(*files[name])

    def _read_agreement(self, file: str) -> Agreement:
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
        scores = index.read_scores(PRIORITY_COLUMNS)
        of_masks = mask_priority(scores, np.nan_to_num(of_mask.astype(np.float64), nan=1.0))
        both = combined_by_image(of_masks, segments.row, len(index))
        priority = np.where(index.num_segments > 0, both, index.priority)
        doubt = doubt_of(priority, index.failed)
        return Agreement(of_mask, of_image, priority, doubt, _failed_last(index, -priority))


def _failed_last(index: ReviewIndex, value: NDArray[Any]) -> Rows:
    return np.lexsort((value, index.failed)).astype(np.int32)


def _order_of(file: str) -> str:
    return _COMPARED + _stem(file)


def _names(folder: str, method: str) -> list[str]:
    """Return a run's names, the shortest first."""
    return [folder, f"{folder} ({method})"] if folder else [method] if method else []


def _stem(file: str) -> str:
    return file.rpartition("/")[2].removesuffix(".parquet")


def _places(table: Any, column: str, among: Any) -> NDArray[np.int64]:
    """Return the place of each value of a dictionary column in a list; -1: it is not there."""
    values = table[column].unify_dictionaries().combine_chunks()
    places = compute.fill_null(compute.index_in(values.dictionary, value_set=among), -1)
    return places.to_numpy().astype(np.int64)[values.indices.to_numpy()]


def _keys(row: NDArray[Any], label: NDArray[Any], index: ReviewIndex) -> NDArray[np.int64]:
    return row.astype(np.int64) * (len(index.labels) + 1) + label


def _looked_up(
    keys: NDArray[np.int64], values: NDArray[np.float32], wanted: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the value of each wanted key; NaN: the key has none."""
    found = np.full(len(wanted), np.nan, np.float32)
    if len(keys):
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = keys[places] == wanted
        found[hit] = values[order[places[hit]]]
    return found
