"""What a fleet loses, one part after the other, while runs go on."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from demo.commandline import DemoError
from trackside.app.cli.serving.fleet_watch import FleetNow
from trackside.app.engine.local import Happening, LocalFleet, Member, MemberKind, MemberState

_PATIENCE: Final = 60.0  # seconds
_LOOK_AGAIN: Final = 0.05  # seconds


class Losses:
    """Kills processes of a fleet and waits until they are back.

    Args:
        fleet: the fleet whose processes are killed.
        look: gives the fleet's present state.
        say: is told of each kill.
    """

    def __init__(self, fleet: LocalFleet, look: Callable[[], FleetNow], say: Callable[[Happening], object]) -> None:
        self.killed: list[str] = []
        self._fleet = fleet
        self._look = look
        self._say = say

    async def happen(self, seconds: float) -> None:
        """Kill a worker that is executing something, a server, and NATS or the database, all within this many seconds.

        Raises:
            DemoError: something does not come back.
        """
        kinds = [MemberKind.worker, MemberKind.server]
        has_nats = any(member.kind is MemberKind.nats for member in self._fleet.members)
        kinds.append(MemberKind.nats if has_nats else MemberKind.postgres)
        pause = seconds / (len(kinds) + 1)
        for kind in kinds:
            await asyncio.sleep(pause)
            member = await self._chosen(kind)
            await self._lose(member)
        await asyncio.sleep(pause)

    async def _chosen(self, kind: MemberKind) -> Member:
        """The first member of a kind; of workers, the busiest one, as soon as one has anything to do."""

        def choose() -> Member | None:
            up = [one for one in self._fleet.members if one.kind is kind and one.state is MemberState.up]
            if kind is not MemberKind.worker:
                return next(iter(up), None)
            running = self._look().running
            busiest = max(up, key=lambda one: running.get(one.pid or 0, 0), default=None)
            return busiest if busiest is not None and running.get(busiest.pid or 0) else None

        return await self._until(choose, f"no {kind} has anything to do")

    async def _lose(self, member: Member) -> None:
        restarts = member.restarts
        self._say(Happening(datetime.now(UTC), member.name, "is killed by the demo (SIGKILL)"))
        self._fleet.signal(member.name, signal.SIGKILL)
        self.killed.append(member.name)

        def is_back() -> bool:
            return member.restarts > restarts and member.state is MemberState.up

        await self._until(is_back, f"{member.name} does not come back")

    async def _until[T](self, look: Callable[[], T | None], otherwise: str) -> T:
        try:
            async with asyncio.timeout(_PATIENCE):
                while not (found := look()):  # noqa: ASYNC110  # a fleet does not announce what it does as an event
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            raise DemoError(otherwise) from None
        return found
