"""An endpoint as an ASGI app: how a request becomes a call of its function, and the call's result an answer."""

from __future__ import annotations

import logging
from typing import cast

from trackside.app.server.auth.authenticator import Authenticator
from trackside.app.server.auth.middleware import client_of
from trackside.app.server.auth.revoking import RevocableAnswer
from trackside.app.server.authorizing import authorized
from trackside.app.server.calls import Call
from trackside.app.server.failures import HttpError, answer_of, answer_to_unexpected
from trackside.app.server.parts import ServerParts
from trackside.app.server.principal import NOBODY, WITHIN
from trackside.app.server.rates import OpenStreams
from trackside.app.server.reading import BodyReader, query_of
from trackside.app.server.responses import Answer, Receive, Reply, Scope, Send, json_reply
from trackside.app.server.routing import EVENT_STREAM, Endpoint
from trackside.harness.errors import TracksideError

logger = logging.getLogger("trackside.server")


class EndpointApp:
    """Answers the requests to one endpoint.

    Args:
        endpoint: which one.
        parts: what it answers with.
        open_streams: counts the streams of each client, over all endpoints.
    """

    def __init__(self, endpoint: Endpoint, parts: ServerParts, open_streams: OpenStreams) -> None:
        self.endpoint = endpoint
        self._parts = parts
        self._open_streams = open_streams
        self._handlers = parts.handlers if endpoint.is_decided_on else None
        self._is_stream = endpoint.media_type == EVENT_STREAM
        options = parts.options
        most = options.max_body_bytes
        self._body = (
            None
            if endpoint.body is None
            else BodyReader(
                endpoint.body,
                is_form=endpoint.form,
                most_bytes=most if endpoint.most_body is None else min(most, endpoint.most_body),
                seconds=options.body_seconds,
            )
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_stream:
            await self._stream(scope, receive, send)
        else:
            await self._send(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As `_send`, unless the client already follows as many streams as it may at once."""
        client = client_of(scope.get("trackside.principal", NOBODY).identity, scope)
        try:
            self._open_streams.enter(client)
        except HttpError as exc:
            await self.endpoint.failing(answer_of(exc))(scope, receive, send)
            return
        try:
            await self._send(scope, receive, send)
        finally:
            self._open_streams.leave(client)

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(scope, receive)
        if not isinstance(answer, Reply):  # the answer takes long
            authenticator = self._parts.authenticator
            if getattr(authenticator, "asks_again", False) and WITHIN not in scope:
                again = self._parts.options.heartbeat
                answer = RevocableAnswer(answer, cast("Authenticator", authenticator), seconds=again)
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        """What the function returns for this request, or an answer that says what is wrong: this raises nothing."""
        endpoint = self.endpoint
        try:
            principal = scope.get("trackside.principal", NOBODY)
            endpoint.expect_allowed(principal)
            body = None if self._body is None else await self._body.read(scope, receive)
            query = None if endpoint.query is None else query_of(scope, endpoint.query)
            call = Call(self._parts, principal, body, query, scope.get("path_params", {}), scope, receive)
            if self._handlers is not None:
                call = await authorized(call, endpoint.about, self._handlers)
            result = await endpoint.handler(call)
        except TracksideError as exc:
            return endpoint.failing(answer_of(exc))
        except Exception as exc:  # our own failure: the client hears that there was one, and the log says what
            logger.exception("%s %s failed", endpoint.method, endpoint.path)
            return endpoint.failing(answer_to_unexpected(exc))
        return cast("Answer", result) if callable(result) else json_reply(result)
