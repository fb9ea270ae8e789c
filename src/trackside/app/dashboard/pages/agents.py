"""The agents that are served, and a playground for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from trackside.app.dashboard.asking import part, parts_of
from trackside.app.dashboard.cutting import json_cut
from trackside.app.dashboard.declaring import API, page, params_of
from trackside.app.dashboard.drawing import drawn
from trackside.app.dashboard.rendering import Page
from trackside.app.server.routes import assistants, records
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.log import RecordedRun
from trackside.harness.ids import is_uuid

routes = Routes("Console")

PAST: Final = timedelta(hours=24)
NEWEST: Final = 12
"""How many runs of an agent are on its page."""

_LOOKED_AT: Final = 3
"""How many of the newest runs are searched for an input: those that go on with an answer have none."""

SCHEMAS: Final[Mapping[str, str]] = {
    "input_schema": "What goes in",
    "output_schema": "What comes out",
    "state_schema": "What is kept",
    "context_schema": "What can be said beside the input (context)",
    "config_schema": "What can be configured",
}

type PageCall = Call[None, None]


@page(routes, "/ui/agents")
async def show_agents(call: PageCall) -> Any:
    """The agents that are served, and what their runs of the last 24 hours came to."""
    agents = (await API.ask(call, records.list_agents)).value
    said = await parts_of(call, {"stats": (records.get_stats, {"since": _since()}), "now": (records.get_now, {})})
    stats = said["stats"]
    return Page(
        "agents",
        place="agents",
        twins=("/agents",),
        agents=agents,
        running=_running(agents, said["now"].value),
        totals={} if stats.value is None else {one.agent: one.total for one in stats.value.by_agent},
        problem=stats.why,
        since=_since(),
    )


@page(routes, "/ui/agents/{assistant_id}")
async def show_agent(call: PageCall) -> Any:
    """One agent: what it is, how it is doing, and a place to try it."""
    assistant = (await API.ask(call, assistants.get_assistant)).value
    name = assistant.graph_id
    info = next((one for one in (await API.ask(call, records.list_agents)).value if one.name == name), None)
    said = await parts_of(
        call,
        {
            "graph": (assistants.get_graph, {}),
            "schemas": (assistants.get_schemas, {}),
            "runs": (records.list_recorded_runs, {"agent": name, "limit": NEWEST}),
            "stats": (records.get_stats, {"since": _since(), "agent": name}),
            "now": (records.get_now, {}),
        },
    )
    graph, schemas, stats = (said[part].value for part in ("graph", "schemas", "stats"))
    input_schema = None if schemas is None else schemas.input_schema
    newest = await _newest_input(call, said["runs"].value or [])
    thread = params_of(call).get("thread", [""])[0]
    is_thread = is_uuid(thread)  # anything else could lead the page's requests elsewhere
    return Page(
        "agent",
        place="agents",
        twins=(f"/assistants/{assistant.assistant_id}", f"/assistants/{assistant.assistant_id}/graph"),
        assistant=assistant,
        name=name,
        info=info,
        running=_running([] if info is None else [info], said["now"].value).get(name, 0),
        drawing=None if graph is None else _drawing(graph),
        nodes=[] if graph is None else graph["nodes"],
        edges=[] if graph is None else graph["edges"],
        graph_problem=said["graph"].why,
        schemas=[] if schemas is None else _schemas(schemas),
        schemas_problem=said["schemas"].why,
        runs=said["runs"].value or [],
        runs_problem=said["runs"].why,
        total=None if stats is None else stats.total,
        stats_problem=said["stats"].why,
        since=_since(),
        takes_messages=_takes_messages(input_schema) and (newest is None or _is_message(newest)),
        newest_input=None if newest is None else json_cut(newest),
        example=_example(input_schema),
        thread=thread if is_thread else "",
        thread_problem=f"thread = {thread!r:.80} is not a UUID" if thread and not is_thread else None,
    )


async def _newest_input(call: PageCall, runs: Sequence[RecordedRun]) -> Any:
    """The input of the newest of these runs that has one; None if none has, or it is not kept."""
    for run in runs[:_LOOKED_AT]:
        details = (await part(call, records.get_recorded_run, path={"run_id": run.run_id})).value
        given = (details.request or {}).get("input") if details is not None else None
        if given is not None:
            return given
    return None


def _is_message(given: Any) -> bool:
    """Whether an input is what people say."""
    return isinstance(given, str) or (isinstance(given, Mapping) and "messages" in given)


def _running(agents: Sequence[Any], now: Any) -> Mapping[str, int]:
    """How many runs of each agent go on: in all processes, or only in this one if the viewer may not know that."""
    if now is not None:
        return dict(now.running_by_agent)
    return {agent.name: agent.running for agent in agents}


def _since() -> str:
    """A day ago, at a whole hour, from which totals are quick to add up."""
    return (datetime.now(UTC) - PAST).replace(minute=0, second=0, microsecond=0).isoformat().replace("+00:00", "Z")


def _drawing(graph: Any) -> Any:
    """The drawing of the graph, if it has more than one box."""
    return drawn(graph["nodes"], graph["edges"]) if len(graph["nodes"]) > 1 else None


def _schemas(schemas: Any) -> list[tuple[str, Any]]:
    found = [(title, getattr(schemas, name)) for name, title in SCHEMAS.items()]
    return [(title, schema) for title, schema in found if schema]


def _takes_messages(schema: Mapping[str, Any] | None) -> bool:
    """Whether people talk to the agent: its schema says so, or does not say what it takes."""
    properties = None if schema is None else schema.get("properties")
    return not isinstance(properties, Mapping) or not properties or "messages" in properties


def _example(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """An input to begin with, made from a schema."""
    properties = None if schema is None else schema.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        return {"messages": [{"role": "user", "content": ""}]}
    empty = {"string": "", "integer": 0, "number": 0, "boolean": False, "array": [], "object": {}}
    made = {
        str(key): empty.get(str(part.get("type"))) if isinstance(part, Mapping) else None
        for key, part in list(properties.items())[:20]
    }
    if "messages" in made:
        made = {"messages": [{"role": "user", "content": ""}]}
    return made
