"""What stands between browsers and the API: a cookie tells who is signed in; others are led to the page to sign in."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final
from urllib.parse import quote

import msgspec

from trackside.app.dashboard.rendering import HEADERS, FailurePage, is_script, page_before
from trackside.app.dashboard.tokens import SESSION, SIGN_IN, TOKEN, check_site, check_token, cookies_of
from trackside.app.server.auth.authenticator import path_of
from trackside.app.server.failures import HttpError, answer_of
from trackside.app.server.responses import Failure, Receive, Reply, Scope, Send, failure, failure_reply, header_of

_CHANGES_NOTHING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_NO_COMPONENTS: Final = "user interfaces of graphs are not served: these are the pages of the console"
_SAY_WHO: Final = (b"authorization", b"x-api-key")


class Browsing:
    """An ASGI middleware that comes before authentication.

    It turns a session's cookie into the headers that authenticators know, unless the request has one of them itself;
    with the cookie, a request that changes something must come from a page of ours. A page that is refused before it
    is reached is refused as a page.

    Args:
        app: the app behind it.
        asks: whether users must authenticate. If not, a session is from another server on this host, and means nothing.
    """

    def __init__(self, app: Any, *, asks: bool = True) -> None:
        self._app = app
        self._asks = asks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_of(scope)
        is_page = path == "/ui" or path.startswith("/ui/")
        if is_page and _asks_for_component(scope):
            await failure(501, _NO_COMPONENTS)(scope, receive, send)
            return
        may_be_signed_in = self._asks and path != SIGN_IN and not _says_who(scope)
        signed_in = cookies_of(scope).get(SESSION) if may_be_signed_in else None
        if signed_in:
            try:
                _check(scope, is_page=is_page)
            except HttpError as exc:
                await failure_reply(answer_of(exc))(scope, receive, send)
                return
            scope.update(with_credential(scope, signed_in))  # in place: middleware in front of us reads it afterwards
        if is_page:
            send = _Readable(scope, receive, send, path).send
        await self._app(scope, receive, send)


def with_credential(scope: Scope, credential: str) -> Scope:
    """The request as if it had an API key, or a token, as a header, and no other credentials."""
    value = "".join(sign for sign in credential if sign.isprintable()).encode("latin-1", "replace")
    others = [(name, said) for name, said in scope["headers"] if name not in _SAY_WHO]
    headers = [*others, (b"authorization", b"Bearer " + value), (b"x-api-key", value)]
    return {**scope, "headers": headers, "trackside.by_cookie": True}


def _check(scope: Scope, *, is_page: bool) -> None:
    """Check that no foreign page has the cookie sent. Our pages may be linked to from anywhere, and what their forms
    send is checked further inside, because the token is in the form.
    """
    if is_page:
        return
    check_site(scope)
    if scope["method"] not in _CHANGES_NOTHING:
        check_token(scope)


def _asks_for_component(scope: Scope) -> bool:
    """Whether LangGraph's client asks at `/ui/{assistant_id}` for a graph's components, which show messages: no form of
    a page is JSON.
    """
    kind = (header_of(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
    return scope["method"] == "POST" and kind == b"application/json"


def _says_who(scope: Scope) -> bool:
    return any(header_of(scope, name) is not None for name in _SAY_WHO)


class _Readable:
    """Passes an answer on; a refusal of a page in JSON, sent by what is in front of the pages, becomes a page."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._path = path
        self._refused: Mapping[str, Any] | None = None
        self._body = b""

    async def send(self, message: Any) -> None:
        """Send a message, as ASGI's `send`."""
        if message["type"] == "http.response.start" and message["status"] >= 400 and _is_json(message):
            self._refused = message
        elif self._refused is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._answer(self._refused["status"])(self._scope, self._receive, self._send)

    def _answer(self, status: int) -> Any:
        assert self._refused is not None
        try:
            detail = str(msgspec.json.decode(self._body).get("detail", ""))
        except (msgspec.DecodeError, AttributeError):
            detail = ""
        if status == 401:
            return self._to_sign_in(detail)
        kept = {b"allow", b"retry-after"}
        headers = {name.decode(): value.decode() for name, value in self._refused["headers"] if name in kept}
        return FailurePage(Failure(status, detail, headers))

    def _to_sign_in(self, detail: str) -> Any:
        scope = self._scope
        root = str(scope.get("root_path", ""))
        said = "&gone=1" if scope.get("trackside.by_cookie") else ""
        to = f"{root}{SIGN_IN}?next={quote(_back(scope, self._path), safe='')}{said}"
        if is_script(scope):
            return Reply(
                detail.encode(), status=401, headers={"HX-Redirect": to}, content_type="text/plain; charset=utf-8"
            )
        if _may_be_signed_in(scope):
            body = f'<!doctype html><title>Sign in</title><a href="{escape(to)}">Sign in</a>'.encode()
            headers = {**HEADERS, "Refresh": f"0;url={to}"}
            return Reply(body, status=401, headers=headers, content_type="text/html; charset=utf-8")
        return Reply(b"", status=303, headers={"Location": to})


def _back(scope: Scope, path: str) -> str:
    """Where somebody goes on who has signed in, below the root: on the page whose form or script asked, since what these
    ask for is no page by itself; else on the page that was asked for.
    """
    is_get = scope["method"] == "GET"
    came = page_before(scope) if is_script(scope) or not is_get else None
    if came is not None:
        return came.removeprefix(str(scope.get("root_path", "")))
    query = scope.get("query_string", b"").decode("latin-1")
    return quote(path) + (f"?{query}" if query else "") if is_get else "/ui"


def _may_be_signed_in(scope: Scope) -> bool:
    """Whether somebody may have followed a foreign link: browsers then do not send the session's cookie. They do when a
    page of ours leads on; a redirect is not such a page.
    """
    if scope["method"] != "GET" or header_of(scope, b"sec-fetch-site") in {b"same-origin", b"same-site", b"none"}:
        return False
    cookies = cookies_of(scope)
    return TOKEN in cookies and SESSION not in cookies


def _is_json(message: Any) -> bool:
    return any(name == b"content-type" and value == b"application/json" for name, value in message.get("headers", ()))
