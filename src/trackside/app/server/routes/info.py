"""What the server is, and whether it is there."""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec import Struct

from trackside._version import __version__
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Problem
from trackside.app.server.routing import Call, Routes
from trackside.harness.threads import in_own_thread

routes = Routes("Server")


class Ok(Struct, frozen=True):
    """The server answers."""

    ok: bool


class OkQuery(Struct):
    """Whether the database shall be asked, too."""

    check_db: bool = False


class Flags(Struct, frozen=True, kw_only=True):
    """What the server can do, under the names that LangGraph's tools know."""

    assistants: bool
    crons: bool
    langsmith: bool
    langsmith_tracing_replicas: bool
    stream_namespaces: bool
    """Whether a stream may be of some of the agents inside alone."""
    strict_resume: bool
    """Whether a run may ask that a resume be refused which answers no open question: here each such run fails."""


class Host(Struct, frozen=True):
    """Where the server runs."""

    kind: str


class Info(Struct, frozen=True, kw_only=True):
    """What the server is."""

    version: str
    langgraph_py_version: str | None
    flags: Flags
    host: Host


@routes.get("/ok", Permission.public, query=OkQuery, answers={200: Ok, 503: Problem})
async def ok(call: Call[None, OkQuery]) -> Any:
    """Check whether the server answers; with `check_db`, also whether its database does.

    If the database does not answer, the response is 503. However many clients ask, the server asks the database once a
    second, as it does for `/health/ready`.
    """
    if call.query.check_db:
        parts = call.parts
        found = await parts.health.look(parts.store, parts.vitals, parts.options.folders)
        for reason in found.reasons:
            if reason.check == "database":
                why = f"the database: {reason.why}"
                raise HttpError(status=503, detail=why, headers={"Retry-After": "1"})
    return Ok(ok=True)


@routes.get("/info", Permission.public, answers={200: Info})
async def info(call: Call[None, None]) -> Any:
    """Get the server's version, and what it can do."""
    flags = Flags(
        assistants=True,
        crons=True,
        langsmith=False,
        langsmith_tracing_replicas=False,
        stream_namespaces=True,
        strict_resume=True,
    )
    langgraph = await in_own_thread(_langgraph)  # this looks it up on the disk, once
    return Info(version=__version__, langgraph_py_version=langgraph, flags=flags, host=Host("trackside"))


@cache
def _langgraph() -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # takes 15 ms, and few ask

    try:
        return version("langgraph")
    except PackageNotFoundError:
        return None
