"""What one process does for all of a fleet, and another one as soon as the first is gone.

A duty is a lease in the database. Whoever has it renews it three times in its length; the others look when it might have
ended. All that is done on duty is harmless if two do it at once: a process that stood still for longer than its lease
finds that out a moment late.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Self

from trackside.app.storage.errors import StorageError
from trackside.app.storage.fleet_store import FleetStore
from trackside.harness.errors import TracksideError

logger = logging.getLogger("trackside.fleet")

LEASE_SECONDS: Final = 4.0
"""How long a duty is nobody else's after its holder was last heard of."""
_BEATS: Final = 3


@dataclass(slots=True, eq=False)
class Duty:
    """Something that is done every so many seconds, by one process."""

    name: str
    work: Callable[[], Awaitable[object]]
    every: float
    held: asyncio.Event = field(default_factory=asyncio.Event)


class Duties:
    """Competes for duties, and does what it has: `async with Duties(store.fleet, worker_id, [Duty(…)]): …`.

    Args:
        fleet: where the leases are.
        holder: the name of this process there.
        duties: what it would do.
        lease_seconds: how long a duty stays with a process that is not heard of.
    """

    def __init__(
        self, fleet: FleetStore, holder: str, duties: Sequence[Duty], *, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._fleet = fleet
        self._holder = holder
        self._duties = {duty.name: duty for duty in duties}
        self._lease = lease_seconds
        self._until = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self.on_look: list[Callable[[], object]] = []
        """Called whenever this process has looked which duties it has."""

    async def __aenter__(self) -> Self:
        if not self._duties:
            return self
        self._tasks = [
            asyncio.create_task(self._compete(), name="trackside-duties"),
            *(
                asyncio.create_task(self._do(duty), name=f"trackside-duty-{duty.name}")
                for duty in self._duties.values()
            ),
        ]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.held:
            self._hold(set())
            try:
                await self._fleet.release_duties(self._holder)
            except TracksideError as exc:  # the leases end by themselves
                logger.info("duties could not be handed over, and are free in %g s: %s", self._lease, exc)

    def standing(self) -> dict[str, bool]:
        """For each duty, whether this process has it, as far as it knows; from any thread."""
        return {name: self.holds(name) for name in self._duties}

    @property
    def held(self) -> frozenset[str]:
        """The names of the duties that this process has, as far as it knows; from any thread."""
        return frozenset(duty.name for duty in self._duties.values() if self.holds(duty.name))

    def holds(self, name: str) -> bool:
        """Whether this process has a duty, as far as it knows."""
        return self._duties[name].held.is_set() and monotonic() < self._until

    async def _compete(self) -> None:
        while True:
            began = monotonic()
            rest = self._lease / _BEATS * random.uniform(0.8, 1.1)  # not all processes at once, as they were started
            try:
                if not self.held and (seconds := await self._seconds_taken()) > 0:
                    # Nothing can be had before; nor need hundreds of processes be there as soon as it can.
                    rest = min(seconds, self._lease) + random.uniform(0, self._lease / 2)
                else:
                    held = await self._fleet.hold_duties(self._holder, tuple(self._duties), self._lease)
                    self._until = began + self._lease
                    self._hold(held)
            except StorageError as exc:
                logger.warning("duties cannot be looked after: %s", exc)
            except Exception:  # whatever it is, nobody here would compete any more if this ended
                logger.exception("duties cannot be looked after")
            if monotonic() >= self._until:
                self._hold(set())
            await asyncio.sleep(rest)

    async def _seconds_taken(self) -> float:
        """How long all of the duties have a holder, unless their leases are renewed; 0: one of them has none."""
        left = {duty.name: duty.seconds_left for duty in await self._fleet.duties()}
        return min(max(0.0, left.get(name, 0.0)) for name in self._duties)

    def _hold(self, names: set[str]) -> None:
        for duty in self._duties.values():
            if duty.name in names and not duty.held.is_set():
                logger.info("this process is the %s now", duty.name)
                duty.held.set()
            elif duty.name not in names and duty.held.is_set():
                logger.info("this process is no longer the %s", duty.name)
                duty.held.clear()
        for tell in self.on_look:
            tell()

    async def _do(self, duty: Duty) -> None:
        while True:
            await duty.held.wait()
            try:
                if self.holds(duty.name):
                    await duty.work()
            except StorageError as exc:
                logger.warning("the %s could not do its work: %s", duty.name, exc)
            except Exception:  # whatever it is, the fleet would be without it if this ended
                logger.exception("the %s could not do its work", duty.name)
            await asyncio.sleep(duty.every * random.uniform(0.8, 1.2))
