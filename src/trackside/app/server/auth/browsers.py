"""Keeps web pages from driving a server that has no authentication.

Anybody at this machine may do everything with such a server, and so could each page that their browser shows: the
browser is at this machine, too. Two things tell them apart. A page of another origin cannot hide that (`Origin`); and a
page whose own name was made to mean 127.0.0.1 (DNS rebinding) still asks for that name (`Host`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any, Final
from urllib.parse import urlsplit

from trackside.app.server.auth.exposure import is_loopback
from trackside.app.server.responses import POLICY_VIOLATION, Receive, Scope, Send, close_socket, failure, header_of

ANY: Final = "*"
_PORTS: Final = {"http": 80, "https": 443}


class LocalOnly:
    """An ASGI middleware that lets requests through if they name this machine and come from no page of another origin.

    Args:
        app: what is behind it.
        hosts: other names that the server goes by, an address as `[fd00::5]`; `*` is any.
        origins: other origins whose pages may use it, as `https://example.org`; `*` is any.
    """

    def __init__(self, app: Any, *, hosts: Collection[str] = (), origins: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = frozenset(ANY if host == ANY else _name_in(f"//{host}") for host in hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._known: dict[bytes, bool] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # An app around this one that knows who asks has let the client in.
        is_known = scope["type"] == "lifespan" or "trackside.principal" in scope
        why = None if is_known else self._why_not(scope)
        if why is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await close_socket(receive, send, POLICY_VIOLATION)
        else:
            await failure(403, why)(scope, receive, send)

    def _why_not(self, scope: Scope) -> str | None:
        host = header_of(scope, b"host")
        if host is not None and not self._is_ours(host):
            return (
                f"this server has no authentication, so it answers only to localhost and not to {_shown(host)}; "
                "server.hosts names others"
            )
        origin = header_of(scope, b"origin")
        if origin is not None and not self._may_ask(origin, host):
            return (
                f"this server has no authentication, so it takes nothing from pages of {_shown(origin)}; "
                "server.origins names those that may"
            )
        return None

    def _is_ours(self, host: bytes) -> bool:
        known = self._known.get(host)
        if known is None:
            name = _name_in(f"//{host.decode('latin-1')}")
            known = name is not None and (is_loopback(name) or name in self._hosts or ANY in self._hosts)
            if known and len(self._known) < 100:
                self._known[host] = known
        return known

    def _may_ask(self, origin: bytes, host: bytes | None) -> bool:
        if ANY in self._origins:
            return True
        text = origin.decode("latin-1").lower()
        name = _name_in(text)
        if text in self._origins:
            return True
        if name is None or not text.startswith("http"):
            return False
        # The server's own page, under a name that `hosts` gives it: with `*`, a rebound name would count, too.
        is_own = name in self._hosts and host is not None and _place_of(text) == _place_in(text, host)
        return is_own or is_loopback(name)


def _name_in(url: str) -> str | None:
    """The host's name in lower case, or its address in the shortest form and without brackets."""
    try:
        name = urlsplit(url).hostname
        return str(ipaddress.IPv6Address(name)) if name is not None and ":" in name else name
    except ValueError:
        return None


def _place_in(origin: str, host: bytes) -> tuple[str | None, int | None] | None:
    """The place that a request's `Host` names, by the scheme of this origin."""
    return _place_of(f"{origin.partition('://')[0]}://{host.decode('latin-1')}")


def _place_of(url: str) -> tuple[str | None, int | None] | None:
    """The host's name, and its port: where that is the scheme's own, browsers leave it out and proxies name it."""
    try:
        parts = urlsplit(url)
        return _name_in(url), parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None


def _shown(value: bytes) -> str:
    return ascii(value[:80].decode("latin-1"))
