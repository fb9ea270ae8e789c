"""Watches a fleet on this machine: its processes, and what the database says about its work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Self

import httpx

from trackside.harness.errors import TracksideError
from trackside.harness.lifecycle import is_final
from trackside.harness.types import RunStatus

if TYPE_CHECKING:
    from trackside.app.engine.local import LocalFleet, Member
    from trackside.app.storage import Store

_LOOK_SECONDS: Final = 0.5
_PATIENCE: Final = 1.0  # seconds within which a process on this machine must say how it is


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetNow:
    """A fleet at one moment."""

    at: datetime
    members: Sequence[Member] = ()
    running: Mapping[int, int] = field(default_factory=dict)
    """How many runs each worker has, by its process id."""
    health: Mapping[str, str] = field(default_factory=dict)
    """What servers and workers that answer say of themselves, by name: ready, degraded or unready."""
    ready: int = 0
    """Runs that a worker could take."""
    waiting: int = 0
    """Runs that are behind others on their threads."""
    delayed: int = 0
    executing: int = 0
    ended: Mapping[RunStatus, int] = field(default_factory=dict)
    """How many runs ended in which way since the fleet came up."""
    why_unknown: str | None = None
    """Why these numbers are out of date: the database does not answer."""


class FleetWatch:
    """Looks at the fleet twice a second, while its `async with` block lasts.

    Args:
        fleet: the fleet whose processes it watches.
        store: its database.
        show: called with what was seen.
    """

    def __init__(self, fleet: LocalFleet, store: Store, show: Callable[[FleetNow], object]) -> None:
        self._fleet = fleet
        self._store = store
        self._show = show
        self._since = datetime.now(UTC)
        self.now = FleetNow(at=self._since)
        """What it saw last."""
        self._looking: asyncio.Task[None] | None = None
        self._client = httpx.AsyncClient(timeout=_PATIENCE, trust_env=False)

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._keep_looking(), name="trackside-fleet-watch")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        await asyncio.wait({self._looking})
        await self._client.aclose()
        if not self._looking.cancelled():
            self._looking.result()

    async def look(self) -> FleetNow:
        """The fleet as it is now."""
        health, work = await asyncio.gather(self._health(), self._work())
        return replace(work, at=datetime.now(UTC), members=self._fleet.members, health=health)

    async def _work(self) -> FleetNow:
        """What the database says, or what it said last if it does not answer."""
        try:
            workers = await self._store.fleet.workers()
            queue = await self._store.fleet.queue()
            stats = await self._store.stats(self._since)
        except TracksideError as exc:
            return replace(self.now, why_unknown=str(exc))
        return FleetNow(
            at=self._since,
            running={_pid_of(worker.name): worker.running for worker in workers},
            ready=sum(pool.ready for pool in queue.pools),
            waiting=sum(pool.waiting for pool in queue.pools),
            delayed=sum(pool.delayed for pool in queue.pools),
            executing=sum(pool.running for pool in queue.pools),
            ended={status: number for status, number in stats.total.by_status.items() if number and is_final(status)},
        )

    async def _health(self) -> dict[str, str]:
        asked = [one for one in self._fleet.members if one.kind in {"server", "worker"} and one.state == "up"]
        said = await asyncio.gather(*[self._health_of(one) for one in asked])
        return {one.name: words for one, words in zip(asked, said, strict=True) if words}

    async def _health_of(self, member: Member) -> str:
        path = "/health/ready" if member.kind == "server" else "/ready"
        try:
            answer = await self._client.get(f"http://127.0.0.1:{member.port}{path}")
            says = answer.json()
        except (httpx.HTTPError, ValueError):  # the process is ending, or starting
            return ""
        return "degraded" if says.get("degraded") and says["status"] == "ready" else str(says["status"])

    async def _keep_looking(self) -> None:
        while True:
            self.now = await self.look()
            self._show(self.now)
            await asyncio.sleep(_LOOK_SECONDS)


def _pid_of(name: str) -> int:
    """The process id in a worker's name, `host:pid`."""
    pid = name.rpartition(":")[2]
    return int(pid) if pid.isdigit() else 0
