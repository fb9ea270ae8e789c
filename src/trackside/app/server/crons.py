"""Starts the runs of crons when they are due: each once, whichever processes do the same, and whatever dies meanwhile.

A run is asked for under a key made of its cron and its time, so that it is the same run however often it is asked for;
only then does the cron go on to its next time, if it still is as it was seen. A process that comes between the two, or
after one that was killed there, finds the existing run.

A server that was away for hours starts one run of a cron for all that it has missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from trackside.app.server.preparing import check_spec
from trackside.app.server.principal import Permission, Principal
from trackside.app.server.schedules import InvalidScheduleError, next_run
from trackside.app.server.starting import FOLLOWED_MODES, spec_of
from trackside.app.server.wire.crons import SHARED, asked_of
from trackside.app.storage.crons import Cron, Crons
from trackside.app.storage.errors import StorageError
from trackside.harness import RunManager, RunSpec
from trackside.harness.errors import ClosedError, InvalidSpecError, ThreadBusyError, TracksideError
from trackside.harness.foreign.timelimit import outlived
from trackside.harness.ports import Clock, SystemClock
from trackside.harness.threads import in_own_thread

logger = logging.getLogger("trackside.crons")

_LOOK_EVERY: Final = 30.0
_LATE: Final = timedelta(seconds=_LOOK_EVERY)
"""How long after a cron's end a run that was due before the end is still started."""
_OFF_DUTY: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_PATIENCE: Final = 600.0
_JUMP: Final = 60.0
_AT_ONCE: Final = 100
_LEFT_ALONE: Final = timedelta(seconds=60)
"""How long a run is due until another process than the one on duty, which may not know what is asked, starts it."""


class _NotKnownHereError(Exception):
    """A cron of a fleet asks for what this process does not know: another one, with a newer version, may know it."""


class _Left(NamedTuple):
    """A cron that is left to other processes, as it was at that time; why, and since when."""

    cron: Cron
    why: str
    since: float


