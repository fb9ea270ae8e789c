"""Cookies of the console, and the token without which nothing is done in the name of a signed-in user.

The cookie `trackside_session` holds what somebody has signed in with, an API key or a token from an identity provider.
The server keeps no sessions: it recognises the user by the cookie as if each request brought it as a header, until the
key or token is revoked. Scripts cannot read the cookie (`HttpOnly`), and foreign pages cannot have it sent
(`SameSite=Strict`). `trackside_token` is a random text for this browser, which is also sent when somebody follows a
foreign link to us (`SameSite=Lax`), so that open pages keep theirs. Each page that we make has a token made from that
text and the session, and sends it with everything that changes something (signed double submit: OWASP, "Cross-Site
Request Forgery Prevention Cheat Sheet"). Somebody who does not see our pages does not know it, and cannot make one by
setting cookies for us from a neighbouring name; and a page that was made for somebody else does nothing in the name of
a user who has signed in since. The page to sign in is made for nobody: its token belongs to the browser alone, in
however many tabs it is open, and is good for nothing else.
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
    """The console's cookies in a request. Of two with one name, the first counts: browsers send the one with the longer
    path before that of another app above ours (RFC 6265, 5.4).

    Anybody may send a head full of cookies: this parses them in one pass, which the patterns of `http.cookies` do not.
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
    """The token for a page, and the name and value of the cookie to set for it; None: the browser has it already."""
    cookies = cookies_of(scope)
    random = cookies.get(TOKEN)
    if random and len(random) <= 64:
        return _bound(random, scope, cookies), None
    random = secrets.token_urlsafe(24)
    return _bound(random, scope, cookies), (TOKEN, random)


def check_site(scope: Scope) -> None:
    """Check that no foreign page asks, as far as the browser says.

    Raises:
        HttpError: one does (403), even if it is from a neighbour that counts as the same site.
    """
    site = header_of(scope, b"sec-fetch-site")
    if site is not None and site not in {b"same-origin", b"none"}:
        raise HttpError(status=403, detail=_FOREIGN)


def check_token(scope: Scope, said: str | None = None) -> None:
    """Check that a page of this server asks.

    Args:
        scope: the scope of the request.
        said: the token, if it came in a form.

    Raises:
        HttpError: something else asks (403).
    """
    check_site(scope)
    header = header_of(scope, HEADER.lower().encode())
    given = said if header is None else header.decode("latin-1")
    cookies = cookies_of(scope)
    random = cookies.get(TOKEN)
    if not random or not given or not hmac.compare_digest(_bound(random, scope, cookies).encode(), given.encode()):
        raise HttpError(status=403, detail=_FOREIGN)


def _bound(random: str, scope: Scope, cookies: Mapping[str, str]) -> str:
    """The token of pages in this browser, valid until somebody signs in or out; the sign-in page's stays valid."""
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
