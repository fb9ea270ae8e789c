"""The system's Chromium, driven by Playwright, and what each of our pages has to comply with in it.

The windowless build takes half the CPU time of the other, and does as well.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from addresses import unchanged
from debian_programs import program
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright, expect
from playwright.async_api import Error as PlaywrightError

from javascript import PACKAGES, node

ROOT: Final = Path(__file__).parents[2]
SCREENSHOTS: Final = ROOT / ".screenshots"
"""Where pictures of pages go for somebody to look at, if this folder exists; nothing in it is committed."""

PATIENCE: Final = 30_000
"""Milliseconds after which something that does not come counts as missing: browsers are slow where much else is done."""

FETCHED: Final = """() => performance.getEntriesByType("resource").map((one) =>
    `${Math.round(one.startTime)}-${Math.round(one.responseEnd)} ms: ${one.responseStatus} ${one.name}`)
    .concat(`now: ${Math.round(performance.now())} ms`)"""
"""What a page has fetched, with when it asked and when it had the answer, since it was opened."""

_NAMES: Final = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_FETCH_ANEW: Final = """async () => {
  let isAsked = false;
  const note = (event) => { isAsked ||= event.detail.ctx.sourceElement?.id === "refresh"; };
  document.addEventListener("htmx:before:request", note);
  while (!isAsked) {
    htmx.trigger("#refresh", "changed");
    await new Promise((done) => setTimeout(done, 20));
  }
  document.removeEventListener("htmx:before:request", note);
}"""


def executable() -> str:
    """The path of the browser, which is installed from Debian if it is missing."""
    return program("Chromium", _NAMES, ["chromium-headless-shell", "chromium"], beside=["fonts-dejavu-core"])


@asynccontextmanager
async def running_browser() -> AsyncGenerator[Browser]:
    """A browser without windows."""
    path = await asyncio.to_thread(executable)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=_FLAGS, chromium_sandbox=False)
        try:
            yield browser
        finally:
            await browser.close()


expect.set_options(timeout=PATIENCE)


class Visit:
    """A page somebody looks at. Leaving it checks that the browser had no complaints and asked nobody but the server.

    Args:
        page: the browser's page.
        url: the server's address.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        """Errors and warnings of the browser's console, and exceptions of scripts; a test that provokes some clears them."""
        self.elsewhere: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._see)

    async def go(self, path: str) -> Page:
        """Go to a page of the server."""
        await self.page.goto(self.url + path)
        return self.page

    async def fetch_anew(self) -> None:
        """Have the page fetch itself anew; one that does so already is asked again when it has done so."""
        async with asyncio.timeout(PATIENCE / 1_000):
            await self.page.evaluate(_FETCH_ANEW)

    @asynccontextmanager
    async def unheard(self, tell: Callable[[int], object]) -> AsyncGenerator[None]:
        """Meanwhile the server stands still, to whose process `tell` sends signals, for longer than the page waits for a
        word of it. The page has Playwright's clock.
        """
        tell(signal.SIGSTOP)
        try:
            await self.page.clock.fast_forward(13_000)
            yield
        finally:
            tell(signal.SIGCONT)

    async def violations(self) -> list[str]:
        """The violations that axe-core finds of WCAG 2.2 AA and its best practices: each rule, and where."""
        await asyncio.to_thread(node)  # installs the package
        source = await asyncio.to_thread((PACKAGES / "axe-core" / "axe.min.js").read_text, "utf-8")
        await self.page.evaluate(source)  # through the debugger, which a page's policy does not bind
        found: dict[str, Any] = await self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {node_['html'][:200]} {node_['failureSummary']}"
            for one in found["violations"]
            for node_ in one["nodes"]
        ]

    async def picture(self, name: str) -> None:
        """Take pictures of the whole page, light and dark, wide and on a phone, if anybody wants to look at them."""
        if not SCREENSHOTS.is_dir():
            return
        before = self.page.viewport_size
        for width, size in (("wide", (1360, 900)), ("phone", (390, 844))):
            await self.page.set_viewport_size({"width": size[0], "height": size[1]})
            for scheme in ("light", "dark"):
                await self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                path = SCREENSHOTS / f"{name}-{width}-{scheme}.png"
                await self.page.screenshot(path=path, full_page=True)
        await self.page.emulate_media(color_scheme="light")
        if before is not None:
            await self.page.set_viewport_size(before)

    async def seen(self) -> str:
        """What somebody sees on the page now, what it has fetched and what the browser said: for a test that failed."""
        try:
            async with asyncio.timeout(10):
                lines = (await self.page.inner_text("body")).splitlines()
                text = "\n".join(filter(str.strip, lines))
                fetched = await self.page.evaluate(FETCHED)
        except (PlaywrightError, TimeoutError) as exc:
            text, fetched = f"(cannot be asked: {exc})", []
        return "\n".join([f"{self.page.url} showed:", text[:4_000], *fetched[-20:], *self.complaints])

    def check(self) -> None:
        """Check that nothing was wrong.

        Raises:
            AssertionError: the browser complained, or something was fetched from elsewhere.
        """
        assert self.complaints == [], self.complaints
        assert self.elsewhere == [], self.elsewhere

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    def _see(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:", "about:")):
            self.elsewhere.append(request.url)


@asynccontextmanager
async def visiting(browser: Browser, url: str, **options: Any) -> AsyncGenerator[Visit]:
    """A page in a browser of its own: no cookies, nothing kept. `options` are those of Playwright's `new_context`."""
    async with unchanged():
        context: BrowserContext = await browser.new_context(**{"viewport": {"width": 1360, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        try:
            page = await context.new_page()
            visit = Visit(page, url)
            try:
                yield visit
            except (AssertionError, PlaywrightError, TimeoutError) as exc:
                exc.add_note(await visit.seen())
                raise
            visit.check()
            # What still answers for a server then fails as the page goes, and Playwright would tell a later test of that.
            await page.unroute_all(behavior="ignoreErrors")
        finally:
            await context.close()


def counting_looks(selector: str) -> str:
    """A script that counts, in `looks`, how often a page sees how high these elements are.

    Each time the browser has to lay out what has come since the last one.
    """
    return """{
  window.looks = 0;
  const height = Object.getOwnPropertyDescriptor(Element.prototype, "scrollHeight");
  Object.defineProperty(Element.prototype, "scrollHeight", {
    ...height,
    get() {
      if (this.matches("SELECTOR")) window.looks += 1;
      return height.get.call(this);
    },
  });
}""".replace("SELECTOR", selector)


def texts(found: Sequence[str]) -> list[str]:
    """The texts with each run of white space collapsed to one space."""
    return [" ".join(text.split()) for text in found]
