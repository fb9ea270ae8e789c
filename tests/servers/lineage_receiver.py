"""A receiver of OpenLineage events over HTTP that answers as it is told to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from aiohttp import web

_STATES = {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}


class LineageReceiver:
    """Checks what it gets against what OpenLineage 2-0-2 says of a run event, and keeps it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.status = 201
        self.answer_headers: dict[str, str] = {}
        self.requests = 0
        self.paths: list[str] = []
        """The request paths of the events."""
        self.clients: set[object] = set()
        """Each connection's address."""

    @property
    def url(self) -> str:
        """The address to give to an observer."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{base:.*}api/v1/lineage", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.requests += 1
        assert request.transport is not None
        self.clients.add(request.transport.get_extra_info("peername"))
        if 200 <= self.status < 300:
            event = json.loads(await request.read())
            check_run_event(event)
            self.events.append(event)
            self.headers.append(request.headers)
            self.paths.append(request.path)
        return web.Response(status=self.status, headers=self.answer_headers)


def check_run_event(event: Mapping[str, Any]) -> None:
    """Check that this is a run event as the specification defines it."""
    assert event["eventType"] in _STATES
    assert "T" in event["eventTime"]
    assert event["producer"] == "urn:trackside"
    assert event["schemaURL"] == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
    assert str(UUID(event["run"]["runId"])) == event["run"]["runId"]
    assert event["job"]["namespace"]
    assert event["job"]["name"]
    for facet in [*event["run"]["facets"].values(), *event["job"]["facets"].values()]:
        assert facet["_producer"] == "urn:trackside"
        assert "#/$defs/" in facet["_schemaURL"]
