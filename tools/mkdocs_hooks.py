"""What ``mkdocs`` builds beside the files in docs/: the profile's reference, and files that pages link to."""

import re
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # mkdocs runs hooks by path

from tools.profile_reference import pages  # noqa: E402

LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")
FENCES = {".yaml": "yaml", ".py": "python", ".toml": "toml", ".json": "json"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the profile's reference, and a page for every file outside docs/ that a page links to."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    for page in [file for file in files if file.is_documentation_page()]:
        for target in LINK.findall(page.content_string):
            shown = _outside(page.src_uri, target)
            if shown and not files.get_file_from_path(_page_of(shown)):
                files.append(File.generated(config, _page_of(shown), content=_as_page(shown)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point links to files outside docs/ at the pages that show them."""

    def here(match: re.Match[str]) -> str:
        shown = _outside(page.file.src_uri, match[1])
        return (
            relpath(_page_of(shown), PurePosixPath(page.file.src_uri).parent.as_posix())
            if shown
            else match[1]
        )

    return LINK.sub(here, markdown)


def _outside(page: str, target: str) -> str:
    """A link's target below the repository's root, where it is a file outside docs/; else ""."""
    path = normpath(str(PurePosixPath("docs") / PurePosixPath(page).parent / target))
    inside = path.startswith(("docs/", "../"))
    return path if not inside and (ROOT / path).is_file() else ""


def _page_of(shown: str) -> str:
    return f"files/{shown}.md"


def _as_page(shown: str) -> str:
    path = ROOT / shown
    if path.suffix == ".md":
        return path.read_text()
    return f"# {shown}\n\n```{FENCES.get(path.suffix, '')}\n{path.read_text().rstrip()}\n```\n"
