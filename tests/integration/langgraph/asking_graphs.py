"""Graphs whose nodes ask, directly or somewhere inside."""

import operator
from typing import Annotated, Any, TypedDict

from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


def graph_of(saver: Any, where: str, *nodes: Any) -> Any:
    """A graph of these nodes in sequence, at the top or somewhere inside; or a function that is the first node."""
    if where == "function":

        @entrypoint(checkpointer=saver)
        async def asks(state: State) -> Any:
            return await nodes[0](state)

        return asks
    builder = StateGraph(State).add_sequence([(node.__name__, node) for node in nodes])
    builder.add_edge(START, nodes[0].__name__)
    if where == "node":
        return builder.compile(checkpointer=saver)
    inner: Any = builder.compile(checkpointer=True if where == "keeping" else None)
    if where == "inside-twice":
        inner = StateGraph(State).add_node("inner", inner).add_edge(START, "inner").compile()

    async def calls(state: State) -> Any:
        return await inner.ainvoke({"notes": []})

    node = calls if where == "called" else inner
    return StateGraph(State).add_node("outer", node).add_edge(START, "outer").compile(checkpointer=saver)


class Desk:
    """Asks whether it may look, then whether it may delete what it saw; fails a number of times after either answer."""

    def __init__(self, *, fails_to_look: int = 0, fails_to_delete: int = 0) -> None:
        self.fails_to_look, self.fails_to_delete = fails_to_look, fails_to_delete
        self.told: list[Any] = []

    async def clean(self, state: State) -> State:
        look = interrupt("look?")
        self.told.append(look)
        self.fail_or_not("fails_to_look")
        delete = interrupt("delete?")
        self.told.append(delete)
        self.fail_or_not("fails_to_delete")
        return {"notes": [look, delete]}

    def fail_or_not(self, which: str) -> None:
        if left := getattr(self, which):
            setattr(self, which, left - 1)
            raise ConnectionError("the disk is away")


def asked(outcome: Any) -> list[Any]:
    return [question["value"] for question in outcome.interrupts]
