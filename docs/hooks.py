"""What mkdocs does to the pages, so that they read as well in the repository as on the site.

Pages of the repository that lie outside `docs/` become pages of the site. Links to other files
outside, such as code, have no target there and become the file's name.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "ovseg_core/embedded/MODEL_CARD.md",
)
"""Pages outside `docs/`, by their paths in the repository, which they keep on the site."""
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?!\w+:|#)[^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside `docs/`."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead where their targets lie on the site."""
    path = page.file.src_uri
    in_repository = path if path in OUTSIDE else f"docs/{path}"

    def moved(link: re.Match[str]) -> str:
        text, to, anchor = link[1], link[2], link[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), to))
        if target in OUTSIDE or target.startswith("docs/"):
            place = target if target in OUTSIDE else target.removeprefix("docs/")
            return f"[{text}]({posixpath.relpath(place, posixpath.dirname(path) or '.')}{anchor})"
        if not (ROOT / target).exists():
            return link[0]  # mkdocs says that it leads nowhere
        return text if target in text else f"{text} (`{target}`)"

    return _LINK.sub(moved, markdown)
