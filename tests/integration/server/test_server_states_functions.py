"""The state of a thread that functions run on, through the SDK's clients."""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any

import pytest
from dialects import BOTH
from langgraph_sdk.errors import UnprocessableEntityError
from tests.integration.server.state_agents import agents, thread_of

from trackside.harness.ids import new_id

DIALECTS = BOTH


async def test_a_function_has_one_state_that_goes_by_its_thread(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "counting", {})
        state = await threads.get_state(thread_id)
        history = await threads.get_history(thread_id)
        await threads.update_state(thread_id, {"count": 10, "note": "by hand"})
        values = await runs.wait(thread_id, "counting", input={}, checkpoint=state["checkpoint"])
        for ask_for in (
            partial(threads.get_state, thread_id, checkpoint_id=new_id()),
            partial(runs.create, thread_id, "counting", input={}, checkpoint_id=new_id()),
        ):
            with pytest.raises(UnprocessableEntityError, match="keeps no checkpoints"):
                await ask_for()
        with pytest.raises(UnprocessableEntityError, match="has no nodes"):
            await threads.update_state(thread_id, {"count": 1}, as_node="counting")
        with pytest.raises(UnprocessableEntityError, match="object of the values"):
            await threads.update_state(thread_id, [{"count": 1}])

    assert state["values"] == {"count": 1}
    assert state["checkpoint"]["checkpoint_id"] == thread_id
    assert history == [state]
    assert values == {"count": 11}


async def test_a_function_s_state_is_as_old_as_what_the_thread_remembers(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads, runs = served.client.threads, served.client.runs
        thread_id = await thread_of(served.client, "counting", {})
        made = (await threads.get_state(thread_id))["created_at"]
        await threads.update(thread_id, metadata={"title": "Greetings"})
        await runs.create(thread_id, "counting", input={}, after_seconds=3_600)
        later = (await threads.get_state(thread_id))["created_at"]
        await threads.update_state(thread_id, {"count": 10})
        changed = (await threads.get_state(thread_id))["created_at"]

    assert later == made
    assert datetime.fromisoformat(changed) > datetime.fromisoformat(made)


async def test_a_question_of_a_function_stands_in_its_state_and_outlives_a_change(serve_agents: Any) -> None:
    async with serve_agents(agents()) as served:
        threads = served.client.threads
        thread_id = await thread_of(served.client, "wondering", {})
        await threads.update_state(thread_id, {"note": "by hand"})
        state = await threads.get_state(thread_id)
        values = await served.client.runs.wait(thread_id, "wondering", command={"resume": "this"})
        after = await threads.get_state(thread_id)

    assert [question["value"] for question in state["interrupts"]] == ["which?"]
    assert state["tasks"][0]["interrupts"] == state["interrupts"]
    assert (state["next"], state["values"]) == (["wondering"], {"note": "by hand"})
    assert values == {"answer": "this"}
    assert (after["interrupts"], after["next"]) == ([], [])
