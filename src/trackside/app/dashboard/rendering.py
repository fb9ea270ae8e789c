"""Turns what a page has found out into HTML. All texts are escaped; a script or a style is never part of a page."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from trackside._version import __version__
from trackside.app.dashboard.tokens import cookie_of, token_of
from trackside.app.server.failures import FAILED
from trackside.app.server.principal import NOBODY, Permission
from trackside.app.server.responses import Failure, Receive, Reply, Scope, Send
from trackside.harness.threads import in_own_thread

if TYPE_CHECKING:
    from trackside.app.dashboard.templating import Templates

logger = logging.getLogger("trackside.server")

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""What a browser lets the pages do: load what this server has, but nothing that is written in a page itself."""

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with "no-referrer", our own forms come from nowhere (`Origin: null`)
}
"""The headers that go with each page."""

_OF_ADMINS: Final = ("/subscriptions", "/observers", "/system", "/workers", "/queue")
"""The beginnings of addresses that only admins may use."""

_preparing = Lock()


@cache
def templates() -> Templates:
    """The templates, none of them compiled yet. The first call blocks: Jinja takes 30 ms, and not every server has
    visitors.
    """
    from trackside.app.dashboard.templating import Templates

    return Templates(version=__version__)


def _prepare(name: str) -> None:
    with _preparing:  # if two visitors come first, both wait for the same work
        templates().prepare(name)


def _is_prepared(name: str) -> bool:
    return templates.cache_info().currsize == 1 and templates().is_prepared(name)


class Page:
    """An answer that is a page.

    Args:
        template: its name, without `.html`.
        place: the entry of the navigation that it belongs to; None: to none.
        twins: addresses below the root that have the same content as JSON.
        status: the HTTP status.
        headers: headers besides those that all pages have.
        values: what the template shows.
    """

    def __init__(
        self,
        template: str,
        *,
        place: str | None = None,
        twins: tuple[str, ...] = (),
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        **values: Any,
    ) -> None:
        self.template = template
        self.status = status
        self.headers = {} if headers is None else headers
        self.values: dict[str, Any] = {"place": place, "twins": twins, **values}
        self.begun = perf_counter()
        """When the server began the page: the longer it takes, the longer `console.js`, which is told, lets it rest."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token, cookie = token_of(scope)
        try:
            if not _is_prepared(self._file):
                await in_own_thread(_prepare, self._file)
            body = self._rendered(scope, token)
        except Exception:  # a template failed; the visitor is told as of any other failure
            if self.template == "failure":
                raise
            logger.exception("the page %s failed", self.template)
            await FailurePage(Failure(500, FAILED))(scope, receive, send)
            return
        took = f"page;dur={(perf_counter() - self.begun) * 1_000:.1f}"
        headers = {**HEADERS, "Server-Timing": took, **self.headers}
        if cookie is not None:
            headers["Set-Cookie"] = cookie_of(scope, *cookie)
        reply = Reply(
            body.encode(errors="replace"), status=self.status, headers=headers, content_type="text/html; charset=utf-8"
        )
        await reply(scope, receive, send)

    @property
    def _file(self) -> str:
        return f"{self.template}.html"

    def _rendered(self, scope: Scope, token: str) -> str:
        principal = scope.get("trackside.principal", NOBODY)
        may_admin = principal.may(Permission.admin)
        twins = [twin for twin in self.values["twins"] if may_admin or not twin.startswith(_OF_ADMINS)]
        return (
            templates()
            .get_template(self._file)
            .render(
                **(self.values | {"twins": twins}),
                root=str(scope.get("root_path", "")),
                token=token,
                identity=principal.identity,
                may_run=principal.may(Permission.run),
                may_admin=may_admin,
                # Where nobody is asked to sign in, a cookie from another server on this host signs nobody in.
                is_signed_in=bool(scope.get("trackside.by_cookie")) and principal.identity is not None,
            )
        )


class FailurePage:
    """The answer of a page that cannot be shown, and of an action that was refused (`routing.Failing`)."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = self.failure.status
        headers = {name: value for name, value in self.failure.headers.items() if name.lower() != "location"}
        if is_script(scope) and scope["method"] != "GET":
            await Said(self.failure.detail, status=status, headers=headers)(scope, receive, send)
            return
        page = Page("failure", status=status, problem=self.failure.problem, shown_status=status, headers=headers)
        await page(scope, receive, send)


class Said:
    """The answer to an action: a sentence that the page shows for a moment. The page then fetches itself anew.

    Without scripts the browser goes to `to`, or back to where it came from.
    """

    def __init__(
        self, sentence: str, *, to: str | None = None, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.sentence = sentence
        self.to = to
        self.status = status
        self.headers = headers or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = str(scope.get("root_path", ""))
        if not is_script(scope):
            to = (page_before(scope) or f"{root}/ui") if self.to is None else f"{root}{self.to}"
            headers = {**self.headers, "Location": to}
            await Reply(b"", status=303, headers=headers)(scope, receive, send)
            return
        headers = {**self.headers}
        if self.to is not None and self.status < 400:
            headers["HX-Redirect"] = f"{root}{self.to}"
        body = self.sentence.encode()
        reply = Reply(body, status=self.status, headers=headers, content_type="text/plain; charset=utf-8")
        await reply(scope, receive, send)


def page_before(scope: Scope) -> str | None:
    """The page of ours from which a request came; None if it does not say, or comes from elsewhere."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"] if name in {b"referer", b"host"}}
    try:
        came = urlsplit(headers.get(b"referer", ""))
    except ValueError:
        return None
    is_ours = came.netloc == headers.get(b"host") and f"{came.path}/".startswith(f"{scope.get('root_path', '')}/ui/")
    return urlunsplit(("", "", came.path, came.query, "")) if is_ours else None


def is_script(scope: Scope) -> bool:
    """Whether a script of the page asks, rather than the browser itself."""
    return any(name == b"hx-request" for name, _ in scope["headers"])
