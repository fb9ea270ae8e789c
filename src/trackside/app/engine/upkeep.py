"""The duties of a fleet: runs that are due, runs whose worker is gone, runs that nobody was told of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from time import monotonic
from typing import Final

from trackside.app.engine.duties import Duty
from trackside.app.engine.ports import Engine
from trackside.app.storage.fleet import QueueDepth
from trackside.app.storage.fleet_store import FleetStore, TrustsLeases
from trackside.app.vitals import QueueStats

SCHEDULER: Final = "scheduler"
REAPER: Final = "reaper"
SWEEPER: Final = "sweeper"
DUTIES: Final = frozenset({SCHEDULER, REAPER, SWEEPER})
OF_AGENTS: Final = frozenset({SCHEDULER})
"""The duties that only a process with agents has: it starts the runs of crons."""

OVERLOOKED: Final = 2.0
"""Seconds after which a run that is ready, while a worker has room for it, was announced in vain."""
_PROMOTE_EVERY: Final = 0.25
_REAP_EVERY: Final = 1.0
_SWEEP_EVERY: Final = 2.0
_SWEEP_REST: Final = 10.0
"""For so many times as long as a count took, nothing is counted again."""
_AT_ONCE: Final = 500
_TIDY_ROUNDS: Final = 15  # sweeps for each time that old rows are removed

_SEEN_FOR: Final = 10.0  # seconds for which what was seen of the queue is worth saying

type Tidy = Callable[[], Awaitable[object]]


class FleetUpkeep:
    """What the processes of a fleet do for all of it, each duty done by one of them at a time.

    Args:
        fleet: the fleet in the database.
        engine: how workers are told.
        member: the name of this process.
        trusts_leases: whether a lease that has ended says something of its worker, not of the database; from any
            thread.
        tidy: what the sweeper does besides, every half minute.
    """

    def __init__(
        self,
        fleet: FleetStore,
        engine: Engine,
        member: str,
        *,
        trusts_leases: TrustsLeases,
        tidy: Sequence[Tidy] = (),
    ) -> None:
        self._fleet = fleet
        self._engine = engine
        self._member = member
        self._trusts_leases = trusts_leases
        self._tidy = tidy
        self._sweeps = 0
        self._sweep_again = 0.0
        self._queue: tuple[float, QueueStats] | None = None

    def queue(self) -> QueueStats | None:
        """What waits in the fleet, if this process was the last to look; from any thread."""
        if self._queue is None or monotonic() > max(self._queue[0], self._sweep_again) + _SEEN_FOR:
            return None
        return self._queue[1]

    def duties(self, names: Collection[str] = DUTIES) -> list[Duty]:
        """The duties that there are, of these names."""
        there_are = [
            Duty(SCHEDULER, self._promote, _PROMOTE_EVERY),
            Duty(REAPER, self._reap, _REAP_EVERY),
            Duty(SWEEPER, self._sweep, _SWEEP_EVERY),
        ]
        return [duty for duty in there_are if duty.name in names]

    async def agents_on_duty(self, duty: str) -> frozenset[str]:
        """The agents of the process that has a duty; none where nobody has it.

        Raises:
            StorageError: the database failed.
        """
        held = [one.holder for one in await self._fleet.duties() if one.name == duty and one.seconds_left > 0]
        return frozenset(agent for one in await self._fleet.workers() if one.worker_id in held for agent in one.agents)

    async def _promote(self) -> None:
        """Let runs that have become due take their places; the news of them announces them."""
        while len(await self._fleet.promote_due(limit=_AT_ONCE)) == _AT_ONCE:
            pass

    async def _reap(self) -> None:
        """End the runs of workers that are gone."""
        await self._fleet.reap(self._member, trusts_leases=self._trusts_leases)

    async def _sweep(self) -> None:
        """Announce again what waits although there is room for it: nobody has heard of it, or whoever had is gone.

        Counting a million runs that wait takes a second; then it is done less often.
        """
        if (began := monotonic()) < self._sweep_again:
            return
        depth = await self._fleet.queue()
        if any(pool.ready for pool in depth.pools) and self._trusts_leases():
            await self._fleet.loosen_versions(trusts_leases=self._trusts_leases)
        self._sweep_again = began + _SWEEP_REST * (monotonic() - began)
        self._queue = monotonic(), _in_numbers(depth)
        for pool in depth.pools:
            if pool.free > 0 and pool.ready > 0:
                # Of agents that nobody has, thousands may wait in front of what can be taken.
                agents = depth.agents[pool.pool]
                found = await self._fleet.ready([pool.pool], agents=agents, older_than=OVERLOOKED, limit=_AT_ONCE)
                self._engine.announce(found)
        if self._sweeps % _TIDY_ROUNDS == 0:
            for tidy in self._tidy:
                await tidy()
        self._sweeps += 1


def _in_numbers(depth: QueueDepth) -> QueueStats:
    unserved: Counter[str] = Counter()
    for one in depth.unserved:
        unserved[one.agent] += one.count
    return QueueStats(depth.pools, dict(unserved))
