"""A project made for LangGraph's server, served unchanged; and graphs that are made for each run."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any, TypedDict

import httpx
import pytest
from dialects import BOTH
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client
from langgraph_sdk.runtime import ServerRuntime

from trackside.app.settings import AccessSettings, load_settings
from trackside.app.wiring import load_agents
from trackside.harness.ids import new_id

DIALECTS = BOTH

PROJECT = {
    "langgraph.json": json.dumps(
        {
            "dependencies": ["."],
            "graphs": {
                "compiled": "./my_project/graphs.py:graph",
                "builder": {"path": "./my_project/graphs.py:builder", "description": "Not compiled yet."},
                "made": "./my_project/graphs.py:make",
                "opened": "./my_project/graphs.py:make_open",
                "partial": "./my_project/graphs.py:of_part",
                "called": "./my_project/graphs.py:maker",
                "two": "./my_project/graphs.py:of_two",
            },
            "env": ".env",
        }
    ),
    ".env": "MY_PROJECT_GREETING='hello there'\nMY_PROJECT_SET=of the file\n",
    "my_project/__init__.py": "",
    "my_project/state.py": """
        from typing import TypedDict

        class State(TypedDict, total=False):
            said: str
    """,
    "my_project/graphs.py": """
        import functools
        import os
        from contextlib import asynccontextmanager

        from langgraph.graph import START, StateGraph
        from langgraph_sdk.runtime import ServerRuntime

        from my_project.state import State

        GREETING, SET = os.environ["MY_PROJECT_GREETING"], os.environ["MY_PROJECT_SET"]


        def saying(what):
            return StateGraph(State).add_node("say", lambda state: {"said": what}).add_edge(START, "say")


        builder = saying("built")
        graph = saying(f"{GREETING}, {SET}").compile()


        def make(config):
            return saying(config["configurable"].get("language", "none")).compile()


        @asynccontextmanager
        async def make_open():
            yield saying("opened").compile()


        def of_key(key, config):
            return saying(f"{key}: {config['configurable'].get('graph_id')}").compile()


        of_part = functools.partial(of_key, "partial")


        class Maker:
            def __call__(self, config):
                return of_key("called", config)


        maker = Maker()


        def of_two(anything: dict, runtime: ServerRuntime):
            return of_key(runtime.access_context, anything)
    """,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LangGraph project in its own folder; the process forgets it afterwards."""
    folder = tmp_path / "project"
    for name, text in PROJECT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(dedent(text))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("MY_PROJECT_SET", "set before")
    monkeypatch.setenv("MY_PROJECT_GREETING", "")
    monkeypatch.delenv("MY_PROJECT_GREETING")
    for name in [name for name in sys.modules if name.startswith("my_project")]:
        monkeypatch.delitem(sys.modules, name)
    return folder


async def test_a_project_is_served_as_it_is(project: Path, serve_agents: Any) -> None:
    settings = await asyncio.to_thread(load_settings, environ={}, folder=project)
    agents = await asyncio.to_thread(load_agents, settings)
    async with serve_agents(agents, project=settings.project) as served:
        runs, assistants = served.client.runs, served.client.assistants
        said = {name: (await runs.wait(None, name, input={}))["said"] for name in ("compiled", "builder", "opened")}
        thread_id = new_id()
        config: Any = {"configurable": {"language": "de"}}
        made = await runs.wait(thread_id, "made", input={}, config=config, if_not_exists="create")
        state = await served.client.threads.get_state(thread_id)
        await served.client.threads.update_state(thread_id, {"said": "by hand"}, as_node="say")
        history = await served.client.threads.get_history(thread_id)
        described = await assistants.search(name="builder")
        schemas = await assistants.get_schemas("made")

    assert said == {"compiled": "hello there, set before", "builder": "built", "opened": "opened"}
    assert made == {"said": "de"}
    assert state["values"] == {"said": "de"}
    assert history[0]["values"] == {"said": "by hand"}
    assert described[0]["description"] == "Not compiled yet."
    assert schemas["state_schema"]["properties"].keys() == {"said"}


@pytest.mark.parametrize(
    ("name", "says"),
    [("partial", "partial: partial"), ("called", "called: called"), ("two", "threads.create_run: two")],
)
async def test_whatever_can_be_called_makes_graphs_in_a_project(
    name: str, says: str, project: Path, serve_agents: Any
) -> None:
    settings = await asyncio.to_thread(load_settings, environ={}, folder=project)
    agents = await asyncio.to_thread(load_agents, settings)
    async with serve_agents(agents, project=settings.project) as served:
        assert await served.client.runs.wait(None, name, input={"said": "hello"}) == {"said": says}
        drawn = await served.client.assistants.get_graph(name)
    assert "say" in [node["id"] for node in drawn["nodes"]]


