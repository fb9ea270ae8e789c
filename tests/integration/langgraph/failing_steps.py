"""Nodes that fail a number of times, a saver that fails, and the next attempts at their runs."""

import operator
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph


class State(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


class Steps:
    """Nodes that count how often they are executed; the second fails a given number of times."""

    def __init__(self, fails: int = 1) -> None:
        self.fails = fails
        self.executed: list[str] = []

    async def first(self, state: State) -> State:
        self.executed.append("first")
        return {"notes": ["first"]}

    async def second(self, state: State) -> State:
        self.executed.append("second")
        if self.fails:
            self.fails -= 1
            raise ConnectionError("gone")
        return {"notes": ["second"]}

    def graph(self, saver: Any = None) -> Any:
        builder = StateGraph(State).add_sequence([("first", self.first), ("second", self.second)])
        return builder.add_edge(START, "first").compile(checkpointer=saver)


async def retried(stage: Any, graph: Any, of: Any, input: Any = None, **spec: Any) -> Any:
    return await stage.play(graph, input, thread_id="t", attempt=2, retry_of=of.result.run_id, **spec)


class FullSaver(InMemorySaver):
    """Accepts the results of nodes, but fails once on a checkpoint after a given number of them."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self.takes = takes

    async def aput(self, *args: Any) -> Any:
        self.takes -= 1
        if self.takes == -1:
            raise ConnectionError("gone")
        return await super().aput(*args)
