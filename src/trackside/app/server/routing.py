"""What an endpoint is: who may call it, what it takes and what it gives; `answering` makes an ASGI app of it.

    routes = Routes("Threads")

    @routes.post("/threads", Permission.run, body=ThreadCreate, answers={200: Thread})
    async def create_thread(call: Call[ThreadCreate, None]) -> Answer | object:
        \"\"\"Make a thread.\"\"\"

What a function returns is sent: an `Answer` as it is, anything else as JSON. A `TracksideError` becomes a status and a
sentence (`failures`). The OpenAPI document is made of the same list.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

from trackside.app.server.authorizing import About, Inside, Operation
from trackside.app.server.calls import Call
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission, Principal
from trackside.app.server.responses import Answer, Failure, failure, failure_reply

__all__ = ["EVENT_STREAM", "PROBES", "Call", "Endpoint", "Routes", "all_endpoints"]

EVENT_STREAM = "text/event-stream"
PROBES = frozenset({"/health/live", "/health/ready", "/ok"})
"""Paths that tell whether a server answers: whatever looks after it is told so, however often others have asked."""

type Handler = Callable[[Call[Any, Any]], Awaitable[Any]]
type Failing = Callable[[Failure], Answer]
"""Makes an answer out of what went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    handler: Handler
    needs: Permission
    about: About | Operation | Inside | None = None
    """What handlers decide on; None: nothing, and where there are handlers, nobody gets in unless it is public."""
    group: str
    summary: str
    body: Any = None
    """The type of the request's body; None: it takes none."""
    described: Any = None
    """The type that describes the body where the endpoint takes more than clients need to know; None: that of the body."""
    query: Any = None
    """The `msgspec.Struct` of its query parameters; None: it takes none."""
    answers: Mapping[int, Any] = field(default_factory=lambda: {200: object})
    """The types of bodies by status; None: no body. The errors that every endpoint may give are not listed."""
    refuses: str | None = None
    """Why it always answers 501; None: it works."""
    media_type: str = "application/json"
    form: bool = False
    """Whether the body is a form, as browsers send one, instead of JSON."""
    most_body: int | None = None
    """How many bytes the body may have at most; None: as many as the settings say, and never more than these."""
    failing: Failing = failure_reply
    """What it answers with when something went wrong."""

    @property
    def described_body(self) -> Any:
        """The type that describes the body to clients; None: it takes none."""
        return self.body if self.described is None else self.described

    @property
    def is_decided_on(self) -> bool:
        """Whether handlers decide on it, where there are some."""
        return self.needs is not Permission.public or self.refuses is not None

    def expect_allowed(self, principal: Principal) -> None:
        """See that the caller has the permission that the endpoint needs.

        Raises:
            HttpError: the caller has not.
        """
        if not principal.may(self.needs):
            raise HttpError(status=403, detail=f"this needs the permission {self.needs.value!r}")


class Options(TypedDict, total=False):
    """The fields of an `Endpoint` that are given only where they are not as usual."""

    about: About | Operation | Inside | None
    body: Any
    described: Any
    query: Any
    answers: Mapping[int, Any]
    refuses: str | None
    media_type: str
    form: bool
    most_body: int | None
    failing: Failing


class Routes:
    """The endpoints of one group."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.endpoints: list[Endpoint] = []

    def add(
        self, method: str, path: str, needs: Permission, **options: Unpack[Options]
    ) -> Callable[[Handler], Handler]:
        """Register the function that answers; its docstring's first line is the summary."""

        def register(handler: Handler) -> Handler:
            summary = (inspect.getdoc(handler) or "").partition("\n")[0]
            endpoint = Endpoint(
                method=method, path=path, handler=handler, needs=needs, group=self.group, summary=summary, **options
            )
            self.endpoints.append(endpoint)
            return handler

        return register

    def get(self, path: str, needs: Permission, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """As `add`."""
        return self.add("GET", path, needs, **options)

    def post(self, path: str, needs: Permission, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """As `add`."""
        return self.add("POST", path, needs, **options)

    def put(self, path: str, needs: Permission, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """As `add`."""
        return self.add("PUT", path, needs, **options)

    def patch(self, path: str, needs: Permission, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """As `add`."""
        return self.add("PATCH", path, needs, **options)

    def delete(self, path: str, needs: Permission, **options: Unpack[Options]) -> Callable[[Handler], Handler]:
        """As `add`."""
        return self.add("DELETE", path, needs, **options)

    def refuse(self, method: str, path: str, why: str, *, about: About) -> None:
        """Have an endpoint that clients know answer 501, saying why."""

        async def refused(call: Call[Any, Any]) -> Answer:
            return failure(501, why)

        refused.__doc__ = f"Not supported: {why}"
        self.add(method, path, Permission.public, about=about, answers={}, refuses=why)(refused)


def all_endpoints(groups: Iterable[Routes]) -> list[Endpoint]:
    """The endpoints of all groups, in their order."""
    return [endpoint for group in groups for endpoint in group.endpoints]
