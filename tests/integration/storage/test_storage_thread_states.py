"""Another process has what threads remember, too."""

import asyncio
import logging
import math
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from blockbuster import BlockBuster

from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage._threads.states import MAX_STATE_BYTES
from trackside.app.storage._writing import outages
from trackside.app.storage.errors import InvalidQueryError, RunEndedError, StateTooLargeError
from trackside.harness import (
    DispatchPolicy,
    ObserverBinding,
    RunLifecycleEvent,
    RunManager,
    RunResult,
    RunSpec,
    RunStatus,
)
from trackside.harness.errors import ThreadBusyError, UnknownThreadError
from trackside.harness.ports import PausedRun, ThreadState


async def test_a_new_thread_remembers_nothing(store: Store) -> None:
    assert await store.thread_states().load("new") is None


async def test_values_and_a_paused_run_come_back_after_the_process(url: str) -> None:
    paused = PausedRun(
        agent="booking",
        input={"messages": ["hi"]},
        answers=["yes", None],
        interrupts=[{"id": "1", "value": {"q": "?"}}],
    )
    async with Store.open(url) as store:
        await store.thread_states().save("t", ThreadState({"count": 1, "text": "é"}, paused))
    async with Store.open(url) as store:
        state = await store.thread_states().load("t")

    assert state == ThreadState({"count": 1, "text": "é"}, paused)


async def test_a_paused_run_with_no_input_is_still_paused(store: Store) -> None:
    states = store.thread_states()
    await states.save("t", ThreadState({}, PausedRun(input=None)))

    assert await states.load("t") == ThreadState({}, PausedRun(input=None, answers=[], interrupts=[]))


async def test_what_is_remembered_last_counts(store: Store) -> None:
    states = store.thread_states()
    await states.save("t", ThreadState({"n": 0}, PausedRun(input=1)))
    await asyncio.gather(*(states.save("t", ThreadState({"n": n})) for n in range(1, 20)))

    assert await states.load("t") == ThreadState({"n": 19}, None)


async def test_a_run_that_others_have_ended_changes_nothing_that_its_thread_remembers(store: Store, script) -> None:
    states = store.thread_states()
    first, second = script(thread_id="t"), script(thread_id="t")
    await store.append(first.whole())
    await store.append(second.whole()[:1])
    await states.save("t", ThreadState({"by": "the second"}), run_id=second.run_id)

    with pytest.raises(RunEndedError, match=first.run_id) as refused:
        await states.save("t", ThreadState({"by": "the first"}), run_id=first.run_id)

    assert await states.load("t") == ThreadState({"by": "the second"})
    assert not refused.value.retryable


async def test_a_run_that_the_store_does_not_know_is_taken_at_its_word(store: Store) -> None:
    states = store.thread_states()

    await states.save("t", ThreadState({"n": 1}), run_id="unknown")

    assert await states.load("t") == ThreadState({"n": 1})


async def test_states_and_events_share_transactions(store: Store, script) -> None:
    states = store.thread_states()
    run = script()

    await asyncio.gather(store.append(run.whole()), states.save(run.thread_id, ThreadState({"a": 1})))

    assert await states.load(run.thread_id) == ThreadState({"a": 1})
    assert len(await store.events()) == 5


async def test_what_json_lacks_comes_back_in_its_canonical_form(store: Store) -> None:
    states = store.thread_states()
    await states.save("t", ThreadState({"at": {1, 2}, "nan": math.nan, "nul": "\0", "pair": (1, 2), 3: 4}))

    state = await states.load("t")

    assert state is not None
    assert state.values == {"at": [1, 2], "nan": "NaN", "nul": "\ufffd", "pair": [1, 2], "3": 4}


async def test_a_large_state_is_kept_whole_and_one_that_is_too_large_is_refused(store: Store) -> None:
    states = store.thread_states()
    large = ThreadState({"text": "x" * (MAX_STATE_BYTES - 100)})
    await states.save("t", large)

    with pytest.raises(StateTooLargeError, match="'t'") as refused:
        await states.save("t", ThreadState({"text": "x" * MAX_STATE_BYTES}))

    assert refused.value.fault == "agent"
    assert await states.load("t") == large


async def test_changes_that_are_made_together_all_stay_and_so_does_an_open_question(store: Store) -> None:
    states = store.thread_states()
    await store.threads_of(None).create("t")
    await states.save("t", ThreadState({"a": 0, "kept": True}, PausedRun(input=1)))

    await asyncio.gather(*(states.change("t", {f"n{n}": n}) for n in range(20)), states.change("t", {"a": 1}))

    state = await states.load("t")
    assert state is not None
    assert state.values == {"a": 1, "kept": True} | {f"n{n}": n for n in range(20)}
    assert state.paused == PausedRun(input=1, answers=[], interrupts=[])


