"""Checks the options of an observer of traces."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

from trackside.app.delivery import ObserverOptionError

__all__ = ["OTLP_HEADERS", "checked_name", "traces_url"]

_PATH: Final = "/v1/traces"
OTLP_HEADERS: Final = frozenset({"content-encoding", "content-length", "content-type", "host", "transfer-encoding"})
"""The headers that OTLP sets itself."""


def traces_url(endpoint: Any) -> str:
    """Where a collector takes traces: an address with a path as it is, one without with OTLP's `/v1/traces`.

    Raises:
        ObserverOptionError: it is not an address. The error does not show it, as it may contain a secret.
    """
    if not isinstance(endpoint, str) or not endpoint.isprintable() or " " in endpoint:
        raise _endpoint_error("it is not a URL, as http://localhost:4318")
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _endpoint_error("it is not a URL; is its host or its port right?") from None
    if parts.scheme not in ("http", "https"):
        raise _endpoint_error(
            "it begins with http:// or https://; gRPC is not spoken, use the collector's port for HTTP"
        )
    if not host or port == 0:
        raise _endpoint_error("it has no host" if not host else "there is no port 0")
    if "@" in parts.netloc:
        raise _endpoint_error("it has a user or a password in it; put credentials into `headers`, as env:NAME")
    if parts.query or parts.fragment:
        raise _endpoint_error("it has a query or a fragment, which OTLP does not have")
    path = parts.path if parts.path.strip("/") else _PATH
    return urlunsplit(SplitResult(parts.scheme, parts.netloc, path, "", ""))


def checked_name(name: Any) -> str:
    """What the app is called in its traces.

    Raises:
        ObserverOptionError: it is not a text that can be shown.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ObserverOptionError(option="service_name", why=f"it is {name!r:.80}; write the name of your app")
    return name


def _endpoint_error(why: str) -> ObserverOptionError:
    return ObserverOptionError(option="endpoint", why=why)
