"""A coordinator and a memory of threads that take their time, as a database does: before they act, and before they
answer. A caller can be cancelled at each of these moments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from trackside.harness.memory import MemoryCoordinator
from trackside.harness.ports import RunHost, ThreadState
from trackside.harness.remembered import MemoryThreadStates


class SlowCoordinator:
    """A `MemoryCoordinator` that waits `seconds` before each step happens and `seconds` before it answers."""

    def __init__(
        self, seconds: float = 1.0, *, durable: bool = False, inner: MemoryCoordinator | None = None, **options: Any
    ) -> None:
        self.inner = inner or MemoryCoordinator(**options)
        self.durable = durable
        self.seconds = seconds
        self.broken: dict[str, BaseException] = {}
        """What a step raises instead of happening, by name."""
        self.entered = {name: asyncio.Event() for name in _STEPS}
        """Set when a step has begun but has not happened yet."""
        self.done = {name: asyncio.Event() for name in _STEPS}
        """Set when a step has happened but has not been answered yet."""

    def attach(self, host: RunHost) -> None:
        self.inner.attach(host)

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        if name not in _STEPS:
            raise AttributeError(name)
        return lambda *args, **kwargs: self._step(name, *args, **kwargs)

    async def _step(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.entered[name].set()
        await asyncio.sleep(self.seconds)
        if name in self.broken:
            raise self.broken[name]
        answer = await getattr(self.inner, name)(*args, **kwargs)
        self.done[name].set()
        await asyncio.sleep(self.seconds)
        return answer


_STEPS = ("admit", "claim", "withdraw", "settle", "release", "request_cancel", "note_stuck", "get")


class SlowStates(MemoryThreadStates):
    """Takes `seconds` to load and to save; counts the threads that it keeps."""

    immediate = False

    def __init__(self, seconds: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.seconds = seconds
        self.broken: BaseException | None = None
        """The exception to raise on save; also on load if `loses` is set."""
        self.loses = False
        self.loading = asyncio.Event()

    async def load(self, thread_id: str) -> ThreadState | None:
        self.loading.set()
        await asyncio.sleep(self.seconds)
        if self.loses and self.broken is not None:
            raise self.broken
        return await super().load(thread_id)

    async def save(self, thread_id: str, state: ThreadState, *, run_id: str | None = None) -> None:
        await asyncio.sleep(self.seconds)
        if self.broken is not None:
            raise self.broken
        await super().save(thread_id, state, run_id=run_id)