class CronScheduler:
    """Starts runs as long as it is open. It sleeps until one is due, or something is changed.

    Args:
        crons: those of the store.
        manager: starts the runs.
        clock: where the time comes from.
        look_every: seconds after which it looks at what other processes have changed, and at the clock, which may have
            been put forward or back.
        on_duty: whether this process is the one that starts runs of crons now; asked every second while it is not.
            Without it, processes do not agree on one, and all of them may start runs.
        agents_on_duty: which agents the process on duty has; asked when a run is due while another process is on duty.
            This process then starts runs of agents that the other one lacks, and runs that the other one leaves alone.
            Without it, this process starts neither.
        configurable_headers: which headers of requests graphs find in the configs of runs; runs of crons have none of
            them.
        keep_ends: sees that ends of runs are kept for whatever calls webhooks; awaited before a run that has a webhook
            is started.
    """

    def __init__(
        self,
        crons: Crons,
        manager: RunManager,
        *,
        clock: Clock | None = None,
        look_every: float = _LOOK_EVERY,
        on_duty: Callable[[], bool] | None = None,
        agents_on_duty: Callable[[], Awaitable[Collection[str]]] | None = None,
        configurable_headers: Sequence[str] = (),
        keep_ends: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._crons = crons
        self._manager = manager
        self._clock = clock or SystemClock()
        self._look_every = look_every
        self._on_duty = on_duty
        self._agents_on_duty = agents_on_duty
        self._headers = configurable_headers
        self._keep_ends = keep_ends
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._starts: asyncio.Future[list[BaseException | None]] | None = None
        self._offset: float | None = None
        self._unknown: dict[tuple[str, datetime | None], float] = {}
        self._gives_up_at = 0.0
        self._left: dict[str, _Left] = {}
        """Crons that ask for something that is not known here."""

    @property
    def _is_server(self) -> bool:
        """Whether this process has all existing agents, if its version is up to date; a worker may have only a few."""
        return self._on_duty is None or self._agents_on_duty is not None

    def begin(self) -> None:
        """Start runs from now on."""
        if self._task is None:
            self._crons.on_change.append(self._changed.set)
            self._task = asyncio.create_task(self._keep_starting(), name="trackside-crons")

    async def aclose(self) -> None:
        """Start no more runs, and wait for those that are being started. May be called again."""
        if self._task is not None:
            task, self._task = self._task, None
            self._crons.on_change.remove(self._changed.set)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._starts is not None:
            await asyncio.wait({self._starts})

    async def _keep_starting(self) -> None:
        pause = 1.0
        while not self._manager.closing:
            self._changed.clear()
            try:
                on_duty = self._on_duty is None or self._on_duty()
                seconds = await (self._look() if on_duty else self._stand_in())
                pause = 1.0
            except ClosedError:  # nothing can be started any more
                return
            except Exception as exc:  # whatever it is, everybody's crons would stand still if this task ended
                logger.warning("crons wait %.0f s: %s", pause, exc, exc_info=not isinstance(exc, TracksideError))
                await asyncio.sleep(pause)
                seconds, pause = 0.0, min(2 * pause, _LONGEST_PAUSE)
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _look(self) -> float:
        """Start what is due; returns for how many seconds there is nothing to do after that.

        Raises:
            ClosedError: the manager, or the store, is closed.
            TracksideError: the store is away.
        """
        agents = self._manager.agents
        if self._clock_was_put_back():
            await self._bring_forward()
        by = await self._start_due(agents)
        await self._give_up_unknown()
        for left in self._lose_patience():
            minutes = _PATIENCE / 60
            await self._disable(left.cron, f"for {minutes:.0f} minutes no server could start its run: {left.why}")
        coming = await self._crons.next_due(agents, after=by)
        if coming is None:
            return self._look_every
        return min(self._look_every, max(0.0, (coming - self._clock.now()).total_seconds()))

    async def _stand_in(self) -> float:
        """Start what is due if the process on duty lacks its agent or leaves it alone; returns as `_look` does.

        Raises:
            ClosedError, TracksideError: as above.
        """
        agents = self._manager.agents
        self._lose_patience()
        await self._give_up_unknown()
        if self._agents_on_duty is not None and await self._due(agents, self._clock.now()):
            theirs = await self._agents_on_duty()
            if lacking := [agent for agent in agents if agent not in theirs]:
                await self._start_due(lacking)
            await self._start_due(agents, since=_LEFT_ALONE)
        return _OFF_DUTY

    async def _start_due(self, agents: Collection[str], *, since: timedelta = timedelta()) -> datetime:
        """Start what is due of these agents, and has been due for that long; returns by what time it was due."""
        while due := await self._due(agents, by := self._clock.now() - since):
            # Together, because one commit does for many. Never cancelled: what was begun for a time is finished.
            self._starts = asyncio.gather(*(self._start(cron) for cron in due), return_exceptions=True)
            for failure in await outlived(self._starts):
                if failure is not None:
                    raise failure
        return by

    async def _due(self, agents: Collection[str], by: datetime) -> list[Cron]:
        """The crons that are due by then, without those that this process leaves to others."""
        due = await self._crons.due(by, agents, limit=_AT_ONCE + len(self._left))
        return [cron for cron in due if not self._is_left(cron)]

    def _is_left(self, cron: Cron) -> bool:
        left = self._left.get(cron.cron_id)
        return left is not None and left.cron.updated_at == cron.updated_at

    def _lose_patience(self) -> list[_Left]:
        """Forget the crons that were left to others for long enough, so that this process looks at them again."""
        now = self._clock.monotonic()
        found = [left for left in self._left.values() if now - left.since >= _PATIENCE]
        for left in found:
            del self._left[left.cron.cron_id]
        return found

    async def _start(self, cron: Cron) -> None:
        """Start the run that is due, unless it was started already, and move the cron on."""
        due = cron.next_run_at
        assert due is not None
        end = cron.end_time
        is_over = end is not None and (due > end or self._clock.now() > end + _LATE)
        try:
            reason = None if is_over else await self._reason_against(cron, due)
        except _NotKnownHereError as exc:
            logger.warning("cron %s stays due for a process that knows what it asks for: %s", cron.cron_id, exc)
            self._left[cron.cron_id] = _Left(cron, str(exc), self._clock.monotonic())
            return
        if reason is None:
            await self._go_on(cron, max(due, self._clock.now()))
        else:
            await self._disable(cron, reason)

    async def _reason_against(self, cron: Cron, due: datetime) -> Exception | None:
        """Start a run, if it does not exist yet; returns the reason if there can never be one.

        Raises:
            ClosedError: the manager is closed.
            TracksideError: the store is away.
            _NotKnownHereError: another process may know what the cron asks for.
        """
        try:
            spec = self._spec(cron, due)
            if cron.payload.get("webhook") is not None:
                await self._see_that_its_end_is_kept(cron)
            handle = await self._manager.start(spec)
        except ThreadBusyError as exc:  # the cron asked for that on a busy thread
            logger.info("cron %s starts no run for %s: %s", cron.cron_id, due, exc)
        except (TracksideError, msgspec.ValidationError) as exc:
            if isinstance(exc, TracksideError) and (exc.retryable or exc.fault == "store" or type(exc) is ClosedError):
                raise
            is_there = isinstance(exc, InvalidSpecError) and exc.details.get("field") == "idempotency_key"
            return None if is_there else exc  # the run exists, and the cron has been changed since
        except _NotKnownHereError:
            raise
        except Exception:  # a mistake of ours, or the agent's: one cron's must not keep all others waiting
            logger.exception("cron %s starts no run for %s", cron.cron_id, due)
        else:
            logger.info("cron %s has run %s for %s", cron.cron_id, handle.run_id, due)
        return None

    async def _see_that_its_end_is_kept(self, cron: Cron) -> None:
        """See that the webhook of a run can be called, even if what does that was deleted since the cron was made.

        Raises:
            StorageError: the store is away.
        """
        if self._keep_ends is None:
            return
        try:
            await self._keep_ends()
        except StorageError as exc:
            if exc.fault == "store":
                raise
            logger.warning("cron %s starts a run whose end its webhook may not be told: %s", cron.cron_id, exc)

    def _spec(self, cron: Cron, due: datetime) -> RunSpec:
        if self._manager.closing:  # what a newer version in its place asks for no longer concerns it
            raise ClosedError(what="run manager")
        owner = Principal(identity=cron.owner, permission=Permission.run)
        try:
            more: Any = {"modes": FOLLOWED_MODES, "unasked": self._headers}
            spec = spec_of(asked_of(cron), self._manager, owner, cron.thread_id, **more)
            if self._on_duty is None:  # else another version of the agent, which knows better, may execute it
                check_spec(self._manager, spec)
        except (TracksideError, msgspec.ValidationError) as exc:
            if self._on_duty is None:
                raise
            raise _NotKnownHereError(str(exc)) from exc
        return msgspec.structs.replace(
            spec,
            trigger="cron",
            any_owner=bool(cron.payload.get(SHARED)),
            metadata=(metadata := {**cron.metadata, "cron_id": cron.cron_id}),
            thread_metadata=metadata,
            idempotency_key=f"cron:{cron.cron_id}:{due.isoformat()}",
        )

    async def _go_on(self, cron: Cron, when: datetime) -> None:
        """Make the first time after `when` a cron's next one, if the cron still is as it was."""
        try:
            coming = await in_own_thread(next_run, cron.schedule, cron.timezone, cron.end_time, when)
        except InvalidScheduleError as exc:  # a time zone that no longer exists
            await self._disable(cron, exc)
        else:
            await self._crons.replace(cron, replace(cron, next_run_at=coming))

    async def _disable(self, cron: Cron, reason: object) -> None:
        """Disable a cron, if it still is as it was."""
        why, now = str(reason), self._clock.now()
        changed = replace(cron, enabled=False, disabled_because=why, next_run_at=None, updated_at=now)
        if await self._crons.replace(cron, changed):
            logger.warning("cron %s is disabled: %s", cron.cron_id, reason)

    async def _give_up_unknown(self) -> None:
        """Disable crons of agents that are not here, and whose run no other process has started for a while.

        Each server looks for them, on duty or not, because a worker may be on duty, which does not know of all agents.
        """
        now = self._clock.monotonic()
        if not self._is_server or now < self._gives_up_at:
            return
        self._gives_up_at = now + self._look_every
        unknown = await self._crons.unknown(self._clock.now(), self._manager.agents, limit=_AT_ONCE)
        known_since, self._unknown = self._unknown, {}
        for cron in unknown:
            run = cron.cron_id, cron.next_run_at
            self._unknown[run] = known_since.get(run, now)
            if now - self._unknown[run] >= _PATIENCE:
                minutes = _PATIENCE / 60
                await self._disable(cron, f"for {minutes:.0f} minutes no server had an agent {cron.agent!r}")

    def _clock_was_put_back(self) -> bool:
        """Whether the clock was put back since the last look; before the first look, it may have been."""
        before, self._offset = self._offset, self._clock.now().timestamp() - self._clock.monotonic()
        return before is None or self._offset < before - _JUMP

    async def _bring_forward(self) -> None:
        """See that no cron waits for a time that was worked out by a clock that was ahead.

        Runs that were started by that clock are not started again: their keys exist.
        """
        last: Cron | None = None
        while page := await self._crons.upcoming(last, limit=_AT_ONCE):
            for cron in page:
                await self._bring_forward_one(cron)
            last = page[-1]

    async def _bring_forward_one(self, cron: Cron) -> None:
        now = self._clock.now()
        if cron.next_run_at is None or cron.next_run_at <= now + timedelta(seconds=_JUMP):
            return
        try:
            coming = await in_own_thread(next_run, cron.schedule, cron.timezone, cron.end_time, now)
        except InvalidScheduleError as exc:
            await self._disable(cron, exc)
            return
        if coming is not None and coming < cron.next_run_at:
            await self._crons.replace(cron, replace(cron, next_run_at=coming))
