"""When checkpoints are written: `durability` means what it means in LangGraph."""

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from trackside import RunStatus
from trackside.harness.adapters.langgraph import LangGraphAgent, NoCheckpointerError
from trackside.harness.errors import InvalidSpecError


class State(TypedDict, total=False):
    notes: Annotated[list[Any], operator.add]


async def checkpoints(saver: Any) -> list[Any]:
    return [found async for found in saver.alist({"configurable": {"thread_id": "t"}})]


def looking(saver: Any) -> Any:
    """A graph of two nodes; the second notes how many checkpoints there are at that point."""

    async def step(state: State) -> State:
        return {"notes": ["step"]}

    async def look(state: State) -> State:
        return {"notes": [len(await checkpoints(saver))]}

    builder = StateGraph(State).add_sequence([("step", step), ("look", look)])
    return builder.add_edge(START, "step").compile(checkpointer=saver)


@pytest.mark.parametrize(("durability", "seen", "kept"), [("sync", 3, 4), ("exit", 0, 1)])
async def test_checkpoints_are_written_when_the_run_says(stage: Any, durability: str, seen: int, kept: int) -> None:
    saver = InMemorySaver()
    outcome = await stage.play(looking(saver), {"notes": []}, thread_id="t", durability=durability)
    assert outcome.values == {"notes": ["step", seen]}
    assert len(await checkpoints(saver)) == kept


async def test_async_checkpoints_are_there_when_the_run_has_ended(stage: Any) -> None:
    saver = InMemorySaver()
    outcome = await stage.play(looking(saver), {"notes": []}, thread_id="t", durability="async")
    assert outcome.status is RunStatus.success
    assert len(await checkpoints(saver)) == 4


@pytest.mark.parametrize("modes", [("values",), ("events",)])
async def test_it_holds_whatever_is_streamed(stage: Any, modes: Any) -> None:
    saver = InMemorySaver()
    await stage.play(looking(saver), {"notes": []}, thread_id="t", durability="exit", stream_mode=modes)
    assert len(await checkpoints(saver)) == 1


async def test_what_langgraph_does_not_know_is_refused_before_the_run_begins(run_context: Any) -> None:
    agent = LangGraphAgent(looking(InMemorySaver()))
    with pytest.raises(InvalidSpecError, match="durability = 'often' .* choose one of sync, async, exit"):
        await agent.human_messages(run_context({"notes": []}, durability="often"))


async def test_without_a_checkpointer_nothing_is_durable(run_context: Any) -> None:
    graph = looking(None)
    with pytest.raises(NoCheckpointerError, match="cannot be durable without a checkpointer"):
        await LangGraphAgent(graph).human_messages(run_context({"notes": []}, durability="sync"))
