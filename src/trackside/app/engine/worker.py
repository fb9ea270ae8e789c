"""Executes the runs that a worker is offered: as many at once as it has places, each claimed in the database first.

An offer is a hint. What counts is whether the database gives the run to this worker (`StoredCoordinator.take`). With or
without offers, the worker asks the database now and then what is ready; more often while the engine is cut off. So all
that an engine can lose is time.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from trackside.app.engine.ports import Engine, Offer, Offers
from trackside.app.storage.coordinator import StoredCoordinator
from trackside.app.storage.errors import SchemaMovedOnError, StorageError
from trackside.app.storage.fleet import Taking
from trackside.app.vitals import WorkerStats
from trackside.harness import RunManager
from trackside.harness.errors import ClosedError, NoResultHereError
from trackside.harness.foreign.timelimit import outlived

logger = logging.getLogger("trackside.worker")

LOOK_EVERY: Final = 15.0
"""About how many seconds pass between two looks for what nobody offers."""
CUT_OFF_LOOK: Final = 0.5
"""The same while the engine is cut off."""
# About how many seconds pass until others are offered a run that this worker has no agent for: at first, then twice
# that; and at most, as there may be nobody else who has room.
_FOREIGN: Final = 0.01
_LONGEST_FOREIGN: Final = 2.0
# How many runs that came round until then are passed on in a second at most, and after how many seconds in any case.
_FOREIGN_RATE: Final = 100.0
_FOREIGN_AT_LAST: Final = 60.0
_FULL_PASSES: Final = 4  # how often others are offered a run whose agent has no place left here
_LOCKED: Final = (0.02, 0.1)  # seconds, from and to, until it tries again to take a run that somebody was just at
_LOCKED_TRIES: Final = 5
_TROUBLE: Final = 1.0  # seconds for which a database that failed is left in peace


def foreign_pause(passed_on: int) -> float:
    """Seconds until others are offered a run for which this worker has no agent; `passed_on` others had it before.

    At first somebody else is likely to have one; a run that comes back again and again waits for a place to get free.
    """
    return min(_LONGEST_FOREIGN, _FOREIGN * 2.0 ** min(passed_on, 20))


class ForeignPauses:
    """When others are offered runs that this worker has no agent for, so that runs nobody has one for take no time."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._last = float("-inf")

    def after(self, passed_on: int) -> float:
        """Seconds until somebody is offered a run that others had `passed_on` times before."""
        pause = foreign_pause(passed_on)
        if pause < _LONGEST_FOREIGN:
            return pause
        now = self._clock()
        self._last = min(now + _FOREIGN_AT_LAST, max(now + pause, self._last + 1 / _FOREIGN_RATE))
        return self._last - now