async def test_a_thread_that_a_run_has_or_that_is_none_is_not_changed(store: Store) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def agent(input: Any) -> dict[str, Any]:
        begun.set()
        await go_on.wait()
        return {"by": "the run"}

    states = store.thread_states()
    observers = [ObserverBinding(StorageObserver(store), required=True)]
    async with RunManager({"a": agent}, observers=observers, states=states, coordinator=store.coordinator()) as manager:
        run = await manager.start(RunSpec(agent="a", thread_id="t"))
        await begun.wait()
        with pytest.raises(ThreadBusyError, match=run.run_id):
            await states.change("t", {"by": "hand"})
        go_on.set()
        await run.result()
        with pytest.raises(StateTooLargeError, match="'t'"):
            await states.change("t", {"text": "x" * MAX_STATE_BYTES})
        await states.change("t", {"also": "hand"})

    assert await states.load("t") == ThreadState({"by": "the run", "also": "hand"})
    with pytest.raises(UnknownThreadError, match="nowhere"):
        await states.change("nowhere", {})


async def test_a_thread_id_that_is_no_text_is_refused(store: Store) -> None:
    with pytest.raises(InvalidQueryError, match="thread_id"):
        await store.thread_states().load(7)


class UnlockOn(logging.Handler):
    """Unlocks a locked database once the program's log has said something often enough."""

    def __init__(self, database: sqlite3.Connection, says: str, times: int) -> None:
        super().__init__()
        self._database = database
        self._says = says
        self.times = times

    def emit(self, record: logging.LogRecord) -> None:
        self.times -= self._says in record.getMessage()
        if self.times == 0 and self._database.in_transaction:
            self._database.rollback()


@pytest.fixture
def run_while_locked(url: str, database: sqlite3.Connection, blockbuster: BlockBuster) -> Callable[..., Any]:
    """Runs an agent that returns once another process has locked the database, until the log says something."""

    async def run(says: str, *, times: int, retry_for: float) -> tuple[RunResult, list[RunLifecycleEvent], Any]:
        blockbuster.deactivate()
        unlock = UnlockOn(database, says, times)

        async def agent(input: str) -> dict[str, Any]:
            database.execute("BEGIN IMMEDIATE")
            return {"messages": [{"type": "ai", "content": "the answer"}]}

        logger = logging.getLogger("trackside")
        logger.addHandler(unlock)
        try:
            async with Store.open(url, busy_timeout=0.02) as store:
                recorder = ObserverBinding(StorageObserver(store), required=True)
                policy = DispatchPolicy(retry_for=retry_for)
                async with RunManager(
                    {"a": agent}, observers=[recorder], states=store.thread_states(), policy=policy
                ) as manager:
                    result = await (await manager.start(RunSpec("a", "hi", thread_id="t"))).result()
                return result, [stored.event for stored in await store.events()], await store.thread_states().load("t")
        finally:
            logger.removeHandler(unlock)

    return run


@pytest.mark.usefixtures("path")
async def test_a_run_whose_end_meets_a_lock_that_goes_in_time_succeeds(run_while_locked) -> None:
    result, events, state = await run_while_locked("is tried again until the database is there", times=1, retry_for=0)

    assert (result.status, result.error) == (RunStatus.success, None)
    assert events[-2].payload["status"] == "success"
    assert state.values["messages"][0]["content"] == "the answer"


@pytest.mark.usefixtures("path")
async def test_a_manager_that_closes_has_what_threads_remember_wait_for_no_database(
    url: str, database: sqlite3.Connection, blockbuster: BlockBuster, caplog: pytest.LogCaptureFixture
) -> None:
    blockbuster.deactivate()

    async def agent(input: str) -> dict[str, Any]:
        database.execute("BEGIN IMMEDIATE")
        return {"messages": [{"type": "ai", "content": "the answer"}]}

    async with Store.open(url, busy_timeout=0.02) as store:
        recorder = ObserverBinding(StorageObserver(store), required=True)
        policy = DispatchPolicy(retry_for=0)
        manager = RunManager({"a": agent}, observers=[recorder], states=store.thread_states(), policy=policy)
        run = await manager.start(RunSpec("a", "hi", thread_id="t"))
        async with asyncio.timeout(outages.LONGEST_OUTAGE / 5):
            while "is tried again until the database is there" not in caplog.text:
                await asyncio.sleep(0.01)
            await manager.aclose(grace=0)
            result = await run.result()
        database.rollback()
    assert "is left behind" not in caplog.text
    assert result.status is RunStatus.error


@pytest.mark.usefixtures("path")
async def test_a_run_that_its_thread_does_not_remember_says_that_its_agent_had_finished(
    run_while_locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "LONGEST_OUTAGE", 0.5)
    result, events, state = await run_while_locked("does not remember it", times=1, retry_for=0)

    end = events[-2].payload
    assert result.status is RunStatus.error
    assert result.error == end["error"]
    assert end["error"].startswith("The agent has finished, but its thread 't' does not remember it: The database ")
    assert "stayed locked" in end["error"]
    assert end["error_type"] == "ThreadNotSavedError"
    assert "traceback" not in end
    assert end["completion_data"]["last_ai_message"] == "the answer"
    assert state is None
