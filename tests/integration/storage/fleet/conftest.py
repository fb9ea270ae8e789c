"""Servers and workers of a fleet on one store: each has a store, a coordinator and a manager, as a process does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from tests.integration.runs.stage import Agents, within_patience
from tests.integration.storage.first_look import first_look
from told_events import told

from trackside import ObserverBinding, RunContext, RunHandle, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage.coordinator import StoredCoordinator
from trackside.app.storage.fleet import FleetMember, QueueNews, Taking
from trackside.harness.lifecycle import is_final
from trackside.harness.types import RunRecord, RunStatus

NEVER = 3_600.0
"""A lease that nobody renews during a test: it ends when the test says so."""


@dataclass
class Member:
    """What a process of a fleet has."""

    store: Store
    manager: RunManager
    coordinator: StoredCoordinator
    news: list[QueueNews] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.coordinator.worker_id

    @property
    def announced(self) -> list[str]:
        """The runs that were announced to others as ready."""
        return [run.run_id for news in self.news for run in news.ready]

    @property
    def stops(self) -> list[tuple[str, str]]:
        return [(*stop,) for news in self.news for stop in news.stops]

    async def start(self, input: Any = None, *, agent: Any = "work", **options: Any) -> RunHandle:
        return await self.manager.start(RunSpec(agent, input, **options))

    async def take(self, *run_ids: str) -> list[Taking]:
        taken = await self.coordinator.take(run_ids)
        return [taken[run_id] for run_id in run_ids]

    async def ended(self, run_id: str) -> RunRecord:
        """Wait until a run has ended, and return its record."""
        async with asyncio.timeout(20):
            while not is_final((record := await self.manager.get(run_id)).status):
                await asyncio.sleep(0.01)
        return record

    async def until_stopping(self) -> None:
        """Wait until this process has stops to tell others of: the log has the cause of one a moment earlier."""
        async with asyncio.timeout(20):
            while not self.stops:
                await asyncio.sleep(0.01)

    async def until_announcing(self) -> None:
        """Wait until this process has runs to tell others of, which it has a moment after the log has their cause."""
        async with asyncio.timeout(20):
            while not self.announced:
                await asyncio.sleep(0.01)

    async def until_started(self, run_id: str) -> None:
        """Wait until the log says that a run has started."""
        async with asyncio.timeout(20):
            while (await self.manager.get(run_id)).status is RunStatus.pending:
                await asyncio.sleep(0.01)

    async def told(self, thread_id: str) -> list[str]:
        """What the log says of a thread, in words."""
        return await told(self.store, thread_id)


async def say_what_it_knows(input: Any, run: RunContext) -> dict[str, Any]:
    return {"known": dict(run.values)}


@pytest.fixture
def agents() -> Agents:
    return Agents()


@pytest.fixture
async def member(url: str, agents: Agents) -> AsyncIterator[Any]:
    """Makes processes of a fleet, or (with None as the kind) inline ones, that have looked once; they are closed at the
    end, the last one first.
    """
    async with AsyncExitStack() as stack:

        async def make(
            kind: Literal["server", "worker"] | None = "worker",
            *,
            lease_seconds: float = NEVER,
            max_running: int = 8,
            remembers: bool = False,
            **says: Any,
        ) -> Member:
            async def start_another(input: Any) -> str:
                child = await manager.start(RunSpec("work", f"quick {input}"))
                return str((await child.result()).status)

            store = await stack.enter_async_context(Store.open(url))
            said = {"pool_of": {"gpu": "gpu"}.get, "pools": ("default",), "agents": ("work",), "capacity": 4} | says
            pool_of = said.pop("pool_of")
            fleet = None
            if kind is not None:
                fleet = FleetMember(kind=kind, pool_of=lambda agent: pool_of(agent) or "default", **said)
            coordinator = store.coordinator(lease_seconds=lease_seconds, fleet=fleet)
            has_looked = first_look(coordinator)
            observers = [ObserverBinding(StorageObserver(store), required=True)]
            manager = RunManager(
                {"work": agents.work, "gpu": agents.work, "starter": start_another, "knows": say_what_it_knows},
                observers=observers,
                coordinator=coordinator,
                states=store.thread_states() if remembers else None,
                shutdown_grace=0.0,
                max_running=max_running,
            )
            await stack.enter_async_context(manager)
            await within_patience(has_looked.wait())
            made = Member(store, manager, coordinator)
            store.fleet.on_news.append(made.news.append)
            return made

        yield make
