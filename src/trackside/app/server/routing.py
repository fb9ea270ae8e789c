"""What an endpoint is: who may call it, what it takes and gives, and how a request becomes a call of its function.

    routes = Routes("Threads")

    @routes.post("/threads", Permission.run, body=ThreadCreate, answers={200: Thread})
    async def create_thread(call: Call[ThreadCreate, None]) -> Answer | object:
        \"\"\"Make a thread.\"\"\"

What a function returns is sent: an `Answer` as it is, anything else as JSON. A `TracksideError` becomes a status and a
sentence (`failures`). The OpenAPI document is made of the same list.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import msgspec

from trackside.app.server.auth.authenticator import Authenticator
from trackside.app.server.auth.middleware import client_of
from trackside.app.server.auth.standing import Standing
from trackside.app.server.authorizing import About, Inside, Operation, authorized
from trackside.app.server.calls import Call
from trackside.app.server.failures import FAILED, HttpError, answer_of
from trackside.app.server.misfits import misfit, unknown_field
from trackside.app.server.parts import ServerParts
from trackside.app.server.principal import NOBODY, Permission, Principal
from trackside.app.server.rates import Streams
from trackside.app.server.responses import Answer, Receive, Reply, Scope, Send, failure, json_reply
from trackside.harness.errors import TracksideError

__all__ = ["EVENT_STREAM", "Call", "Endpoint", "EndpointApp", "Routes", "all_endpoints"]

logger = logging.getLogger("trackside.server")

EVENT_STREAM = "text/event-stream"

type Handler = Callable[[Call[Any, Any]], Awaitable[Any]]
type Failing = Callable[[int, str, Mapping[str, str], str | None], Answer]
"""What makes an answer of a status, a sentence and headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    handler: Handler
    needs: Permission
    about: About | Operation | Inside | None = None
    """What handlers have to decide on; None: nothing, and where there are handlers nobody gets in unless it is public."""
    group: str
    summary: str
    body: Any = None
    """The type of the request's body; None: it takes none."""
    described: Any = None
    """The type that describes the body: that of it, unless the endpoint takes more than clients need to know."""
    query: Any = None
    """The `msgspec.Struct` of its query parameters; None: it takes none."""
    answers: Mapping[int, Any] = field(default_factory=dict)
    """The types of bodies by status; None: no body. The errors that every endpoint may give are not listed."""
    refuses: str | None = None
    """Why it always answers 501; None: it works."""
    media_type: str = "application/json"
    form: bool = False
    """Whether the body is a form, as browsers send one, instead of JSON."""
    failing: Failing = failure
    """What it answers with when something went wrong."""


class Routes:
    """The endpoints of one group."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.endpoints: list[Endpoint] = []

    def add(
        self,
        method: str,
        path: str,
        needs: Permission,
        *,
        about: About | Operation | Inside | None = None,
        body: Any = None,
        described: Any = None,
        query: Any = None,
        answers: Mapping[int, Any] | None = None,
        refuses: str | None = None,
        media_type: str = "application/json",
        form: bool = False,
        failing: Failing = failure,
    ) -> Callable[[Handler], Handler]:
        """Have a function answer; its docstring's first line is the summary."""

        def register(handler: Handler) -> Handler:
            summary = (inspect.getdoc(handler) or "").partition("\n")[0]
            self.endpoints.append(
                Endpoint(
                    method=method,
                    path=path,
                    handler=handler,
                    needs=needs,
                    about=about,
                    group=self.group,
                    summary=summary,
                    body=body,
                    described=body if described is None else described,
                    query=query,
                    answers={200: object} if answers is None else answers,
                    refuses=refuses,
                    media_type=media_type,
                    form=form,
                    failing=failing,
                )
            )
            return handler

        return register

    def get(self, path: str, needs: Permission, **options: Any) -> Callable[[Handler], Handler]:
        """As `add`."""
        return self.add("GET", path, needs, **options)

    def post(self, path: str, needs: Permission, **options: Any) -> Callable[[Handler], Handler]:
        """As `add`."""
        return self.add("POST", path, needs, **options)

    def put(self, path: str, needs: Permission, **options: Any) -> Callable[[Handler], Handler]:
        """As `add`."""
        return self.add("PUT", path, needs, **options)

    def patch(self, path: str, needs: Permission, **options: Any) -> Callable[[Handler], Handler]:
        """As `add`."""
        return self.add("PATCH", path, needs, **options)

    def delete(self, path: str, needs: Permission, **options: Any) -> Callable[[Handler], Handler]:
        """As `add`."""
        return self.add("DELETE", path, needs, **options)

    def refuse(self, method: str, path: str, why: str, *, about: About) -> None:
        """Have an endpoint that clients know answer 501, saying why."""

        async def refused(call: Call[Any, Any]) -> Answer:
            return failure(501, why)

        refused.__doc__ = f"Not supported: {why}"
        self.add(method, path, Permission.public, about=about, answers={}, refuses=why)(refused)


