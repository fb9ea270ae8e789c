"""A question is answered to the agent that asked it; an answer to another one leaves it open."""

from __future__ import annotations

from typing import Any

import pytest

from trackside import RunContext, RunManager, RunSpec, RunStatus
from trackside.harness.remembered import MemoryThreadStates


async def asks(input: Any, run: RunContext) -> Any:
    return {"flight": run.interrupt("Which flight?")}


async def chats(input: Any, run: RunContext) -> Any:
    return {"said": run.resume}


async def test_an_answer_to_the_wrong_agent_leaves_the_question_open() -> None:
    async with RunManager({"booking": asks, "chat": chats}) as manager:
        await (await manager.start(RunSpec("booking", thread_id="t"))).result()
        wrong = await (await manager.start(RunSpec("chat", thread_id="t", command={"resume": "LH 1"}))).result()
        right = await (await manager.start(RunSpec("booking", thread_id="t", command={"resume": "LH 1"}))).result()

    assert wrong.status is RunStatus.error
    assert wrong.error is not None
    assert "waits for an answer to 'booking', and 'chat' has asked nothing" in wrong.error
    assert (right.status, right.output) == (RunStatus.success, {"flight": "LH 1"})


@pytest.mark.parametrize("name", ["booking", "flights"])
async def test_an_agent_may_get_another_name_before_it_is_answered(name: str) -> None:
    states = MemoryThreadStates()
    async with RunManager({"booking": asks}, states=states) as manager:
        await (await manager.start(RunSpec("booking", thread_id="t"))).result()

    async with RunManager({name: asks}, states=states) as manager:
        result = await (await manager.start(RunSpec(name, thread_id="t", command={"resume": "LH 1"}))).result()

    assert result.output == {"flight": "LH 1"}
