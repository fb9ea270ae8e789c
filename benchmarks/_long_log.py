"""A log of many runs over a hundred days, appended by the store itself, thousands of events at a time."""

import asyncio
import gc
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import batched
from typing import Any

from trackside import LifecycleEventType, RunLifecycleEvent
from trackside.app.storage import Store
from trackside.harness.ids import new_id

EVENTS_PER_RUN = 5
DAYS = 100
AT_ONCE = 8_000
"""Events in one append, which is one transaction."""

AGENTS = {"support": 0.6, "research": 0.3, "coder": 0.0989, "audit": 0.001, "rare": 0.0001}
"""How likely a run is to be of each agent."""

ENDS = {"success": 0.93, "error": 0.04, "cancelled": 0.02, "timeout": 0.005, "interrupted": 0.005}

MODELS = ("gpt-5-mini", "claude-haiku", "qwen-3")
BUSY_THREAD = "the busy thread"
_OVERLAPPING = 16  # runs that go on at the same time

_TYPE_OF_END = {
    "success": LifecycleEventType.RUN_COMPLETED,
    "interrupted": LifecycleEventType.RUN_COMPLETED,
    "error": LifecycleEventType.RUN_FAILED,
    "timeout": LifecycleEventType.RUN_FAILED,
    "cancelled": LifecycleEventType.RUN_CANCELLED,
}


type ThreadIdOf = Callable[[int], str]


def named(number: int) -> str:
    """The id of a thread, kept short."""
    return f"thread {number}"


async def fill(store: Store, count: int, *, thread_id_of: ThreadIdOf = named) -> None:
    """Append this many events, the last of them as if they occurred just now."""
    with _no_search_for_cycles():
        writing: asyncio.Task[object] | None = None
        for batch in batched(events(count // EVENTS_PER_RUN, thread_id_of=thread_id_of), AT_ONCE):
            # The next batch is made while this one is written. They stay in order: appends are written as they come.
            following = asyncio.create_task(store.append(batch), name="fill")
            await asyncio.sleep(0)
            if writing is not None:
                await writing
            writing = following
        if writing is not None:
            await writing


@contextmanager
def _no_search_for_cycles() -> Generator[None]:
    """Switch the garbage collector off: these objects have no cycles, and a search takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def events(runs: int, *, thread_id_of: ThreadIdOf = named) -> Iterator[RunLifecycleEvent]:
    """The events of this many runs, some of which overlap in time; each call gives the same runs."""
    chance = random.Random(7)
    begin = datetime.now(UTC) - timedelta(days=DAYS)
    step = timedelta(days=DAYS) / runs
    open_runs: list[Iterator[RunLifecycleEvent]] = []
    for number in range(runs):
        open_runs.append(_run(chance, begin + number * step, thread_id_of))
        if len(open_runs) == _OVERLAPPING:
            yield from _turns(open_runs)
            open_runs = []
    yield from _turns(open_runs)


def _turns(open_runs: Sequence[Iterator[RunLifecycleEvent]]) -> Iterator[RunLifecycleEvent]:
    for together in zip(*open_runs, strict=True):
        yield from together


def _run(chance: random.Random, start: datetime, thread_id_of: ThreadIdOf) -> Iterator[RunLifecycleEvent]:
    run_id = new_id()
    thread_id = BUSY_THREAD if chance.random() < 0.01 else thread_id_of(chance.randrange(500_000))
    (agent,) = chance.choices(tuple(AGENTS), weights=tuple(AGENTS.values()))
    (end,) = chance.choices(tuple(ENDS), weights=tuple(ENDS.values()))
    seconds = chance.lognormvariate(1.5, 1)
    metadata: dict[str, Any] = {"user": f"user {chance.randrange(1_000)}"}
    if chance.random() < 0.001:
        metadata["experiment"] = True
    busy, idle = {"status": "busy", "previous": "idle"}, {"status": "idle", "previous": "busy"}
    question = {"id": "1", "type": "human", "content": "What is in the README? " * 5}
    parts: list[tuple[LifecycleEventType, dict[str, Any], float]] = [
        (LifecycleEventType.RUN_STARTED, {"agent": agent, "metadata": metadata}, 0),
        (LifecycleEventType.THREAD_STATUS_UPDATED, busy, 0),
        (LifecycleEventType.HUMAN_MESSAGE, {"message": question}, 0),
        (_TYPE_OF_END[end], _ending(chance, end, seconds), seconds),
        (LifecycleEventType.THREAD_STATUS_UPDATED, idle, seconds),
    ]
    for sequence, (kind, payload, later) in enumerate(parts, 1):
        when = start + timedelta(seconds=later)
        yield RunLifecycleEvent(new_id(), kind, run_id, thread_id, sequence, when, payload)


def _ending(chance: random.Random, end: str, seconds: float) -> dict[str, Any]:
    tokens = chance.randrange(200, 5_000)
    used = {
        "input_tokens": tokens,
        "output_tokens": tokens // 10,
        "total_tokens": tokens + tokens // 10,
        "cost_usd": tokens * 1e-6,
    }
    data = {
        "total_input_tokens": tokens,
        "total_output_tokens": tokens // 10,
        "total_tokens": tokens + tokens // 10,
        "llm_call_count": 2,
        "tool_call_count": 1,
        "message_count": 2,
        "token_usage_by_model": {chance.choice(MODELS): used},
        "token_usage_by_caller": {"lead_agent": used},
        "duration_seconds": seconds,
        "cost_usd": tokens * 1e-6,
    }
    return {"status": end, "completion_data": data, "title": None}
