"""Feeds the durable observers of an app, and says in the end what is left for later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from trackside.app.wiring.observers import ConfiguredObserver
from trackside.harness.errors import TracksideError

if TYPE_CHECKING:
    from trackside.app.storage import Store
    from trackside.app.storage.subscriptions import Subscription
    from trackside.app.vitals import FeedStats

IN_HAND_SECONDS: Final = 1.0
"""How long closing waits for calls of observers that take too long to be waited for."""
_UNANSWERED: Final = "what it was given is not done yet"


@dataclass(frozen=True, slots=True)
class LeftForLater:
    """An observer that had not been told everything when its process ended; whoever feeds it next goes on there."""

    name: str
    why: str
    """What it failed with last; empty if it merely was not done."""


class Deliveries:
    """The durable observers of an app, which are fed as long as it is open.

    Args:
        observers: those that were configured; live ones among them are left alone.
        store: where the log is, and how far each of them has come.
        grace: seconds that closing waits for calls that are under way.
    """

    def __init__(
        self, observers: Sequence[ConfiguredObserver], store: Store, *, grace: float = IN_HAND_SECONDS
    ) -> None:
        from trackside.app.storage.dispatcher import Dispatcher

        durable = [observer.subscribed(grace=grace) for observer in observers if observer.is_durable]
        self.dispatcher = Dispatcher(store.subscriptions, durable)
        self.names = [observer.name for observer in durable]
        self.left: list[LeftForLater] = []
        """What `drain` left for later."""
        self.others: list[Callable[[], Sequence[FeedStats]]] = []
        """How other subscriptions that this process feeds are doing."""
        self._store = store
        self._grace = grace
        self._drained = not durable

    async def __aenter__(self) -> Self:
        await self.dispatcher.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.dispatcher.aclose()

    def stats(self) -> list[FeedStats]:
        """How each subscription that this process feeds is doing. From any thread."""
        return [*self.dispatcher.stats(), *(one for stats in [*self.others] for one in stats())]

    async def drain(self, seconds: float) -> None:
        """Wait until all that is in the log is delivered. Only the first call waits.

        Together with closing, which waits for calls under way, that takes at most `seconds`.

        When it is cancelled, all is left for later.
        """
        if self._drained:
            return
        self._drained = True
        self.left = [LeftForLater(name, "") for name in self.names]
        try:
            report = await self.dispatcher.drain(seconds - min(self._grace, seconds / 2))
            standings = {standing.name: standing for standing in await self._store.subscriptions.all()}
        except TracksideError as exc:
            self.left = [LeftForLater(name, str(exc).rstrip(".")) for name in self.names]
            return
        # Of what another process fed at that moment and nobody feeds now, nobody knows whether it will be fed soon.
        forsaken = [name for name in report.elsewhere if name in standings and _is_forsaken(standings[name])]
        in_hand = {stats.subscription for stats in self.dispatcher.stats() if stats.pending}
        self.left = [
            LeftForLater(name, _trouble(standings.get(name)) or (_UNANSWERED if name in in_hand else ""))
            for name in (*report.late, *forsaken)
        ]


def _is_forsaken(standing: Subscription) -> bool:
    return standing.state.value == "active" and standing.consumer is None and standing.behind > 0


def _trouble(standing: Subscription | None) -> str:
    return (standing.last_error or "").rstrip(".") if standing is not None and standing.failures else ""
