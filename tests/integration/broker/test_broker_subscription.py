"""From the log to a broker: everything arrives once, whatever the broker does meanwhile."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from brokers import BrokerStage

from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage.dispatcher import Dispatcher, DurableObserver
from trackside.app.storage.feeding import FeedPolicy
from trackside.testing.events import make_run


@pytest.fixture
async def store(sqlite_with_tables: Path, tmp_path: Path) -> AsyncIterator[Store]:
    shutil.copy(sqlite_with_tables, tmp_path / "runs.db")
    async with Store.open(f"sqlite:///{tmp_path}/runs.db") as opened:
        yield opened


@pytest.mark.parametrize("order", ["log", "run", "none"])
async def test_the_whole_log_is_published_once_though_the_broker_dies(
    own_stage: BrokerStage, store: Store, order: str
) -> None:
    runs = [make_run(f"r-{number}", thread_id=f"t-{number}") for number in range(60)]
    storing = StorageObserver(store)
    await asyncio.gather(*(storing.on_events(run) for run in runs[:30]))
    observer = own_stage.observer(topic="own.all")
    concurrency = 1 if order == "log" else 32
    policy = FeedPolicy.suiting(observer, order=order, concurrency=concurrency, first_pause=0.01, longest_pause=0.02)
    feeding = DurableObserver(name="broker", observer=observer, start="beginning", policy=policy)
    async with Dispatcher(store.subscriptions, [feeding]) as dispatching:
        await asyncio.to_thread(own_stage.restart)
        await asyncio.gather(*(storing.on_events(run) for run in runs[30:]))
        await asyncio.to_thread(own_stage.restart)
        assert (await dispatching.drain(60)).delivered == ("broker",)
    assert (await store.subscriptions.get("broker")).parked == 0

    kept = await own_stage.kept()
    assert sorted(message.event_id for message in kept) == sorted(event.event_id for run in runs for event in run)
    if order != "none":
        for run in runs:
            of_run = [message.event_id for message in kept if message.attributes["run_id"] == run[0].run_id]
            assert of_run == [event.event_id for event in run]
