"""Takes runs for a worker of a fleet, and gives them to its host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from trackside.app.storage import _schema
from trackside.app.storage._coordination.own_runs import OwnRuns
from trackside.app.storage._coordination.recovery import Disown
from trackside.app.storage._coordination.taking import Take, TakenRun, Takings
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import StorageError
from trackside.app.storage.fleet import FleetMember, Taking
from trackside.harness.errors import ClosedError
from trackside.harness.foreign.timelimit import outlived
from trackside.harness.ports import RunHost

logger = logging.getLogger("trackside.storage")


class Taker:
    """Takes ready runs; what was taken is the host's before anybody hears of it, whoever is cancelled meanwhile.

    Args:
        writer: that of the store.
        own: the runs of this worker.
        member: what it is in the fleet.
        worker_id: the name under which it owns runs.
        database: how messages name the database.
    """

    def __init__(
        self, writer: Writer | NoWriter, own: OwnRuns, member: FleetMember, *, worker_id: str, database: str
    ) -> None:
        self._writer = writer
        self._own = own
        self._member = member
        self._worker_id = worker_id
        self._database = database
        self._unfit: set[str] = set()
        self._gathering: tuple[Take, asyncio.Task[Takings]] | None = None

    async def take(self, host: RunHost, run_ids: Sequence[str]) -> dict[str, Taking]:
        """Take these runs, as far as they can be had; returns what became of each."""
        if not run_ids or not host.agents:
            return dict.fromkeys(run_ids, Taking.busy)
        gathering = self._gathering
        # A take that has failed may never have begun: nothing more comes of it.
        if gathering is None or gathering[1].done() or not gathering[0].add(run_ids):
            work = self._work(host, [*run_ids], limit=0)
            gathering = self._gathering = work, self._begin(host, work)
        takings = await outlived(gathering[1])
        return {run_id: takings.outcomes[run_id] for run_id in run_ids}

    async def take_any(self, host: RunHost, limit: int) -> list[str]:
        """Take at most `limit` runs, those that came first; returns their ids."""
        if limit < 1 or not host.agents:
            return []
        takings = await outlived(self._begin(host, self._work(host, None, limit=limit)))
        return [run.record.run_id for run in takings.taken]

    def _work(self, host: RunHost, run_ids: list[str] | None, *, limit: int) -> Take:
        return Take(
            owner=self._worker_id,
            pools=self._member.pools,
            agents=[*host.agents],
            version=self._member.version,
            unfit=[*self._unfit],
            most=self._member.most,
            isolated_in=self._member.isolated_in,
            asked=run_ids,
            limit=limit,
            database=self._database,
            schema=_schema.REVISIONS[-1],
        )

    def _begin(self, host: RunHost, work: Take) -> asyncio.Task[Takings]:
        taking = asyncio.Task(
            self._take(host, work), loop=asyncio.get_running_loop(), name="trackside-take", eager_start=True
        )
        taking.add_done_callback(_hear)
        return taking

    async def _take(self, host: RunHost, work: Take) -> Takings:
        takings: Takings = await self._writer.write_to_the_end(work)
        refused = [run.record.run_id for run in takings.taken if not self._give(host, run)]
        self._note_unfit(takings.unfit)
        return await self._give_back(takings, refused) if refused else takings

    def _give(self, host: RunHost, run: TakenRun) -> bool:
        """Tell the host of a run that was taken; False: it takes no more."""
        run_id = run.record.run_id
        is_known = run_id in self._own
        own = self._own.take(run.record, ready=True, thread_status=run.thread_status)
        own.new_thread = run.new_thread
        try:
            if is_known:  # it was taken from this worker, which was thought to be dead
                host.on_ready(run_id)
            elif host.on_adopted(run.record, run.spec, ready=True) is False:
                self._own.forget(run_id)
                return False
        except Exception:  # the host's failure; the others are this worker's now, too
            logger.exception("run %s was taken, but waits for this process to end", run_id)
        return True

    async def _give_back(self, takings: Takings, refused: Sequence[str]) -> Takings:
        """Let others have what came too late for the closing host: it would wait here until the host has closed."""
        try:
            await self._writer.write_to_the_end(Disown(owner=self._worker_id, strangers=refused, limit=len(refused)))
        except (StorageError, ClosedError) as exc:  # the next rounds find that nobody here knows them
            logger.info("%d runs that were taken could not be given back yet: %s", len(refused), exc)
        taken = [run for run in takings.taken if run.record.run_id not in refused]
        return takings._replace(taken=taken, outcomes={**takings.outcomes, **dict.fromkeys(refused, Taking.busy)})

    def _note_unfit(self, unfit: Mapping[str, str]) -> None:
        for run_id, why in unfit.items():
            logger.warning("run %s cannot be read here, and waits for another version of Trackside: %s", run_id, why)
        self._unfit.update(unfit)


def _hear(taking: asyncio.Task[Takings]) -> None:
    """Retrieve the failure of a take, though nobody may be left who waits for it."""
    if not taking.cancelled():
        taking.exception()
