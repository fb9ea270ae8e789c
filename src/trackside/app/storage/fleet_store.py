"""What the processes of a fleet do and know together, in the database that they share: `Store.fleet`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from trackside.app.storage._coordination.delays import PromoteDue
from trackside.app.storage._coordination.duties import HoldDuties, ReleaseDuties
from trackside.app.storage._coordination.fleet_reads import (
    read_duties,
    read_held,
    read_queue,
    read_ready,
    read_versioned,
    read_workers,
)
from trackside.app.storage._coordination.membership import AskToDrain, LoosenVersions, Vouch
from trackside.app.storage._coordination.recovery import Bury, Death, Reap, Reaped
from trackside.app.storage._coordination.upkeep import say_ended
from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._rows.arguments import plain
from trackside.app.storage._rows.leases import TrustsLeases
from trackside.app.storage._schema import REVISIONS, revision_of
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import SchemaMovedOnError
from trackside.app.storage.fleet import (
    HeldDuty,
    HeldRun,
    QueueDepth,
    QueueNews,
    ReadyRun,
    StoredWorker,
)
from trackside.harness.threads import in_own_thread
from trackside.harness.types import FailureReason

if TYPE_CHECKING:
    from trackside.app.storage.coordinator import StoredCoordinator

__all__ = ["FleetStore", "Reaped", "TrustsLeases"]


class FleetStore:
    """The queue, the workers and the duties of a fleet.

    Anything that it does may be done again, and by several at once: duties exist so that not all do the same work.

    Args:
        writer: that of the store.
        readers: those of the store.
        own: the ids of this process's workers.
        coordinators: theirs.
    """

    def __init__(
        self,
        writer: Writer | NoWriter,
        readers: Readers,
        own: Collection[str],
        coordinators: Collection[StoredCoordinator] = (),
    ) -> None:
        self._writer = writer
        self._readers = readers
        self._own = own
        self._coordinators = coordinators
        self.on_news: list[Callable[[QueueNews], object]] = []
        """Called, on the event loop, after each commit of this process that others have to hear of, before
        whoever wanted the commit knows of it. Must not wait and must not raise."""
        writer.on_news.append(self._tell)

    def _tell(self, news: QueueNews) -> None:
        # Nobody tells this process's own workers: they look for themselves what is asked of them.
        stops = tuple([stop for stop in news.stops if stop.worker_id not in self._own])
        if len(stops) < len(news.stops):
            for coordinator in self._coordinators:
                coordinator.nudge()
        if not (news.ready or stops):
            return
        for tell in self.on_news:
            tell(QueueNews(news.ready, stops))

    async def ready(
        self, pools: Sequence[str], *, agents: Collection[str] | None = None, older_than: float = 0.0, limit: int = 1000
    ) -> list[ReadyRun]:
        """Runs of these pools and agents (None: of all) a worker may take, let in at least `older_than` seconds ago;
        oldest first.

        Raises:
            StorageError: the database failed.
        """
        return await self._readers.run(read_ready(pools, agents, older_than, limit))

    async def check_schema(self) -> None:
        """Check that the tables are those of this version of Trackside.

        Raises:
            SchemaMovedOnError: a newer one has changed them.
            StorageError: the database failed.
        """
        found, known = await self._readers.run(revision_of), REVISIONS[-1]
        if found != known:
            raise SchemaMovedOnError(database=self._readers.database, found=found, known=known)

    async def workers(self) -> list[StoredWorker]:
        """The processes of the fleet and others on the database, including those that seem dead but are not reaped yet.

        Raises:
            StorageError: the database failed.
        """
        found = await self._readers.run(read_workers)
        return await in_own_thread(found.told)

    async def queue(self) -> QueueDepth:
        """What waits in each pool, and which runs no live worker serves (among the first 10,000 that are ready).

        Raises:
            StorageError: the database failed.
        """
        found = await self._readers.run(read_queue)
        return found.told(await self.workers())

    async def ask_to_drain(self, worker_id: str) -> bool:
        """Ask a worker to take no more runs, and to leave when it has finished; False: there is no such live worker.

        Raises:
            StorageError: it could not be written.
        """
        return bool(await self._writer.write(AskToDrain(worker_id=plain("worker_id", worker_id))))

    async def hold_duties(self, holder: str, names: Sequence[str], lease_seconds: float) -> set[str]:
        """Renew the leases of duties that a process holds, take those that nobody holds; returns those it then holds.

        It holds them for `lease_seconds` from when it asked: a process that was stopped for longer holds none, and has
        to ask again before it does anything.

        Raises:
            StorageError: it could not be written.
        """
        held: set[str] = await self._writer.write(HoldDuties(holder=holder, names=names, lease_seconds=lease_seconds))
        return held

    async def duties(self) -> list[HeldDuty]:
        """Which process has which duty.

        Raises:
            StorageError: the database failed.
        """
        return await self._readers.run(read_duties)

    async def release_duties(self, holder: str) -> None:
        """Let another process have the duties of this one at once.

        Raises:
            StorageError: it could not be written; their leases end by themselves.
        """
        await self._writer.write_to_the_end(ReleaseDuties(holder=holder))

    async def reap(self, reaper: str, *, trusts_leases: TrustsLeases | None = None) -> Reaped:
        """End the runs of all workers that are gone, and let others have those that had not started.

        A worker is gone if its lease has ended, or if it was a process of this machine and has ended. The `reaper` is
        not. While `trusts_leases`, called from any thread, says no because the database was away, an ended lease says
        nothing.

        Raises:
            StorageError: the database failed; what was done before stays.
        """
        found = Reaped([], [])
        while True:
            reap = Reap(reaper=reaper, whose="others", trusts_leases=trusts_leases)
            reaped: Reaped = await self._writer.write(reap)
            found = _together(found, reaped)
            if reaped.is_all:
                return found

    async def held(self, worker_ids: Sequence[str]) -> list[HeldRun]:
        """The runs that these workers execute.

        Raises:
            StorageError: the database failed.
        """
        return await self._readers.run(read_held(worker_ids))

    async def vouch_for(self, worker_ids: Sequence[str], lease_seconds: float) -> None:
        """Renew the leases of workers whose supervisor knows that their processes are there: one may be busy with a
        library that lets none of its other threads give a sign of life.

        Raises:
            StorageError: it could not be written.
        """
        await self._writer.write(Vouch(worker_ids=worker_ids, lease_seconds=lease_seconds))

    async def bury(
        self,
        worker_id: str,
        why: str,
        failure: FailureReason = FailureReason.worker_lost,
        *,
        stopped: Mapping[str, str] = MappingProxyType({}),
        timed_out: Mapping[str, str] = MappingProxyType({}),
    ) -> list[str]:
        """End the runs of one worker, whatever its lease says, because somebody knows that it is dead; returns which.

        Its process may have been ended because of some of them: those that were `stopped` end as cancelled, in the way
        that was asked for, and those that `timed_out` as timed out; each of these has its own reason.

        Raises:
            StorageError: the database failed; what was done before stays.
        """
        ended: list[str] = []
        death = Death(failure=failure, stopped=stopped, timed_out=timed_out)
        while True:
            buried: Reaped = await self._writer.write(Bury(worker_id=worker_id, why=why, death=death))
            say_ended(buried, why)
            ended += buried.ended
            if buried.is_all:
                return ended

    async def promote_due(self, limit: int = 256) -> list[str]:
        """Give delayed runs that nobody owns their places on their threads, as far as they are due; returns which.

        The database's clock says what is due. If there are as many as the limit, there may be more.

        Raises:
            StorageError: it could not be written.
        """
        promoted: list[str] = await self._writer.write(PromoteDue(limit=limit))
        return promoted

    async def loosen_versions(self, limit: int = 5_000, *, trusts_leases: TrustsLeases | None = None) -> int:
        """Let workers with another version of the agents take runs whose own version no live worker has.

        Returns how many; the oldest come first. If there are as many as the limit, there may be more. Runs whose agent
        no worker of their pool has, in any version, stay as they are. So do all runs while `trusts_leases` says no; see
        `reap`.

        Raises:
            StorageError: the database failed.
        """
        kinds = await self._readers.run(read_versioned)
        takers = [one for one in await self.workers() if one.takes_runs] if kinds else []
        unserved = [kind for kind in kinds if not any(one.serves(*kind) for one in takers)]
        if not unserved:
            return 0
        loosened: int = await self._writer.write(
            LoosenVersions(unserved=unserved, limit=limit, trusts_leases=trusts_leases)
        )
        return loosened


def _together(found: Reaped, reaped: Reaped) -> Reaped:
    say_ended(reaped)
    return Reaped(
        ended=[*found.ended, *reaped.ended],
        orphaned=[*found.orphaned, *reaped.orphaned],
        retries={**found.retries, **reaped.retries},
    )
