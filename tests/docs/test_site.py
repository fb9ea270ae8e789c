"""The site builds without a warning, makes no request to anybody, and tells models what is in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from blocks import DOCS, ROOT
from browser import running_browser, visiting
from playwright.async_api import expect

pytestmark = pytest.mark.timeout(600)  # the first test builds the site, which takes a minute of a busy machine's time

_ASKED_FOR = re.compile(
    r'<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="((?:https?:)?//[^"]+)"|url\((https?://[^)]+)\)'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `./scripts/docs` builds it: not quietly, since then no warning would be an error."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pages(listed: object) -> set[str]:
    """The files in a navigation."""
    match listed:
        case str():
            return {listed}
        case dict():
            return {page for value in listed.values() for page in pages(value)}
        case list():
            return {page for value in listed for page in pages(value)}
        case _:
            raise TypeError(f"{listed!r} is no part of a navigation")


def test_the_site_asks_nobody_for_anything(site: Path) -> None:
    found = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(found) > 50
    asked = {(path.name, *match) for path in found for match in _ASKED_FOR.findall(path.read_text(encoding="utf-8"))}
    assert asked == set()


def test_every_page_has_its_line_for_models(site: Path) -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2].partition("\n\n")[0]
    expected = pages(yaml.safe_load(text))
    of_errors = DOCS / "reference" / "errors"  # the index there lists them all
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.parent != of_errors}
    assert there <= expected
    listed = re.findall(r"^- \[(.+)\]\((.+)\.html\): (\S.{10,})$", (site / "llms.txt").read_text("utf-8"), re.MULTILINE)
    named = {re.sub(r"(^|/)index$", r"\1README" if "observers" in url else r"\1index", url) for _, url, _ in listed}
    assert named == {page.removesuffix(".md") for page in expected}
    for about in (about for _, _, about in listed):
        assert about.count("(") == about.count(")"), about
        assert len(about.split()) > 4, about
    whole = (site / "llms-full.txt").read_text(encoding="utf-8")
    assert all(f"<!-- {url}.html -->" in whole for _, url, _ in listed)


async def test_pages_are_read_and_searched_from_disk_and_fit_on_a_phone(site: Path) -> None:
    async with running_browser() as browser, visiting(browser, f"file://{site}/") as visit:
        page = await visit.go("index.html")
        await visit.picture("docs-home")
        await page.get_by_role("textbox", name="Search").fill("spool")
        found = page.locator(".md-search-result__link").first
        await expect(found).to_be_visible()
        await found.click()
        await expect(page.locator("article mark").first).to_have_text(re.compile("spool", re.IGNORECASE))
        await page.set_viewport_size({"width": 390, "height": 844})
        for path in ("reference/settings.html", "reference/api/trackside.html", "repository/ARCHITECTURE.html"):
            await visit.go(path)
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= 390, f"{path} is {width} pixels wide on a phone"
