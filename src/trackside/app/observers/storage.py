"""Writes run events into a log, so that the harness never has to know that there is one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from contextvars import Context

from trackside.app.spool import DeliveryReport, EventLog, Spool, SpoolError, is_refusal
from trackside.harness.errors import TracksideError
from trackside.harness.foreign.timelimit import outlived
from trackside.harness.observer import HearTaken, RunLifecycleEvent

__all__ = ["EventLog", "NotAnEventLogError", "StorageObserver"]

logger = logging.getLogger("trackside.spool")

_FIRST_PAUSE = 1.0  # seconds
_LONGEST_PAUSE = 60.0


class NotAnEventLogError(TracksideError, TypeError):
    """{passed} is not an event log that can be appended to. Pass an open store: `async with Store.open(url) as store`."""


class StorageObserver:
    """Stores each event before any observer bound after it sees it.

    Bind it first and as required. It is enough by itself: the first event of a run makes the rows of its run and
    thread. What the log raises says by `retryable` whether the same event may be taken later; an event that is taken
    twice is stored once.

    With a `spool`, events of a finished run that the log could not take are kept on this machine's disk (I14) and
    delivered, in order, when the log is back. A task looks for it in growing pauses, and at once when the log takes
    something again. The same task tries again what this disk fails with. What comes later for a thread waits for what
    is spooled of it. At the start, before anything runs, call `deliver_spooled` for what earlier processes left; call
    `aclose` in the end, which also closes the spool.

    A subclass that changes what `on_event` stores has to change it in `on_missed`, too: events come there as they were
    announced.

    Raises:
        NotAnEventLogError: (a `TypeError`) `log` takes no events.
    """

    def __init__(self, log: EventLog, *, spool: Spool | None = None) -> None:
        if isinstance(log, type) or not callable(getattr(log, "append", None)):
            raise NotAnEventLogError(passed=f"{log!r:.100}")
        self._log = log
        self._spool = spool
        self._is_away = False
        self._is_back = asyncio.Event()
        self._delivery: asyncio.Task[DeliveryReport] | None = None
        self._lookout: asyncio.Task[None] | None = None
        self._closed = False

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Store one event."""
        await self.on_events((event,))

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Store these events in one transaction: all or none."""
        if self._spool is None:
            await self._log.append(events)
            return
        if self._spool.waiting:
            await self._deliver_before(self._spool, events)
        try:
            await self._log.append(events)
        except BaseException as exc:
            self._notice(is_away=not is_refusal(exc))
            raise
        self._notice(is_away=False)

    async def on_missed(
        self, events: Sequence[RunLifecycleEvent], failure: BaseException, *, on_taken: HearTaken | None = None
    ) -> str | None:
        """Spool the rest of a run; returns its folder, or None: there is no spool, or no log will ever take these
        events.

        `on_taken` is called when the log has the events, if this process delivers them.

        Raises:
            SpoolError: the events could not be kept there either.
        """
        if self._spool is None or is_refusal(failure):
            return None
        await self._spool.append(events, on_delivered=on_taken)
        self._is_away = True
        self._look_out(self._spool)
        return str(self._spool.folder)

    async def deliver_spooled(self) -> DeliveryReport:
        """Give the log what waits in the spool, also from processes that have ended; what is left is tried again later.

        The program's log reports whatever goes wrong; none of it keeps the program from starting.
        """
        if self._spool is None:
            return DeliveryReport()
        report = await self._deliver(self._spool)
        if report.waiting or report.failure is not None:
            self._look_out(self._spool)
        return report

    async def aclose(self) -> None:
        """Leave what is still spooled to the next start, and close the spool. May be called again."""
        self._closed = True
        tasks = [task for task in (self._delivery, self._lookout) if task is not None]
        self._delivery = self._lookout = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._spool is not None:
            await self._spool.aclose()

    def _notice(self, *, is_away: bool) -> None:
        if self._is_away and not is_away:
            self._is_back.set()
        self._is_away = is_away

    async def _deliver_before(self, spool: Spool, events: Sequence[RunLifecycleEvent]) -> None:
        """Make sure that nothing overtakes what is spooled for the same run or thread: the log would refuse the run's
        later events, and would take an older status of the thread for the newer one.

        Raises:
            Exception: the log's failure, if that may pass, or if something of the same run still waits.
        """
        runs, threads = {event.run_id for event in events}, {event.thread_id for event in events}
        for _ in range(2):  # the first may join a delivery that began before the latest events were spooled
            if not spool.holds(*runs, *threads):
                return
            failure = (await self._deliver(spool)).failure
            if failure is None or not spool.holds(*runs, *threads):  # the failure may be about other runs
                continue
            if _may_pass(failure) or spool.holds(*runs):
                raise failure

    async def _deliver(self, spool: Spool) -> DeliveryReport:
        """Deliver, or join the delivery that is under way."""
        if self._delivery is None or self._delivery.done():
            # Not in the context of the run that happens to ask: the task works for others, too (I21).
            self._delivery = asyncio.create_task(
                self._deliver_all(spool), name="trackside-spool-delivery", context=Context()
            )
        return await outlived(self._delivery)

    async def _deliver_all(self, spool: Spool) -> DeliveryReport:
        try:
            report = await spool.deliver(self._log)
        except SpoolError as exc:
            report = DeliveryReport(waiting=spool.waiting, failure=exc)
        failure = report.failure
        if failure is not None:
            what = f"the remaining events of {report.waiting} runs wait" if report.waiting else "something may wait"
            logger.warning("%s in the spool %s: %s", what, spool.folder, failure)
        if not isinstance(failure, SpoolError):  # that is about this disk, and says nothing about the log
            self._is_away = failure is not None and _may_pass(failure)
        return report

    def _look_out(self, spool: Spool) -> None:
        """Keep delivering from now on, until nothing waits and nothing fails."""
        if not self._closed and (self._lookout is None or self._lookout.done()):
            self._lookout = asyncio.create_task(
                self._deliver_until_empty(spool), name="trackside-spool-lookout", context=Context()
            )

    async def _deliver_until_empty(self, spool: Spool) -> None:
        pause = _FIRST_PAUSE
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._is_back.wait()
            self._is_back.clear()
            pause = min(2 * pause, _LONGEST_PAUSE)
            report = await self._deliver(spool)
            if not spool.waiting and report.failure is None:
                return


def _may_pass(failure: BaseException) -> bool:
    return bool(getattr(failure, "retryable", False))
