"""Checks the options of a webhook, before anything is sent."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from yarl import URL

from trackside.app.delivery import ObserverOptionError
from trackside.app.masking import parts_of
from trackside.app.observers.webhook._addresses import Reach, literal_address
from trackside.app.observers.webhook._body import Format

__all__ = [
    "check_host",
    "format_of",
    "is_our_header",
    "secrets_in",
    "tls_context",
    "url_of",
]

_PORTS: Final = {"http": 80, "https": 443}
_SECRET_CHARS: Final = 8
_LONGEST_WORD: Final = 15
_SUFFIXES: Final = 16
_LABEL: Final = re.compile(r"[0-9A-Za-z_]([0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?")
_OURS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    }
)


def url_of(value: Any) -> URL:
    """The address that events are sent to.

    Raises:
        ObserverOptionError: it is not an address. The error does not show it, as it may contain a secret.
    """
    if not isinstance(value, str) or not value.isprintable() or any(char in value for char in ' \\"<>^`{|}'):
        raise _url_error("it is not a URL")
    try:
        url = URL(value)
        port, host = url.explicit_port, url.raw_host
    except ValueError:  # its text has the whole address
        raise _url_error("it is not a URL; is its host or its port right?") from None
    if url.scheme not in _PORTS:
        raise _url_error("it begins with https://, or with http://")
    if "@" in url.raw_authority:
        raise _url_error("it has a user or a password in it; put credentials into `headers`, as env:NAME")
    if "#" in value:
        raise _url_error("it has a fragment (#), which is never sent")
    if port == 0:
        raise _url_error("there is no port 0")
    if not host:
        raise _url_error("it has no host")
    return url


def check_host(url: URL, reach: Reach) -> None:
    """Check that a connection to a URL's host is allowed, as far as that is known without looking the host up.

    Raises:
        ObserverOptionError: none is allowed, wherever the name leads.
    """
    host = url.raw_host or ""
    if (address := literal_address(host.removesuffix("."))) is not None:
        if (why := reach.refusal(str(address))) is not None:
            raise _url_error(why)
        if str(address) != host:
            raise _url_error(f"its host is the address {address}; write it like this")
        return
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise _url_error("its host is no name that can be looked up")
    if labels[-1] == "localhost" and (why := reach.refusal("127.0.0.1")) is not None:
        raise _url_error(why.replace("127.0.0.1", "localhost"))
    if not (reach.private or reach.public):
        raise _url_error(f"http:// sends in the clear; {reach.encrypted_instead}")


def format_of(value: Any) -> Format:
    """The format of the body.

    Raises:
        ObserverOptionError: there is no such format.
    """
    try:
        return Format(value)
    except ValueError:
        raise ObserverOptionError(option="format", why=f"it is one of {', '.join(Format)}") from None


def is_our_header(name: str) -> bool:
    """Whether a header, in lower case, belongs to the connection or to the signature."""
    return name in _OURS or name.startswith("proxy-")


def tls_context(ca_file: Any, url: URL) -> ssl.SSLContext | bool:
    """How receivers prove who they are: by the certificates that this machine trusts, or only by those in a file.

    Raises:
        ObserverOptionError: the file has no certificates, or nothing would use them.
    """
    if ca_file is None:
        return True
    if url.scheme != "https":
        raise ObserverOptionError(option="ca_file", why="it is for https:// alone")
    if not isinstance(ca_file, str) or not ca_file:
        raise ObserverOptionError(option="ca_file", why="it is the path of a file")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ObserverOptionError(option="ca_file", why=f"there are no certificates (PEM) in {ca_file}") from None
    except (OSError, ValueError) as exc:
        why = f"{ca_file!r} cannot be read: {(isinstance(exc, OSError) and exc.strerror) or exc}"
        raise ObserverOptionError(option="ca_file", why=why) from exc
    context.set_alpn_protocols(["http/1.1"])
    return context


def secrets_in(url: URL, headers: Mapping[str, str], secret: str | Sequence[str]) -> Iterator[str]:
    """What a receiver may know and repeat, and nobody else must read."""
    for text in [secret] if isinstance(secret, str) else secret:
        yield text
        yield text.removeprefix("whsec_")
    yield from (url.raw_query_string, url.query_string, *url.query.values())
    segments = url.raw_path.split("/", _SUFFIXES)
    for start in range(1, len(segments)):  # a receiver may name the rest of a path after the part that it has routed
        rest = "/".join(segments[start:])
        yield from (f"/{rest}", unquote(f"/{rest}"))
        yield from filter(_may_be_secret, (rest, unquote(rest)))
    yield from filter(_may_be_secret, parts_of(url.raw_path) | parts_of(url.raw_query_string))
    for value in headers.values():
        yield value
        yield from value.split()


def _may_be_secret(part: str) -> bool:
    """Whether a part of an address is long, and not a word such as `services`, which a receiver may use anyway."""
    return len(part) >= _SECRET_CHARS and (len(part) > _LONGEST_WORD or not part.isalpha())


def _url_error(why: str) -> ObserverOptionError:
    return ObserverOptionError(option="url", why=why)
