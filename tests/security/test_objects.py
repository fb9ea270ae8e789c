"""What clients send never becomes an object of a class that they name, though what graphs keep may."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph
from tests.integration.server.conftest import serve

NAMED = [
    {"lc": 1, "type": "constructor", "id": ["langchain_core", "messages", "AIMessage"], "kwargs": {"content": "made"}},
    {"lc": 2, "type": "constructor", "id": ["subprocess", "Popen"], "args": [["true"]], "kwargs": {}},
    {"lc": 2, "type": "constructor", "id": ["builtins", "exec"], "method": [None], "args": ["raise SystemExit"]},
    {"lc": 1, "type": "secret", "id": ["PATH"]},
    {"__type__": "set", "py/object": "subprocess.Popen", "!!python/object/apply:os.system": ["true"]},
    {"__proto__": {"a": 1}, "__class__": "subprocess.Popen", "__reduce__": ["os.system", "true"]},
]


class State(TypedDict, total=False):
    given: Any
    kinds: Any


def look(state: State) -> State:
    return {"kinds": [type(one).__name__ for one in state["given"]]}


@pytest.fixture
def url(tmp_path: Path, sqlite_with_tables: Path) -> str:
    path = tmp_path / "runs.db"
    path.write_bytes(sqlite_with_tables.read_bytes())
    return f"sqlite:///{path}"


async def test_no_client_has_an_object_made(url: str) -> None:
    graph = StateGraph(State).add_node("look", look).add_edge(START, "look").add_edge("look", END).compile()
    plain = ["dict"] * len(NAMED)
    async with serve({"graph": graph}, url) as served:
        client = served.client
        thread_id = (await client.threads.create(metadata={"given": NAMED}))["thread_id"]
        said = await client.runs.wait(thread_id, "graph", input={"given": NAMED}, metadata={"given": NAMED})
        assert said == {"given": NAMED, "kinds": plain}
        await client.threads.update_state(thread_id, {"given": [*NAMED, *NAMED]}, as_node="__start__")
        assert (await client.threads.get_state(thread_id))["values"]["given"] == [*NAMED, *NAMED]
        again = await client.runs.wait(thread_id, "graph", input=None)
        assert again == {"given": [*NAMED, *NAMED], "kinds": plain * 2}
        await client.store.put_item(["notes"], key="a", value={"given": NAMED})
        item = await client.store.get_item(["notes"], key="a")
        assert item is not None
        assert item["value"] == {"given": NAMED}
