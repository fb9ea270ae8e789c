"""What a request brings, as values of the types that its endpoint names: the body, a form, the query."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from trackside.app.server.failures import HttpError
from trackside.app.server.misfits import misfit, unknown_field
from trackside.app.server.responses import Receive, Scope

_FORM: Final = b"application/x-www-form-urlencoded"
_TEXT: Final = b"text/plain"
_FORMS: Final = (_FORM, b"multipart/form-data", _TEXT)
_MOST_FIELDS: Final = 2_000
_UNREAD: Final = frozenset({413, 415})
"""Statuses that refuse a body before it has been read."""
_PATIENCE: Final = 5.0  # seconds
BODY_TIME: Final = "trackside.body_time"
"""In the scope of a request from a connection of ours: how long its body may take."""


class BodyTime:
    """How long the body of one request may take: a time for all of it, unless its reader takes it piece by piece."""

    __slots__ = ("is_by_piece",)

    def __init__(self) -> None:
        self.is_by_piece = False


class BodyReader:
    """Reads the bodies that one endpoint takes.

    Args:
        kind: the type that they have.
        is_form: whether they are forms, as browsers send them, instead of JSON.
        most_bytes: how large one may be.
        seconds: how long one may take to come.
    """

    def __init__(self, kind: Any, *, is_form: bool, most_bytes: int, seconds: float) -> None:
        self._kind = kind
        self._is_form = is_form
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._decode = msgspec.json.Decoder(kind).decode

    async def read(self, scope: Scope, receive: Receive) -> Any:
        """The body of this request.

        Raises:
            HttpError: it is of another kind (415), too large (413), too slow (408), or does not fit (422); or the
                client has gone.
        """
        try:
            _check_head(scope, self._most_bytes, is_form=self._is_form)
            body = await _whole_in_time(receive, self._most_bytes, self._seconds)
        except HttpError as exc:
            if exc.details["status"] in _UNREAD:
                await _pass_over(scope, receive, 4 * self._most_bytes)
            raise
        if self._is_form:
            return _form_of(body, self._kind)
        try:
            return self._decode(body or b"{}")
        except msgspec.ValidationError as exc:
            raise HttpError(status=422, detail=misfit(exc, self._kind, _untyped(body))) from exc
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise HttpError(status=422, detail=f"the body is not JSON: {exc}") from exc


def query_of(scope: Scope, kind: Any) -> Any:
    """The query parameters of a request; one that comes several times is a list if its field is one.

    A list of words that the server knows may also come as one JSON array, as `@langchain/langgraph-sdk` 1.11 sends it.

    Raises:
        HttpError: one does not fit, or is not known.
    """
    given = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    return _named_values(given, kind, "query parameter", "the query")


def _check_head(scope: Scope, most_bytes: int, *, is_form: bool) -> None:
    """See that a body is of a kind that is read here, and says of itself that it is not too large.

    JSON may be labelled as text beside an API key, as `langgraph-nextjs-api-passthrough` sends it: a page of another
    origin has to ask before it may send that header (https://fetch.spec.whatwg.org/#cors-safelisted-request-header).

    Raises:
        HttpError: it is compressed, or what pages of other origins may send without asking (415), or too large (413).
    """
    refused = _FORMS[1:] if is_form else _FORMS
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise HttpError(status=415, detail="a compressed body is not read here: send it without Content-Encoding")
        if name == b"content-type" and (sent := value.partition(b";")[0].strip().lower()) in refused:
            if sent == _TEXT and not is_form and any(other == b"x-api-key" for other, _ in scope["headers"]):
                continue
            kind = _FORM.decode() if is_form else "application/json"
            raise HttpError(status=415, detail=f"the body has to be sent with Content-Type: {kind}")
        if name == b"content-length" and value.isdigit() and int(value[:20]) > most_bytes:
            raise _too_large(most_bytes)


async def _whole_in_time(receive: Receive, most_bytes: int, seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await _whole(receive, most_bytes)
    except TimeoutError:
        why = f"the body has not come in {seconds:g} seconds"
        raise HttpError(status=408, detail=why, headers={"Connection": "close"}) from None


async def _whole(receive: Receive, most_bytes: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    chunks, size = [body], len(body)
    while size <= most_bytes and message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
    if size > most_bytes:
        raise _too_large(most_bytes)
    if message["type"] == "http.disconnect":
        raise HttpError(status=400, detail="the client has gone")
    return body if len(chunks) == 1 else b"".join(chunks)


async def _pass_over(scope: Scope, receive: Receive, most: int) -> None:
    """Let a client that is refused send the rest, within bounds: only then does it look for an answer, and if the
    connection closes before, its system throws the answer away. A client that asks first whether to send is told no.
    """
    if any(name == b"expect" for name, _ in scope["headers"]):
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while most > 0:
                message = await receive()
                if not message.get("more_body", False):
                    return
                most -= len(message.get("body", b""))


def _too_large(most_bytes: int) -> HttpError:
    detail = f"the body is larger than {most_bytes:,} bytes"
    return HttpError(status=413, detail=detail, headers={"Connection": "close"})


def _untyped(body: bytes) -> Any:
    """What was sent, whatever its type, to say which part of it does not fit."""
    try:
        return msgspec.json.decode(body or b"{}")
    except (msgspec.MsgspecError, ValueError, RecursionError):  # behind the place of the misfit, it is no JSON
        return {}


def _form_of(body: bytes, kind: Any) -> Any:
    """The fields of a form, as `query_of` reads those of a query.

    Raises:
        HttpError: it is no form, or a field does not fit, or is not known.
    """
    try:
        given = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as exc:
        raise HttpError(status=422, detail=f"the body is not a form: {exc}") from exc
    return _named_values(given, kind, "field", "the form")


def _named_values(given: Iterable[tuple[str, str]], kind: Any, what: str, whole: str) -> Any:
    """A `msgspec.Struct` made of named texts, by the rules of `query_of`.

    Args:
        given: the names and texts.
        kind: the type of the struct.
        what: what clients call one of them.
        whole: what they call all of them together.

    Raises:
        HttpError: one does not fit, or is not known.
    """
    values: dict[str, Any] = {}
    items_of = _items_among(kind)
    for name, value in given:
        if name not in items_of:
            raise HttpError(status=422, detail=unknown_field(what, name, items_of))
        if items_of[name] is None:
            values[name] = value
            continue
        for item in (value,) if items_of[name] is str else _words(value):
            values.setdefault(name, []).append(item)
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise HttpError(status=422, detail=misfit(exc, kind, values, whole)) from exc


@functools.cache  # inspecting the types takes as long as all else that is done with a query
def _items_among(kind: Any) -> Mapping[str, Any]:
    """The type of the items of each field that is a list, and None for any other, by the names of a struct's fields."""
    return {field.encode_name: _items_of(field.type) for field in msgspec.structs.fields(kind)}


def _items_of(kind: Any) -> Any:
    parts: tuple[Any, ...] = getattr(kind, "__args__", ())
    if getattr(kind, "__origin__", None) is list:
        return parts[0]
    return next(filter(None, map(_items_of, parts)), None)


def _words(value: str) -> list[str]:
    """The words that a value stands for: itself, or those in it if it is a JSON array, which is no known word."""
    if not value.startswith("["):
        return [value]
    try:
        return msgspec.json.decode(value, type=list[str])
    except msgspec.MsgspecError:
        return [value]
