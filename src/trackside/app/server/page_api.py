"""Asks endpoints from within the server, in the caller's name: pages show what the API answers, and nothing else.

What an endpoint needs is checked as if it had been asked over HTTP: the permission, the types of query and body, ownership,
the authorization handlers. So no page can show its reader more than the reader may see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from trackside.app.server.authorizing import authorized
from trackside.app.server.calls import Call
from trackside.app.server.failures import HttpError
from trackside.app.server.misfits import misfit
from trackside.app.server.responses import Problem, Reply
from trackside.app.server.routing import Endpoint, Handler


@dataclass(frozen=True, slots=True)
class Answered:
    """What an endpoint has answered."""

    value: Any
    """The body, of the type that the endpoint declares; None if there is none."""
    headers: Mapping[str, str] = field(default_factory=dict)


class Api:
    """The endpoints that can be asked, by the functions that answer.

    Args:
        endpoints: of the API.
    """

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._endpoints = {endpoint.handler: endpoint for endpoint in endpoints}

    async def ask(
        self,
        call: Call[Any, Any],
        handler: Handler,
        *,
        path: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> Answered:
        """What an endpoint answers the caller.

        Args:
            call: the request that this is done for.
            handler: the endpoint's function.
            path: the parameters of its path; those of the call if left out.
            query: its query parameters, as texts or as the values that they stand for; None is left out.
            body: its body, as JSON has it.

        Raises:
            HttpError: the caller may not, or something does not fit, or the endpoint's answer is a failure.
            TracksideError: what the endpoint refuses.
        """
        endpoint = self._endpoints[handler]
        endpoint.expect_allowed(call.principal)
        given = {name: value for name, value in (query or {}).items() if value is not None}
        asked = replace(
            call,
            query=_fitted(given, endpoint.query, "the query"),
            body=_fitted({} if body is None else body, endpoint.body, "the body"),
            path=call.path if path is None else path,
        )
        if call.parts.handlers is not None and endpoint.is_decided_on:
            asked = await authorized(asked, endpoint.about, call.parts.handlers)
        result = await endpoint.handler(asked)
        return _read(result, endpoint) if isinstance(result, Reply) else Answered(result)


def _fitted(given: Any, kind: Any, where: str) -> Any:
    if kind is None:
        return None
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise HttpError(status=422, detail=misfit(exc, kind, given, where)) from exc


def _read(reply: Reply, endpoint: Endpoint) -> Answered:
    if reply.status >= 400 and reply.status not in endpoint.answers:  # "not ready" is an answer, too
        said = msgspec.json.decode(reply.body, type=Problem)
        raise HttpError(status=reply.status, detail=said.detail, headers=reply.headers, code=said.code)
    kind = endpoint.answers.get(reply.status)
    value = msgspec.json.decode(reply.body, type=kind) if reply.body and kind is not None else None
    return Answered(value, reply.headers)
