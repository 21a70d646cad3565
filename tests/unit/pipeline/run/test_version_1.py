"""Tables and markers of schema version 1 under today's names."""

import pyarrow as pa
import pytest

from pipeline.run import version_1
from schemas.records import STAGES, ShardDone, ShardTally
from schemas.tables import TABLES


@pytest.mark.parametrize("name", sorted(version_1.RENAMED_COLUMNS))
def test_stored_columns_are_renamed_back(name):
    columns = TABLES[name][0].names
    stored = version_1.stored_columns(name, columns)
    table = pa.table({column: [1] for column in stored})
    assert version_1.with_new_columns(name, table).column_names == columns
    assert set(stored) - set(columns) == set(version_1.RENAMED_COLUMNS[name])


def test_stages_of_a_marker_are_renamed():
    seconds = {"read": 1.0, "decode": 2.0, "segment": 3.0, "encode": 4.0, "wall": 5.0}
    marker = ShardDone(
        schema_version=1,
        shard=0,
        attempt="a",
        fingerprint="f",
        files={},
        tally=ShardTally(num_images=1, num_segments=0, seconds=seconds),
    )
    renamed = version_1.with_new_stages(marker)
    assert renamed.tally.seconds == dict(zip((*STAGES, "wall"), seconds.values(), strict=True))
    assert renamed.schema_version == 1
