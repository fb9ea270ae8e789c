"""A run that begins its thread need not ask what the thread remembers; every other run has to."""

from __future__ import annotations

from typing import Any

from tests.integration.runs.stage import Agents

from trackside.app.storage import Store
from trackside.harness.ports import ThreadState
from trackside.harness.remembered import MemoryThreadStates


class AskedStates(MemoryThreadStates):
    """Notes which threads it is asked for. Its callers await its answers, as they do a database's."""

    immediate = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def load(self, thread_id: str) -> ThreadState | None:
        self.asked.append(thread_id)
        return await super().load(thread_id)


async def test_only_a_run_that_does_not_begin_its_thread_asks_what_that_remembers(worker: Any, agents: Agents) -> None:
    states = AskedStates()
    one = await worker(states=states)
    await one.start("first", thread_id="t")
    waits = await one.start("quick", thread_id="t")
    await agents.until_running("first")
    assert states.asked == []
    agents.let("first")
    await waits.result()
    assert states.asked == ["t"]

    later = await one.start("quick", thread_id="t")
    await later.result()

    assert states.asked == ["t", "t"]


async def test_a_thread_that_was_made_before_its_first_run_is_asked(worker: Any, store: Store) -> None:
    thread = await store.threads_of(None).create()
    states = AskedStates()
    one = await worker(states=states)

    await (await one.start("quick", thread_id=thread.thread_id)).result()

    assert states.asked == [thread.thread_id]
