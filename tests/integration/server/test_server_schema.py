"""Whatever the OpenAPI document describes, or forbids, is answered as the document says: schemathesis tries.

It knows real names, an agent's and a thread's, so that it gets further than the first refusal.
"""

from __future__ import annotations

import asyncio
import json
import operator
import sys
from pathlib import Path
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import httpx
import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from trackside import RunContext

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
ENDLESS = ("/events/stream", "/threads/{thread_id}/stream", "/threads/{thread_id}/stream/events")
"""Streams that go on until their reader leaves: other tests send them what does not fit."""


class Conversation(TypedDict, total=False):
    said: Annotated[list[Any], operator.add]


def greet(state: Conversation) -> Conversation:
    return {"said": ["hello"]}


def ask(state: Conversation) -> Conversation:
    return {"said": [interrupt("Shall I go on?")]}


async def echo(input: Any, run: RunContext) -> Any:
    run.send({"number": 1})
    return input


async def failing(input: Any) -> None:
    raise ValueError("it cannot be done")


def agents() -> dict[str, Any]:
    graph = StateGraph(Conversation)
    graph.add_node("greet", greet)
    graph.add_node("ask", ask)
    graph.add_edge(START, "greet")
    graph.add_edge("greet", "ask")
    graph.add_edge("ask", END)
    return {"echo": echo, "failing": failing, "asking": graph.compile()}


async def narrowed(http: httpx.AsyncClient, served: Any) -> dict[str, Any]:
    """The document with the names of real things, beside others that mean nothing."""
    api: dict[str, Any] = (await http.get("/openapi.json")).json()
    threads, runs = [str(uuid4())], [str(uuid4())]
    for agent in agents():
        thread = str(uuid4())
        await served.client.runs.wait(thread, agent, input={"said": ["a"]}, if_not_exists="create", raise_error=False)
        threads.append(thread)
    runs += [run["run_id"] for run in (await http.get("/runs")).json()]
    await http.post("/subscriptions", json={"name": "mail", "start": "beginning"})
    known = {
        "thread_id": {"enum": threads},
        "run_id": {"enum": runs},
        "assistant_id": {"enum": [*agents(), "nobody"]},
        "name": {"enum": ["mail", "nothing"]},
        # A run that begins in a year would be waited for that long.
        "after_seconds": {"enum": [0, 0.01, None]},
        "schedule": {"enum": ["0 0 1 1 *", "never"]},
        # No foreign server is called.
        "webhook": {"enum": ["nonsense", None]},
    }
    for item in api["paths"].values():
        for operation in item.values():
            for parameter in operation["parameters"]:
                parameter["schema"] = known.get(parameter["name"], parameter["schema"])
    for schema in api["components"]["schemas"].values():
        for name in schema.get("properties", {}).keys() & known.keys() - {"name"}:
            if schema["title"].endswith(("Create", "Update", "Search")):
                schema["properties"][name] = known[name]
    return api


SETTINGS = """
hooks = "hooks.py"

[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 501]
"""
HOOKS = """
import schemathesis

@schemathesis.hook
def filter_path_parameters(context, path_parameters):
    lists = [str(value) for value in (path_parameters or {}).values() if not isinstance(value, str)]
    return not any(sign in text for text in lists for sign in "#?")
"""
"""In place of a text it also sends lists, with `#` and `?` unescaped: what follows these is no part of the path, so
that another path is asked."""


async def schemathesis(where: Path, url: str, *options: str) -> tuple[int, str]:
    """Run schemathesis, and return its exit code and its output."""
    (where / "schemathesis.toml").write_text(SETTINGS, encoding="utf-8")
    (where / "hooks.py").write_text(HOOKS, encoding="utf-8")
    excluded = [word for path in ENDLESS for word in ("--exclude-path", path)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--no-color",
        "run",
        str(where / "openapi.json"),
        "--url",
        url,
        "--checks",
        ",".join(CHECKS),
        *excluded,
        "--request-timeout",
        "20",
        "--continue-on-failure",
        "--no-shrink",
        "--warnings",
        "off",
        "--generation-database",
        "none",
        *options,
        cwd=where,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--seed", "1", "-n", "5", "--phases", "examples,coverage,fuzzing"], id="short"),
        pytest.param(["--max-time", "200", "--phases", "fuzzing,stateful"], id="long", marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(280)
async def test_every_answer_is_as_the_document_says(
    serve_agents: Any, dialect: str, tmp_path: Path, options: list[str]
) -> None:
    if dialect == "postgres" and "--seed" in options:
        pytest.skip("what is sent does not depend on the database; the long run tries both")
    async with serve_agents(agents()) as served, httpx.AsyncClient(base_url=served.url) as http:
        (tmp_path / "openapi.json").write_text(json.dumps(await narrowed(http, served)), encoding="utf-8")
        code, said = await schemathesis(tmp_path, served.url, *options)
        alive = await http.get("/ok")

    assert code == 0, said
    assert alive.status_code == 200
