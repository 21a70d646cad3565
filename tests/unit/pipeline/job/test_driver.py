"""A shard whose images are tried one by one; the loop itself is tested on Ray."""

from pipeline.annotate.rows import FailedImage, StageSeconds, failed_rows, tally_of
from pipeline.job.driver import SplitShard
from schemas.errors import ErrorCode, ImageError
from schemas.records import Shard
from tests.helpers.imageless_runs import image_refs


def test_split_shard_keeps_manifest_order():
    shard = Shard(index=4, refs=tuple(image_refs(5)))
    error = ImageError(ErrorCode.WORKER_LOST, "gone")
    split = SplitShard(shard)
    is_complete = [
        split.add(position, failed_rows(FailedImage(shard.refs[position], StageSeconds(), error)))
        for position in (3, 0, 4, 2, 1)
    ]
    assert is_complete == [False] * 4 + [True]
    rows = split.rows()
    assert [row.path for row in rows.images] == [ref.path for ref in shard.refs]
    assert tally_of(rows, {"wall": split.wall_s}).errors == {"worker_lost": 5}
