"""Appends runs as fast as it can until it is killed, and says which events were acknowledged.

It reads paths of databases from its standard input. For each it forks a child that appends, and goes on to the next
when that child is dead: the imports, which take longer than the child lives, are done once.
"""

import asyncio
import random
from datetime import UTC, datetime

from obeying import obey, say

from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent
from trackside.harness.types import JsonObject

PRODUCERS = 12
THREADS = [f"thread-{number}" for number in range(5)]


def events_of_a_run() -> list[RunLifecycleEvent]:
    run_id, thread_id = new_id(), random.choice(THREADS)
    tokens = random.randrange(1_000)
    usage = {"input_tokens": tokens, "output_tokens": 1, "total_tokens": tokens + 1}
    data = {
        "total_input_tokens": tokens,
        "total_output_tokens": 1,
        "message_count": 2,
        "token_usage_by_model": {"small": usage, "large": usage},
        "token_usage_by_caller": {"lead_agent": usage},
    }
    end: tuple[str, JsonObject] = random.choice(
        [
            ("run_completed", {"status": "success", "title": "A title", "completion_data": data}),
            ("run_completed", {"status": "interrupted", "completion_data": data}),
            ("run_failed", {"status": "timeout", "error": "late", "error_type": "T", "completion_data": data}),
            ("run_cancelled", {"cancel_mode": "interrupt", "completion_data": data}),
        ]
    )
    kinds: list[tuple[str, JsonObject]] = [
        ("run_started", {"agent": "chat", "metadata": {"n": tokens}}),
        ("thread_status_updated", {"status": "busy"}),
        *[("human_message", {"message": {"content": "x" * random.choice([10, 100, 5_000])}})] * random.randrange(4),
        end,
        ("thread_status_updated", {"status": random.choice(["idle", "interrupted", "error"])}),
    ]
    return [
        RunLifecycleEvent(new_id(), LifecycleEventType(kind), run_id, thread_id, n, datetime.now(UTC), payload)
        for n, (kind, payload) in enumerate(kinds, 1)
    ]


async def produce(store: Store) -> None:
    while True:
        events = events_of_a_run()
        while events:
            batch, events = events[: (size := random.randint(1, 3))], events[size:]
            for stored in await store.append(batch):
                say(f"{stored.position} {stored.event.event_id}")


async def append_for_ever(url: str) -> None:
    async with Store.open(url) as store, asyncio.TaskGroup() as producers:
        for _ in range(PRODUCERS):
            producers.create_task(produce(store))


if __name__ == "__main__":
    obey(append_for_ever)
