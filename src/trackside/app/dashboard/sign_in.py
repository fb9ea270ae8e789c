"""Signing in with an API key or a token, and out again."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from trackside.app.dashboard.browsing import with_credential
from trackside.app.dashboard.declaring import Form, action, params_of
from trackside.app.dashboard.rendering import FailurePage, Page
from trackside.app.dashboard.tokens import SESSION, cookie_of
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Reply
from trackside.app.server.routing import Call, Routes

routes = Routes("Console")

_LONGEST_COOKIE: Final = 4_096  # bytes; browsers drop longer ones without a word
_OF_ADDRESSES: Final = "/?#&=%+,;:@!$'()*~[]"


class Credential(Form, kw_only=True):
    """What somebody says who he is with."""

    key: str
    next: str = "/ui"


@routes.get("/ui/sign-in", Permission.public, answers={200: str}, media_type="text/html", failing=FailurePage)
async def show_sign_in(call: Call[None, None]) -> Any:
    """The form to sign in with."""
    given = params_of(call)
    said = "You were signed out: the key is no longer valid." if "gone" in given else None
    return _form(call, given.get("next", ["/ui"])[0], said)


@action(routes, "/ui/sign-in", body=Credential, needs=Permission.public)
async def sign_in(call: Call[Credential, None]) -> Any:
    """Have the browser say from now on who asks."""
    authenticator, key = call.parts.authenticator, call.body.key.strip()
    to = _inside(call.body.next)
    headers = {"Location": f"{call.root}{to}"}
    if authenticator is None:  # nobody is asked, and so nothing has to be remembered
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
    headers = {"Location": f"{call.root}/ui/sign-in", "Set-Cookie": cookie_of(call.scope, SESSION, "", gone=True)}
    return Reply(b"", status=303, headers=headers)


def _form(call: Call[Any, Any], to: str, said: str | None, status: int = 200) -> Page:
    return Page("sign_in", next=_inside(to), said=said, asks=call.parts.authenticator is not None, status=status)


def _inside(to: str) -> str:
    """Where to go on, if that is a page of the console; its beginning if not."""
    is_ours = to.startswith("/ui") and to[3:4] in {"", "/", "?", "#"}
    return quote(to, safe=_OF_ADDRESSES) if is_ours and to.isprintable() else "/ui"
