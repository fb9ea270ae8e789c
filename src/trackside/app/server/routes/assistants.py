"""Assistants: one for each agent that the server was started with. Clients can only look at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import msgspec

from trackside.app.server.access import caller_of
from trackside.app.server.authorizing import About, fits
from trackside.app.server.failures import HttpError
from trackside.app.server.principal import Permission
from trackside.app.server.responses import Reply, json_reply, page_headers
from trackside.app.server.routing import Call, Routes
from trackside.app.server.starting import no_assistant
from trackside.app.server.wire.assistants import (
    Assistant,
    AssistantFilter,
    AssistantSearch,
    Drawing,
    DrawingQuery,
    Schemas,
    SubgraphQuery,
    VersionSearch,
    agent_of,
    is_meant,
)
from trackside.harness.context import Agent
from trackside.harness.ids import assistant_id_of
from trackside.harness.states import Describes, asked_of
from trackside.harness.types import JsonObject

routes = Routes("Assistants")

_STARTED = datetime.now(UTC)
_PAGE = 10
_WRITES = (
    ("POST", "/assistants", About("assistants", "create")),
    ("PATCH", "/assistants/{assistant_id}", About("assistants", "update")),
    ("DELETE", "/assistants/{assistant_id}", About("assistants", "delete")),
    ("POST", "/assistants/{assistant_id}/latest", About("assistants", "update")),
)
_WHY = "there is one assistant for each agent that the server was started with; change the settings and start it again"


@routes.post(
    "/assistants/search",
    Permission.read,
    about=About("assistants", "search", "many"),
    body=AssistantSearch,
    answers={200: list[Assistant]},
)
async def search_assistants(call: Call[AssistantSearch, None]) -> Any:
    """Find assistants. With `sort_by`, the order is descending unless `sort_order` is `asc`.

    `X-Pagination-Total` says how many there are, and `X-Pagination-Next` is the offset of the next page.
    """
    asked = call.body
    found = [one for one in _all(call) if is_meant(one, asked)]
    if asked.sort_by is not None or asked.sort_order is not None:
        found.sort(key=attrgetter(asked.sort_by or "created_at"), reverse=asked.sort_order != "asc")
    return _page(found, asked.limit, asked.offset, asked.select)


@routes.post(
    "/assistants/count",
    Permission.read,
    about=About("assistants", "search", "many"),
    body=AssistantFilter,
    answers={200: int},
)
async def count_assistants(call: Call[AssistantFilter, None]) -> Any:
    """Count the assistants that a search finds."""
    return sum(is_meant(one, call.body) for one in _all(call))


@routes.get(
    "/assistants/{assistant_id}", Permission.read, about=About("assistants", "read", "many"), answers={200: Assistant}
)
async def get_assistant(call: Call[None, None]) -> Any:
    """Get an assistant, by its id or the name of its agent.

    A name with a slash does not fit into a path: get such an agent's assistant by its id.
    """
    return _assistant(call, _named(call))


@routes.get(
    "/assistants/{assistant_id}/graph",
    Permission.read,
    about=About("assistants", "read", "many"),
    query=DrawingQuery,
    answers={200: Drawing},
)
async def get_graph(call: Call[None, DrawingQuery]) -> Any:
    """Get the graph of an assistant's agent, to draw it. An agent that does not describe itself is one box."""
    name = _named(call)
    agent = _agent(call, name)
    if isinstance(agent, Describes):
        drawing = agent.drawing(xray=call.query.xray, caller=caller_of(call.parts, call.principal))
        return await asked_of(agent, drawing)
    return {"nodes": [{"id": name, "type": "runnable", "data": {"name": name}}], "edges": []}


@routes.get(
    "/assistants/{assistant_id}/schemas",
    Permission.read,
    about=About("assistants", "read", "many"),
    answers={200: Schemas},
)
async def get_schemas(call: Call[None, None]) -> Any:
    """Get the JSON Schemas of what goes into an assistant's agent, what comes out, and what is kept."""
    name = _named(call)
    agent = _agent(call, name)
    caller = caller_of(call.parts, call.principal)
    known = await asked_of(agent, agent.schemas(caller=caller)) if isinstance(agent, Describes) else {}
    return Schemas(graph_id=name, **known)


@routes.get(
    "/assistants/{assistant_id}/subgraphs",
    Permission.read,
    about=About("assistants", "read", "many"),
    query=SubgraphQuery,
    answers={200: dict[str, Schemas]},
)
async def get_subgraphs(call: Call[None, SubgraphQuery]) -> Any:
    """Get the schemas of the agents inside an assistant's agent, by their namespaces."""
    return await _subgraphs(call, None)


@routes.get(
    "/assistants/{assistant_id}/subgraphs/{namespace}",
    Permission.read,
    about=About("assistants", "read", "many"),
    query=SubgraphQuery,
    answers={200: dict[str, Schemas]},
)
async def get_subgraph(call: Call[None, SubgraphQuery]) -> Any:
    """Get the schemas of the agents inside an assistant's agent, in one namespace."""
    return await _subgraphs(call, call.path["namespace"])


@routes.post(
    "/assistants/{assistant_id}/versions",
    Permission.read,
    about=About("assistants", "read", "many"),
    body=VersionSearch,
    answers={200: list[Assistant]},
)
async def list_versions(call: Call[VersionSearch, None]) -> Any:
    """List the versions of an assistant: just the one that is served."""
    asked = call.body
    one = _assistant(call, _named(call))
    return _page([one] if is_meant(one, asked) else [], asked.limit, asked.offset, None)


for _method, _path, _about in _WRITES:
    routes.refuse(_method, _path, _WHY, about=_about)


def _page(found: Sequence[Assistant], limit: int | None, offset: int | None, select: Sequence[str] | None) -> Reply:
    start, size = offset or 0, limit or _PAGE
    page: list[Any] = [msgspec.to_builtins(one) for one in found[start : start + size]]
    headers = page_headers(offset=start, shown=len(page), total=len(found))
    if select:
        page = [{name: one[name] for name in select} for one in page]
    return json_reply(page, headers=headers)


async def _subgraphs(call: Call[None, SubgraphQuery], namespace: str | None) -> Mapping[str, JsonObject]:
    agent = _agent(call, _named(call))
    if not isinstance(agent, Describes):
        return {}
    caller = caller_of(call.parts, call.principal)
    return await asked_of(agent, agent.subgraphs(namespace=namespace, recurse=call.query.recurse, caller=caller))


def _all(call: Call[Any, Any]) -> list[Assistant]:
    """The assistants that are there for the caller."""
    every = [_assistant(call, name) for name in call.parts.manager.agents]
    return [one for one in every if fits(call, one.metadata)]


def _assistant(call: Call[Any, Any], name: str) -> Assistant:
    return Assistant(
        assistant_id=assistant_id_of(name),
        graph_id=name,
        name=name,
        description=call.parts.options.descriptions.get(name),
        created_at=_STARTED,
        updated_at=_STARTED,
    )


def _named(call: Call[Any, Any]) -> str:
    """The name of the agent that the path means.

    Raises:
        HttpError: there is none.
    """
    asked = call.path["assistant_id"]
    name = agent_of(asked, call.parts.manager.agents)
    if name is None or not fits(call, _assistant(call, name).metadata):
        raise HttpError(status=404, detail=no_assistant(asked, (one.name for one in _all(call)), call.handlers))
    return name


def _agent(call: Call[Any, Any], name: str) -> Agent:
    return call.parts.manager.agents[name]
