"""The processes of a fleet, for operators: which there are, what waits for them, and how to have one leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from msgspec import convert

from trackside.app.server.authorizing import OPERATION
from trackside.app.server.failures import HttpError
from trackside.app.server.health import INLINE
from trackside.app.server.principal import Permission
from trackside.app.server.responses import json_reply
from trackside.app.server.routing import Call, Routes
from trackside.app.server.wire.fleet import DrainAsked, DutyInfo, PoolInfo, Queue, UnservedInfo, WorkerInfo
from trackside.app.storage.fleet import StoredWorker

routes = Routes("Fleet")

_STORED: Final = [name for name in WorkerInfo.__struct_fields__ if name != "is_this"]


@routes.get("/workers", Permission.admin, about=OPERATION, answers={200: list[WorkerInfo]})
async def list_workers(call: Call[None, None]) -> Any:
    """List the processes that look after runs in the database, servers and workers, in the order in which they started.

    A process whose lease has ended is in the list until its runs have been ended; its `seconds_left` is then 0.
    """
    store = call.parts.store
    ours = store.worker_ids
    found = sorted(await store.fleet.workers(), key=lambda worker: (worker.started_at, worker.worker_id))
    # A worker itself tells how many of its places are taken; other processes have none to tell of.
    running = await store.running_by_process() if any(worker.kind == INLINE for worker in found) else {}
    found = [replace(one, running=running.get(one.worker_id, 0)) if one.kind == INLINE else one for one in found]
    return [_worker(worker, is_this=worker.worker_id in ours) for worker in found]


def _worker(worker: StoredWorker, *, is_this: bool) -> WorkerInfo:
    return convert({**{name: getattr(worker, name) for name in _STORED}, "is_this": is_this}, WorkerInfo)


@routes.get("/queue", Permission.admin, about=OPERATION, answers={200: Queue})
async def get_queue(call: Call[None, None]) -> Any:
    """Get what waits for workers in each pool, what no live worker serves, and who does what for all of the fleet."""
    fleet = call.parts.store.fleet
    depth, duties = await fleet.queue(), await fleet.duties()
    return Queue(
        pools=[convert(pool, PoolInfo, from_attributes=True) for pool in depth.pools],
        unserved=[convert(runs, UnservedInfo, from_attributes=True) for runs in depth.unserved],
        duties=[DutyInfo(**duty._asdict()) for duty in duties],
    )


@routes.post("/workers/{worker_id}/drain", Permission.admin, about=OPERATION, answers={202: DrainAsked})
async def drain_worker(call: Call[None, None]) -> Any:
    """Tell a worker to take no more runs, and to leave when those that it has are over.

    The worker hears of it within a third of its lease. Its runs may take as long as they take; SIGTERM limits that, to
    its `worker.drain`. The response is 404 if no live worker has this id.
    """
    worker_id = call.path["worker_id"]
    if not await call.parts.store.fleet.ask_to_drain(worker_id):
        raise HttpError(status=404, detail=f"no live worker has the id {worker_id!r:.80}")
    return json_reply(DrainAsked(worker_id=worker_id), status=202)
