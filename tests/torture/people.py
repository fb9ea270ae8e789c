"""Who uses a system: clients of its servers, users of the library, a receiver of webhooks; crons come due, too."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from traceback import format_exc
from typing import Any, Final, override

from fleet_clients import Balanced
from log_check import look_into
from served_clients import Client, new_id, unless_gone
from served_load import Load
from tests.torture.systems import System
from told_words import Words
from trackside_server import TracksideProcess

PATIENCE: Final = 240.0
"""Seconds after which a client that is told nothing says so; no fault lasts as long."""
USERS: Final = 2
CRONS: Final = 3
LONG_AGO: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""The day on which crons come due: each time a second later, as the same time starts no second run."""
_CRON_PAUSE: Final = 2.0  # seconds


class Program(TracksideProcess):
    """A program of the tests, which is killed and started as those of the product are."""

    def __init__(self, module: str, arguments: Sequence[str], folder: Path, name: str, env: dict[str, str]) -> None:
        program = [sys.executable, "-P", "-m", f"tests.torture.{module}"]
        super().__init__(folder, arguments, name=name, env=env, program=program)


class Receiver(Program):
    """The receiver of the webhooks. It keeps its port for all its lives, and its clock is right."""

    def __init__(self, file: Path, host: str) -> None:
        self._place = [str(file), host]
        super().__init__("receiver", (), file.parent, "receiver", {"PYTHONPATH": os.pathsep.join(sys.path)})

    @property
    def port(self) -> int:
        """The port on which it listens; 0 if it has not listened yet."""
        return int(self.ready.get("port", 0))

    @override
    def arguments(self) -> Sequence[str]:
        return [*self._place, str(self.port)]


class TortureClient(Client):
    """Also removes threads that have runs: what the database had of them at that time may go."""

    url = ""

    async def remove_with_runs(self) -> None:
        """Have a run on a thread, and remove the thread."""
        thread_id = new_id()
        with unless_gone():
            run = await self._start(thread_id, "talks", self._work(), may_be_cancelled=True)
            await self._join(run)
        positions = await asyncio.to_thread(self._positions, thread_id)
        if positions:
            await self._remove(thread_id, positions)

    def _positions(self, thread_id: str) -> list[int]:
        try:
            with look_into(self.url) as database:
                busy = database.execute(f"SELECT run_id FROM active_runs WHERE thread_id = '{thread_id}'").fetchall()
                found = database.execute(f"SELECT position FROM events WHERE thread_id = '{thread_id}'").fetchall()
        except Exception:  # the database is away, and each kind says so in its way
            return []
        return [] if busy else [position for (position,) in found]


TortureClient.KINDS = {**Client.KINDS, "removes": TortureClient.remove_with_runs}


