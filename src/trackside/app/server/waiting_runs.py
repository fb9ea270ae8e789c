"""Why a run has not started yet, and who executes it when it has.

If no live worker has a run's agent, nothing else starts the run: whoever waits for it is told so, and which agent, pool
and version is lacking. `explained` is pure, over what the other functions read of the run and of the processes.
"""

from __future__ import annotations

from collections.abc import Sequence

from trackside.app.server.wire.fleet import ExecutedBy, WaitingFor
from trackside.app.storage import RunPlace, Store, StoredRun
from trackside.app.storage.fleet import DEFAULT_POOL, StoredWorker
from trackside.harness.types import RunStatus


async def waiting_for(store: Store, run: StoredRun) -> WaitingFor | None:
    """What a run waits for; None if it has started, or has just left the queue."""
    if run.status is not RunStatus.pending:
        return None
    place = await store.place_of(run.run_id)
    if place is None or not (place.is_delayed or place.is_waiting):
        return None
    return explained(place, run.agent, await store.fleet.workers())


async def executed_by(store: Store, run: StoredRun) -> ExecutedBy | None:
    """Which process executes a run; None if none does."""
    if run.status is not RunStatus.running:
        return None
    place = await store.place_of(run.run_id)
    if place is None or place.owner is None:
        return None
    names = {worker.worker_id: worker.name for worker in await store.fleet.workers()}
    return ExecutedBy(worker_id=place.owner, name=names.get(place.owner))


def explained(place: RunPlace, agent: str | None, workers: Sequence[StoredWorker]) -> WaitingFor:
    """What a run with this place in the queue waits for.

    Args:
        place: of the run.
        agent: that of the run.
        workers: all processes that are known, gone or not.
    """
    if place.is_delayed:
        return WaitingFor(what="time", why="it is to start later")
    if not place.holds:
        return WaitingFor(what="thread", why="another run comes before it on its thread")
    alive = [worker for worker in workers if worker.seconds_left > 0]
    if place.owner is not None:
        if any(worker.worker_id == place.owner for worker in alive):
            return WaitingFor(what="place", why="the process that has it has no place for it now")
        return WaitingFor(what="worker", why="the process that had it is gone, and no other has taken it over yet")
    lacking = _lacking(place, agent, alive)
    if lacking is not None:
        return WaitingFor(what="worker", why=lacking)
    why = f"the workers of the pool {place.pool!r:.100} that could take it have no place for it now"
    return WaitingFor(what="place", why=why)


def _lacking(place: RunPlace, agent: str | None, alive: Sequence[StoredWorker]) -> str | None:
    """What the run needs and no live worker has; None: some worker has all of it."""
    named = f"the agent {agent or '?'!r:.100}"
    if place.pool == DEFAULT_POOL and any(worker.kind == "inline" for worker in alive):
        return None  # such a one takes over runs that others leave in the default pool, if it knows the agent
    in_pool = [worker for worker in alive if worker.is_worker and place.pool in worker.pools]
    if not in_pool:
        return f"no live worker takes runs of the pool {place.pool!r:.100}"
    serving = [worker for worker in in_pool if agent in worker.agents]
    if not serving:
        return f"no live worker of the pool {place.pool!r:.100} has {named}"
    fitting = [worker for worker in serving if worker.fits(place.version)]
    if not fitting:
        return f"no live worker has {named} in the version {place.version!r:.100}; {_versions(serving)}"
    if all(worker.draining for worker in fitting):
        return f"all live workers that have {named} are being drained"
    return None


def _versions(workers: Sequence[StoredWorker]) -> str:
    there = [f"{version!r:.100}" for version in sorted({worker.version for worker in workers if worker.version})]
    if any(worker.version is None for worker in workers):
        there.append("workers without one")
    first, last = ", ".join(there[:-1][:10]), there[-1]
    return f"there are {first} and {last}" if first else f"there is {last}" if last[0] == "'" else f"there are {last}"
