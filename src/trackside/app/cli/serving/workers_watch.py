"""Says, on a server of a fleet, which of its agents no live worker serves, and when a worker comes that does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from trackside.app.cli.places import home_of
from trackside.app.settings import Settings
from trackside.app.wiring.fleet_doctor import engine_flag
from trackside.harness.errors import TracksideError

if TYPE_CHECKING:
    from trackside.app.storage import Store

LOOK_SECONDS: Final = 5.0
"""The time between two looks: nothing announces workers that come and go."""


class WorkersWatch:
    """Looks now and then which workers are there, while its `async with` block lasts.

    Args:
        store: the store of the fleet.
        settings: they name the agents whose runs are admitted, and their pools.
        say: called with what happens.
    """

    def __init__(self, store: Store, settings: Settings, say: Callable[..., None]) -> None:
        self._store = store
        self._settings = settings
        self._say = say
        self._unserved: set[str] = set()
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._settings.engine_kind != "inline":
            self._looking = asyncio.create_task(self._look_now_and_then(), name="trackside-workers-watch")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look_now_and_then(self) -> None:
        while True:
            with suppress(TracksideError):  # the database is away: others report that, and there will be another look
                self._compare(await self._find_unserved())
            await asyncio.sleep(LOOK_SECONDS)

    async def _find_unserved(self) -> set[str]:
        """The agents that no live worker would execute."""
        settings, version = self._settings, self._settings.engine.agents_version
        workers = [
            worker
            for worker in await self._store.fleet.workers()
            if worker.kind == "worker" and worker.seconds_left > 0 and not worker.draining
        ]
        return {
            name
            for name in settings.agents
            if not any(worker.serves(settings.pool_of(name), name, version) for worker in workers)
        }

    def _compare(self, unserved: set[str]) -> None:
        gone, come = unserved - self._unserved, self._unserved - unserved
        self._unserved = unserved
        if gone:
            agents = ", ".join(sorted(gone))
            self._say(f"no live worker serves {agents}, so runs wait", level="warning", hint=self._hint(gone))
        if come:
            self._say(f"a worker serves {', '.join(sorted(come))} now")

    def _hint(self, agents: set[str]) -> str:
        pools = {self._settings.pool_of(agent) for agent in agents}
        named = "".join(f" --pool {pool}" for pool in sorted(pools)) if pools != {"default"} else ""
        flags = f"{engine_flag(self._settings)}{home_of(self._settings).flags}"
        return f"start one: `trackside worker{named}{flags}`"
