"""Prunes a database next to four that append, until it is done or killed. Says when it begins and when it is done."""

import asyncio
import os
import sys
from datetime import UTC, datetime, timedelta
from itertools import batched

from trackside.app.storage import Store
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
END = {"completion_data": {"total_input_tokens": 3, "token_usage_by_model": {"small": {"input_tokens": 3}}}}


def a_run(number: int, start: datetime) -> list[RunLifecycleEvent]:
    run_id, thread_id = new_id(), f"thread-{number % 7}"
    kinds = [
        ("run_started", {"agent": "chat", "metadata": {"n": number}}),
        ("thread_status_updated", {"status": "busy"}),
        ("run_completed", END),
        ("thread_status_updated", {"status": "idle"}),
    ]
    return [
        RunLifecycleEvent(new_id(), LifecycleEventType(kind), run_id, thread_id, n, start, payload)
        for n, (kind, payload) in enumerate(kinds, 1)
    ]


async def append(store: Store, number: int) -> None:
    while True:
        opening_and_closing = batched(a_run(number, datetime.now(UTC)), 2)  # in pairs, as the harness has them
        for events in opening_and_closing:
            await store.append(events)


async def main(url: str, old_runs: int, batch: int) -> None:
    async with Store.open(url) as store, asyncio.TaskGroup() as tasks:
        await asyncio.gather(*(store.append(a_run(number, LONG_AGO)) for number in range(old_runs)))
        appending = [tasks.create_task(append(store, number)) for number in range(4)]
        os.write(1, b"begun\n")
        await store.prune(older_than=timedelta(days=1), batch=batch)
        os.write(1, b"done\n")
        for task in appending:
            task.cancel()


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
