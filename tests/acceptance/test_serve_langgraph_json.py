"""`trackside serve` and `trackside run` in the folder of a project that was made for LangGraph's server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forking import Forkery
from langgraph_sdk import get_sync_client
from trackside_server import TracksideServer

from trackside.app.storage import Store
from trackside.testing import make_run

GRAPHS = """
import os
from contextlib import asynccontextmanager
from typing import TypedDict

from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from helping import greet


class State(TypedDict, total=False):
    said: str


def saying(node):
    return StateGraph(State).add_node("say", node).add_edge(START, "say")


def make():
    return saying(lambda state: {"said": greet(os.environ["WHOM"])})


@asynccontextmanager
async def ask(config):
    yield saying(lambda state: {"said": interrupt("what?")}).compile()
"""

CHAT = """
from typing import TypedDict

from langgraph.graph import START, StateGraph
from langgraph_sdk import get_client
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


class State(TypedDict, total=False):
    said: object


client = get_client()


async def schedule(state):
    run = await get_client().runs.create(None, "memory", input={"said": 1}, on_completion="keep", after_seconds=0.1)
    await client.runs.join(run["thread_id"], run["run_id"])
    return {"said": (await client.threads.get(run["thread_id"]))["values"]}


async def how_many(request):
    return JSONResponse(await client.threads.count())


chat = StateGraph(State).add_node("schedule", schedule).add_edge(START, "schedule").compile()
memory = StateGraph(State).add_node("form", lambda state: {"said": "formed"}).add_edge(START, "form").compile()
app = Starlette(routes=[Route("/how-many", how_many)])
"""

WATCH = """
from helping import greet
from trackside.app.delivery import Delivery


class Note:
    delivery = Delivery.durable

    def __init__(self, *, to):
        self.to = to

    async def on_event(self, event):
        with open("noted.txt", "a") as file:
            file.write(greet(self.to) + "\\n")


def hide(kind, payload):
    return payload
"""

SETTINGS = """
[runs]
redact = "watch.py:hide"

[[observers]]
type = "watch.py:Note"
name = "note"
to = "env:WHOM"
start = "beginning"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WHOM", "")
    monkeypatch.delenv("WHOM")  # so that it is removed afterwards
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "graphs.py").write_text(GRAPHS, encoding="utf-8")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "helping.py").write_text("def greet(whom):\n    return f'hello {whom}'\n", encoding="utf-8")
    (tmp_path / ".env").write_text("WHOM=world\n", encoding="utf-8")
    write(tmp_path)
    return tmp_path


def write(folder: Path, **more: Any) -> None:
    document = {
        "python_version": "3.12",
        "dependencies": ["./lib", "no-such-thing"],
        "graphs": {"greet": "./src/graphs.py:make", "ask": "./src/graphs.py:ask"},
        "env": ".env",
        **more,
    }
    (folder / "langgraph.json").write_text(json.dumps(document), encoding="utf-8")


def test_a_project_asks_its_own_server_by_clients_without_an_address(folder: Path, forkery: Forkery) -> None:
    (folder / "chat.py").write_text(CHAT, encoding="utf-8")
    write(folder, graphs={"chat": "./chat.py:chat", "memory": "./chat.py:memory"}, http={"app": "./chat.py:app"})
    with TracksideServer(folder, forkery=forkery) as server, get_sync_client(url=server.url, api_key=None) as client:
        assert client.runs.wait(None, "chat", input={}) == {"said": {"said": "formed"}}
        assert client.http.get("/how-many") == 1


def test_a_project_is_served_and_what_has_no_effect_is_said(folder: Path, forkery: Forkery) -> None:
    with TracksideServer(folder, forkery=forkery) as server:
        assert server.ready["agents"] == ["ask", "greet"]
        with get_sync_client(url=server.url, api_key=None) as client:
            assert client.runs.wait(None, "greet", input={}) == {"said": "hello world"}
            thread = client.threads.create()["thread_id"]
            client.runs.wait(thread, "ask", input={})
            assert client.threads.get_state(thread)["interrupts"][0]["value"] == "what?"
            assert client.runs.wait(thread, "ask", command={"resume": "this"}) == {"said": "this"}
        assert server.terminate() == 0
    assert "python_version: not needed" in server.log
    assert "no-such-thing is not installed" in server.log