class EndpointApp:
    """An endpoint as an ASGI app."""

    def __init__(self, endpoint: Endpoint, parts: ServerParts, followed: Streams) -> None:
        self.endpoint = endpoint
        self._parts = parts
        self._followed = followed
        self._handlers = parts.handlers if endpoint.needs is not Permission.public or endpoint.refuses else None
        self._is_stream = endpoint.media_type == EVENT_STREAM
        self._body = None if endpoint.body is None else msgspec.json.Decoder(endpoint.body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_stream:
            answer = await self._answer(scope, receive)
            await answer(scope, receive, send)
            return
        client = client_of(scope.get("trackside.principal", NOBODY).identity, scope)
        try:
            self._followed.enter(client)
        except HttpError as exc:
            await self.endpoint.failing(*answer_of(exc))(scope, receive, send)
            return
        try:
            answer = await self._answer(scope, receive)
            await self._stream(answer, scope, receive, send)
        finally:
            self._followed.leave(client)

    async def _stream(self, answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
        authenticator = self._parts.authenticator
        if isinstance(answer, Reply) or not getattr(authenticator, "asks_again", False):
            await answer(scope, receive, send)
        else:
            await Standing(cast("Authenticator", authenticator), scope, self._parts.options.heartbeat).answer(
                answer, receive, send
            )

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        endpoint = self.endpoint
        try:
            principal = self._allowed(scope.get("trackside.principal", NOBODY))
            body = None if self._body is None else await self._read(scope, receive)
            query = None if endpoint.query is None else query_of(scope, endpoint.query)
            call = Call(self._parts, principal, body, query, scope.get("path_params", {}), scope, receive)
            if self._handlers is not None:
                call = await authorized(replace(call, handlers=self._handlers), endpoint.about)
            result = await endpoint.handler(call)
        except TracksideError as exc:
            return endpoint.failing(*answer_of(exc))
        except Exception:
            logger.exception("%s %s failed", endpoint.method, endpoint.path)
            return endpoint.failing(500, FAILED, {}, None)
        return cast("Answer", result) if callable(result) else json_reply(result)

    def _allowed(self, principal: Principal) -> Principal:
        needs = self.endpoint.needs
        if not principal.may(needs):
            raise HttpError(status=403, detail=f"this needs the permission {needs.value!r}")
        return principal

    async def _read(self, scope: Scope, receive: Receive) -> Any:
        assert self._body is not None
        options = self._parts.options
        try:
            check_body(scope, options.max_body_bytes, form=self.endpoint.form)
            body = await read_body(receive, options.max_body_bytes, options.body_seconds)
        except HttpError as exc:
            if exc.details["status"] in _UNREAD:
                await _pass_over(scope, receive, 4 * options.max_body_bytes)
            raise
        if self.endpoint.form:
            return form_of(body, self.endpoint.body)
        try:
            return self._body.decode(body or b"{}")
        except msgspec.ValidationError as exc:
            raise HttpError(status=422, detail=misfit(exc, self.endpoint.body, _plain(body))) from exc
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise HttpError(status=422, detail=f"the body is not JSON: {exc}") from exc


def _plain(body: bytes) -> Any:
    """What was sent, of whatever type, to say what of it does not fit."""
    try:
        return msgspec.json.decode(body or b"{}")
    except (msgspec.MsgspecError, ValueError, RecursionError):  # it is no JSON behind where that was found
        return {}


_FORM = b"application/x-www-form-urlencoded"
_FORMS = (_FORM, b"multipart/form-data", b"text/plain")


def check_body(scope: Scope, limit: int, *, form: bool = False) -> None:
    """See that the body of a request is of a kind that is read here, and says of itself that it is no larger than the limit.

    Raises:
        HttpError: it is compressed, or what pages of elsewhere may send without being asked (415), or too large (413).
    """
    kinds = _FORMS[1:] if form else _FORMS
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise HttpError(status=415, detail="a compressed body is not read here: send it without Content-Encoding")
        if name == b"content-type" and value.partition(b";")[0].strip().lower() in kinds:
            kind = _FORM.decode() if form else "application/json"
            raise HttpError(status=415, detail=f"the body has to be sent with Content-Type: {kind}")
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
            raise _too_large(limit)


def _too_large(limit: int) -> HttpError:
    return HttpError(status=413, detail=f"the body is larger than {limit:,} bytes", headers={"Connection": "close"})


async def read_body(receive: Receive, limit: int, seconds: float | None = None) -> bytes:
    """The whole body of a request.

    Raises:
        HttpError: it is larger than the limit (413), has not come in so many seconds (408), or the client has gone.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _whole_body(receive, limit)
    except TimeoutError:
        why = f"the body has not come in {seconds:g} seconds"
        raise HttpError(status=408, detail=why, headers={"Connection": "close"}) from None


_UNREAD: Final = frozenset({413, 415})
_PATIENCE: Final = 5.0  # seconds


async def _pass_over(scope: Scope, receive: Receive, most: int) -> None:
    """Let a client that is refused send the rest, within bounds: it looks for an answer only then, and if the connection is
    closed before, its system throws the answer away. One that asks first whether to send is told no.
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


async def _whole_body(receive: Receive, limit: int) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    chunks, size = [body], len(body)
    while size <= limit and message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
    if size > limit:
        raise _too_large(limit)
    if message["type"] == "http.disconnect":
        raise HttpError(status=400, detail="the client has gone")
    return body if len(chunks) == 1 else b"".join(chunks)


def query_of(scope: Scope, kind: Any) -> Any:
    """The query parameters of a request; one that is there several times is a list where the field is one.

    Raises:
        HttpError: one does not fit, or is not known.
    """
    given = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    return named_values(given, kind, "query parameter", "the query")


def form_of(body: bytes, kind: Any) -> Any:
    """The fields of a form, as `query_of` those of a query.

    Raises:
        HttpError: it is no form, or a field does not fit, or is not known.
    """
    try:
        given = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as exc:
        raise HttpError(status=422, detail=f"the body is no form: {exc}") from exc
    return named_values(given, kind, "field", "the form")


def named_values(given: Iterable[tuple[str, str]], kind: Any, what: str, whole: str) -> Any:
    """A `msgspec.Struct` of texts under names; one that is there several times is a list where the field is one.

    Args:
        given: the names and texts.
        kind: the type of the struct.
        what: what clients call one of them.
        whole: what they call all of them together.

    Raises:
        HttpError: one does not fit, or is not known.
    """
    values: dict[str, Any] = {}
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, value in given:
        if name not in fields:
            raise HttpError(status=422, detail=unknown_field(what, name, fields))
        if _is_list(fields[name].type):
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise HttpError(status=422, detail=misfit(exc, kind, values, whole)) from exc


_MOST_FIELDS: Final = 2_000


def _is_list(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is list or any(_is_list(part) for part in getattr(kind, "__args__", ()))


def all_endpoints(groups: Iterable[Routes]) -> list[Endpoint]:
    """The endpoints of all groups, in their order."""
    return [endpoint for group in groups for endpoint in group.endpoints]
