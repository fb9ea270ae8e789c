"""What an engine is: `postgres` and `nats` implement it; who executes in the process that is asked needs none (`inline`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from trackside.app.storage.fleet import ReadyRun
from trackside.app.streams.wire import LiveWire
from trackside.app.vitals import EngineStats, EngineStatus

__all__ = ["Engine", "EngineStats", "EngineStatus", "Offer", "Offers"]


class Offer(Protocol):
    """Something to do for a worker. From getting it on, the engine knows that somebody is at it, until he says otherwise."""

    @property
    def run_id(self) -> str | None:
        """The run that may be claimed; None: some are ready, and the database knows which."""
        ...

    @property
    def passed_on(self) -> int:
        """How often somebody else has had it before, as far as that is known."""
        ...

    def done(self) -> None:
        """Nobody else has to look at it: the run has ended, or is not to be had. Does not wait and does not raise."""
        ...

    def decline(self, *, after: float) -> None:
        """Somebody else should have it, in so many seconds. Does not wait and does not raise."""
        ...


class Offers(Protocol):
    """What a worker is offered."""

    async def next(self) -> Offer:
        """The next offer; waits for it. Ask only with a free place. Cancelling it loses no offer for good.

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
    """Called, on the event loop, when it moves nothing any more: whoever is told must not wait and must not raise."""

    @property
    def live(self) -> LiveWire:
        """What carries live output."""
        ...

    def announce(self, ready: Sequence[ReadyRun]) -> None:
        """These runs, which nobody has, may be claimed: tell their pools. Again is harmless. Does not raise; may be lost."""
        ...

    def ask_to_stop(self, worker_id: str, run_id: str) -> None:
        """A run of this worker is to stop, or its turn has come, as the database says. Does not raise; may be lost."""
        ...

    def note_gone(self, worker_id: str) -> None:
        """A worker that did not say goodbye is gone: do not tell it of runs. Does not raise."""
        ...

    def join(
        self, worker_id: str, pools: Sequence[str], *, on_stop: Callable[[str], object]
    ) -> AbstractAsyncContextManager[Offers]:
        """Be offered runs of these pools, for the length of an `async with`; `on_stop` gets ids of runs that shall stop.

        What was offered by then may be answered later, while the engine is open; `on_stop` is called as long, too, for the
        worker may still execute runs.
        """
        ...

    def status(self) -> EngineStatus:
        """Whether it moves anything now. From any thread."""
        ...

    def stats(self) -> EngineStats:
        """What it has done so far. From any thread."""
        ...

    async def tidy(self) -> None:
        """Remove what has got old, for all processes; one of them is asked to, now and then."""
        ...

    async def aclose(self) -> None:
        """Send what waits to be sent, for a moment, and let go. May be called again."""
        ...
