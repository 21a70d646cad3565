"""Links of pages, on the site and in the repository."""

from typing import cast

import pytest
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.hooks import on_page_markdown

CONFIG = cast(MkDocsConfig, MkDocsConfig())  # made by `__new__` of a base, as pyright sees it


def shown(path: str, markdown: str) -> str:
    page = Page(None, File(path, "docs", "site", use_directory_urls=True), CONFIG)
    return on_page_markdown(markdown, page, CONFIG, Files([]))


@pytest.mark.parametrize(
    ("path", "markdown", "on_site"),
    [
        ("images.md", "[a](reviews.md#cost)", "[a](reviews.md#cost)"),
        ("images.md", "[a](../CHANGELOG.md#fixed)", "[a](CHANGELOG.md#fixed)"),
        ("CHANGELOG.md", "[a](docs/images.md)", "[a](images.md)"),
        ("CHANGELOG.md", "[a](SECURITY.md)", "[a](SECURITY.md)"),
        ("ovseg_core/embedded/MODEL_CARD.md", "[a](../../docs/images.md)", "[a](../../images.md)"),
        ("images.md", "[the job](../jobs/annotate.py)", "the job (`jobs/annotate.py`)"),
        ("images.md", "[`jobs/annotate.py`](../jobs/annotate.py)", "`jobs/annotate.py`"),
        ("images.md", "[a](../jobs/no_such.py)", "[a](../jobs/no_such.py)"),
        ("images.md", "[a](https://example.org/b) [c](#d)", "[a](https://example.org/b) [c](#d)"),
        ("images.md", "![a](review.webp)", "![a](review.webp)"),
    ],
)
def test_a_link_leads_where_its_target_lies_on_the_site(path, markdown, on_site):
    assert shown(path, markdown) == on_site
