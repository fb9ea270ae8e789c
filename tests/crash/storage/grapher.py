"""Runs a graph as often as it can until it is killed, and says which runs have ended.

It reads addresses of databases from its standard input. For each it forks a child that runs, and goes on to the next
when that child is dead: the imports, which take longer than the child lives, are done once.
"""

import asyncio
import operator
import random
from typing import Annotated, Any, NotRequired, TypedDict

from langgraph.graph import START, StateGraph
from obeying import obey, say

from trackside import ObserverBinding, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store, graph_checkpoints
from trackside.harness.types import RunStatus

THREADS = 8
assert graph_checkpoints  # imported before the fork


class State(TypedDict):
    notes: Annotated[list[Any], operator.add]
    document: NotRequired[str]


def counting() -> Any:
    """A graph of two steps that counts what its thread has, and keeps something that seldom changes."""

    async def count(state: State) -> State:
        number = len(state["notes"])
        return {"notes": [number]} if number % 5 else {"notes": [number], "document": f"{number} " + "x" * 2_000}

    async def again(state: State) -> State:
        return {"notes": [len(state["notes"])]}

    return StateGraph(State).add_sequence([count, again]).add_edge(START, "count").compile()


async def run_one_after_another(manager: RunManager, thread_id: str) -> None:
    while True:
        durability: Any = random.choice([None, None, "sync", "exit"])
        spec = RunSpec("graph", {"notes": ["n"]}, thread_id=thread_id, durability=durability)
        handle = await manager.start(spec)
        if (await handle.result()).status is RunStatus.success:
            say(f"{thread_id} {handle.run_id}")


async def run_for_ever(url: str) -> None:
    async with (
        Store.open(url) as store,
        RunManager(
            {"graph": counting()},
            observers=[ObserverBinding(StorageObserver(store), required=True)],
            coordinator=store.coordinator(lease_seconds=1.5),
            checkpointer=store.checkpointer(),
        ) as manager,
        asyncio.TaskGroup() as tasks,
    ):
        for number in range(THREADS):
            tasks.create_task(run_one_after_another(manager, f"thread-{number}"))


if __name__ == "__main__":
    obey(run_for_ever)