@pytest.mark.parametrize("dependencies", [[], ["pytest"], ["./nested"]])
async def test_modules_of_a_project_are_found_from_its_own_folder(dependencies: list[str], project: Path) -> None:
    (project / "nested").mkdir()
    (project / "nested" / "graphs.py").write_text("from nested.state import graph\n")
    (project / "nested" / "state.py").write_text("from my_project.graphs import graph\n")
    document = {"dependencies": dependencies, "graphs": {"chat": "./nested/graphs.py:graph"}, "env": ".env"}
    (project / "langgraph.json").write_text(json.dumps(document))
    settings = await asyncio.to_thread(load_settings, environ={}, folder=project)
    assert (await asyncio.to_thread(load_agents, settings)).keys() == {"chat"}


@pytest.mark.parametrize(("dependencies", "finds"), [([], "mine"), (["."], "installed")])
async def test_what_is_installed_hides_what_is_beside_a_file_only_in_a_dependency(
    dependencies: list[str], finds: str, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "installed").mkdir()
    sys.path.append(str(tmp_path / "installed"))
    for folder, name in ((tmp_path / "installed", "installed"), (project, "mine")):
        (folder / "my_project_neighbour.py").write_text(f"def answer(input, run): return {name!r}\n")
    (project / "graphs.py").write_text("from my_project_neighbour import answer\n")
    document = {"dependencies": dependencies, "graphs": {"chat": "./graphs.py:answer"}}
    (project / "langgraph.json").write_text(json.dumps(document))
    settings = await asyncio.to_thread(load_settings, environ={}, folder=project)
    assert (await asyncio.to_thread(load_agents, settings))["chat"](None, None) == finds


class Said(TypedDict, total=False):
    said: str


async def test_no_client_says_himself_who_he_is(serve_agents: Any) -> None:
    def make(config: RunnableConfig) -> Any:
        told = sorted(key for key in config["configurable"] if key.startswith("langgraph_auth"))
        return StateGraph(Said).add_node("say", lambda state: {"said": str(told)}).add_edge(START, "say").compile()

    config: Any = {"configurable": {"langgraph_auth_user": {"identity": "root"}, "langgraph_auth_user_id": "root"}}
    async with serve_agents({"made": make}) as served:
        assert await served.client.runs.wait(None, "made", input={}, config=config) == {"said": "[]"}


async def test_a_graph_is_made_for_who_asks(serve_agents: Any) -> None:
    async def make(runtime: ServerRuntime) -> Any:
        user = runtime.ensure_user()
        return StateGraph(Said).add_node("say", lambda state: {"said": user.identity}).add_edge(START, "say").compile()

    async with serve_agents({"made": make}, access=AccessSettings(auth="keys")) as served:
        key = await served.app.store.api_keys.create("ada", owner="ada", permission="run")
        async with get_client(url=served.url, api_key=key.secret) as ada:
            thread_id = new_id()
            assert await ada.runs.wait(thread_id, "made", input={}, if_not_exists="create") == {"said": "ada"}
            assert (await ada.threads.get_state(thread_id))["values"] == {"said": "ada"}
            assert (await ada.assistants.get_schemas("made"))["graph_id"] == "made"
            run_id = (await ada.runs.list(thread_id))[0]["run_id"]
    async with (
        serve_agents({"made": make}, access=AccessSettings(auth="keys")) as served,
        get_client(url=served.url, api_key=key.secret) as ada,
    ):
        assert await ada.runs.join(thread_id, run_id) == {"said": "ada"}
        (thread,) = await ada.threads.search(ids=[thread_id])
        async with httpx.AsyncClient(headers={"x-api-key": key.secret}) as http:
            recorded = await http.get(f"{served.url}/runs/{run_id}")

    assert thread["values"] == {"said": "ada"}
    assert "langgraph_auth" not in f"{thread['config']} {recorded.text}"
    assert recorded.json()["request"]["config"] == {"configurable": {}}


async def test_a_graph_is_made_for_each_run_and_for_each_look_at_it(serve_agents: Any) -> None:
    accesses: list[str] = []

    @asynccontextmanager
    async def make(config: RunnableConfig, runtime: ServerRuntime) -> AsyncIterator[Any]:
        accesses.append(runtime.access_context)
        await runtime.store.aput(("calls",), new_id(), {"access": runtime.access_context})
        what = "running" if runtime.execution_runtime else "looking"
        yield StateGraph(Said).add_node("say", lambda state: {"said": what}).add_edge(START, "say").compile()
        accesses.append("closed")

    async with serve_agents({"made": make}) as served:
        thread_id = new_id()
        values = await served.client.runs.wait(thread_id, "made", input={}, if_not_exists="create")
        await served.client.threads.get_state(thread_id)
        await served.client.threads.update_state(thread_id, {"said": "x"}, as_node="say")
        await served.client.assistants.get_graph("made")
        kept = await served.client.store.search_items(("calls",))

    assert values == {"said": "running"}
    # A state that was changed by hand is read once more, to say what the thread is now.
    expected = ["threads.create_run", "threads.read", "threads.update", "threads.read", "assistants.read"]
    assert accesses == [step for access in expected for step in (access, "closed")]
    assert {item["value"]["access"] for item in kept["items"]} == {*expected}
