"""`MetricsObserver`: what Prometheus scrapes."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from prometheus_client import CollectorRegistry
from prometheus_client.asgi import make_asgi_app
from prometheus_client.exposition import choose_encoder

from trackside.app.delivery import Delivery, ObserverOptionError
from trackside.app.observers.metrics._collector import MetricsCollector
from trackside.app.observers.metrics._counting import RunCounts
from trackside.app.observers.metrics._server import MetricsServer
from trackside.app.observers.metrics._vitals import VitalsMetrics
from trackside.app.vitals import Vitals
from trackside.harness.amounts import is_count
from trackside.harness.errors import ClosedError
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.threads import in_own_thread
from trackside.harness.types import LifecycleEventType

logger = logging.getLogger("trackside.metrics")

DURATION_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0)
"""Upper bounds in seconds: agents take from a moment to an hour."""


class MetricsObserver:
    """Counts runs, and shows Prometheus these counts and how the app is doing; `DEFINITIONS` lists the metrics.

        metrics = MetricsObserver(port=9464)
        async with RunManager({"chat": chat}, observers=[metrics]) as manager:
            ...
        await metrics.aclose()

    With a `port`, it answers `GET /metrics` there from a thread of its own: from `watch` or `serve` on, or from the
    first event. Alternatively, mount `asgi` in a web app of your own, or answer with what `render` returns.

    Args:
        port: the port to listen at; 0 for any free one, None for none.
        host: the address to listen at. Whoever reaches it may read all metrics.
        max_labels: how many agents, models and types of errors are told apart; all further ones are counted as "other".
        buckets: the upper bounds of the buckets of durations, in seconds, ascending.
        registry: where the metrics are registered, until `aclose`; one of the observer's own if left out.

    Raises:
        ObserverOptionError: one of these does not fit.
    """

    delivery: ClassVar[Delivery] = Delivery.live
    events: ClassVar[tuple[LifecycleEventType, ...]] = (
        LifecycleEventType.RUN_STARTED,
        LifecycleEventType.HUMAN_MESSAGE,
        LifecycleEventType.RUN_COMPLETED,
        LifecycleEventType.RUN_FAILED,
        LifecycleEventType.RUN_CANCELLED,
    )

    def __init__(
        self,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        max_labels: int = 200,
        buckets: Sequence[float] = DURATION_BUCKETS,
        registry: CollectorRegistry | None = None,
    ) -> None:
        _check_address(port, host)
        if not is_count(max_labels):
            raise ObserverOptionError(option="max_labels", why="it is how many values a label may have, at least 1")
        if registry is not None and not isinstance(registry, CollectorRegistry):
            raise ObserverOptionError(option="registry", why="it is a prometheus_client.CollectorRegistry, or left out")
        self._counts = RunCounts(max_labels, _checked_buckets(buckets))
        self._closed = False
        self.registry: CollectorRegistry = CollectorRegistry() if registry is None else registry
        self.asgi: Callable[..., Awaitable[None]] = make_asgi_app(self.registry)
        """An ASGI app that answers every request with the metrics."""
        self._server = None if port is None else MetricsServer(host, port, self.registry)
        self._collector = MetricsCollector(self._counts)
        try:
            self.registry.register(self._collector)
        except ValueError as exc:
            why = "it has metrics of these names already: close the observer that they belong to, or pass another registry"
            raise ObserverOptionError(option="registry", why=why) from exc

    @property
    def port(self) -> int | None:
        """The port at which it listens now; None if it does not."""
        return None if self._server is None else self._server.port

    def watch(self, vitals: Vitals) -> None:
        """Also show how this app is doing, and listen if there is a `port`.

        Raises:
            ObserverOptionError: nobody can listen there.
        """
        self._counts.expect(vitals.agents)
        self._collector.vitals = VitalsMetrics(vitals, self._counts.by_agent)
        self.serve()

    def serve(self) -> None:
        """Listen from now on, if there is a `port`; this takes a moment. May be called again.

        Raises:
            ObserverOptionError: nobody can listen there.
        """
        if self._server is not None:
            self._server.start()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Count one event."""
        await self.on_events((event,))

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Count these events.

        Raises:
            ClosedError: the observer has been closed.
        """
        if self._closed:
            raise ClosedError(what="metrics observer")
        if self._server is not None and not self._server.asked:
            await self._serve_late(self._server)
        for event in events:
            self._counts.take(event)

    def hear_end(self, event: RunLifecycleEvent) -> None:
        """Count the end of a run that this process announces for another, whose observers do not hear of it."""
        if not self._closed:
            self._counts.take(event)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics as text, and its content type: the one that suits this Accept header, or the plain one."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    async def aclose(self) -> None:
        """Stop listening and counting, and leave the registry. May be called again."""
        if not self._closed:
            self._closed = True
            self.registry.unregister(self._collector)
        if self._server is not None:
            await in_own_thread(self._server.stop)

    async def _serve_late(self, server: MetricsServer) -> None:
        """Listen although nobody has asked for it; the runs are counted even if it cannot listen."""
        try:
            await in_own_thread(server.start)
        except ObserverOptionError as exc:
            logger.warning("metrics are counted, but nobody can scrape them: %s", exc)


def _check_address(port: object, host: object) -> None:
    if port is not None and not (type(port) is int and 0 <= port <= 65_535):
        raise ObserverOptionError(option="port", why="it is a number from 0 (any that is free) to 65535")
    if not isinstance(host, str) or not host:
        raise ObserverOptionError(option="host", why='it is an address to listen at, as "127.0.0.1" or "0.0.0.0"')


def _checked_buckets(buckets: object) -> tuple[float, ...]:
    given: tuple[Any, ...] = tuple(buckets) if isinstance(buckets, list | tuple) else ()
    numbers = all(type(bound) in (int, float) and 0 < bound < math.inf for bound in given)
    if not given or not numbers or any(bound >= after for bound, after in pairwise(given)):
        why = "they are seconds above 0, each more than the one before, as [0.5, 1, 5, 30]"
        raise ObserverOptionError(option="buckets", why=why)
    return tuple(map(float, given))