def test_the_command_line_runs_and_resumes_its_graphs(
    here: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    greeted = here("run", "greet", "{}", "--json")
    asked = here("run", "ask", "{}", "--json", "--thread", "t")
    answered = here("resume", "t", "this", "--json")

    assert greeted.returncode == 0, greeted.stderr
    assert json.loads(greeted.stdout.splitlines()[-1])["result"]["output"] == {"said": "hello world"}
    assert asked.returncode == 75
    assert json.loads(answered.stdout.splitlines()[-1])["result"]["output"] == {"said": "this"}


SIZED = """
from dataclasses import dataclass
from typing import TypedDict

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import interrupt


@dataclass
class Context:
    model: str = "small"


class State(TypedDict, total=False):
    said: str


async def say(state: State, runtime: Runtime[Context]) -> State:
    return {"said": f"{state.get('said') or interrupt('what?')} by {runtime.context.model}"}


builder = StateGraph(State, context_schema=Context).add_node("say", say).add_edge(START, "say")
chat = builder.compile()


def make(runtime: Runtime[Context]):
    return builder.compile()
"""


@pytest.mark.parametrize("agent", ["chat", "made"])
def test_the_command_line_gives_graphs_the_context_that_a_server_gives_them(
    here: Callable[..., subprocess.CompletedProcess[str]], folder: Path, agent: str
) -> None:
    (folder / "sized.py").write_text(SIZED, encoding="utf-8")
    write(folder, graphs={"chat": "./sized.py:chat", "made": "./sized.py:make"})
    asked = here("run", agent, "{}", "--thread", "t")
    assert asked.returncode == 75, asked.stderr

    def said(*command: str) -> tuple[str, Any]:
        """Which run it is about, and what it comes to."""
        *_, event, last = map(json.loads, here(*command, "--json").stdout.splitlines())
        return event["run_id"], last["result"]["output"]

    assert said("resume", "t", "this")[1] == {"said": "this by small"}
    run_id, output = said("run", agent, '{"said": "that"}')
    assert output == said("retry", run_id)[1] == {"said": "that by small"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"graphs": {"greet": "./src/graphs.py"}}, "langgraph.json, graphs.greet: './src/graphs.py' is not"),
        ({"graphs": {"greet": "./src/graphs.py:nope"}}, "src/graphs.py has no nope"),
        ({"graphs": {"greet": "./src/nowhere.py:make"}}, "there is no file src/nowhere.py"),
        ({"env": ".nothing"}, "langgraph.json, env: there is no file .nothing"),
        ({"dependencies": ["./nothing"]}, "langgraph.json, dependencies: there is no folder ./nothing"),
        ({"auth": {"path": "./auth.py:nope"}}, "langgraph.json (auth.path), server.auth"),
    ],
)
def test_nonsense_in_the_file_is_one_line_that_names_it(
    here: Callable[..., subprocess.CompletedProcess[str]], folder: Path, more: dict[str, Any], says: str
) -> None:
    write(folder, **more)
    done = here("serve", "--port", "0")
    assert done.returncode == 2, done.stderr
    assert says in done.stderr.splitlines()[-1]


def test_doctor_loads_its_graphs_too(here: Callable[..., subprocess.CompletedProcess[str]], folder: Path) -> None:
    assert here("run", "greet", "{}").returncode == 0  # so that there is a database
    assert "All is well" in here("doctor").stdout
    write(folder, graphs={"greet": "./src/graphs.py:nope"})
    assert "agents.greet" in here("doctor").stdout


@pytest.fixture
def observed(folder: Path) -> Path:
    """The project with an observer that needs its variables and its modules, and a run not yet announced to it."""
    (folder / "watch.py").write_text(WATCH, encoding="utf-8")
    (folder / "trackside.toml").write_text(SETTINGS, encoding="utf-8")

    async def have_a_run() -> None:
        async with Store.open(f"sqlite:///{folder / 'trackside.db'}") as store:
            await store.append(make_run("untold"))

    asyncio.run(have_a_run())
    return folder


def test_its_observers_are_delivered_to(here: Callable[..., subprocess.CompletedProcess[str]], observed: Path) -> None:
    done = here("deliver", "--until-idle")
    assert done.returncode == 0, done.stderr
    assert set((observed / "noted.txt").read_text(encoding="utf-8").splitlines()) == {"hello world"}


@pytest.mark.usefixtures("observed")
def test_its_observers_are_listed_as_they_will_be(here: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    shown = json.loads(here("observers", "--json").stdout.splitlines()[0])
    assert (shown["configured"], shown["delivery"], shown["error"]) == ("note", "durable", None)


@pytest.mark.usefixtures("observed")
def test_doctor_loads_its_observers_and_hooks_too(here: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    assert "All is well" in here("doctor").stdout
