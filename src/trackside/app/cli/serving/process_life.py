"""How a process that runs until it is told to end, a server or a worker, is told to end and ends.

The first signal ends it gracefully, the second quickly, the third at once. SIGHUP makes it begin anew, provided that
what it would begin with can be loaded; if its terminal was closed, SIGHUP is just another signal to stop.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from trackside.app.cli.failures import ExitCode
from trackside.app.cli.formatting import count
from trackside.app.cli.serving import beginning_anew
from trackside.app.cli.serving.notifying import wait_no_longer
from trackside.app.wiring import DELIVERY_SECONDS

if TYPE_CHECKING:
    from trackside.app.wiring import App

_STOPS: Final = ("SIGINT", "SIGTERM", "SIGBREAK")
_RELOADS: Final = "SIGHUP"
HURRY: Final = 1.0
"""Seconds that the database has after the second signal, before anything it has not taken is spooled."""

type Say = Callable[..., None]
"""Called with what happens, and facts about it."""


class ProcessLife:
    """The life of one process, as signals shape it. Made inside its event loop, in the main thread.

    Args:
        grace: seconds that its runs have to end.
        say: is told what happens.
        hosts: the addresses at which it listens for clients, and would go on listening after it begins anew.
    """

    def __init__(self, grace: float, say: Say, hosts: Sequence[str] = ()) -> None:
        self.begins_anew = False
        """Whether the process should begin anew when everything is closed."""
        self._grace = grace
        self._say = say
        self._hosts = hosts
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._stops = 0
        self._checking: asyncio.Task[None] | None = None
        self._retiring: asyncio.Task[None] | None = None
        self._has_terminal = _has_terminal()

    @contextmanager
    def signals(self) -> Generator[None]:
        """Handle signals while the block lasts."""
        # Not `loop.add_signal_handler`: the loop notices nothing while an agent blocks it, but Python does.
        taken = {getattr(signal, name): self._on_stop for name in _STOPS if hasattr(signal, name)}
        if hasattr(signal, _RELOADS):
            taken[signal.SIGHUP] = self._on_hang_up
        before = {number: signal.signal(number, handler) for number, handler in taken.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def is_told_to_end(self) -> bool:
        """Whether a signal has told the process to end."""
        return self._ending.is_set()

    async def until_told_to_end(self) -> None:
        """Wait until a signal tells the process to end."""
        await self._ending.wait()
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait({self._checking})

    async def deliver(self, app: App) -> None:
        """Deliver the log to durable observers, for a while; the process that feeds them next does the rest."""
        await self.unless_hurried(app.deliveries.drain(DELIVERY_SECONDS))
        for left in app.deliveries.left:
            self._say("not everything is delivered yet", level="warning", observer=left.name, why=left.why)

    async def close_runs(self, app: App) -> None:
        """Let runs end, for a while. A database that is away then holds up nothing: the runs' ends are spooled soon.

        Meanwhile another process takes over what this one did for its fleet.
        """
        retiring = self._retire(app)
        self._say_what_is_waited_for(app)
        grace_over = self._loop.call_later(self._grace, app.store.leave_within, app.settings.shutdown_grace)
        closing = asyncio.create_task(app.manager.aclose(grace=self._grace), name="trackside-close")
        hurrying = asyncio.create_task(self._hurrying.wait(), name="trackside-hurry")
        await asyncio.wait({closing, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not closing.done():
            app.store.leave_within(HURRY)
            await app.manager.aclose(grace=0.0)
        await closing
        grace_over.cancel()
        app.store.leave_within(app.settings.shutdown_grace)
        await retiring

    async def unless_hurried(self, awaitable: Any) -> None:
        """Wait for something, unless the second signal cuts it short."""
        await unless(self._hurrying, awaitable)

    def _retire(self, app: App) -> asyncio.Task[None]:
        """Leave this process's fleet duties to others; started only once."""
        if self._retiring is None:
            self._retiring = asyncio.create_task(app.retire(), name="trackside-retire")
        return self._retiring

    def _say_what_is_waited_for(self, app: App) -> None:
        running = app.manager.stats().running
        if running:
            hint = "again to cancel them"
            self._say(f"waiting for {count(running, 'run')}, up to {self._grace:g} s", runs=running, hint=hint)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stops += 1
        match self._stops:
            case 1:
                self._say("stopping")
                self._loop.call_soon_threadsafe(self._begin_to_end, False)
            case 2:
                self._say("stopping quickly", hint="again to leave at once")
                self._loop.call_soon_threadsafe(self._hurrying.set)
            case _:
                self._leave_at_once()

    def _leave_at_once(self) -> None:
        os._exit(ExitCode.cancelled)

    def _on_hang_up(self, number: int, frame: FrameType | None) -> None:
        if self._has_terminal and not _has_terminal():
            self._on_stop(number, frame)
        else:
            self._loop.call_soon_threadsafe(self._begin_check)

    def _begin_to_end(self, begins_anew: bool) -> None:
        self.begins_anew = begins_anew
        self._ending.set()
        wait_no_longer()

    def _begin_check(self) -> None:
        if self._ending.is_set() or (self._checking is not None and not self._checking.done()):
            return
        self._checking = asyncio.create_task(self._check(), name="trackside-check")

    async def _check(self) -> None:
        """Begin anew, provided that what it would begin with can be loaded."""
        why = await beginning_anew.why_not(self._hosts)
        if why is not None:
            self._say("does not restart, and goes on as before", level="warning", why=why)
        elif not self._ending.is_set():
            self._say("beginning anew")
            self._begin_to_end(True)


async def unless(event: asyncio.Event, awaitable: Awaitable[Any]) -> None:
    """Wait for something, and cancel it when the event is set.

    Raises:
        BaseException: what the awaitable raised.
    """
    waiting = asyncio.ensure_future(awaitable)
    broken_off = asyncio.create_task(event.wait(), name="trackside-unless")
    await asyncio.wait({waiting, broken_off}, return_when=asyncio.FIRST_COMPLETED)
    for task in (waiting, broken_off):
        task.cancel()
    await asyncio.wait({waiting, broken_off})
    if not waiting.cancelled():
        waiting.result()


def _has_terminal() -> bool:
    """Whether the process has a terminal that is still there."""
    with suppress(Exception):  # it is closed, or this system has no `termios`
        import termios

        termios.tcgetattr(sys.stdin.fileno())
        return True
    return False
