"""PostgreSQL: processes tell each other of their commits with LISTEN and NOTIFY, beside the connections that write.

A NOTIFY inside the transaction would halve what can be appended: all transactions that have one commit one after another.
So it is sent afterwards, by itself, once for all that was committed since the last one. It may be lost, with the process or
the connection; whoever listens therefore looks now and then without having been told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, override

from trackside.app.storage._postgres import PostgresDatabase, load_driver
from trackside.app.storage._signals import CommitSignals

if TYPE_CHECKING:
    import asyncpg

logger = logging.getLogger("trackside.storage")

CHANNEL: Final = "trackside_commits"

_UNTOLD_LOOK: Final = 5.0  # seconds after which somebody who was told nothing looks for himself
_GATHER: Final = 0.005  # seconds for which what is committed after a NOTIFY waits for the next one
_PATIENCE: Final = 5.0  # seconds that a NOTIFY may take
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0  # seconds between two tries to connect


class PostgresSignals(CommitSignals):
    """One connection that listens and notifies, made when it is needed first and made anew when it is lost."""

    def __init__(self, database: PostgresDatabase, *, look_every: float = _UNTOLD_LOOK) -> None:
        super().__init__()
        load_driver()  # here and not on the loop
        self._database = database
        self._look_every = look_every
        self._unannounced = self._announcing = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.notifications = 0
        """How many were sent."""

    @override
    def announce(self) -> None:
        self._unannounced = True
        self._wake.set()
        self._attend()

    @override
    def _attend(self) -> None:
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._keep_connected(), name="trackside-signals")

    async def _keep_connected(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closed:
            try:
                async with self._connected() as connection:
                    pause = _FIRST_PAUSE
                    self._hint()  # something may have been missed
                    await self._serve(connection)
            except Exception as exc:  # whatever it is, whoever listens is told to look, and another connection is tried
                if pause == _FIRST_PAUSE:
                    why = self._database.unreachable(exc)
                    defect = exc if why is None else None
                    logger.warning(
                        "commits of others to %s are noticed late for now: %s",
                        self._database,
                        why or exc,
                        exc_info=defect,
                    )
            if not self._closed:
                self._hint()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[asyncpg.Connection]:
        # That a NOTIFY is lost with a server that crashes does no harm: its connections are lost, too.
        connection = await self._database.connect(synchronous_commit="off")
        try:
            own = connection.get_server_pid()

            def hear(_: object, sender: int, channel: str, payload: object) -> None:
                if sender != own:
                    self._hint()

            connection.add_termination_listener(lambda _: self._wake.set())
            await connection.add_listener(CHANNEL, hear)
            yield connection
        finally:
            connection.terminate()

    async def _serve(self, connection: asyncpg.Connection) -> None:
        """Announce what is to be announced, until the connection is lost or there is nothing more to come."""
        while not connection.is_closed():
            if self._unannounced:
                await self._notify(connection)
            elif self._closed:
                return
            else:
                self._wake.clear()
                try:
                    async with asyncio.timeout(self._look_every):
                        await self._wake.wait()
                except TimeoutError:
                    self._hint()

    async def _notify(self, connection: asyncpg.Connection) -> None:
        self._unannounced, self._announcing = False, True
        try:
            await connection.execute(f"NOTIFY {CHANNEL}", timeout=_PATIENCE)
        except BaseException:
            self._unannounced = True
            raise
        finally:
            self._announcing = False
        self.notifications += 1
        if not self._closed:
            await asyncio.sleep(_GATHER)

    @override
    async def aclose(self) -> None:
        await super().aclose()
        if (task := self._task) is not None:
            self._wake.set()
            if self._unannounced or self._announcing:
                await asyncio.wait([task], timeout=_PATIENCE)
            task.cancel()
            await asyncio.wait([task])
