"""A log with one subscription in memory: what `Subscriptions` and its consumers promise a feed, without SQL.

It knows the virtual time, fails when told to, and notes when the cursor passes what was neither handled nor parked.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from trackside.app.storage import StoredEvent
from trackside.app.storage.errors import (
    SubscriptionBusyError,
    SubscriptionLostError,
    SubscriptionPausedError,
    UnknownSubscriptionError,
)
from trackside.app.storage.subscriptions import Batch, OnFailure, ParkedEvent, ParkedState, Subscriptions
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.observing.weighing import weight_of
from trackside.testing.events import EPOCH

STRETCH = 7
"""How many positions one read looks through."""
LATENCY = 0.001


@dataclass
class LogInMemory:
    """The log, the subscription, and what happens to them.

    Consumers ask `fails` before and after each of their steps what goes wrong.
    """

    on_failure: OnFailure = OnFailure.park
    wants: Callable[[RunLifecycleEvent], bool] = lambda event: True
    fails: Callable[[str], BaseException | None] = lambda step: None

    def __post_init__(self) -> None:
        self.events: list[StoredEvent] = []
        self.handled: set[int] = set()
        self.cursor = 0
        self.parked: dict[int, ParkedEvent] = {}
        self.ever_parked: set[int] = set()
        self.paused = False
        self.failures = 0
        self.last_error: str | None = None
        self.holder: Consumer | None = None
        self.lease_until = 0.0
        self.steps: list[tuple[float, str]] = []
        self.wrong: list[str] = []
        self._listeners: set[Callable[[], object]] = set()

    @property
    def subscriptions(self) -> Subscriptions:
        return cast("Subscriptions", self)

    @property
    def end(self) -> int:
        return len(self.events)

    def append(self, events: Iterable[RunLifecycleEvent]) -> None:
        self.events += [StoredEvent(position, event) for position, event in enumerate(events, self.end + 1)]
        self.tell()

    def position_of(self, event: RunLifecycleEvent) -> int:
        return next(stored.position for stored in self.events if stored.event.event_id == event.event_id)

    def times(self, step: str) -> list[float]:
        return [time for time, name in self.steps if name == step]

    def park(self, position: int) -> None:
        """Park the event as if it had failed once too often, some time ago."""
        event = self.events[position - 1]
        self.parked[position] = ParkedEvent(
            stored=event, state=ParkedState.parked, attempts=1, error="no", parked_at=EPOCH
        )

    def retry_parked(self) -> None:
        for position, parked in self.parked.items():
            self.parked[position] = replace(parked, state=ParkedState.retry)
        self.tell()

    def kill_holder(self) -> None:
        """As if the consuming process had died and its lease had ended."""
        if self.holder is not None:
            self.holder.is_dead = True
        self.lease_until = 0.0

    def pass_to(self, position: int, parked_ahead: set[int]) -> None:
        for passed in range(self.cursor + 1, position + 1):
            wanted = self.wants(self.events[passed - 1].event)
            if wanted and passed not in self.handled and passed not in self.parked:
                self.wrong.append(f"the cursor passed {passed}, which was not handled")
            if passed not in parked_ahead:
                self.parked.pop(passed, None)
        self.cursor = max(self.cursor, position)

    async def get(self, name: str) -> None:
        if name != "mail":
            raise UnknownSubscriptionError(name=name)

    async def pause(self, name: str) -> None:
        self.paused = True
        self.tell()

    def resume(self) -> None:
        self.paused = False
        self.tell()

    async def acquire(self, name: str, *, consumer: str | None, lease_seconds: float) -> Consumer:
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(LATENCY)
        if self.paused:
            raise SubscriptionPausedError(name=name)
        if self.lease_until > now:
            raise SubscriptionBusyError(name=name, consumer=consumer, seconds=self.lease_until - now)
        self.lease_until = now + lease_seconds
        self.holder = Consumer(self, lease_seconds)
        return self.holder

    def listen(self, listener: Callable[[], object]) -> None:
        self._listeners.add(listener)

    def stop_listening(self, listener: Callable[[], object]) -> None:
        self._listeners.discard(listener)

    def tell(self) -> None:
        for listener in [*self._listeners]:
            listener()


class Consumer:
    """A consumer that has the lease, or had it."""

    name = "mail"

    def __init__(self, log: LogInMemory, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self.passed = log.cursor
        self.is_dead = False
        self._log = log
        self._through = log.cursor
        self._unhandled: list[int] = []
        self._parked_ahead: set[int] = set()

    @property
    def on_failure(self) -> OnFailure:
        return self._log.on_failure

    async def _step(self, name: str, do: Callable[[], Any]) -> Any:
        log = self._log
        log.steps.append((asyncio.get_running_loop().time(), name))
        for do_now in (lambda: None, do):  # a step that fails has happened, or has not
            if (failure := log.fails(name)) is not None:
                raise failure
            await asyncio.sleep(LATENCY)
            if self.is_dead or log.holder is not self:
                raise SubscriptionLostError(name=self.name, consumer="one")
            result = do_now()
        if (failure := log.fails(name)) is not None:
            raise failure
        return result

    async def check(self) -> None:
        def check() -> None:
            if self._log.paused:
                raise SubscriptionPausedError(name=self.name)

        await self._step("check", check)

    async def read(self, limit: int, *, ahead: bool, max_bytes: int) -> Batch:
        def read() -> Batch:
            if log.paused:
                raise SubscriptionPausedError(name=self.name)
            after = self._through if ahead else self.passed
            through = min(log.end, after + STRETCH)
            wanted = [stored for stored in log.events[after:through] if log.wants(stored.event)]
            found = as_many_as_fit(wanted[:limit], max_bytes)
            if len(found) == limit or len(found) < len(wanted):
                through = found[-1].position
            return Batch(tuple(found), through, at_end=through >= log.end)

        log = self._log
        batch: Batch = await self._step("read", read)
        if not ahead:
            self._unhandled, self._parked_ahead = [], set()
        self._through = batch.through
        self._unhandled += [stored.position for stored in batch.events]
        if not self._unhandled:
            self.passed = batch.through
        return batch

    async def read_retries(self, limit: int, *, max_bytes: int) -> list[ParkedEvent]:
        def read() -> list[ParkedEvent]:
            if log.paused:
                raise SubscriptionPausedError(name=self.name)
            found = [parked for _, parked in sorted(log.parked.items()) if parked.state is ParkedState.retry]
            passed = [parked for parked in found if parked.stored.position <= log.cursor]
            return passed[: len(as_many_as_fit([parked.stored for parked in passed[:limit]], max_bytes))]

        log = self._log
        found: list[ParkedEvent] = await self._step("read_retries", read)
        return found

    async def acknowledge(self, position: int) -> None:
        def acknowledge() -> None:
            if position > self._log.cursor:
                self._log.pass_to(position, self._parked_ahead)
                self._log.failures = 0

        await self._step("acknowledge", acknowledge)
        self._pass(position)

    async def park(self, position: int, error: str, *, attempts: int) -> None:
        is_unhandled = position in self._unhandled
        is_next = self._unhandled[:1] == [position]

        def park() -> None:
            log.failures, log.last_error = 0, error
            log.parked[position] = ParkedEvent(
                stored=log.events[position - 1],
                state=ParkedState.parked,
                attempts=attempts,
                error=error,
                parked_at=EPOCH,
            )
            log.ever_parked.add(position)
            if is_next:
                log.pass_to(position, self._parked_ahead | {position})

        log = self._log
        await self._step("park", park)
        if is_next:
            self._pass(position)
        elif is_unhandled:
            self._unhandled.remove(position)
            self._parked_ahead.add(position)

    async def settle_retry(self, position: int) -> None:
        await self._step("settle_retry", lambda: self._log.parked.pop(position, None))

    async def note_failure(self, error: str, *, attempts: int) -> None:
        def note() -> None:
            self._log.failures, self._log.last_error = attempts, error

        await self._step("note_failure", note)

    async def renew(self) -> bool:
        def renew() -> None:
            log.pass_to(self.passed, self._parked_ahead)
            log.lease_until = asyncio.get_running_loop().time() + self.lease_seconds

        log = self._log
        await self._step("renew", renew)
        return log.paused

    async def release(self) -> None:
        def release() -> None:
            log.pass_to(self.passed, self._parked_ahead)
            log.holder, log.lease_until = None, 0.0

        log = self._log
        await self._step("release", release)
        log.tell()

    def _pass(self, position: int) -> None:
        self.passed = max(self.passed, position)
        self._unhandled = [left for left in self._unhandled if left > position]
        self._parked_ahead = {left for left in self._parked_ahead if left > position}


def as_many_as_fit(found: Sequence[StoredEvent], max_bytes: int) -> list[StoredEvent]:
    sizes = itertools.accumulate((weight_of(stored.event) for stored in found), initial=0)
    return [stored for stored, before in zip(found, sizes, strict=False) if before < max_bytes]


def positions(log: LogInMemory, events: Sequence[RunLifecycleEvent]) -> list[int]:
    return [log.position_of(event) for event in events]
