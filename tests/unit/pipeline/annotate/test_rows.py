"""Rows of a shard and their tally."""

import pytest

from pipeline.annotate.rows import (
    FailedImage,
    StageSeconds,
    failed_rows,
    join_rows,
    replaced_rows,
    tally_of,
)
from schemas.errors import ErrorCode, ImageError
from schemas.records import Shard, ShardRows
from tests.helpers.imageless_runs import image_refs, make_rows


def failed(ref, code):
    return failed_rows(FailedImage(ref, StageSeconds(read_s=0.25), ImageError(code, "cut short")))


def test_failed_image_has_one_row_with_its_error_and_seconds():
    [ref] = image_refs(1)
    rows = failed(ref, ErrorCode.TRUNCATED)
    [image] = rows.images
    assert (image.image_id, image.path, image.uri) == (ref.image_id, ref.path, ref.uri)
    assert (image.status, image.error_code) == ("error", ErrorCode.TRUNCATED)
    assert (image.error_message, image.read_s, image.height) == ("cut short", 0.25, 0)
    assert rows.scores == rows.annotations == ()


def test_join_rows_keeps_the_order_of_its_parts():
    refs = tuple(image_refs(5))
    parts = [make_rows(Shard(index=0, refs=refs[:2])), make_rows(Shard(index=0, refs=refs[2:]))]
    rows = join_rows(parts)
    assert [row.path for row in rows.images] == [ref.path for ref in refs]
    assert rows.annotations == parts[0].annotations + parts[1].annotations
    assert rows.scores == parts[0].scores + parts[1].scores


def test_tally_counts_errors_by_code_and_sums_seconds():
    refs = image_refs(3)
    codes = (ErrorCode.TRUNCATED, ErrorCode.NOT_FOUND, ErrorCode.TRUNCATED)
    rows = join_rows(failed(ref, code) for ref, code in zip(refs, codes, strict=True))
    tally = tally_of(rows, {"wall": 0.5})
    assert (tally.num_images, tally.num_segments) == (3, 0)
    assert tally.errors == {"not_found": 1, "truncated": 2}
    assert list(tally.errors) == ["not_found", "truncated"]
    assert tally.seconds == {"read": 0.75, "decode": 0, "segment": 0, "rle": 0, "wall": 0.5}


def test_tally_counts_images_of_several_frames():
    images = make_rows(Shard(index=0, refs=tuple(image_refs(3)))).images
    paged = tuple(
        image.model_copy(update={"num_frames": n})
        for image, n in zip(images, (1, 2, 5), strict=True)
    )
    rows = ShardRows(images=paged, scores=(), annotations=())
    assert tally_of(rows, {"wall": 1.0}).num_multi_frame == 2


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("truncated", "not_found", "not_found"),
        ("truncated", "not_an_image", "not_an_image"),
        ("truncated", "storage_error", "truncated"),
        ("truncated", "permission_denied", "truncated"),
        ("not_found", "storage_error", "storage_error"),
        ("storage_error", "truncated", "truncated"),
    ],
)
def test_an_outage_replaces_no_row_that_failed_by_its_content(old, new, counts):
    refs = tuple(image_refs(3))
    mended, whole = (make_rows(Shard(index=0, refs=(ref,))) for ref in (refs[0], refs[2]))
    rows = join_rows([failed(refs[0], ErrorCode(old)), failed(refs[1], ErrorCode(old)), whole])
    found = replaced_rows(rows, join_rows([failed(refs[1], ErrorCode(new)), mended]))
    assert [row.error_code for row in found.images] == [None, counts, None]
    assert found.scores == mended.scores + whole.scores
    assert found.annotations == mended.annotations + whole.annotations


def test_rows_of_images_that_fail_as_before_are_the_same():
    rows = failed(image_refs(1)[0], ErrorCode.TRUNCATED)
    assert replaced_rows(rows, failed(image_refs(1)[0], ErrorCode.TRUNCATED)) is rows
