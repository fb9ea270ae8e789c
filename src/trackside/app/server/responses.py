"""Answers and headers as ASGI sends them. The smallest that will do: a server spends most of its time here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from trackside.harness.payload import json_bytes

type Scope = Any
type Receive = Any
type Send = Any

NORMAL: Final = 1000
"""The code of a WebSocket that closes because there is nothing more to say (RFC 6455, 7.4.1)."""
POLICY_VIOLATION: Final = 1008
"""The code of one that closes because the client may not do this."""

_JSON = (b"content-type", b"application/json")
CODES: Final[Mapping[int, str]] = {
    400: "bad-request",
    401: "not-authenticated",
    403: "not-permitted",
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    409: "conflict",
    413: "too-large",
    414: "url-too-long",
    415: "media-type",
    422: "invalid-request",
    429: "too-many-requests",
    431: "headers-too-large",
    500: "server-failed",
    501: "not-implemented",
    503: "unavailable",
}
"""The codes of failures that have no kind of error of their own, by status."""


type Unfit = tuple[str, str] | None
"""Which field of the request does not fit, and why; None where the failure is about something else."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong, in a sentence, and the code under which it is explained, such as `thread-busy`. If a field of
    the request does not fit, also which field, and why.
    """

    detail: str
    code: str
    field: str | None = None
    why: str | None = None


class Failure(NamedTuple):
    """What a client is told."""

    status: int
    detail: str
    headers: Mapping[str, str] = MappingProxyType({})
    code: str | None = None
    """The code that it is explained under; None: the one for its status."""
    unfit: Unfit = None

    @property
    def problem(self) -> Problem:
        """The body of the answer."""
        of_status = CODES.get(self.status, CODES[400 if self.status < 500 else 500])
        return Problem(self.detail, self.code or of_status, *(self.unfit or ()))


class Answer(Protocol):
    """Something that an endpoint answers with."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        ...


class Reply:
    """A whole body with a status."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        self.body = body
        self.content_type = content_type
        self.status = status
        self.headers = {} if headers is None else headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = _JSON if self.content_type == "application/json" else (b"content-type", self.content_type.encode())
        headers = [kind, (b"content-length", b"%d" % len(self.body))]
        if self.headers:
            headers += encoded_headers(self.headers)
        if self.status == 204:  # no content, and so no content type and length
            headers = headers[2:]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def json_reply(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """A JSON body. Values that JSON lacks are in their canonical form."""
    return Reply(json_bytes(value), status=status, headers=headers)


def page_headers(*, offset: int, shown: int, total: int) -> dict[str, str]:
    """How many there are in all, and the offset of the next page, unless this is the last one."""
    headers = {"X-Pagination-Total": str(total)}
    if shown and offset + shown < total:
        headers["X-Pagination-Next"] = str(offset + shown)
    return headers


def empty(status: int = 204, headers: Mapping[str, str] | None = None) -> Reply:
    """No body."""
    return Reply(b"", status=status, headers=headers)


def failure_reply(failure: Failure) -> Reply:
    """What went wrong, in a sentence, and the code to look it up by."""
    return json_reply(failure.problem, status=failure.status, headers=failure.headers)


def failure(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Reply:
    """The same, for a failure that has only the code of its status."""
    return failure_reply(Failure(status, detail, headers or {}))


async def close_socket(receive: Receive, send: Send, code: int) -> None:
    """Close a WebSocket that is not wanted, before it has been accepted; `code` says why."""
    await receive()
    await send({"type": "websocket.close", "code": code, "reason": ""})


def encoded_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI has them. Nothing in a value ends a line, because what follows would become another header."""
    return [(name.lower().encode("latin-1"), _value_of(value)) for name, value in headers.items()]


def _value_of(value: str) -> bytes:
    if not value.isprintable() or not value.isascii():
        value = "".join(sign if sign.isprintable() else "?" for sign in value)
    return value.encode("latin-1", "replace")


def header_of(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a request's header; None if it was not sent."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None
