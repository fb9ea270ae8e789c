"""How much time passes when a part of a fleet is lost, with leases of the default length."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from _fleet_place import Fleet, Place, TookTooLongError, fleet
from _fleet_runs import one_at_a_time, ours

from trackside import RunSpec
from trackside.app.engine.upkeep import REAPER
from trackside.app.storage.fleet import StoredWorker

_LOOK_AGAIN = 0.01  # seconds
_PATIENCE = 60.0

KILLED = "a worker is killed: its run has ended"
FROZEN = "a worker stands still, as if its machine were gone: its run has ended"
DUTY = "who has the duties is killed: another one has them"
FOUND = "NATS is killed: a run that is let in then begins"
BACK = "NATS is there again: runs begin as before"
WHAT = (KILLED, FROZEN, DUTY, FOUND, BACK)


@dataclass(slots=True)
class Failures:
    """Seconds that each failure took to make good, once for each time that it was tried."""

    took: dict[str, list[float]] = field(default_factory=dict)

    def note(self, what: str, begun: float) -> None:
        """Note that it is over now."""
        self.took.setdefault(what, []).append(time.monotonic() - begun)


async def failures(where: Place, found: Failures, times: int, *, frozen: bool) -> None:
    """Kill one part after another, and wait until each loss is made good."""
    async with fleet(where, "nats", workers=2) as it:
        await one_at_a_time(it, ours(it), 5)
        for _ in range(times):
            await _worker_is_gone(it, found, signal.SIGKILL, KILLED)
        for _ in range(times):
            await _duties_are_free(it, found)
        for _ in range(times):
            await _broker_is_gone(it, found)
        if frozen:
            await _worker_is_gone(it, found, signal.SIGSTOP, FROZEN)


async def _worker_is_gone(it: Fleet, found: Failures, how: signal.Signals, what: str) -> None:
    """Lose the worker that executes a run, and time it until the run has ended."""
    await _hold_duties(it)  # by the server, which stays
    (place,) = it.place.places(1)
    handle = await it.app.manager.start(RunSpec("sleeping", {"place": place, "seconds": 300.0}))
    await it.until_noted([place])

    async def executor() -> str | None:
        rows = await asyncio.to_thread(
            _ask,
            it,
            f"SELECT w.name FROM active_runs a JOIN workers w ON w.worker_id = a.owner WHERE run_id = '{handle.run_id}'",
        )
        return rows[0][0] if rows else None

    name = await _until(executor, "the run is executed")
    victim = next(one for one in it.workers if name.endswith(f":{one.pid}"))
    begun = time.monotonic()
    victim.signal(how)

    async def has_ended() -> bool:
        return not await asyncio.to_thread(_ask, it, f"SELECT 1 FROM active_runs WHERE run_id = '{handle.run_id}'")

    await _until(has_ended, "the run has ended")
    found.note(what, begun)
    await asyncio.to_thread(victim.kill)
    it.workers.remove(victim)
    await it.add_workers(1)


async def _hold_duties(it: Fleet) -> None:
    """Have the server in this process hold the duties: it is the only process that is not killed here."""
    assert it.app.fleet_part is not None
    if it.app.fleet_part.duties.holds(REAPER):
        return
    for one in it.workers:
        await asyncio.to_thread(one.kill)
    it.workers.clear()
    await _until(_held_by_server(it), "the server has the duties")
    await it.add_workers(2)


def _held_by_server(it: Fleet) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        assert it.app.fleet_part is not None
        return it.app.fleet_part.duties.holds(REAPER)

    return look


async def _duties_are_free(it: Fleet, found: Failures) -> None:
    """Kill whoever holds the duties: here a worker, after the server has let go of them."""
    assert it.app.fleet_part is not None
    fleet_store, part = it.app.store.fleet, it.app.fleet_part
    # The server lets go and a worker gets them, because the server looks again only after a third of a lease.
    while (holder := await _holder(it)) is None or holder.kind == "server":
        await fleet_store.release_duties(part.duties._holder)
        await asyncio.sleep(0.2)
    victim = next(one for one in it.workers if holder.name.endswith(f":{one.pid}"))
    begun = time.monotonic()
    await asyncio.to_thread(victim.kill)

    async def another_has_them() -> bool:
        held = await fleet_store.duties()
        return any(duty.name == REAPER and duty.holder != holder.worker_id for duty in held)

    await _until(another_has_them, "somebody has the duties")
    found.note(DUTY, begun)
    it.workers.remove(victim)
    await it.add_workers(1)


async def _broker_is_gone(it: Fleet, found: Failures) -> None:
    """Kill NATS, and start it again."""
    assert it.app.engine is not None
    engine = it.app.engine
    await asyncio.to_thread(it.place.nats.stop, "KILL")
    (place,) = it.place.places(1)
    begun = time.monotonic()
    await it.app.manager.start(RunSpec("noop", place))
    await it.until_noted([place])
    found.note(FOUND, begun)
    await asyncio.to_thread(it.place.nats.start)
    begun = time.monotonic()
    announced = engine.stats().announced_total

    async def announces() -> bool:
        """Whether a run let in now was announced, and begins sooner than a look would find it."""
        (place,) = it.place.places(1)
        asked = time.monotonic()
        await it.app.manager.start(RunSpec("noop", place))
        await it.until_noted([place])
        return engine.stats().announced_total > announced and time.monotonic() - asked < 0.1

    await _until(announces, "runs begin as before")
    found.note(BACK, begun)


async def _holder(it: Fleet) -> StoredWorker | None:
    duties = {duty.holder for duty in await it.app.store.fleet.duties()}
    workers = await it.app.store.fleet.workers()
    return next((worker for worker in workers if worker.worker_id in duties), None)


async def _until[T](look: Callable[[], Awaitable[T | None]], what: str) -> T:
    try:
        async with asyncio.timeout(_PATIENCE):
            while not (seen := await look()):  # noqa: ASYNC110  # it happens in another process
                await asyncio.sleep(_LOOK_AGAIN)
            return seen
    except TimeoutError:
        raise TookTooLongError(f"{what}: not within {_PATIENCE:g} s") from None


def _ask(it: Fleet, sql: str) -> list[tuple[str, ...]]:
    return it.place.postgres.execute(sql, database=it.database_name)
