"""Writes `llms.txt`, which lists every page of the navigation with a sentence about it, and `llms-full.txt`, which has all.

https://llmstxt.org says what reads them. Pages stand there as they are written; of what is made from docstrings the full
text has the names of the modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.nav import Navigation, Section
from mkdocs.structure.pages import Page

_LONGEST: Final = 240
_SENTENCE: Final = re.compile(r".+?(?:\.(?=\s|$)|:$)", re.DOTALL)
_MARKUP: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)|[*`]")
_navigation: list[Navigation] = []


def on_nav(nav: Navigation, config: MkDocsConfig, files: object) -> Navigation:
    """Remember the navigation."""
    _navigation[:] = [nav]
    return nav


def on_post_build(config: MkDocsConfig) -> None:
    """Write both files into the site."""
    (nav,) = _navigation
    site = Path(config.site_dir)
    index = "\n".join(_listed(nav.items, 1))
    (site / "llms.txt").write_text(f"# {config.site_name}\n\n> {config.site_description}\n{index}\n", encoding="utf-8")
    whole = "\n\n".join(f"<!-- {page.url} -->\n\n{page.markdown}" for page in nav.pages)
    (site / "llms-full.txt").write_text(whole, encoding="utf-8")


def _listed(items: list[object], level: int) -> Iterator[str]:
    for item in items:
        if isinstance(item, Section):
            yield f"\n{'#' * min(level + 1, 3)} {item.title}\n"
            yield from _listed(item.children, level + 1)
        elif isinstance(item, Page):
            yield f"- [{item.title}]({item.url}): {sentence_about(item)}"


def sentence_about(page: Page) -> str:
    """The first sentence of a page, without its markup.

    Raises:
        PluginError: it has none.
    """
    for paragraph in re.split(r"\n\s*\n", page.markdown or ""):
        text = " ".join(_MARKUP.sub(lambda found: found[1] or "", paragraph).split())
        if text and not text.startswith(("#", "```", "|", "!", "<", ":::")):
            found = _SENTENCE.match(text)
            return (text if found is None else found[0])[:_LONGEST].rstrip(".:")
    raise PluginError(f"{page.file.src_uri} begins with no paragraph that says what it is for")
