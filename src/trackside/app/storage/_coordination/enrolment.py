"""Makes a worker known to all others as alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from time import monotonic
from typing import Any, Final

from trackside._version import __version__
from trackside.app.process_name import process_name
from trackside.app.storage._coordination.heart import Heart
from trackside.app.storage._coordination.membership import Leave, Register
from trackside.app.storage._rows.encoding import json_text, time_text
from trackside.app.storage._rows.leases import DATABASE_CLOCK, LeaseClock
from trackside.app.storage._writing.work import Refused
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import StorageError
from trackside.app.storage.fleet import FleetMember
from trackside.harness.errors import ClosedError

logger = logging.getLogger("trackside.storage")

BEATS_PER_LEASE: Final = 3
_LEAST_JUMP: Final = 1.0  # seconds; a clock that is off by more was surely set, and not just read late
_CLOCK_SECONDS: Final = 5.0  # by which clocks may differ


class Enrolment:
    """Registers a worker when it is needed, and renews its lease until it says goodbye.

    Args:
        writer: that of the store.
        worker_id: the name under which the worker owns runs.
        lease_seconds: for how long others that hear nothing of it take it to be alive.
        on_enrolled: is called when it is known for the first time.
        member: what it is in a fleet.
    """

    def __init__(
        self,
        writer: Writer | NoWriter,
        *,
        worker_id: str,
        lease_seconds: float,
        on_enrolled: Callable[[], object],
        member: FleetMember | None = None,
    ) -> None:
        self._writer = writer
        self._worker_id = worker_id
        self._lease = lease_seconds
        self._on_enrolled = on_enrolled
        self._says = {} if member is None else _said(member)
        self._now: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.draining = False
        """Whether it takes no more runs and leaves when it has finished: it was asked to, or its process ends."""
        self.on_drain: list[Callable[[], object]] = []
        self._name = process_name()
        self._started_at = time_text(datetime.now(UTC))
        self._heart: Heart | None = None
        self._has_left = False
        self._known_until = 0.0
        """Until when, by the monotonic clock, the others surely know that it is alive, and will for a while longer."""
        self._written_at = 0.0
        """When it was last made known, by the same clock."""
        self._trusts_from = inf
        """From when on a lease that has ended says something about its worker."""
        self._clock: LeaseClock | None = None
        """What the clock of the leases said when the worker was last made known."""
        self._beating: asyncio.Future[Any] | None = None
        """The last sign of life, from its thread or from the event loop, that was queued behind all other writes."""
        self._enrolling = asyncio.Lock()
        self._failure: StorageError | None = None
        """What the last try failed with."""

    async def enroll(self) -> None:
        """Become a worker, so that what is admitted is looked after by somebody who is known to be alive.

        A caller that comes while another one tries hears how that went, instead of waiting as long again.

        Raises:
            StorageError: it cannot be stored.
        """
        before = self._failure
        async with self._enrolling:
            if self._heart is not None:
                return
            if (failure := self._failure) is not None and failure is not before:
                raise type(failure)(**failure.details) from failure
            began, registration = monotonic(), self._registration()
            try:
                await self._writer.write(registration)
            except StorageError as exc:
                self._failure = exc
                raise
            self._note_known(began, registration)
            self._say_if_clock_is_off(registration)
            self._loop = asyncio.get_running_loop()
            self._heart = Heart(self._beat, every=self._lease / BEATS_PER_LEASE)
            self._on_enrolled()

    def stay(self) -> None:
        """Let the others know that it is alive before what is written next, if they may not know; on the event loop.

        For a caller that is about to take or to start a run. Others end the runs of a worker whose lease has ended, as
        it does while the database is out of reach; and the database may be back before the worker's next sign of life.
        """
        if monotonic() < self._known_until or self._heart is None or self._has_left:
            return
        if not self._is_beating():  # else a sign of life is on its way, ahead of what comes now
            self._renew()

    def _say_if_clock_is_off(self, registration: Register) -> None:
        """Log that this machine's clock and the database's disagree, which only this machine can know for sure."""
        clock = registration.clock
        if clock is None or clock.clock != DATABASE_CLOCK or self._says.get("isolated_in"):  # its supervisor says so
            return
        ahead = datetime.now(UTC).timestamp() - (monotonic() - registration.written_at) - clock.seconds
        if abs(ahead) > _CLOCK_SECONDS:
            logger.warning(
                "this machine's clock is %.0f s %s the database's: have both set by NTP, as their times are compared",
                abs(ahead),
                "ahead of" if ahead > 0 else "behind",
            )

    def _is_beating(self) -> bool:
        return self._beating is not None and not self._beating.done()

    def _renew(self) -> None:
        registration = self._registration()
        with contextlib.suppress(ClosedError):
            self._beating = self._writer.put(registration)
            self._await(self._beating, registration, monotonic())

    def trusts_leases(self, now: LeaseClock | None = None) -> bool:
        """Whether an ended lease says that its worker is gone; from any thread. `now` is what the leases' clock says.

        Not while the database is away, for this worker or for all, as nobody can renew a lease then; when it is back,
        every live worker has the length of a lease to say so. A worker that has just come does not know whether the
        database was away. And not if the clock of the leases was set, which ends everybody's leases.
        """
        if self._heart is None:
            return not self._says  # not enrolled: outside a fleet somebody asks by hand; the duty of a fleet waits
        if not self._trusts_from <= monotonic() < self._known_until:
            return False
        return now is None or not self._was_set(now, monotonic())

    def _was_set(self, now: LeaseClock, at: float) -> bool:
        """Whether the clock of the leases ran differently from this machine's since it was read for a sign of life."""
        before = self._clock
        if before is None or before.clock != now.clock:
            return before is not None
        return abs((now.seconds - before.seconds) - (at - self._written_at)) > max(_LEAST_JUMP, self._lease / 4)

    def note_running(self, runs: int) -> None:
        """Make the next sign of life say how many runs it executes."""
        if self._says:
            self._now = {**self._now, "running": runs}

    def note_leaving(self) -> None:
        """Let the others know at once that it takes no more runs; anybody who asks it to leave finds that it does."""
        if not self._says or self._has_left:
            return
        self.draining = True
        self._now = {**self._now, "draining": True}
        if self._heart is not None:
            self._renew()

    async def leave(self) -> bool:
        """Stop being a worker; returns whether the others know, who otherwise find out when the lease ends."""
        if self._heart is None:
            return False
        self._heart.stop()
        self._has_left = True
        try:
            await self._writer.write_to_the_end(Leave(worker_id=self._worker_id))
        except StorageError as exc:
            logger.info("worker %s could not sign off: %s", self._worker_id, exc)
            return False
        return True

    def _registration(self) -> Register:
        return Register(
            worker_id=self._worker_id,
            name=self._name,
            started_at=self._started_at,
            lease_seconds=self._lease,
            says=self._says,
            now=self._now,
        )

    def _beat(self) -> None:
        """Renew the lease, from a thread of its own: a worker whose agent blocks the loop is then not taken for dead.

        Nor is a worker that writes something that takes long, or waits for a lock: while its last sign of life waits
        behind that, further ones are written beside it.
        """
        began, registration = monotonic(), self._registration()
        with contextlib.suppress(ClosedError, RuntimeError):  # the store is closed, or the loop
            if self._is_beating():
                beat = self._writer.put_beside(registration)
            else:
                beat = self._beating = self._writer.put(registration)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._await, beat, registration, began)

    def _await(self, beat: asyncio.Future[Any], registration: Register, began: float) -> None:
        beat.add_done_callback(lambda beat: self._hear(beat, registration, began))

    def _hear(self, beat: asyncio.Future[Any], registration: Register, began: float) -> None:
        if beat.cancelled() or isinstance(asked_to_drain := beat.result(), Refused):
            return
        self._note_known(began, registration)
        if beat is self._beating:
            self._writer.need_none_beside()
        if asked_to_drain and self._says and not self.draining:
            self.draining = True
            for tell in self.on_drain:
                tell()

    def _note_known(self, began: float, registration: Register) -> None:
        written_at, clock = registration.written_at, registration.clock
        # The database was away; or it may have been, before this worker came.
        was_away = self._heart is None or written_at > self._written_at + self._lease / 2
        if was_away or (clock is not None and self._was_set(clock, written_at)):
            self._trusts_from = written_at + self._lease
        self._written_at, self._clock = written_at, clock
        self._known_until = began + self._lease / 2


def _said(member: FleetMember) -> dict[str, Any]:
    """What the row of a member of a fleet says about it."""
    return {
        "kind": member.kind,
        "pools": json_text([*member.pools]),
        "agents": json_text([*member.agents]),
        "version": member.version,
        "capacity": member.capacity,
        "address": member.address,
        "isolated_in": member.isolated_in,
        "release": __version__,
    }