class FleetWorker:
    """Takes runs for a manager, from `begin` to `stop`.

    Args:
        manager: executes what is taken.
        coordinator: that of the manager; gives it runs that nobody has.
        engine: offers runs.
        pools: whose runs it takes.
        places: how many runs it executes at once.
        is_choosy: whether it executes fewer runs of some agents than it has places, and so leaves runs that are ready.
    """

    def __init__(
        self,
        manager: RunManager,
        coordinator: StoredCoordinator,
        engine: Engine,
        *,
        pools: Sequence[str],
        places: int,
        is_choosy: bool = False,
    ) -> None:
        self._manager = manager
        self._coordinator = coordinator
        self._engine = engine
        self._pools = tuple(pools)
        self._places = places
        self._is_choosy = is_choosy
        self._foreign_pauses = ForeignPauses()
        self._busy = self._executing = 0
        self._offers: Offers | None = None
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_answered = asyncio.Event()
        self._is_answered.set()
        """Whether the database answers, as far as is known. If not, others get offers until a look finds it does."""
        self._look_soon = asyncio.Event()
        self._stopping = False
        self._more_waits = False
        """Whether the last look found as much as there was room for."""
        self._loops: list[asyncio.Task[None]] = []
        self._runs: set[asyncio.Task[None]] = set()
        self._awaited: dict[asyncio.Task[Any], str] = {}
        """The runs whose ends are waited for, by the task that does."""
        self.on_change: list[Callable[[], object]] = []
        """Called whenever it has more or fewer runs."""
        self.on_outdated: list[Callable[[str], object]] = []
        """Called once, with the reason, when there will be no more runs for it: the tables are a newer version's."""
        self._is_outdated = False
        self._taken = self._found = self._missed = self._foreign = self._lost = 0

    @property
    def worker_id(self) -> str:
        """The name under which it has runs."""
        return self._coordinator.worker_id

    @property
    def on_drain(self) -> list[Callable[[], object]]:
        """Called when somebody asks this worker to take no more, to finish what it has, and to leave."""
        return self._coordinator.on_drain

    @property
    def executing(self) -> int:
        """How many runs it has."""
        return self._executing

    def stats(self) -> WorkerStats:
        """What it does, and has done; from any thread."""
        return WorkerStats(
            places=self._places,
            running=self._busy,
            taken_total=self._taken,
            found_total=self._found,
            missed_total=self._missed,
            foreign_total=self._foreign,
            lost_total=self._lost,
        )

    def begin(self) -> None:
        """Take runs from now on."""
        self._engine.on_lost.append(self._look_soon.set)  # the look that comes next may have been meant for later
        self._loops = [
            asyncio.create_task(self._accept(), name="trackside-offers"),
            asyncio.create_task(self._look_around(), name="trackside-look"),
        ]

    async def stop(self) -> None:
        """Take no more. What was taken goes on; the manager ends it. May be called again."""
        if not self._stopping:
            self._stopping = True
            self._coordinator.note_leaving()
            self._engine.on_lost.remove(self._look_soon.set)
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)

    async def until_idle(self, *, closed: bool = False) -> None:
        """Wait until everything that was taken has ended, and the engine knows.

        If the manager has `closed`, do not wait for what it has left behind: runs whose agents do not stop.
        """
        while going := self._runs - (self._left_behind() if closed else set()):
            await asyncio.wait(going)

    def _left_behind(self) -> set[asyncio.Task[Any]]:
        """The tasks that wait for runs which a manager that has closed still has."""
        return {task for task, run_id in self._awaited.items() if self._manager.has(run_id)}

    async def _accept(self) -> None:
        """Take what is offered, whenever there is a place."""
        while True:
            try:
                await self._accept_offers()
            except Exception:  # the engine's failure; without this nothing would be offered to this worker any more
                logger.exception("no runs are offered for now")
            await asyncio.sleep(_TROUBLE)

    async def _accept_offers(self) -> None:
        async with self._engine.join(self.worker_id, self._pools, on_stop=self._hear_stop) as offers:
            self._offers = offers
            offers.note_free(self._room)
            try:
                while True:
                    while not (self._has_room.is_set() and self._is_answered.is_set()):
                        await self._has_room.wait()
                        await self._is_answered.wait()
                    offer = await offers.next()
                    # A look may have filled the last place meanwhile, or the database be away.
                    if not (self._is_answered.is_set() and self._reserve(1)):
                        offer.decline(after=0.0)
                        continue
                    self._spawn(self._answer(offer), f"trackside-offer-{offer.run_id or 'look'}")
            finally:
                self._offers = None

    async def _look_around(self) -> None:
        """Look for what is ready and was not offered, whenever there is a place."""
        while True:
            connected = self._engine.status().connected
            seconds = (LOOK_EVERY if connected else CUT_OFF_LOOK) * random.uniform(0.7, 1.3)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._look_soon.wait()
            self._look_soon.clear()
            await self._has_room.wait()
            await outlived(self._spawn(self._look(), "trackside-take"))  # a look that a stop meets is seen through, too

    async def _look(self) -> None:
        self._found += await self._take_any()

    async def _answer(self, offer: Offer) -> None:
        """See what an offer is worth; one place is reserved for it."""
        run_id = offer.run_id
        if run_id is None:
            self._free(1)
            await self._take_any()
            offer.done()
            return
        try:
            taking = await self._take_one(run_id)
        except Exception as exc:  # noqa: BLE001  # whatever it is, the place and the offer must not be lost with it
            self._say_failed(exc)
            self._free(1)
            offer.decline(after=_TROUBLE)
            return
        match taking:
            case Taking.taken:
                self._count_taken(1)
                await self._see_through(run_id)
                offer.done()
            case _ if self._stopping:  # a worker that goes on sees what it is worth
                self._free(1)
                offer.decline(after=0.0)
            case Taking.gone | Taking.busy:  # a run that is not its thread's next is announced when it is
                self._missed += 1
                self._free(1)
                offer.done()
            case Taking.full if offer.passed_on >= _FULL_PASSES:  # all are: each looks when a run of its own has ended
                self._free(1)
                offer.done()
            case Taking.locked:
                self._free(1)
                offer.decline(after=_TROUBLE)
            case Taking.foreign | Taking.full:
                self._foreign += taking is Taking.foreign
                self._free(1)
                offer.decline(after=self._foreign_pauses.after(offer.passed_on) * random.uniform(0.5, 1.5))

    async def _take_one(self, run_id: str) -> Taking:
        """Take a run, even one that somebody is just at: they are done in a moment."""
        tries = 0
        while (taking := (await self._coordinator.take([run_id]))[run_id]) is Taking.locked and tries < _LOCKED_TRIES:
            tries += 1
            await asyncio.sleep(random.uniform(*_LOCKED))
        return taking

    async def _take_any(self) -> int:
        """Take the runs that are ready, as many as there is room for; returns how many."""
        room = self._places - self._busy
        if room <= 0 or self._stopping or not self._reserve(room):
            return 0
        taken: list[str] = []
        try:
            taken = await self._coordinator.take_any(room)
            self._is_answered.set()
        except Exception as exc:  # noqa: BLE001  # whatever it is, nobody would look any more if this went on
            self._say_failed(exc)
            await asyncio.sleep(_TROUBLE)
        finally:
            self._more_waits = len(taken) == room
            self._free(room - len(taken))
        self._count_taken(len(taken))
        for run_id in taken:
            self._spawn(self._see_through(run_id), f"trackside-taken-{run_id}")
        return len(taken)

    async def _see_through(self, run_id: str) -> None:
        """Wait until a run has ended, here or (it was lost) elsewhere, and give its place back."""
        waiting = asyncio.current_task()
        assert waiting is not None
        self._awaited[waiting] = run_id
        try:
            await self._manager.result(run_id)
        except NoResultHereError:
            self._lost += 1
        finally:
            del self._awaited[waiting]
            self._executing -= 1
            self._free(1)
            if self._is_choosy:
                self._look_soon.set()

    def _count_taken(self, runs: int) -> None:
        self._taken += runs
        self._executing += runs
        if runs:
            for tell in self.on_change:
                tell()

    def _reserve(self, places: int) -> bool:
        if self._busy + places > self._places:
            return False
        self._busy += places
        self._note()
        return True

    def _free(self, places: int) -> None:
        if places <= 0:
            return
        self._busy -= places
        self._note()
        if self._more_waits or not self._is_answered.is_set():
            self._look_soon.set()

    def _note(self) -> None:
        free = self._places - self._busy
        if free > 0:
            self._has_room.set()
        else:
            self._has_room.clear()
        self._coordinator.note_running(self._busy)
        for tell in self.on_change:
            tell()
        if self._offers is not None:
            self._offers.note_free(self._room)

    @property
    def _room(self) -> int:
        """How many offers it takes now."""
        return 0 if self._stopping or not self._is_answered.is_set() else self._places - self._busy

    def _hear_stop(self, run_id: str) -> None:
        self._coordinator.nudge()  # the database says which runs have to stop

    def _say_failed(self, exc: Exception) -> None:
        if self._stopping or self._is_outdated:
            return
        was_answered = self._is_answered.is_set()
        self._is_answered.clear()
        self._look_soon.set()
        if isinstance(exc, SchemaMovedOnError) and self.on_outdated:
            self._is_outdated = True
            for tell in self.on_outdated:
                tell(str(exc))
        else:
            defect = None if isinstance(exc, StorageError | ClosedError) else exc
            if defect is not None or was_answered:
                logger.warning("no run can be taken for now: %s", exc, exc_info=defect)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)
        return task
