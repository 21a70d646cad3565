"""The page on weights: its table is written from what the methods load."""

from docs.weights import PAGE, page, table
from ovseg_core import methods
from schemas import plugins


def test_the_table_is_what_the_methods_load():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m docs.weights"


def test_every_method_is_listed_and_every_repository_has_its_licence():
    text = table()
    for name in plugins.names(methods.PACKAGE):
        assert f"`{name}`" in text
    rows = [line.split(" | ") for line in text.splitlines() if "`: `" in line]
    assert rows
    for _, source, size, licence, _, setting in rows:
        assert size.endswith(("MB", "GB")), f"{source} has no size: see HubWeights"
        assert licence.strip(), f"{source} has no licence: see HubWeights"
        assert setting.startswith("`")
