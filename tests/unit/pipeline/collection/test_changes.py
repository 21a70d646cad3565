"""collection.changes: what became of a collection since a run listed it."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.collection.changes import changes
from schemas.tables import MANIFEST

PATHS = st.text("ab/é𝄞￿", min_size=1, max_size=4)
FACTS = st.tuples(st.none() | st.integers(0, 2), st.sampled_from(["", "v1", "v2"]))


def manifest(images):
    rows = [
        {"image_id": path, "path": path, "uri": f"/photos/{path}", "size_bytes": size, "etag": etag}
        for path, (size, etag) in sorted(images.items())
    ]
    return pa.Table.from_pylist(rows, MANIFEST)


def paths(table):
    return table["path"].to_pylist()


def is_changed(before, now):
    (size, etag), (new_size, new_etag) = before, now
    is_resized = None not in (size, new_size) and size != new_size
    return is_resized or ("" not in (etag, new_etag) and etag != new_etag)


@given(st.dictionaries(PATHS, FACTS), st.dictionaries(PATHS, FACTS), st.integers(1, 5))
def test_two_lists_are_compared_path_by_path_whatever_the_blocks(before, now, block):
    found = changes(manifest(before), manifest(now), block)
    assert paths(found.new) == sorted(now.keys() - before.keys())
    assert paths(found.vanished) == sorted(before.keys() - now.keys())
    both = sorted(before.keys() & now.keys())
    assert paths(found.changed) == [path for path in both if is_changed(before[path], now[path])]
    assert found.changed["size_bytes"].to_pylist() == [now[p][0] for p in paths(found.changed)]


def test_a_manifest_that_is_not_sorted_is_compared_all_the_same():
    table = manifest({"a": (1, ""), "b": (1, ""), "c": (1, "")})
    found = changes(table.take([2, 0, 1]), table.slice(1), block=1)
    assert (paths(found.new), paths(found.changed), paths(found.vanished)) == ([], [], ["a"])


def test_changes_are_said_in_counts_with_an_example_of_each():
    found = changes(
        manifest({"a.jpg": (1, ""), "b.jpg": (1, ""), "c.jpg": (1, "")}),
        manifest({"b.jpg": (2, ""), "c.jpg": (1, ""), "x\n.jpg": (1, ""), "y.jpg": (1, "")}),
    )
    assert found.describe() == (
        "2 new (for example x\\n.jpg), 1 changed (for example b.jpg), "
        "1 vanished (for example a.jpg)"
    )
    same = manifest({"a.jpg": (1, "")})
    assert changes(same, same).describe() == ""
