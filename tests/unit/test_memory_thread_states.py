"""Thread states in one process: each thread has one, they are copies, and the oldest are forgotten."""

import threading

from trackside.harness.ports import PausedRun, ThreadState
from trackside.harness.remembered import MemoryThreadStates


async def test_thread_states_give_copies_and_forget_the_oldest() -> None:
    states = MemoryThreadStates(keep_threads=2)
    assert await states.load("a") is None
    paused = PausedRun(input="x", interrupts=[{"id": "i", "value": "?"}])
    for thread_id in ("a", "b"):
        await states.save(thread_id, ThreadState({"items": [1]}, paused))
    loaded = await states.load("a")
    assert loaded == ThreadState({"items": [1]}, paused)
    loaded.values["items"].append(2)
    assert (await states.load("a")) == ThreadState({"items": [1]}, paused)
    await states.save("a", ThreadState({"items": [3]}, paused))
    await states.save("c", ThreadState({}, paused))
    assert await states.load("b") is None
    assert (await states.load("a")).values == {"items": [3]}  # type: ignore[union-attr]


def asked(text: str) -> ThreadState:
    return ThreadState({}, PausedRun(input={"messages": [{"content": text}]}))


async def test_thread_states_forget_the_oldest_for_their_size_and_open_questions_last() -> None:
    states = MemoryThreadStates(keep_bytes=1_000_000)
    await states.save("asks", asked("?" * 200_000))
    for number in range(100):
        await states.save(f"t{number}", ThreadState({"output": "x" * 200_000}))
    kept = [number for number in range(100) if await states.load(f"t{number}")]
    assert kept == [97, 98, 99]
    assert await states.load("asks") == asked("?" * 200_000)
    for number in range(50):
        await states.save("t99", ThreadState({"output": [number, "y" * 200_000]}))
    assert [await states.load(f"t{number}") is not None for number in (97, 98, 99)] == [True] * 3
    for number in range(100):
        await states.save(f"q{number}", asked("?" * 200_000))
    assert [number for number in range(100) if await states.load(f"q{number}")] == [96, 97, 98, 99]
    assert await states.load("asks") is await states.load("t99") is None


async def test_what_was_saved_last_is_remembered_however_large_it_is() -> None:
    states = MemoryThreadStates(keep_bytes=1_000)
    await states.save("asks", asked("x" * 500))
    await states.save("large", ThreadState({"parts": [{"text": "x" * 10_000}] * 10}))
    assert await states.load("large")
    assert await states.load("asks") is None
    await states.save("large", asked("x" * 10_000))
    await states.save("small", ThreadState({"n": 1}))
    assert await states.load("small")
    assert await states.load("large") is None


async def test_a_thread_has_one_state_whether_it_asks_or_not() -> None:
    states = MemoryThreadStates(keep_threads=2)
    await states.save("t", asked("?"))
    await states.save("t", ThreadState({"n": 1}))
    assert await states.load("t") == ThreadState({"n": 1})
    await states.save("t", asked("again?"))
    assert await states.load("t") == asked("again?")
    for other in ("u", "v", "w"):
        await states.save(other, ThreadState({"n": 2}))
    assert [await states.load(thread) is not None for thread in "tuvw"] == [True, False, False, True]


async def test_what_a_run_does_to_what_it_was_asked_is_not_remembered() -> None:
    states = MemoryThreadStates()
    asked = {"log": list[str]()}
    await states.save("t", ThreadState({}, PausedRun(input=asked)))
    for _ in range(2):
        asked["log"].append("by who asked")
        loaded = await states.load("t")
        assert loaded is not None
        assert loaded.paused is not None
        assert loaded.paused.input == {"log": []}
        loaded.paused.input["log"].append("by a run that failed")


async def test_what_cannot_be_copied_is_remembered_as_it_is() -> None:
    states, lock = MemoryThreadStates(), threading.Lock()
    await states.save("t", ThreadState({}, PausedRun(input=lock)))
    loaded = await states.load("t")
    assert loaded is not None
    assert loaded.paused is not None
    assert loaded.paused.input is lock
