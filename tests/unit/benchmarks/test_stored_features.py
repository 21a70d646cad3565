"""What stored features cost and change, as docs/relabel.md says it."""

import json

from benchmarks.stored_features import BEGIN, END, PAGE, RESULTS, table
from ovseg_core import methods
from ovseg_core.methods import runs_by_name
from schemas import plugins


def test_page_shows_what_was_measured() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))
    shown = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == table(rows)
    assert list(rows) == [*filter(runs_by_name, plugins.names(methods.PACKAGE))]


def test_rounding_keeps_labels() -> None:
    """99.5 % of the pixels in float16, 99 % in int8; ProxyCLIP's near ties miss the second."""
    for name, row in json.loads(RESULTS.read_text(encoding="utf-8")).items():
        for precision, least in (
            ("float16", 0.995),
            ("int8", 0.988 if name == "proxyclip" else 0.99),
        ):
            assert row[precision]["pixels_equal"] >= least, name
            assert abs(row[precision]["miou"] - row["miou"]) <= 0.5, name
