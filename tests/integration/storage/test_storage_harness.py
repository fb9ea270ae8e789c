"""The harness with a store behind it: the log has every run as it happened, and threads remember across processes."""

import asyncio
import re

import pytest

from trackside import InvalidSpecError, ObserverBinding, RunManager, RunSpec, RunStatus, run_agent
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.harness.errors import UnknownRunError
from trackside.harness.lifecycle import RunFold, is_terminal


def manager_of(store: Store, agents: dict) -> RunManager:
    observer = ObserverBinding(StorageObserver(store), required=True)
    return RunManager(agents, observers=[observer], states=store.thread_states())


async def test_runs_that_end_in_every_way_are_in_the_log_as_their_results_say(store: Store) -> None:
    async def agent(input, run):
        run.record_usage("small", input_tokens=5, output_tokens=2, cost_usd=0.5)
        match input:
            case "fail":
                raise ValueError("no")
            case "hang":
                await asyncio.Event().wait()
            case "ask":
                run.interrupt("sure?")
        return {"answer": input}

    async with manager_of(store, {"agent": agent}) as manager:
        handles = [await manager.start(RunSpec("agent", text)) for text in ("do", "fail", "ask")]
        handles.append(await manager.start(RunSpec("agent", "hang", timeout=0.01)))
        handles.append(cancelled := await manager.start(RunSpec("agent", "hang")))
        await cancelled.cancel()
        results = [await handle.result() for handle in handles]

    assert [result.status for result in results] == [
        RunStatus.success,
        RunStatus.error,
        RunStatus.interrupted,
        RunStatus.timeout,
        RunStatus.cancelled,
    ]
    for result in results:
        run = await store.run(result.run_id)
        assert run is not None
        assert (run.status, run.error, run.title) == (result.status, result.error, result.title)
        events = [stored.event for stored in await store.events(run_id=result.run_id)]
        (end,) = (event for event in events if is_terminal(event.event_type))
        assert end.payload["completion_data"] == result.completion_data
        calls = result.completion_data.pop("calls", None)
        assert run.completion_data == result.completion_data, f"the row repeats {calls}"
        fold = RunFold(result.run_id)
        for event in events:
            fold = fold.apply(event.event_type, event.sequence, event.payload)
        assert (fold.status, fold.sequence) == (run.status, run.last_sequence)
    assert (await store.stats()).by_model["small"].input_tokens == 5 * sum(
        run.llm_call_count for run in await store.runs()
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("coordinator", "store.coordinator()"),
        ("states", "store.thread_states()"),
        ("log", "store.run_log()"),
        ("items", "store.items"),
    ],
)
async def test_a_store_itself_is_refused_with_what_of_it_to_pass(store: Store, name: str, what: str) -> None:
    with pytest.raises(InvalidSpecError, match=f"^{name} = .*pass {re.escape(what)} or another"):
        RunManager(**{name: store})


async def test_a_run_is_unknown_by_what_can_be_no_id(store: Store) -> None:
    async with RunManager({}, coordinator=store.coordinator()) as manager:
        for no_id in (5, [], None, "a\0", "\ud800"):
            with pytest.raises(UnknownRunError):
                await manager.get(no_id)  # type: ignore[arg-type]
            with pytest.raises(UnknownRunError):
                await manager.cancel(no_id)  # type: ignore[arg-type]


async def test_a_paused_run_is_answered_in_another_process(url: str) -> None:
    async def agent(input, run):
        said = run.interrupt({"question": "which?"})
        return {"said": said, "input": input}

    async with Store.open(url) as store, manager_of(store, {"agent": agent}) as manager:
        asked = await (await manager.start(RunSpec("agent", {"n": 1}, thread_id="t"))).result()
    async with Store.open(url) as store, manager_of(store, {"agent": agent}) as manager:
        resume = RunSpec("agent", thread_id="t", command={"resume": "this one"})
        answered = await (await manager.start(resume)).result()
        state = await store.thread_states().load("t")
        thread = await store.thread("t")

    assert (asked.status, answered.status) == (RunStatus.interrupted, RunStatus.success)
    assert state is not None
    assert (state.values, state.paused) == ({"said": "this one", "input": {"n": 1}}, None)
    assert thread is not None
    assert (thread.status, thread.last_run_id) == ("idle", answered.run_id)


async def test_the_observer_alone_records_a_run_without_a_manager(store: Store) -> None:
    result = await run_agent(lambda value: value, "x", observer=StorageObserver(store))

    assert (await store.run(result.run_id)).status is RunStatus.success


async def test_a_store_that_is_bound_as_optional_has_a_run_when_its_result_is_told(store: Store) -> None:
    async def agent(input):
        return input

    async with RunManager({"agent": agent}, observers=[StorageObserver(store)]) as manager:
        for number in range(20):
            result = await (await manager.start(RunSpec("agent", number))).result()
            run = await store.run(result.run_id)
            assert run is not None
            assert run.status is RunStatus.success
