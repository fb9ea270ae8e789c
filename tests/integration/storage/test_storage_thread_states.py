"""What threads remember is there in another process, too."""

import asyncio
import math

import pytest

from trackside.app.storage import Store
from trackside.app.storage._thread_states import MAX_STATE_BYTES
from trackside.app.storage.errors import InvalidQueryError, StateTooLargeError
from trackside.harness.ports import PausedRun, ThreadState


async def test_a_new_thread_remembers_nothing(store: Store) -> None:
    assert await store.thread_states().load("new") is None


async def test_values_and_a_paused_run_come_back_after_the_process(url: str) -> None:
    paused = PausedRun(input={"messages": ["hi"]}, answers=["yes", None], interrupts=[{"id": "1", "value": {"q": "?"}}])
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


async def test_a_thread_id_that_is_no_text_is_refused(store: Store) -> None:
    with pytest.raises(InvalidQueryError, match="thread_id"):
        await store.thread_states().load(7)
