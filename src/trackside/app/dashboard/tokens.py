"""Cookies of the console, and the token without which nothing is done in the name of who is signed in.

The cookie `trackside_session` has what somebody has signed in with, an API key or a token of his identity provider: the
server keeps no sessions, knows him by it as if each request brought it as a header, and does not any more once it is
revoked. Scripts cannot read it (`HttpOnly`) and pages of elsewhere cannot have it sent (`SameSite=Strict`).
`trackside_token` is a random text of this browser, which also comes where somebody follows a link of elsewhere to us
(`SameSite=Lax`): pages that are open keep theirs. Each page that we made has a token that is made of it and of the session,
and says it with whatever changes something (signed double submit: OWASP, "Cross-Site Request Forgery Prevention Cheat
Sheet"). Who does not see our pages does not know it, nor can make one by setting cookies for us from a neighbouring name;
and a page that was made for somebody else does nothing in the name of whoever has signed in since. The page to sign in is
made for nobody: its token is of the browser alone, in however many tabs it is open, and is good for nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

from trackside.app.server.auth.authenticator import path_of
from trackside.app.server.failures import HttpError
from trackside.app.server.responses import Scope, header_of

SESSION: Final = "trackside_session"
TOKEN: Final = "trackside_token"  # noqa: S105  # the cookie's name
HEADER: Final = "X-CSRF-Token"
SIGN_IN: Final = "/ui/sign-in"

_OURS: Final = frozenset({SESSION, TOKEN})
_FOREIGN: Final = "this was not sent by a page of this server: load the page again, and try again"


def cookies_of(scope: Scope) -> dict[str, str]:
    """The console's cookies of a request. Of two with one name the first counts: browsers send that of the longer path
    before that of another app above ours (RFC 6265, 5.4).

    Anybody may send a head full of cookies: they are taken apart in one pass, as the patterns of `http.cookies` are not.
    """
    found: dict[str, str] = {}
    for header, sent in scope["headers"]:
        if header != b"cookie":
            continue
        for pair in sent.decode("latin-1").split(";"):
            name, equals, value = pair.partition("=")
            if equals and (name := name.strip()) in _OURS:
                found.setdefault(name, unquote(value.strip().strip('"')))
    return found


def token_of(scope: Scope) -> tuple[str, tuple[str, str] | None]:
    """The token for a page, and the name and value of the cookie that has to be set for it; None: the browser has it."""
    cookies = cookies_of(scope)
    random = cookies.get(TOKEN)
    if random and len(random) <= 64:
        return _bound(random, scope, cookies), None
    random = secrets.token_urlsafe(24)
    return _bound(random, scope, cookies), (TOKEN, random)


def check_site(scope: Scope) -> None:
    """See that no page of elsewhere asks, as far as the browser says.

    Raises:
        HttpError: one does (403), be it of a neighbour that counts as the same site.
    """
    site = header_of(scope, b"sec-fetch-site")
    if site is not None and site not in {b"same-origin", b"none"}:
        raise HttpError(status=403, detail=_FOREIGN)


def check_token(scope: Scope, said: str | None = None) -> None:
    """See that a page of this server's asks.

    Args:
        scope: of the request.
        said: the token, if it came in a form.

    Raises:
        HttpError: somebody else asks (403).
    """
    check_site(scope)
    header = header_of(scope, HEADER.lower().encode())
    given = said if header is None else header.decode("latin-1")
    cookies = cookies_of(scope)
    random = cookies.get(TOKEN)
    if not random or not given or not hmac.compare_digest(_bound(random, scope, cookies).encode(), given.encode()):
        raise HttpError(status=403, detail=_FOREIGN)


def _bound(random: str, scope: Scope, cookies: Mapping[str, str]) -> str:
    """The token that pages have of this browser, for as long as nobody signs in or out; that of signing in goes on."""
    session = "" if path_of(scope) == SIGN_IN else cookies.get(SESSION, "")
    return hmac.new(session.encode(errors="replace"), random.encode(errors="replace"), hashlib.sha256).hexdigest()


def cookie_of(scope: Scope, name: str, value: str, *, gone: bool = False) -> str:
    """`Set-Cookie` for a cookie that ends with the browser; `gone` takes it away."""
    forwarded = header_of(scope, b"x-forwarded-proto") or b""
    is_safe = scope.get("scheme") == "https" or forwarded.partition(b",")[0].strip().lower() == b"https"
    path = str(scope.get("root_path", "")) or "/"
    site = "Lax" if name == TOKEN else "Strict"
    parts = [f"{name}={quote(value, safe='')}", f"Path={path}", "HttpOnly", f"SameSite={site}"]
    if is_safe:
        parts.append("Secure")
    if gone:
        parts.append("Max-Age=0")
    return "; ".join(parts)
