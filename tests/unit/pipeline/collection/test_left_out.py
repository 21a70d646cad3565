"""The counts of what a listing left out, as they are kept and said."""

from pipeline.collection.left_out import (
    LEFT_OUT_KEY,
    LeftOut,
    describe,
    left_out_of,
    with_left_out,
)
from pipeline.collection.manifest import read_manifest, write_manifest
from schemas.tables import MANIFEST

HEIC = LeftOut(what=".heic", count=31, example="a/b.heic", hint="pip install 'ovseg[heif]'")
LINK = LeftOut(what="dangling link", count=1, example="c.png")


def test_counts_are_said_with_what_to_do():
    assert describe([HEIC, LINK]) == (
        "left out: 31 .heic files (pip install 'ovseg[heif]'), 1 dangling link; "
        "for example a/b.heic"
    )
    assert not describe([])


def test_counts_are_kept_in_the_manifest():
    table = with_left_out(MANIFEST, [HEIC, LINK]).empty_table()
    kept = read_manifest(write_manifest(table, "source"))
    assert left_out_of(kept) == (HEIC, LINK)


def test_counts_that_cannot_be_read_are_none():
    table = MANIFEST.empty_table()
    assert left_out_of(table) == ()
    damaged = table.replace_schema_metadata({LEFT_OUT_KEY: b'[{"what": 1}]'})
    assert left_out_of(damaged) == ()
