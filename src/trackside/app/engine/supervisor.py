"""A worker whose runs have processes of their own: one for each place, kept up, watched, and ended where that is needed.

The supervisor executes nothing. Whatever a run does to its process ends that run, and the place has a new process soon:
a crash, more memory than it may have, an agent that heeds neither a cancel nor a timeout. The supervisor learns from
the database what is wanted of the runs, since a process whose event loop is blocked hears of nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final

from trackside.app.engine.children import ChildProcess, ChildStats, Verdict, total
from trackside.app.engine.duties import LEASE_SECONDS
from trackside.app.engine.sentencing import Overdue
from trackside.app.engine.upkeep import OF_AGENTS
from trackside.app.storage.errors import SchemaMovedOnError, StorageError
from trackside.app.storage.fleet_store import FleetStore
from trackside.app.vitals import WorkerStats
from trackside.harness.errors import ClosedError, TracksideError
from trackside.harness.types import FailureReason

logger = logging.getLogger("trackside.worker")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at what is wanted of the runs."""
WEIGH_EVERY: Final = 0.1
"""Seconds between two looks at how much memory processes have."""
SCHEMA_EVERY: Final = 2.0
"""Seconds between two checks whether the tables are those of a newer version."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_MOST_DOUBLINGS: Final = 8
_LAST_WORDS: Final = 10.0
"""Seconds that a process has for its own end, beyond those of its runs."""
_TROUBLE: Final = 1.0  # seconds for which a database that failed is left in peace
_VOUCHES: Final = 3  # times in the length of a lease
_SILENT: Final = 5  # looks, after which the database is asked whether a process that says nothing has a run
_MIB: Final = 1_048_576


class AgentProcessError(TracksideError):
    """{why} before it could take runs."""

    fault = "agent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """How the processes of a worker are started, and what they may do."""

    command: Sequence[str]
    environ: Mapping[str, str]
    places: int
    memory_limit: int | None
    """Bytes that one of them may have."""


class Supervisor:
    """Keeps the child processes of a worker up, from `begin` to `end`.

    Args:
        fleet: the fleet in the database.
        worker_id: the name of this worker there.
        overdue: knows which runs have not stopped as they should.
        lease: seconds for which a process that says nothing is believed to live; the supervisor vouches for those of
            its own that are up and have runs.
        note_gone: is told which of its processes' workers are gone.
        note_running: is told how many runs are executed.
        note_leaving: is told that no more runs are taken.
        on_drain: what is called when somebody asks this worker to leave.
    """

    def __init__(
        self,
        fleet: FleetStore,
        worker_id: str,
        overdue: Overdue,
        *,
        lease: float,
        note_gone: Callable[[str], object],
        note_running: Callable[[int], object],
        note_leaving: Callable[[], object],
        on_drain: list[Callable[[], object]],
    ) -> None:
        self.worker_id = worker_id
        self.on_drain = on_drain
        """Called when somebody asks this worker to take no more runs, to finish what it has, and to leave."""
        self.on_outdated: list[Callable[[str], object]] = []
        """Called once, with the reason, when there will be no more runs for its processes; see `FleetWorker.on_outdated`."""
        self._is_outdated = False
        self._fleet = fleet
        self._overdue = overdue
        self._lease = lease
        self._note_gone = note_gone
        self._note_running = note_running
        self._note_leaving = note_leaving
        self._isolation: Isolation | None = None
        self._children: set[ChildProcess] = set()
        self._gone = ChildStats(worker_id=worker_id)
        """What the processes that are gone did."""
        self._ending = asyncio.Event()
        self._loading = asyncio.Semaphore(os.cpu_count() or 1)
        """Loading agents takes a processor, and those that run need some, too."""
        self._places: list[asyncio.Task[None]] = []
        self._watches: list[asyncio.Task[None]] = []

    @property
    def running(self) -> int:
        """How many places are taken."""
        return sum(child.running for child in self._children)

    @property
    def executing(self) -> int:
        """How many runs are executed."""
        return sum(child.executing for child in self._children)

    def stats(self) -> WorkerStats | None:
        """What it does, and has done; from any thread. None: it has not begun."""
        if self._isolation is None:
            return None
        return total([*self._children], self._gone, self._isolation.places)

    def standing(self) -> dict[str, bool]:
        """For each duty that its processes may have, whether one has it, as far as is known; from any thread."""
        since = monotonic() - LEASE_SECONDS  # whoever has one says so again before that is over
        said = [child.stats for child in [*self._children] if child.is_up and child.heard_at > since]
        held = {name for stats in said if stats is not None for name in stats.duties}
        return {name: name in held for name in OF_AGENTS}

    async def begin(self, isolation: Isolation) -> int:
        """Start the processes; returns when the first one takes runs.

        An exit code other than 0 says that the process could not, and has said why itself.

        Raises:
            AgentProcessError: it ended without a word.
            OSError: it could not be started.
        """
        self._isolation = isolation
        first = await self._start(isolation)
        self._watches = [asyncio.create_task(self._look(), name="trackside-supervisor")]
        if isolation.memory_limit is not None:
            self._watches.append(asyncio.create_task(self._weigh(isolation.memory_limit), name="trackside-memory"))
        if not await first.begun:
            await self._see_off(first)
            code = first.exit_code or 0
            if code in {1, 2} and not self._ending.is_set():  # as our commands end that could not do their work
                return code
            raise AgentProcessError(why=first.how_it_ended)
        for number in range(isolation.places):
            keeping = self._keep(isolation, first if number == 0 else None)
            self._places.append(asyncio.create_task(keeping, name=f"trackside-place-{number}"))
        return 0

    def kill(self) -> None:
        """End all processes at once. Safe in a signal's handler."""
        for child in [*self._children]:
            child.kill()

    async def finish(self) -> None:
        """Have all processes take no more runs, finish theirs, however long that takes, and end."""
        self._ending.set()
        self._note_leaving()
        for child in self._children:
            child.ask_to_finish()
        if self._places:
            await asyncio.wait(self._places)

    async def end(self, grace: float) -> None:
        """Have all processes take no more runs, finish theirs, and end; those not gone in `grace` seconds are killed.

        Called again, after it was cancelled, it has them cancel their runs.
        """
        self._ending.set()
        self._note_leaving()
        for child in self._children:
            child.ask_to_end()
        if not self._places:
            return
        await asyncio.wait(self._places, timeout=grace + _LAST_WORDS)
        for child in self._children:
            why = f"the agent's process did not end within {grace + _LAST_WORDS:g} s of being told to"
            child.kill(Verdict(why=why))
        await asyncio.wait(self._places)

    async def aclose(self) -> None:
        """End all processes, whatever they do, and watch no more. May be called again."""
        self._ending.set()
        self.kill()
        if self._places:
            await asyncio.wait(self._places)
        for child in [*self._children]:  # the first one, before it took runs
            await self._see_off(child)
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)

    async def _keep(self, isolation: Isolation, child: ChildProcess | None) -> None:
        """Have a process for one place, and another whenever that has ended."""
        failures = 0
        while child is not None or not self._ending.is_set():
            if child is None:
                child = await self._begun(isolation)
            if child is not None:
                lived = child.stats is not None or await child.begun
                await self._see_off(child)
                failures = 0 if lived else failures + 1
                why = f"{child.how_it_ended} before it could take runs"
            else:
                failures, why = failures + 1, "no process for agents could be started"
            child = None
            if failures and not self._ending.is_set():
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures, _MOST_DOUBLINGS))
                logger.error("%s; the next one is tried in %g s", why, pause)
                await self._unless_ending(pause)

    async def _begun(self, isolation: Isolation) -> ChildProcess | None:
        """A process that takes runs, or has failed to; None if there is to be none."""
        async with self._loading:
            if self._ending.is_set():
                return None
            try:
                child = await self._start(isolation)
            except OSError as exc:
                logger.error("no process can be started for agents: %s", exc)  # noqa: TRY400  # it says what it is
                return None
            await child.begun
            return child

    async def _start(self, isolation: Isolation) -> ChildProcess:
        child = await ChildProcess.start(isolation.command, isolation.environ, self.worker_id)
        self._children.add(child)
        if self._ending.is_set():  # since it was begun
            child.ask_to_end()
        return child

    async def _unless_ending(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()

    async def _see_off(self, child: ChildProcess) -> None:
        """Wait until a process has ended, and end the runs that it has left."""
        verdict = await child.wait()
        self._children.discard(child)
        if child.stats is not None:
            for name in ("taken", "found", "missed", "foreign", "lost"):
                setattr(self._gone, name, getattr(self._gone, name) + getattr(child.stats, name))
        self._note()
        if verdict is not None:
            await self._bury(child, verdict)

    async def _bury(self, child: ChildProcess, verdict: Verdict) -> None:
        while True:
            try:
                for worker_id in await self._ids_of(child):
                    self._note_gone(worker_id)
                    ended = await self._fleet.bury(
                        worker_id,
                        verdict.why,
                        verdict.failure,
                        stopped=verdict.stopped,
                        timed_out=verdict.timed_out,
                    )
                    await self._fleet.release_duties(worker_id)
                    if not ended:  # else the runs that were ended are told of, and why
                        logger.warning("%s; it had no run", verdict.why)
                return
            except ClosedError:
                return
            except StorageError as exc:
                if self._ending.is_set():  # its lease will end, too
                    return
                logger.warning("the runs of a process that has ended cannot be ended yet: %s", exc)
                await asyncio.sleep(_TROUBLE)

    async def _ids_of(self, child: ChildProcess) -> list[str]:
        """The names under which a process was a worker; it may have ended before it could say so."""
        if child.stats is not None:
            return [child.stats.worker_id]
        return [
            worker.worker_id
            for worker in await self._fleet.workers()
            if worker.isolated_in == self.worker_id and worker.name.endswith(f":{child.pid}")
        ]

    async def _look(self) -> None:
        """Look for runs that have not stopped as they should, and end their processes."""
        vouched_at = schema_seen_at = monotonic()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self._note()
            if monotonic() >= schema_seen_at + SCHEMA_EVERY:
                schema_seen_at = monotonic()
                await self._see_whether_outdated()
            busy, silent = self._seen()
            watched = busy | silent
            if not watched:
                continue
            try:
                if busy and monotonic() >= vouched_at + self._lease / _VOUCHES:
                    vouched_at = monotonic()
                    await self._fleet.vouch_for([*busy], self._lease)
                held = await self._fleet.held([*watched])
            except StorageError as exc:
                logger.warning("what is wanted of runs cannot be read: %s", exc)
                continue
            except ClosedError:
                return
            said = {worker_id: child.stats for worker_id, child in watched.items() if child.stats is not None}
            unheard = {worker_id: child.unheard * LOOK_EVERY for worker_id, child in watched.items()}
            for worker_id, verdict in self._overdue.judge(held, said, monotonic(), unheard=unheard).items():
                watched[worker_id].kill(verdict)

    def _seen(self) -> tuple[dict[str, ChildProcess], dict[str, ChildProcess]]:
        """The processes that may have runs, and those not heard of for a while, by the names of their workers."""
        busy: dict[str, ChildProcess] = {}
        silent: dict[str, ChildProcess] = {}
        for child in self._children:
            if child.stats is None or not child.is_up:
                continue
            child.unheard += 1
            if child.running:
                busy[child.stats.worker_id] = child
            elif child.unheard > _SILENT:
                silent[child.stats.worker_id] = child
        return busy, silent

    async def _see_whether_outdated(self) -> None:
        """Tell if a newer version has changed the tables; processes that are busy, or cannot start, would not notice."""
        if self._is_outdated:
            return
        try:
            await self._fleet.check_schema()
        except SchemaMovedOnError as exc:
            self._is_outdated = True
            for tell in self.on_outdated:
                tell(str(exc))
        except (StorageError, ClosedError):  # the next look tells
            pass

    async def _weigh(self, limit: int) -> None:
        """End processes that have more memory than they may."""
        while True:
            await asyncio.sleep(WEIGH_EVERY)
            children = [child for child in self._children if child.is_up]
            weights = await asyncio.to_thread(_weights, children)
            for child, weight in zip(children, weights, strict=True):
                if weight > limit:
                    why = f"the agent's process used more than its memory limit of {_size(limit)}"
                    child.kill(Verdict(why=why, failure=FailureReason.memory_limit))

    def _note(self) -> None:
        with suppress(ClosedError):
            self._note_running(self.running)


def _weights(children: Sequence[ChildProcess]) -> list[int]:
    return [child.resident() for child in children]


def _size(size: int) -> str:
    return f"{size // _MIB:,} MiB" if size % _MIB == 0 else f"{size / 1_000_000:,g} MB"
