"""The store: a log of run events in a database, and what it tells about runs and threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, BinaryIO
from weakref import WeakSet

from trackside.app.storage._coordination.cancelling import StoreCancelling
from trackside.app.storage._coordination.endings import tell_ends
from trackside.app.storage._databases.backend import Synchronous
from trackside.app.storage._databases.backends import backend_at
from trackside.app.storage._databases.postgres.signals import PostgresSignals
from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._databases.signals import CommitSignals
from trackside.app.storage._graph.checkpoints import GraphCheckpoints
from trackside.app.storage._reading.facts import StoreFacts, facts_of
from trackside.app.storage._reading.follow import EventFeed, FollowOptions, HearOutage
from trackside.app.storage._reading.follower import Follower
from trackside.app.storage._reading.reads import StoreReading
from trackside.app.storage._reading.recent import EventFilter
from trackside.app.storage._rows.arguments import AnyOf, check_option, check_seconds_option
from trackside.app.storage._rows.encoding import encode_events
from trackside.app.storage._rows.leases import MAX_LEASE_SECONDS
from trackside.app.storage._rows.records import StoredEvent
from trackside.app.storage._schema import make_ready
from trackside.app.storage._threads.states import StoredThreadStates
from trackside.app.storage._writing.appending import Append
from trackside.app.storage._writing.writer import NoWriter, WriteLimits, Writer
from trackside.app.storage.api_keys import ApiKeys
from trackside.app.storage.coordinator import LEASE_SECONDS, MIN_LEASE_SECONDS, StoredCoordinator
from trackside.app.storage.crons import Crons
from trackside.app.storage.errors import InvalidEventError, InvalidQueryError, NoBusError, StoreOptionError
from trackside.app.storage.fleet import FleetMember
from trackside.app.storage.fleet_store import FleetStore
from trackside.app.storage.importing import ImportReport, OnImported, import_events
from trackside.app.storage.items import Items
from trackside.app.storage.live_parts import LiveParts
from trackside.app.storage.retention import BATCH, OnRemoved, Outdated, PruneReport, foresee, prune
from trackside.app.storage.run_log import StoredRunLog
from trackside.app.storage.subscriptions import Subscriptions
from trackside.app.storage.sweeping import SWEEP_EVERY, ForgetMemory, Sweeper
from trackside.app.storage.threads import Threads
from trackside.app.storage.transfer import (
    ExportChoice,
    ExportFormat,
    ExportReport,
    OnWritten,
    OpenedExport,
    export_events,
    open_export,
    writer_of,
)
from trackside.app.vitals import WriterStats
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from trackside.app.storage._databases.postgres.bus import PostgresBus


class Store(StoreReading, StoreCancelling):
    """A database of runs, opened with `Store.open`.

    Once `append` returns, the events are on disk. A store belongs to the event loop in which it was opened. Other
    processes may open the same file at the same time, except those that are forked while it is open here.
    """

    def __init__(self, writer: Writer | NoWriter, readers: Readers, signals: CommitSignals, feed: EventFeed) -> None:
        self._writer = writer
        self._readers = readers
        self._signals = signals
        self._feed = feed
        self._coordinators = WeakSet[StoredCoordinator]()  # the writer holds those that are not closed
        self._workers: set[str] = set()
        self._graph_checkpoints = GraphCheckpoints(writer, readers)
        writer.on_commit += [feed.on_commit, lambda _: signals.announce()]
        self.subscriptions = Subscriptions(writer, readers, signals)
        """Observers with a name and a cursor, which are fed from the log whatever dies in between."""
        self.api_keys = ApiKeys(writer, readers)
        """The keys with which clients of a server say who they are."""
        self.items = Items(writer, readers)
        """What agents keep beyond their threads."""
        self.crons = Crons(writer, readers)
        """Runs that are to be started again and again."""
        self.fleet = FleetStore(writer, readers, self._workers, self._coordinators)
        """What servers and workers that share the database do and know together."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        *,
        create: bool = True,
        read_only: bool = False,
        synchronous: Synchronous = "FULL",
        busy_timeout: float = 5.0,
        limits: WriteLimits | None = None,
        follow: FollowOptions | None = None,
    ) -> AsyncGenerator[Store]:
        """Open a database for the length of an `async with`; if need be, create it or bring its tables up to date.

            async with Store.open("sqlite:///trackside.db") as store:
                manager = RunManager(agents, observers=[ObserverBinding(StorageObserver(store), required=True)])

        Args:
            url: `sqlite:///relative/path.db`, `sqlite:////absolute/path.db` or `postgresql://user:password@host/database`.
            create: create the database (on PostgreSQL the tables in it) if it is missing; False refuses instead.
            read_only: only look: nothing is made, changed, brought up to date or left behind, whatever the other options
                say. Permission to read the file is enough. What others commit meanwhile is seen.
            synchronous: "FULL" survives a power cut, "NORMAL" only the end of the process (and is faster). On PostgreSQL
                "NORMAL" is `synchronous_commit = off`: what was committed in the last second before the server crashes may
                be lost.
            busy_timeout: how many seconds a write, or opening the database, waits for others at the same place. On
                PostgreSQL also how long what has lost its connection is repeated, and a read waits if none succeeds.
            limits: how much one transaction takes, and how much may wait.
            follow: what is kept in memory for followers of the log, and how soon they see what others write.

        Raises:
            StorageError: the database cannot be used; the type and the message say why and what to do.
        """
        limits = WriteLimits() if limits is None else limits
        following = FollowOptions() if follow is None else follow
        check_option("create", create, bool)
        check_option("read_only", read_only, bool)
        check_option("limits", limits, WriteLimits)
        check_option("follow", following, FollowOptions)
        backend = await asyncio.to_thread(backend_at, url, synchronous=synchronous, busy_timeout=busy_timeout)
        database = str(backend)
        await make_ready(backend, create=create, read_only=read_only)
        readers = Readers(await asyncio.to_thread(backend.reads, standby=read_only), database=database)
        signals = await asyncio.to_thread(backend.signals, every=following.look_every)
        feed = EventFeed(readers, signals, following, database=database)
        if read_only:
            store = cls(NoWriter(database=database), readers, signals, feed)
        else:
            session, beside = await asyncio.to_thread(backend.session), backend.session_beside
            writer = Writer(session, database=database, limits=limits, patience=busy_timeout, beside=beside)
            store = cls(writer, readers, signals, feed)
        try:
            yield store
        finally:
            await store.aclose()

    def leave_within(self, seconds: float) -> None:
        """Prepare to leave: wait for a database that does not answer until `seconds` from now at most.

        What cannot be written by then fails at once, instead of after `busy_timeout`. Of several calls, the soonest
        counts.
        """
        self._writer.leave_within(seconds)

    async def aclose(self) -> None:
        """Write what was accepted, and close. The `async with` does it; may be called again."""
        async with AsyncExitStack() as closing:  # from the last to the first
            closing.push_async_callback(self._signals.aclose)
            closing.push_async_callback(self._writer.aclose)
            closing.push_async_callback(self._readers.aclose)
            closing.push_async_callback(self._feed.aclose)
            closing.callback(self._writer.refuse_more)
            for coordinator in self._coordinators:
                closing.push_async_callback(coordinator.aclose)

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[StoredEvent]:
        """Store events, in this order, all or none; on return, they and the rows that follow from them are on disk.

        An event that is stored already is not stored again: it is returned as it is stored (I4). Payloads are made
        canonical (I9). Cancelling the caller does not undo what was begun.

        Raises:
            EventOrderError: an event cannot follow, or begins a run on a thread that is gone (`RemovedThreadError`).
            EventConflictError: an event id belongs to another event.
            InvalidEventError: an event has a field that cannot be stored.
            PayloadError: a payload cannot be read.
            ClosedError: the store is closed.
            ReadOnlyStoreError: the store was opened with `read_only`.
            StorageError: the database failed; if it is `retryable`, the same call may succeed later.
        """
        if not isinstance(events, Iterable):
            raise InvalidEventError(field="type", value=type(events).__name__, why="a store takes a sequence of events")
        rows = encode_events(events)
        if not rows:
            return []
        stored = await self._writer.write(Append(rows, self._workers))
        return [StoredEvent(row.position, row.event) for row in stored]

    def follow(
        self,
        after: int = 0,
        *,
        run_id: str | None = None,
        thread_id: str | None = None,
        agent: str | None = None,
        types: AnyOf[LifecycleEventType] | None = None,
        since: datetime | None = None,
        owner: str | None = None,
        on_outage: HearOutage | None = None,
    ) -> Follower:
        """Iterate over matching events in order of position: first those that are there, then each new one.

            async for stored in store.follow(after=last_seen):
                last_seen = stored.position

        No event is missed and none comes twice, whoever wrote it. What this store commits comes at once; what other
        processes commit, a moment later. Any number of followers may follow at the same time, each at its own pace: one
        reader serves all that are near the end, and a follower that falls behind reads the log for itself.

        It ends only when the store is closed: while the database is away it waits, and then goes on. `on_outage` is called
        with the error when an outage begins; an error that cannot pass by itself is raised. The filters are those of
        `events`, without one by status, because a status changes after the event. You can just leave the loop: nothing has
        to be closed. Followers may share the event object, so do not change its payload.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it. For an `after` behind the end of the log it
                is raised when the first event is asked for.
            ClosedError: the store is closed.
        """
        if on_outage is not None and not callable(on_outage):
            raise InvalidQueryError(field="on_outage", value=on_outage, why="it is a function that takes the error")
        wanted = EventFilter.of(
            run_id=run_id, thread_id=thread_id, agent=agent, types=types, since=since, owner=owner, after=after
        )
        read = partial(
            self.events, run_id=run_id, thread_id=thread_id, agent=agent, types=types, since=since, owner=owner
        )
        return Follower(self._feed, wanted, after, read, on_outage=on_outage)

    def threads_of(self, owner: str | None) -> Threads:
        """The threads of an owner, as the owner's clients see them; None: everybody's.

            page = await store.threads_of("ada").search(ThreadQuery(metadata={"customer": "acme"}, limit=20))

        Create, search, change and remove threads with it.
        """
        return Threads(self._writer, self._readers, owner)

    def sweeper(
        self, *, forget: Sequence[ForgetMemory] = (), every: float = SWEEP_EVERY, linger: float = 0.0
    ) -> Sweeper:
        """Clears up after threads that are gone, and removes threads whose time is over, while its `async with` lasts.

        Args:
            forget: functions that take a list of thread ids and remove what these threads remember outside this store.
            every: seconds between two rounds; what this process removed is seen to soon.
            linger: seconds that the memory of a thread that ended with its run outlives it, for those who ask again, or
                ask another process, what it gave. What was deleted goes at once.

        Raises:
            StoreOptionError: `every` is not a number of seconds from 0.1 to 86400, `linger` not one from 0 to 31536000, or
                `forget` is not a list of functions.
        """
        return Sweeper(self._writer, self._readers, self.items, forget=forget, every=every, linger=linger)

    def on_removal(self, hear: Callable[[Sequence[str]], object]) -> None:
        """Call `hear`, on the event loop, with the ids of threads that this process has removed, whoever wanted it."""
        self._writer.on_removal.append(hear)

    def on_end(self, hear: Callable[[RunLifecycleEvent], object]) -> None:
        """Call `hear`, on the event loop, with the ends that this process announces for runs of another process."""
        self._writer.on_commit.append(partial(tell_ends, hear))

    async def remove_run(self, thread_id: str, run_id: str, *, owner: str | None = None) -> None:
        """Remove, for clients, a run that has ended, of a thread that this owner may see; see `Threads.remove_run`.

        Raises:
            UnknownThreadError: there is no such thread.
            UnknownRunError: it has no such run.
            RunInUseError: the run has not ended.
            StorageError: the database failed.
        """
        await self.threads_of(owner).remove_run(thread_id, run_id)

    async def prune(
        self,
        *,
        older_than: timedelta | datetime | None,
        status: AnyOf[RunStatus] | None = None,
        agent: str | None = None,
        thread_id: str | None = None,
        batch: int = BATCH,
        dry_run: bool = False,
        on_removed: OnRemoved | None = None,
    ) -> PruneReport:
        """Remove whole runs that ended long ago, while others go on writing. What is removed is gone for good.

        A thread at rest goes with its last run, and so does what it remembers. Runs stay if they are active, if their
        question waits for a human, or if a subscription needs them: it has not passed all their events, or has one parked.
        A prune that was cut short has removed some of the runs, and the next one continues.

        Args:
            older_than: how long ago, or before which moment, the runs ended; for a thread's last run also how long ago the
                thread was changed. None: whenever.
            status: only runs that ended with this status, or one of these; at least one.
            agent: only runs of this agent.
            thread_id: only runs of this thread.
            batch: about how many events one transaction removes.
            dry_run: remove nothing, and report what would be removed now.
            on_removed: called after each transaction with what has been removed so far.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
            ReadOnlyStoreError: the store was opened with `read_only`, and this is not a `dry_run`.
            StorageError: the database failed; what had been removed stays removed.
        """
        now = datetime.now(UTC)
        outdated = Outdated.since(now, older_than, status=status, agent=agent, thread_id=thread_id)
        if dry_run:
            return await foresee(self._readers, outdated)
        return await prune(self._writer, self._readers, outdated, batch=batch, on_removed=on_removed)

    async def export_events(
        self,
        file: BinaryIO,
        *,
        format: ExportFormat = "jsonl",
        start: int = 1,
        to: int | None = None,
        run_id: str | None = None,
        thread_id: str | None = None,
        agent: str | None = None,
        types: AnyOf[LifecycleEventType] | None = None,
        since: datetime | None = None,
        on_written: OnWritten | None = None,
    ) -> ExportReport:
        """Write events to a file, in the order of the log, up to where it ends now.

        Events are read page by page, so that memory does not grow with them and others may write meanwhile. An export of
        all events of some runs stands for these runs: whatever else is stored of them follows from their events. It lacks
        the runs' requests, the threads' owners, metadata, lifetimes and what they remember, queues, subscriptions, and
        runs that were deleted, or whose threads were.

        Args:
            file: where to write; it is not closed.
            format: "jsonl" or "parquet".
            start: the first position.
            to: the last position; None: the end of the log.
            run_id: only of this run.
            thread_id: only of this thread.
            agent: only of runs of this agent.
            types: only events of this type, or one of these. Such an export cannot be imported.
            since: only events that occurred then or later.
            on_written: called after each page with how far the export is.

        Raises:
            InvalidQueryError: an argument does not fit; the message names it.
            MissingParquetError: the format is Parquet, and nothing here can write it.
            ExportTornError: runs were removed meanwhile, and what was written has some of them in part.
            StorageError: the database cannot be read.
        """
        choice = ExportChoice.of(
            start=start, to=to, run_id=run_id, thread_id=thread_id, agent=agent, types=types, since=since
        )
        writer = await asyncio.to_thread(writer_of, file, format)
        return await export_events(self._readers, writer, choice, on_written)

    async def import_events(
        self,
        file: BinaryIO | OpenedExport,
        *,
        format: ExportFormat = "jsonl",
        on_imported: OnImported | None = None,
    ) -> ImportReport:
        """Append the events of an export that are not here yet, in the order of the export.

        In an empty store they keep their positions, with all holes; in a store with other events they get the next ones.
        Each transaction leaves a valid store. To continue an import that was cut short, do it again.

        An export does not contain what threads remember, so a question that waits for an answer there cannot be answered
        here. Runs that had not ended stay so, and nobody executes them; the report counts them. A thread that would be
        busy without any run gets the status that its last run leaves.

        Args:
            file: where to read from (it is not closed), or what `transfer.open_export` has opened.
            format: of a file: "jsonl" or "parquet".
            on_imported: called after each transaction with how many events of the export are done.

        Raises:
            InvalidQueryError: there is no such format, or the file gives no bytes.
            ForeignExportError: the file is not an export.
            ExportTooNewError: a newer version made it.
            ExportDamagedError: one of its lines is wrong; what came before that line is imported.
            ImportConflictError: an event cannot follow what its run has here, or its id is another event's
                (`PartialExportError`, if the export contains only a part of some runs).
            MissingParquetError: the format is Parquet, and nothing here can read it.
            ReadOnlyStoreError: the store was opened with `read_only`.
            StorageError: the database failed; what was imported before stays.
        """
        if not isinstance(file, OpenedExport):
            file = await asyncio.to_thread(open_export, file, format=format)
        return await import_events(self._writer, self._readers, file, on_imported)

    def thread_states(self) -> StoredThreadStates:
        """What threads remember, for a manager: `RunManager(…, states=store.thread_states())`."""
        return StoredThreadStates(self._writer, self._readers)

    def checkpointer(self) -> BaseCheckpointSaver[str]:
        """Where LangGraph's graphs keep their threads: `builder.compile(checkpointer=store.checkpointer())`.

        With a manager, `RunManager(…, checkpointer=store.checkpointer())`, it serves all graphs that have none of their
        own. `graph_checkpoints.StoreCheckpointer` says what it promises. All from one store know of each other.

        Raises:
            ImportError: LangGraph is not installed.
        """
        from trackside.app.storage.graph_checkpoints import StoreCheckpointer  # and with it LangGraph

        return StoreCheckpointer(self._graph_checkpoints, asyncio.get_running_loop())

    def writer_stats(self) -> WriterStats:
        """What this process has written so far, in numbers; may be called from any thread."""
        return self._writer.stats()

    @property
    def worker_ids(self) -> frozenset[str]:
        """The names under which this process looks after runs."""
        return frozenset(self._workers)

    async def facts(self) -> StoreFacts:
        """What the database is and holds, however much that is, and which processes look after runs in it.

        Raises:
            StorageError: the database failed.
        """
        return await facts_of(self._readers, own={*self._workers})

    def bus(self) -> PostgresBus:
        """The bus on which processes that share the database tell each other things. It is closed with the store.

        Raises:
            NoBusError: the database has no server.
        """
        if not isinstance(self._signals, PostgresSignals):
            raise NoBusError(database=self._readers.database)
        return self._signals.bus

    def live_parts(self) -> LiveParts:
        """The latest live output of runs, for processes that are told of it on the bus.

        Raises:
            NoBusError: the database has no server.
        """
        return LiveParts(self.bus(), self._readers)

    def run_log(self) -> StoredRunLog:
        """Where optional observers that were too slow read events again: `RunManager(…, log=store.run_log())`."""
        return StoredRunLog(self._readers)

    def coordinator(
        self,
        *,
        lease_seconds: float = LEASE_SECONDS,
        hands_over: bool = True,
        keeps_requests: bool = True,
        fleet: FleetMember | None = None,
    ) -> StoredCoordinator:
        """Decides which run may execute, for a manager whose runs are recorded here, beside other processes.

            coordinator = store.coordinator()
            RunManager(agents, observers=[ObserverBinding(StorageObserver(store), required=True)], coordinator=coordinator)

        It is closed with the store: close the manager first. If the store outlives the manager, call the coordinator's
        `aclose`: the process then gives no more signs of life for it, and keeps nothing of either.

        Args:
            lease_seconds: after this many seconds without a sign of life the process is taken for dead, and others end its
                runs. It gives three signs in that time, even while an agent blocks the event loop.
            hands_over: whether runs that have not started when this process goes wait for another process, and runs left
                by others are taken over here. A command for one run wants neither.
            keeps_requests: whether the request is kept as long as the run, so that it can be looked at and started anew
                (`request_of`). Otherwise it is removed when the run ends: for those who redact what is announced.
            fleet: this process's role in a fleet: then what it lets in is for the fleet's workers. It hands over.

        Raises:
            StoreOptionError: `lease_seconds` is not a number of seconds from 0.1 to 3600, or another one does not fit.
        """
        check_option("keeps_requests", keeps_requests, bool)
        check_option("hands_over", hands_over, bool)
        if fleet is not None:
            check_option("fleet", fleet, FleetMember)
            if not hands_over:
                raise StoreOptionError(option="hands_over", value=hands_over, why="a process of a fleet hands over")
        check_seconds_option("lease_seconds", lease_seconds, least=MIN_LEASE_SECONDS, most=MAX_LEASE_SECONDS)
        parts = self._writer, self._readers, self._signals
        coordinator = StoredCoordinator(
            *parts, lease_seconds=lease_seconds, hands_over=hands_over, keeps_requests=keeps_requests, fleet=fleet
        )
        self._coordinators.add(coordinator)
        self._workers.add(coordinator.worker_id)
        return coordinator
