"""Stores to test, and what a `StoreContract` asks of one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol, Self

from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus, ThreadStatus
from trackside.testing.contracts._promise import opened


class PlacedEvent(Protocol):
    """An event and its place in the log."""

    @property
    def position(self) -> int:
        """1, 2, 3 … over all runs."""
        ...

    @property
    def event(self) -> RunLifecycleEvent:
        """The event, as it is stored."""
        ...


class RunRow(Protocol):
    """What a store tells about a run."""

    @property
    def status(self) -> RunStatus: ...

    @property
    def last_sequence(self) -> int: ...

    @property
    def thread_id(self) -> str: ...


class ThreadRow(Protocol):
    """What a store tells about a thread."""

    @property
    def status(self) -> ThreadStatus: ...


class EventStore(Protocol):
    """What every store has to offer. `trackside.app.storage.Store` has more."""

    async def append(self, events: Sequence[RunLifecycleEvent]) -> Sequence[PlacedEvent]:
        """Store these events, in this order, all or none.

        Raises:
            TracksideError: they were not stored. If it is also a `ValueError`, it is about the events: the log will
                never take them, and nobody gives them to it again.
        """
        ...

    async def events(
        self,
        after: int = 0,
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        types: Collection[LifecycleEventType] | None = None,
        limit: int = 1000,
    ) -> Sequence[PlacedEvent]:
        """The first `limit` matching events after a position."""
        ...


class RowStore(EventStore, Protocol):
    """A store that claims `rows`."""

    async def run(self, run_id: str) -> RunRow | None:
        """What the events of a run come to."""
        ...

    async def thread(self, thread_id: str) -> ThreadRow | None:
        """What the events of a thread come to."""
        ...


class FollowedStore(EventStore, Protocol):
    """A store that claims `follows`."""

    def follow(
        self,
        after: int = 0,
        *,
        run_id: str | None = None,
        types: Collection[LifecycleEventType] | None = None,
    ) -> AsyncIterator[PlacedEvent]:
        """The matching events after a position, and each that comes."""
        ...


class Stores:
    """Opens stores of one log; what the fixture of a `StoreContract` returns.

        Stores(lambda: Store.open(f"sqlite:///{tmp_path}/runs.db"))

    Args:
        open: makes a store, or an async context manager of one, each time as a process of its own would.
    """

    def __init__(self, open: Callable[[], Any]) -> None:
        self._open = open
        self._stacks: list[tuple[Any, AsyncExitStack]] = []

    async def store(self) -> Any:
        """Open a store."""
        stack = AsyncExitStack()
        store: AbstractAsyncContextManager[Any] = opened(self._open())
        entered = await stack.enter_async_context(store)
        self._stacks.append((entered, stack))
        return entered

    async def reopened(self, store: Any) -> Any:
        """Close a store, and open it again as the next process would."""
        for opened_store, stack in self._stacks:
            if opened_store is store:
                await stack.aclose()
        return await self.store()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        async with AsyncExitStack() as all_of_them:
            for _, stack in self._stacks:
                all_of_them.push_async_callback(stack.aclose)
