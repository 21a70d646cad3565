"""What became of a collection since a run listed it: new, changed and vanished images.

Both lists are sorted by path and are gone through side by side, a block at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute

from pipeline.collection.manifest import ROWS_AT_ONCE, ascends
from schemas.untrusted import printable

compute: Any = pyarrow.compute  # made at run time: unknown to type checkers


@dataclass(frozen=True)
class Changes:
    """Rows of the manifest's schema, each sorted by path.

    Attributes:
        new: images that the run does not have, as listed now; with the metadata of the list.
        changed: images of another size or version (etag) than the run has, as listed now.
        vanished: images that are not listed any more, as the run has them.
    """

    new: pa.Table
    changed: pa.Table
    vanished: pa.Table

    def up_to(self, path: pa.StringScalar) -> "Changes":
        """Return the changes without new images that come after a path."""
        is_before = compute.less(self.new["path"], path)
        return replace(self, new=self.new.filter(is_before))

    def without_annotated(self, sizes: Mapping[str, int]) -> "Changes":
        """Return the changes without images that changed before they were annotated.

        Args:
            sizes: bytes of the files as they were annotated, by `image_id`.
        """
        if not sizes:
            return self
        columns = self.changed["image_id"].to_pylist(), self.changed["size_bytes"].to_pylist()
        is_left = [sizes.get(image_id, -1) != size for image_id, size in zip(*columns, strict=True)]
        return replace(self, changed=self.changed.filter(pa.array(is_left, pa.bool_())))

    @property
    def is_empty(self) -> bool:
        """Whether nothing has changed."""
        return not (self.new.num_rows or self.changed.num_rows or self.vanished.num_rows)

    def describe(self) -> str:
        """Return counts and examples for a person; empty where nothing has changed."""
        kinds = {"new": self.new, "changed": self.changed, "vanished": self.vanished}
        parts = [
            f"{table.num_rows:,} {kind} (for example {printable(table['path'][0].as_py())})"
            for kind, table in kinds.items()
            if table.num_rows
        ]
        return ", ".join(parts)


def changes(before: pa.Table, now: pa.Table, block: int = ROWS_AT_ONCE) -> Changes:
    """Compare two lists of a collection; a path is the same image.

    An image whose size and version are unknown in one of the lists has not changed.

    Args:
        before: rows of the manifest's schema, each path once.
        now: likewise.
        block: rows that are compared at once.
    """
    found: dict[str, list[pa.Table]] = {"new": [], "changed": [], "vanished": []}
    for old, listed in _side_by_side(_sorted(before), _sorted(now), block):
        places = compute.index_in(old["path"], value_set=listed["path"].combine_chunks())
        is_there = compute.is_valid(places)
        found["vanished"].append(old.filter(compute.invert(is_there)))
        same_path, then = listed.take(compute.drop_null(places)), old.filter(is_there)
        found["changed"].append(same_path.filter(_differs(then, same_path)))
        is_known = compute.is_in(listed["path"], value_set=old["path"].combine_chunks())
        found["new"].append(listed.filter(compute.invert(is_known)))
    empty = now.slice(0, 0).replace_schema_metadata()
    tables = {
        kind: pa.concat_tables([empty, *(part.replace_schema_metadata() for part in parts)])
        for kind, parts in found.items()
    }
    tables["new"] = tables["new"].replace_schema_metadata(now.schema.metadata)
    return Changes(**tables)


def _sorted(table: pa.Table) -> pa.Table:
    return table if ascends(table["path"]) else table.sort_by("path")


def _side_by_side(
    one: pa.Table, other: pa.Table, block: int
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield parts of two sorted tables such that each path is in the same pair of both."""
    while one.num_rows or other.num_rows:
        parts = [table.slice(0, block) for table in (one, other)]
        # The partner of a path beyond the end of a part may be in the rest of the other table.
        ends = [
            part["path"][-1].as_py()
            for part, table in zip(parts, (one, other), strict=True)
            if part.num_rows < table.num_rows
        ]
        if ends:
            parts = [part.filter(compute.less_equal(part["path"], min(ends))) for part in parts]
        first, second = parts
        yield first, second
        one, other = one.slice(first.num_rows), other.slice(second.num_rows)


def _differs(before: pa.Table, now: pa.Table) -> pa.ChunkedArray:
    """Return for each row whether the size or the etag is another, where both are known."""
    size = compute.fill_null(compute.not_equal(before["size_bytes"], now["size_bytes"]), False)
    etags = [table["etag"] for table in (before, now)]
    has_etag = compute.and_(*(compute.not_equal(column, "") for column in etags))
    return compute.or_(size, compute.and_(has_etag, compute.not_equal(*etags)))
