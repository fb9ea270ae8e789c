"""Who may ask a server, and how often: keys of `[server]` of their own."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from trackside.app.settings._values import parse_count

_RATE: Final = re.compile(r"[1-9][0-9]{0,8}\s*(/|per)\s*([1-9][0-9]{0,5}\s*)?(second|minute|hour|day)s?", re.IGNORECASE)
_ORIGIN: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s]+)", re.IGNORECASE | re.ASCII)
_HOST: Final = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", re.IGNORECASE)
_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Who may ask a server, and how often."""

    auth: str = "none"
    """How the server finds out who sends a request: `none`, `keys`, `jwt`, or the function that says so, as
    `path/file.py:name` or `package.module:name`."""
    hosts: tuple[str, ...] = ()
    """Names besides localhost that a server without `auth` answers to; an IPv6 address is `[fd00::5]`; `*` is any."""
    origins: tuple[str, ...] = ()
    """Origins of pages that may use the server, as browsers write them: `https://example.org`; `*` is any."""
    rate: str | None = None
    """How often a client may send requests, such as `100/second`; None: as often as it likes."""
    max_streams: int | None = None
    """How many streams a client may follow at once; None: 1,000, or without `auth` as many as it likes."""
    item_kinds: tuple[str, ...] = ("memories",)
    """Labels that may come before the owner's name in a namespace of items: `("memories", "ada")` is Ada's."""
    jwt_key: str | None = field(default=None, repr=False)
    """The key for the signatures of tokens: a secret, a public key as PEM, or `env:NAME`."""
    jwt_jwks: str | None = None
    """Where the public keys are: a URL or a file."""
    jwt_issuer: str | None = None
    """Who must have issued a token (`iss`); None: anybody."""
    jwt_audience: str | None = None
    """Whom a token must be for (`aud`); None: anybody."""
    jwt_algorithms: tuple[str, ...] = ()
    """The algorithms with which tokens may be signed; if you name none, those that fit the key."""
    jwt_owner: str = "sub"
    """The claim that says whose threads a client makes and sees."""
    jwt_permission: str | None = None
    """The claim that says what a client may do; None: every client with a token may start runs."""


def _text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"{value!r} is not a text; put it in quotes")


def parse_secret(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError("it is not a text; put it in quotes")  # whatever it is, it must not be readable in a log


def _auth(value: Any) -> str:
    text = _text(value)
    if text in {"none", "keys", "jwt"} or all(text.rpartition(":")):
        return text
    raise ValueError(
        f'{value!r} is not "none", "keys", "jwt", or a function as path/file.py:name or package.module:name'
    )


def _rate(value: Any) -> str:
    if not isinstance(value, str) or _RATE.fullmatch(value) is None:
        raise ValueError(f'{value!r} is not how often a client may ask; write "100/second" or "1000/5 minutes"')
    return value


def _origin(text: str) -> str:
    """An origin as browsers write it, to compare it with theirs: in lower case, without the scheme's default port."""
    found = _ORIGIN.fullmatch(text)
    if found is None or not text.isascii() or "*" in text:  # no browser writes it like that
        raise ValueError
    scheme, place = found[1].lower(), found[2]
    if scheme not in _PORTS:
        return f"{scheme}://{place}"
    url = urlsplit(text)
    host, port = url.hostname, url.port
    if not host:
        raise ValueError
    shown = f"[{ipaddress.IPv6Address(host)}]" if ":" in host else host
    return f"{scheme}://{shown}" if port in {None, _PORTS[scheme]} else f"{scheme}://{shown}:{port}"


def _host(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise ValueError
    return f"[{ipaddress.IPv6Address(text[1:-1])}]" if text.startswith("[") else text.lower()


def _label(text: str) -> str:
    if "." in text or text == "*":  # that would be any label, and so anybody's
        raise ValueError
    return text


def _list_of(read: Callable[[str], str], of_what: str, *, has_any: bool = True) -> Callable[[Any], tuple[str, ...]]:
    """Make a parser of a list of texts, or of a text with commas between them, as a variable has it.

    Args:
        read: turns a text into what it means, or raises a `ValueError`.
        of_what: what they are.
        has_any: whether `*` stands for any of them, and is not read.
    """

    def parse(value: Any) -> tuple[str, ...]:
        listed = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(listed, list):
            raise ValueError(f"{value!r} is not a list of {of_what}")  # noqa: TRY004  # as all that is wrong with values
        found: dict[str, None] = {}
        for text in listed:
            try:
                found["*" if has_any and text == "*" else read(_text(text))] = None
            except ValueError:
                raise ValueError(f"{text!r} is not one of the {of_what}") from None
        return tuple(found)

    return parse


ACCESS_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "auth": _auth,
    "hosts": _list_of(_host, "names of hosts, without a port: example.org, [fd00::5]"),
    "origins": _list_of(_origin, "origins of pages: https://example.org"),
    "rate": _rate,
    "max_streams": parse_count,
    "item_kinds": _list_of(_label, "labels of namespaces, without dots, and not *: memories", has_any=False),
    "jwt_key": parse_secret,
    "jwt_jwks": _text,
    "jwt_issuer": _text,
    "jwt_audience": _text,
    "jwt_algorithms": _list_of(str, "algorithms: RS256"),
    "jwt_owner": _text,
    "jwt_permission": _text,
}
"""The keys of `[server]` that are about access, and the parser of each."""
