"""What one worker does for all: it ends what others left behind, takes over what waits, and hears what they want."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Final, Literal

from sqlalchemy import or_, select

from trackside.app.storage._coordination.enrolment import BEATS_PER_LEASE, Enrolment
from trackside.app.storage._coordination.own_runs import OwnRun, OwnRuns
from trackside.app.storage._coordination.recovery import (
    Adopt,
    Adopted,
    Adoption,
    Disown,
    ListOwned,
    Lose,
    Owned,
    Reap,
    Reaped,
    left_to_others,
)
from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._rows.tables import active_runs
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import StorageError
from trackside.harness.ports import RunHost

logger = logging.getLogger("trackside.storage")

_LEAST_PAUSE: Final = 0.2  # seconds between two looks at what others did
_REST: Final = 5  # times as long as a look took
_AT_ONCE: Final = 256  # runs in one transaction


class Upkeep:
    """Looks after the queue of runs: three rounds in the length of a lease, and a look whenever it is nudged.

    Args:
        writer: that of the store.
        readers: those of the store.
        own: the runs of this worker.
        enrolment: makes this worker known.
        worker_id: the name under which it owns runs.
        lease_seconds: how long its lease is.
        takes_over: whether it executes what others leave.
        in_fleet: whether others end the runs of workers that are gone, and announce what may be taken: then it looks only at
            what is its own, three times in the length of a lease, and when it is nudged.
    """

    def __init__(
        self,
        writer: Writer | NoWriter,
        readers: Readers,
        own: OwnRuns,
        enrolment: Enrolment,
        *,
        worker_id: str,
        lease_seconds: float,
        takes_over: bool,
        in_fleet: bool = False,
    ) -> None:
        self._writer = writer
        self._readers = readers
        self._own = own
        self._enrolment = enrolment
        self._worker_id = worker_id
        self._period = lease_seconds / BEATS_PER_LEASE
        self._takes_over = takes_over and not in_fleet
        self._in_fleet = in_fleet
        self._host: RunHost | None = None
        self._unfit: set[str] = set()
        self._strangers: set[str] = set()
        """Runs that are this worker's in the database, but were not known here in the last round."""
        self._lost: set[str] = set()
        """Runs whose ends are kept nowhere."""
        self._nudge = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._asked = self._looked = 0

    def begin(self, host: RunHost) -> None:
        """Look after runs for this manager from now on."""
        self._host = host
        self._task = asyncio.create_task(self._keep_up(), name="trackside-coordinator")

    def nudge(self) -> None:
        """Make it look soon: something that may matter was committed, here or elsewhere."""
        self._nudge.set()

    def lose(self, run_id: str) -> None:
        """Make it end a run that has ended here, but whose end is kept nowhere."""
        self._lost.add(run_id)
        self.nudge()

    def stop(self) -> list[asyncio.Task[None]]:
        """Stop; returns what the caller then has to await."""
        if self._task is None:
            return []
        self._task.cancel()
        return [self._task]

    async def _keep_up(self) -> None:
        next_round = 0.0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._enrolment.enroll()
                await self.end_lost()
                if began >= next_round:
                    next_round = began + self._period
                    await self.clear_up()
                    await self.disown()
                elif await self._is_left():
                    await self._take_over()
                began = loop.time()
                await self.look()
            except StorageError as exc:
                logger.warning("the queue of runs cannot be looked after: %s", exc)
            except Exception:  # whatever it is, others' runs would wait for ever if this ended
                logger.exception("the queue of runs cannot be looked after")
            # This process's own commits give hints, too, and with thousands of runs waiting there is much to look at. A
            # look that waited for a database that was away is no reason to put off the next one for long.
            await asyncio.sleep(max(_LEAST_PAUSE, min(self._period, _REST * (loop.time() - began))))
            try:
                async with asyncio.timeout(0.0 if self._lost else max(0.0, next_round - loop.time())):
                    await self._nudge.wait()
            except TimeoutError:
                pass
            self._nudge.clear()

    async def clear_up(self) -> None:
        """End the runs of workers that are gone, and take over what waits.

        Raises:
            StorageError: the store failed; the next round goes on from there.
        """
        is_all = False
        while not is_all:  # a part in each transaction, so that nobody waits long
            whose: Literal["own", "all"] = "own" if self._in_fleet else "all"
            trusts_leases = self._enrolment.trusts_leases
            reap = Reap(reaper=self._worker_id, known=self._own.ids(), whose=whose, trusts_leases=trusts_leases)
            reaped: Reaped = await self._writer.write(reap)
            say_ended(reaped)
            is_all = reaped.is_all
        await self._take_over()

    async def take_what_is_left(self) -> None:
        """Do the same at once, if this worker takes runs over, for a caller who asks for such a run, and must not hear
        that a process that is gone has it. Callers who ask meanwhile share the next look.

        Raises:
            StorageError: the store failed.
        """
        if not self._takes_over:
            return
        self._asked = asked = self._asked + 1
        async with self._turn:
            if self._looked < asked:
                seen = self._asked
                await self.clear_up()
                self._looked = seen

    async def _is_left(self) -> bool:
        """Whether runs wait that this worker could take over: another worker has closed, and its commit said so."""
        host = self._host
        if host is None or not host.agents or not self._takes_over:
            return False
        query = left_to_others([*host.agents], [*self._unfit])
        return await self._readers.first(query, lambda row: row) is not None

    async def _take_over(self) -> None:
        host = self._host
        is_all = host is None or not host.agents or not self._takes_over
        while host is not None and not is_all:
            self._enrolment.stay()
            adopt = Adopt(owner=self._worker_id, agents=[*host.agents], unfit=[*self._unfit])
            adoption: Adoption = await self._writer.write(adopt)
            # All at once: whoever makes one of them leave has to find it here.
            refused = [one.record.run_id for one in adoption.adopted if not self._adopt(host, one)]
            for run_id, why in adoption.unfit.items():
                logger.warning("run %s waits for another version of Trackside: %s", run_id, why)
            self._unfit.update(adoption.unfit)
            if refused:
                await self._writer.write(Disown(owner=self._worker_id, strangers=refused))
            is_all = adoption.is_all or bool(refused)  # else those would be taken over again at once

    def _adopt(self, host: RunHost, adopted: Adopted) -> bool:
        """Tell the host of a run that was taken over; False: it takes no more."""
        record = adopted.record
        is_known = record.run_id in self._own
        own = self._own.take(record, ready=adopted.ready, thread_status=adopted.thread_status)
        if is_known:  # taken from this worker, which was thought to be dead, and given back
            return True
        try:
            if host.on_adopted(record, adopted.spec, ready=own.ready) is False:
                self._own.forget(record.run_id)
                return False
        except Exception:  # the host's failure; the others of the round are this worker's now, too
            logger.exception("run %s was taken over, but waits for this process to end", record.run_id)
        return True

    async def end_lost(self) -> None:
        """End the runs whose ends are kept nowhere.

        Raises:
            StorageError: the store failed; they are ended the next time.
        """
        while lost := [*self._lost][:_AT_ONCE]:
            reaped: Reaped = await self._writer.write(Lose(owner=self._worker_id, untold=lost))
            say_ended(reaped, "its end is kept nowhere")
            self._lost.difference_update(lost)

    async def disown(self) -> None:
        """Give back runs that are this worker's without its knowledge, because the reply to their taking, adoption or
        admission was lost.

        A run that is on its way at this moment is known by the next round, so only what two rounds in a row find is a
        stranger. An admission may take longer, as its reply may be asked for once more, but whoever made it still waits.

        Raises:
            StorageError: the store failed.
        """
        query = select(active_runs.c.run_id).where(active_runs.c.owner == self._worker_id)
        owned = await self._readers.all(query, lambda row: str(row.run_id))
        self._own.untold.intersection_update(owned)
        unknown = {run_id for run_id in owned if not self._own.is_expected(run_id)}
        strangers, self._strangers = unknown & self._strangers, unknown
        if strangers:
            await self._writer.write(Disown(owner=self._worker_id, strangers=strangers))
            for run_id in strangers:
                if run_id not in self._own:  # else it was heard of meanwhile, and a look tells that it is lost
                    self._own.forget(run_id)

    async def look(self) -> None:
        """Compare what this worker thinks is its own with what the database says.

        Raises:
            StorageError: the store failed.
        """
        host = self._host
        before = {own.record.run_id: own for own in self._own if not own.over}
        if host is None or not before:
            return
        cancelled = {run_id for run_id, own in before.items() if own.cancel_requested is not None}
        owned = {run.run_id: run for run in await self._writer.write(ListOwned(owner=self._worker_id))}
        claimed = [run_id for run_id, own in before.items() if own.claimed and run_id not in owned]
        to_start = await self._still_to_start(claimed)
        for run_id, own in before.items():
            if self._own.get(run_id) is not own or own.over or run_id in to_start:
                continue
            if run_id in owned:
                _hear(host, own, owned[run_id], was_cancelled=run_id in cancelled)
            elif run_id in claimed or not own.claimed:  # one that was claimed since is for the next look
                self._own.forget(run_id)
                host.on_lost(run_id)

    async def _still_to_start(self, claimed: Sequence[str]) -> Collection[str]:
        """Which of the runs that are claimed here, but are not this worker's by the database, are not lost.

        The database hears of a claim through the start of the run. A worker that was taken for dead before that still
        has the run, as long as nobody else has it: the start may be on its way, and the log takes it. Giving the run up
        now would leave it started and executed by nobody.
        """
        if not claimed:
            return ()
        owner = active_runs.c.owner
        free = or_(owner.is_(None), owner == self._worker_id)
        query = select(active_runs.c.run_id).where(active_runs.c.run_id.in_(claimed), free)
        return {*await self._readers.all(query, lambda row: str(row.run_id))}


def say_ended(reaped: Reaped, why: str = "its worker is lost") -> None:
    """Log which runs were ended, because their workers are lost or for another reason that is known."""
    for run_id in reaped.ended:
        retried_as = reaped.retries.get(run_id)
        goes_on = "" if retried_as is None else f"; it is started anew as run {retried_as}"
        logger.warning("run %s was ended: %s%s", run_id, why, goes_on)


def _hear(host: RunHost, own: OwnRun, said: Owned, *, was_cancelled: bool) -> None:
    run_id = own.record.run_id
    # One that was known to be cancelled, and waits all the same, could not be taken out of the queue when that was tried.
    is_left = was_cancelled and said.has_not_begun and not (own.claimed or own.withdrawn)
    if said.cancel_requested is not None and (own.cancel_requested is None or is_left):
        if own.cancels:
            return
        own.cancel_requested = said.cancel_requested
        host.on_cancel(run_id, said.cancel_requested)
    elif said.ready and not own.claimed and not own.withdrawn:
        own.ready, own.thread_status = True, said.thread_status
        host.on_ready(run_id)
