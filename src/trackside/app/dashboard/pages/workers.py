"""The processes of a fleet: what waits for them, how full they are, and how to have one leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from trackside.app.dashboard.asking import part, parts_of
from trackside.app.dashboard.declaring import API, Form, action, page
from trackside.app.dashboard.live import Looks
from trackside.app.dashboard.rendering import FailurePage, Page, Said
from trackside.app.server.authorizing import INSIDE
from trackside.app.server.health import INLINE, Readiness
from trackside.app.server.principal import Permission
from trackside.app.server.routes import fleet as api
from trackside.app.server.routes import health, system
from trackside.app.server.routing import EVENT_STREAM, Call, Routes
from trackside.app.server.wire.fleet import Queue, UnservedInfo, WorkerInfo
from trackside.harness.errors import TracksideError

routes = Routes("Console")

_LOOK_SECONDS: Final = 1.0
"""Seconds between looks at the fleet while somebody has its page open: much of it moves without an event in the log."""
_SIGNS: Final = 5
"""After how many looks the page is fetched anyway: a process's last sign of life does not count as a change."""


class Drain(Form, kw_only=True):
    """Which worker."""

    worker_id: str


@page(routes, "/ui/workers")
async def show_workers(call: Call[None, None]) -> Any:
    """The processes of a fleet: what waits for them, and how full they are."""
    said = await parts_of(
        call, {"workers": (api.list_workers, {}), "queue": (api.get_queue, {}), "ready": (health.ready, {})}
    )
    workers: Sequence[WorkerInfo] = said["workers"].value or ()
    queue: Queue | None = said["queue"].value
    ready = said["ready"].value
    return Page(
        "workers",
        place="workers",
        twins=("/workers", "/queue", "/health/ready"),
        refused=said["workers"].why if said["workers"].is_forbidden else None,
        missing=[one.why for one in said.values() if one.why is not None and not one.is_forbidden],
        workers=workers,
        names={worker.worker_id: worker.name for worker in workers},
        queue=queue,
        pools=() if queue is None else [pool for pool in queue.pools if _is_used(pool)],
        unserved=() if queue is None else [(one, _runs_of(one)) for one in queue.unserved],
        engine=None if ready is None else ready.engine,
        why_cut_off=await _why_cut_off(call, ready),
        degraded=() if ready is None else ready.degraded,
        is_fleet=_is_fleet(workers, ready),
        state_of=state_of,
        executing=[worker for worker in workers if _has_places(worker)],
        now=datetime.now(UTC),
    )


def state_of(worker: WorkerInfo) -> str:
    """The main fact about a process: `alive`, `draining` or `gone`."""
    if worker.seconds_left <= 0:
        return "gone"
    return "draining" if worker.draining else "alive"


@action(routes, "/ui/workers/drain", body=Drain, needs=Permission.admin)
async def drain(call: Call[Drain, None]) -> Any:
    """Have a worker finish what it has, and leave."""
    await API.ask(call, api.drain_worker, path={"worker_id": call.body.worker_id})
    return Said("The worker takes no more runs, and leaves when its current runs are over.")


@routes.get("/ui/workers/live", Permission.admin, about=INSIDE, media_type=EVENT_STREAM, failing=FailurePage)
async def follow_workers(call: Call[None, None]) -> Any:
    """Server-sent events that say that the fleet stands otherwise than before."""
    seen = await _standing(call)
    quiet = 0

    async def has_changed() -> bool:
        nonlocal seen, quiet
        quiet += 1
        with suppress(TracksideError):  # the database is away for now, as the page finds out itself
            before, seen = seen, await _standing(call)
            if before != seen or quiet >= _SIGNS:
                quiet = 0
                return True
        return False

    return Looks(has_changed, call.parts.options, every=_LOOK_SECONDS)


async def _standing(call: Call[Any, Any]) -> Any:
    """The state of the fleet, without what changes by itself."""
    workers: Sequence[WorkerInfo] = (await API.ask(call, api.list_workers)).value
    queue: Queue = (await API.ask(call, api.get_queue)).value
    ready = (await API.ask(call, health.ready)).value
    duties = [(duty.name, duty.holder) for duty in queue.duties]
    return [_fixed(worker) for worker in workers], queue.pools, queue.unserved, duties, ready.engine


def _fixed(worker: WorkerInfo) -> Mapping[str, Any]:
    fields = (name for name in WorkerInfo.__struct_fields__ if name not in {"seconds_left", "last_seen_at"})
    return {name: getattr(worker, name) for name in fields} | {"state": state_of(worker)}


def _has_places(worker: WorkerInfo) -> bool:
    """Whether its places count; a process inside another worker has a part of that worker's places."""
    return worker.kind == "worker" and worker.isolated_in is None and worker.seconds_left > 0


def _is_used(pool: Any) -> bool:
    """Whether a pool has workers or runs: the default pool exists before anybody uses it."""
    return bool(pool.workers or pool.ready or pool.waiting or pool.delayed or pool.running)


async def _why_cut_off(call: Call[None, None], ready: Readiness | None) -> str | None:
    """Why the engine is cut off, which only admins are told; None if it is not, or nobody knows."""
    if ready is None or ready.engine.connected:
        return None
    said = (await part(call, system.get_system)).value
    return None if said is None else said.engine.why


def _is_fleet(workers: Sequence[WorkerInfo], ready: Readiness | None) -> bool:
    """Whether runs are executed by processes other than those that let them in."""
    return (ready is not None and ready.engine.name != INLINE) or any(worker.kind != INLINE for worker in workers)


def _runs_of(unserved: UnservedInfo) -> str:
    """The query for the page of runs that shows these, among others that wait."""
    return urlencode({"status": "pending", "agent": unserved.agent})
