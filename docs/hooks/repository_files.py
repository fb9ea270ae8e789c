"""Makes pages of the files of the repository to which pages link, so that a link leads here where it leads on a code host.

The page of such a file is below `repository/`, at the file's path. Markdown is shown as it is, and its own links are
followed in the same way; any other text is shown as code. What is in docs/ stays what it is.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

_ROOT: Final = Path(__file__).parents[2]
_DOCS: Final = "docs/"
_PAGES: Final = "repository/"
_IMAGES: Final = frozenset({".png", ".svg"})
_IN_NAVIGATION: Final = ("ARCHITECTURE.md", "CONTRIBUTING.md")
_FENCED: Final = re.compile(r"^( *```+).*?^\1 *$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<=\]\()(?!\w+:|#|<)[^)#\s]+")
_ESCAPED_PIPE: Final = re.compile(r"<code>[^<]*\\\|[^<]*</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside docs/ that is linked to, from there or from another such page."""
    waiting = [f"{_DOCS}{file.src_uri}" for file in files.documentation_pages()] + [*_IN_NAVIGATION]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.startswith(_DOCS):
            files.append(_file_of(path, config))
        if path.endswith(".md"):
            waiting += [linked for linked in _linked_from(path) if not linked.startswith(_DOCS)]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links between docs/ and the rest of the repository lead to pages of the site."""
    uri = page.file.src_uri
    path = uri.removeprefix(_PAGES) if uri.startswith(_PAGES) else f"{_DOCS}{uri}"

    def led(link: str) -> str:
        target = _uri_of(_target(path, link))
        return posixpath.relpath(target, posixpath.dirname(uri) or ".")

    return _with_links(markdown, led) if path.endswith(".md") and not uri.endswith(".md.md") else markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    r"""Take the backslash of `\|` out of code in tables, as code hosts do; Python-Markdown leaves it there."""
    return _ESCAPED_PIPE.sub(lambda code: code[0].replace(r"\|", "|"), html)


def _target(path: str, link: str) -> str:
    """The path of what a file links to, seen from the root of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _linked_from(path: str) -> Iterator[str]:
    """The files to which a Markdown file links, by their paths."""
    found: list[str] = []
    _with_links((_ROOT / path).read_text(encoding="utf-8"), lambda link: found.append(_target(path, link)) or link)
    for target in found:
        if (_ROOT / target).is_dir():
            raise PluginError(f"{path} links to the folder {target}; have it link to a file there")
        if (_ROOT / target).is_file():  # else the link itself is warned of
            yield target


def _with_links(markdown: str, changed: Callable[[str], str]) -> str:
    """Markdown with the links changed that stand outside its code blocks and lead to files."""
    parts: list[str] = []
    end = 0
    for fenced in _FENCED.finditer(markdown):
        parts += [_LINK.sub(lambda link: changed(link[0]), markdown[end : fenced.start()]), fenced[0]]
        end = fenced.end()
    return "".join([*parts, _LINK.sub(lambda link: changed(link[0]), markdown[end:])])


def _uri_of(path: str) -> str:
    """Where something of the repository is in the site's sources."""
    if path.startswith(_DOCS):
        return path.removeprefix(_DOCS)
    is_as_it_is = Path(path).suffix in {".md", *_IMAGES} or not (_ROOT / path).is_file()
    return f"{_PAGES}{path}" if is_as_it_is else f"{_PAGES}{path}.md"


def _file_of(path: str, config: MkDocsConfig) -> File:
    source = _ROOT / path
    inclusion = InclusionLevel.NOT_IN_NAV
    if Path(path).suffix in {".md", *_IMAGES}:
        return File.generated(config, _uri_of(path), abs_src_path=str(source), inclusion=inclusion)
    language = {".py": "py", ".mjs": "js", ".json": "json", ".toml": "toml", ".yml": "yaml"}.get(source.suffix, "text")
    code = source.read_text(encoding="utf-8")
    fence = "`" * 6
    page = f"# {path}\n\n{fence}{language}\n{code}\n{fence}\n"
    return File.generated(config, _uri_of(path), content=page, inclusion=inclusion)
