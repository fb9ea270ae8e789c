"""What an engine is: `postgres` and `nats` implement it. A process that executes the runs it is asked for needs none
(`inline`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trackside.app.storage.fleet import ReadyRun
from trackside.app.streams.wire import LiveWire
from trackside.app.vitals import EngineStats, EngineStatus

__all__ = ["Engine", "EngineStats", "EngineStatus", "Offer", "Offers"]


class Offer(Protocol):
    """Something to do for a worker. From when the worker gets it, the engine knows that somebody is at it, until the
    worker says otherwise.
    """

    @property
    def run_id(self) -> str | None:
        """The run that may be claimed; None: some are ready, and the database knows which."""
        ...

    @property
    def passed_on(self) -> int:
        """How often somebody else has had it before, as far as known."""
        ...

    def done(self) -> None:
        """Nobody else has to look at it: the run has ended, or cannot be had. This does not wait and does not raise."""
        ...

    def decline(self, *, after: float) -> None:
        """Let somebody else have it, `after` so many seconds. This does not wait and does not raise."""
        ...


class Offers(Protocol):
    """What a worker is offered."""

    async def next(self) -> Offer:
        """Wait for the next offer. Ask only with a free place. Cancelling it loses no offer for good.

        While the engine is cut off this waits, too; the worker looks into the database meanwhile.
        """
        ...

    def note_free(self, places: int) -> None:
        """How many places are free now: an engine that chooses among workers passes over one that has none."""
        ...


class Engine(Protocol):
    """Moves work between processes. Everything is called on one event loop; nothing but `next` and `aclose` waits."""

    name: str
    on_lost: list[Callable[[], object]]
    """Called, on the event loop, when the engine moves nothing any more. The functions must not wait and must not
    raise.
    """

    @property
    def live(self) -> LiveWire:
        """Carries live output."""
        ...

    def announce(self, ready: Sequence[ReadyRun]) -> None:
        """Tell the pools of these runs, which nobody has, that they may be claimed. Repeating it is harmless. Does not
        raise; may be lost.
        """
        ...

    def ask_to_stop(self, worker_id: str, run_id: str) -> None:
        """Tell this worker that a run of it is to stop, or that its turn has come, as the database says. Does not
        raise; may be lost.
        """
        ...

    def note_gone(self, worker_id: str) -> None:
        """A worker that did not say goodbye is gone: tell it of no more runs. Does not raise."""
        ...

    def join(
        self, worker_id: str, pools: Sequence[str], *, on_stop: Callable[[str], object]
    ) -> AbstractAsyncContextManager[Offers]:
        """Be offered runs of these pools for the length of an `async with`; `on_stop` gets the ids of runs that are to
        stop.

        Offers made by then may be answered later, while the engine is open. `on_stop` is also called as long, because
        the worker may still execute runs.
        """
        ...

    def status(self) -> EngineStatus:
        """Whether the engine moves anything now; may be called from any thread."""
        ...

    def stats(self) -> EngineStats:
        """What the engine has done so far; may be called from any thread."""
        ...

    async def tidy(self) -> None:
        """Remove what has become old, for all processes; one of them is asked to, now and then."""
        ...

    async def aclose(self) -> None:
        """Send what waits to be sent, for a moment, and close. May be called again."""
        ...
