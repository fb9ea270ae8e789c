"""A process that is stopped in the middle of a run, until others take it for dead, and then goes on."""

import asyncio
import json
import operator
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from crash_freezing import freeze, keep_transactions_whole
from crash_manager import Follower, Told, until_nothing_is_active
from crash_points import DeadlyPoint
from crash_steps import STEPS_OF_RUN, DeadlyStep
from crash_voice import Voice, digest_of
from langgraph.graph import START, StateGraph

from trackside import ObserverBinding, RunContext, RunManager, RunSpec, current_run
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.harness import RunLifecycleEvent

ATTEMPTS = 3
LEASE = 2.0
"""Seconds. Who is not heard of by the database for half of that, as on a slow machine, takes nobody for dead."""


async def haunt(
    number: int, url: str, *, starts: bool, waits: bool = False, stop_at: tuple[str, str] | None = None
) -> None:
    """Start a run whose thread remembers which attempt it was, or take over what others have left of it.

    With `waits` its first attempt never ends. The process stops itself at `stop_at`, or when SIGUSR1 tells it to.
    """
    voice = Voice(number)
    keep_transactions_whole()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, freeze)
    if stop_at is not None:
        kind = DeadlyStep if stop_at[1] in STEPS_OF_RUN else DeadlyPoint
        kind(*stop_at, 1, end=freeze).install()

    async def remembers(input: Any, run: RunContext) -> dict[str, Any]:
        voice.say(f"begun {run.run_id}")
        if waits and run.attempt == 1:
            try:
                await asyncio.Event().wait()
            finally:
                voice.say("stopped")
                run.message({"type": "human", "content": "of a zombie"})
        return {"attempt": run.attempt}

    async with Store.open(url) as store, managing(voice, store, {"remembers": remembers}) as manager:
        if starts:
            run = await manager.start(RunSpec("remembers", run_id="first", thread_id="t", max_attempts=ATTEMPTS))
            result = await run.result()
            voice.say(f"ended {result.run_id} {result.status.value}")
        else:
            await until_others_have_ended(voice, store)


class Talk(TypedDict):
    """What the graph keeps about its threads: all that was said to it."""

    said: Annotated[list[str], operator.add]


async def talk(number: int, url: str, *, says: str, unsays: bool = False) -> None:
    """Say something to a graph on a thread where others have left off, and tell what that thread remembers by then.

    With `unsays` the run is rolled back, and the process stops itself just before that removes all of the thread.
    """
    voice = Voice(number)
    keep_transactions_whole()
    if unsays:
        DeadlyPoint("before", "RemoveGraphThreads", 1, end=freeze).install()
    heard = asyncio.Event()

    async def hear(state: Talk) -> dict[str, Any]:
        run = current_run()
        assert run is not None
        voice.say(f"begun {run.run_id}")
        voice.say(f"remembers {json.dumps(state['said'])}")
        heard.set()
        if unsays:
            await asyncio.Event().wait()
        return {}

    graph = StateGraph(Talk).add_node("hear", hear).add_edge(START, "hear").compile()
    async with Store.open(url) as store, managing(voice, store, {"hears": graph}) as manager:
        await until_others_have_ended(voice, store)
        run = await manager.start(RunSpec("hears", {"said": [says]}, run_id=says, thread_id="t", durability="sync"))
        if unsays:
            await heard.wait()
            await run.cancel(action="rollback")
        result = await run.result()
        voice.say(f"ended {result.run_id} {result.status.value}")


@asynccontextmanager
async def managing(voice: Voice, store: Store, agents: Mapping[str, Any]) -> AsyncGenerator[RunManager]:
    """A manager that says which events the store has acknowledged, and that is soon taken for dead."""

    async def acknowledge(event: RunLifecycleEvent) -> None:
        voice.say(f"event {event.event_id} {digest_of(event.payload)}")

    async with RunManager(
        agents,
        observers=[
            ObserverBinding(StorageObserver(store), required=True),
            ObserverBinding(Told(acknowledge), required=True),
        ],
        coordinator=store.coordinator(lease_seconds=LEASE),
        states=store.thread_states(),
        checkpointer=store.checkpointer(),
    ) as manager:
        voice.say("ready")
        yield manager


async def until_others_have_ended(voice: Voice, store: Store) -> None:
    """Take over what others have left, and see it to its end."""
    follower = Follower(voice, store, 0)
    following = asyncio.create_task(follower.follow(), name="follower")
    await until_nothing_is_active(voice, store, follower)
    following.cancel()
    await asyncio.wait({following})