class People:
    """All who use a system.

    Args:
        system: what they use.
        seed: decides what they do.
        clients: how many clients of servers there are of each kind.
        pause: seconds between two actions of one of them, on average.
    """

    def __init__(self, system: System, *, seed: int, clients: int = 1, pause: float = 0.3) -> None:
        self._system = system
        self._chance = random.Random(seed)
        self.arrivals = system.folder / "arrivals"
        """The file of what the receiver has got."""
        self._clients, self._pause = clients, pause
        self._made = 0
        self._crons: asyncio.Task[None] | None = None
        self.times = asyncio.Lock()
        """No cron comes due while somebody holds this: whether one has come due has to be known."""
        self.words = Words(system.folder / "clients.told")
        self.receiver = Receiver(self.arrivals, system.listens_at)
        self.users: list[Program] = []
        """Users of the library; none in a fleet, which consists of servers and workers only."""
        self.load: Load | None = None

    @property
    def told_files(self) -> list[Path]:
        """The files in which everybody has written what he was told."""
        return sorted(self._system.folder.glob("*.told"))

    @property
    def hook(self) -> str:
        """The receiver's address."""
        return f"http://{self._system.listens_at}:{self.receiver.port}"

    async def receive(self) -> None:
        """Start a receiver, whose address a system is given as it starts."""
        await asyncio.to_thread(self.receiver.start)

    async def come(self) -> None:
        """Begin to use the system."""
        TortureClient.url = self._system.url
        await self._make_crons([server.url for server in self._system.servers], CRONS)
        if not self._system.workers:
            await self.replace_users()
        self.load = Load(
            [server.url for server in self._system.servers],
            f"{self.hook}/hook",
            seed=self._chance.randrange(2**32),
            clients=self._clients,
            words=self.words,
            patience=PATIENCE,
            pause=self._pause,
            make=TortureClient,
        )
        await self.load.__aenter__()
        self._crons = asyncio.create_task(self._let_times_come(), name="crons")

    async def replace_users(self) -> None:
        """Start users of the library until there are as many as there should be."""
        for user in [*self.users]:
            if user.has_ended:
                self.users.remove(user)
        while len(self.users) < USERS:
            self._made += 1
            name = f"user-{self._made}"
            seed = str(self._chance.randrange(2**32))
            arguments = [self._system.url, str(self._system.folder), name, seed]
            user = Program("library_user", arguments, self._system.folder, name, self._system.env())
            try:
                await asyncio.to_thread(user.start)
            except RuntimeError as exc:
                self.words.tell("wrong", why=str(exc))
                return
            self.users.append(user)

    async def stop(self) -> None:
        """Let everybody finish what he does."""
        if self._crons is not None:
            async with self.times:  # else the thread that makes one due still does so, and nobody notes it
                self._crons.cancel()
            await asyncio.wait([self._crons])
            for server in self._system.servers:  # it looks for what is due when it makes a cron; else twice a minute
                await self._make_crons([server.url], 1)
        if self.load is not None:
            await self.load.stop()
        for user in self.users:
            try:
                code: int | str = await asyncio.to_thread(user.terminate)
            except RuntimeError as exc:
                code = str(exc)
            if code:
                self.words.tell("wrong", why=f"{user.name} ended with {code}: {user.log[-2_000:]}")
        self.users.clear()

    async def leave(self) -> None:
        """Leave, whatever happens."""
        if self.load is not None:
            await self.load.__aexit__()
        for program in (*self.users, self.receiver):
            await asyncio.to_thread(program.kill)
        self.words.close()

    async def _make_crons(self, urls: Sequence[str], number: int) -> None:
        async with Balanced(urls, patience=PATIENCE) as balanced:
            for _ in range(number):
                work: dict[str, Any] = {"parts": 1, "pause": 0, "token": ""}
                cron: Any = await balanced.surely(
                    lambda client, work=work: client.crons.create("talks", schedule="0 0 1 1 *", input=work)  # type: ignore[misc]
                )
                self.words.tell("cron", cron_id=cron["cron_id"], times=0)

    async def _let_times_come(self) -> None:
        """Make each cron due now and then, unless it is still due from the last time."""
        try:
            for number in range(86_400):
                await asyncio.sleep(_CRON_PAUSE)
                for cron_id in [*self.words.crons]:
                    async with self.times:
                        if await asyncio.to_thread(self._make_due, cron_id, number):
                            self.words.tell("cron", cron_id=cron_id, times=self.words.crons[cron_id] + 1)
        except Exception:  # whatever is wrong: the words say that no cron comes due any more
            self.words.tell("wrong", why=f"whoever has the times of crons come crashed: {format_exc()}")

    def _make_due(self, cron_id: str, number: int) -> bool:
        try:
            with look_into(self._system.url) as database:
                of_it = f"WHERE cron_id = '{cron_id}'"
                ((at,),) = database.execute(f"SELECT next_run_at FROM crons {of_it}").fetchall()
                if at < str((LONG_AGO + timedelta(days=1)).date()):
                    return False
                due = f"{LONG_AGO + timedelta(seconds=number):%Y-%m-%dT%H:%M:%S}.000000Z"
                database.execute(f"UPDATE crons SET next_run_at = '{due}' {of_it}")
        except sqlite3.OperationalError:  # it is locked, or full: nothing has changed
            return False
        return True
