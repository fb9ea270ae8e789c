"""Threads whose past is removed while they are in use.

The tests cover `Store.prune`, which takes ended runs and leaves active ones, and a checkpointer's `adelete_thread`.
No thread that has an active run can be deleted.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tests.integration.runs.stage import EVERYWHERE, Agents, Backend, within_patience

from trackside import RunStatus

BACKENDS = EVERYWHERE


async def test_what_is_pruned_in_the_middle_of_a_run_is_its_threads_past_and_not_the_run(
    backend: Backend, agents: Agents
) -> None:
    async with backend.open({"work": agents.work}) as stage:
        old = await stage.run("work", "quick old", thread_id="t")
        run = await stage.start("work", "long", thread_id="t")
        await agents.until_running("long")
        behind = await stage.start("work", "quick behind", thread_id="t")
        later = await stage.start("work", "quick later", thread_id="t", after_seconds=3_600)
        if stage.store is not None:
            report = await stage.store.prune(older_than=None, thread_id="t")
            assert (report.runs, await stage.store.run(old.run_id)) == (1, None)
            assert (await stage.store.thread("t")) is not None
            stage.watcher.events[:] = [event for event in stage.events if event.run_id != old.run_id]
        agents.let("long")
        results = await within_patience(asyncio.gather(run.result(), behind.result()))
        assert [result.status for result in results] == [RunStatus.success] * 2
        await within_patience(later.cancel(wait=True))
        if stage.store is not None:
            assert (await stage.store.prune(older_than=None, thread_id="t")).runs == 3
            assert await stage.store.thread("t") is None
            assert await stage.store.thread_states().load("t") is None, "with its last run goes what it remembers"
            stage.watcher.events.clear()
        new = await stage.run("work", "quick new", thread_id="t")
        assert new.status is RunStatus.success
        assert stage.told(new)[:2] == ["run_started", "thread_status_updated busy"], "a thread like any new one"
        if stage.store is not None:
            await stage.store.prune(older_than=None)
            stage.watcher.events.clear()
    backend.judged = False  # the log has gaps where runs were removed


async def test_an_answer_to_a_thread_that_was_deleted_meanwhile_is_refused_and_a_new_run_begins_it_anew(
    backend: Backend,
) -> None:
    class State(TypedDict, total=False):
        answer: Annotated[str, lambda _old, new: new]

    async def ask(state: State) -> Any:
        return {"answer": interrupt("sure?")}

    saver = InMemorySaver()
    graph = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)
    async with backend.open({"graph": graph}) as stage:
        asked = await stage.run("graph", {"answer": ""}, thread_id="t")
        assert asked.status is RunStatus.interrupted
        await saver.adelete_thread("t")
        late = await stage.run("graph", thread_id="t", command={"resume": "yes"})
        assert late.status is RunStatus.error
        assert "does not wait for an answer" in str(late.error)
        again = await stage.run("graph", {"answer": ""}, thread_id="t")
        assert again.status is RunStatus.interrupted
        assert (await stage.run("graph", thread_id="t", command={"resume": "yes"})).status is RunStatus.success
