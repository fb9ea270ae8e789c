"""Signing in with an API key or a token, and out again."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from trackside.app.dashboard.browsing import with_credential
from trackside.app.dashboard.declaring import Form, action, params_of
from trackside.app.dashboard.rendering import FailurePage, Page
from trackside.app.dashboard.tokens import SESSION, SIGN_IN, cookie_of, cookies_of
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Reply
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")

_LONGEST_COOKIE: Final = 4_096  # bytes; browsers silently drop longer ones
_OF_ADDRESSES: Final = "/?#&=%+,;:@!$'()*~[]"


class Credential(Form, kw_only=True):
    """What somebody signs in with."""

    key: str
    next: str = "/ui"


@routes.get(SIGN_IN, Permission.public, answers={200: str}, media_type="text/html", failing=FailurePage)
async def show_sign_in(call: Call[None, None]) -> Any:
    """The form to sign in with; who has signed in, maybe in another tab, goes on."""
    given = params_of(call)
    to = given.get("next", ["/ui"])[0]
    if not await _is_signed_in(call):
        return _form(call, to, "You were signed out: the key is no longer valid." if "gone" in given else None)
    if "gone" in given:  # a page sent the user here, and might do so again
        return _form(call, to, None, is_in=True)
    return Reply(b"", status=303, headers={"Location": f"{call.root}{_inside(to)}"})


async def _form_again(call: Call[Credential, None], why: HttpError) -> Any:
    """The form with a valid token, for somebody whose token was not valid."""
    return _form(call, call.body.next, f"{why.details['detail']}.", status=why.details["status"])


@action(routes, SIGN_IN, body=Credential, needs=Permission.public, refused=_form_again)
async def sign_in(call: Call[Credential, None]) -> Any:
    """Have the browser say from now on who asks."""
    authenticator, key = call.parts.authenticator, call.body.key.strip()
    to = _inside(call.body.next)
    headers = {"Location": f"{call.root}{to}"}
    if authenticator is None:  # nobody is asked to sign in, so there is nothing to remember
        return Reply(b"", status=303, headers=headers)
    try:
        await authenticator(with_credential(call.scope, key))
    except HttpError as exc:
        if exc.details["status"] != 401:
            raise
        return _form(call, to, f"That did not work: {exc.details['detail'].rstrip('.')}.", status=401)
    cookie = cookie_of(call.scope, SESSION, key)
    if len(cookie) > _LONGEST_COOKIE:
        return _form(call, to, "This token is too long for a cookie. Use one with fewer claims.", status=422)
    return Reply(b"", status=303, headers={**headers, "Set-Cookie": cookie})


@action(routes, "/ui/sign-out", body=Form, needs=Permission.public)
async def sign_out(call: Call[Form, None]) -> Any:
    """Have the browser forget who asks."""
    headers = {"Location": f"{call.root}{SIGN_IN}", "Set-Cookie": cookie_of(call.scope, SESSION, "", gone=True)}
    return Reply(b"", status=303, headers=headers)


async def _is_signed_in(call: Call[Any, Any]) -> bool:
    authenticator, session = call.parts.authenticator, cookies_of(call.scope).get(SESSION)
    if authenticator is None or not session:
        return False
    try:
        await authenticator(with_credential(call.scope, session))
    except HttpError:
        return False
    return True


def _form(call: Call[Any, Any], to: str, said: str | None, *, status: int = 200, is_in: bool = False) -> Page:
    asks = call.parts.authenticator is not None and not is_in
    return Page("sign_in", next=_inside(to), said=said, asks=asks, is_in=is_in, status=status)


def _inside(to: str) -> str:
    """Where to go on, if that is a page of the console, else its first page."""
    is_ours = to.startswith("/ui") and to[3:4] in {"", "/", "?", "#"}
    return quote(to, safe=_OF_ADDRESSES) if is_ours and to.isprintable() else "/ui"
