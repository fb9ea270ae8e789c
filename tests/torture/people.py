"""Who uses a system: clients of its servers, users of the library, a receiver of webhooks; and the times of crons come."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from fleet_clients import Balanced
from log_check import look_into
from served_clients import Client, new_id, unless_gone
from served_load import Load
from tests.torture.systems import System
from told_words import Words

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE: Final = 120.0
"""Seconds after which a client that is told nothing says so; a fault does not last as long."""
USERS: Final = 2
CRONS: Final = 3
LONG_AGO: Final = "2026-01-01T00:00:{:02}.000000Z"
_CRON_PAUSE: Final = 2.0  # seconds
_START_SECONDS: Final = 60.0
_GUARD: Final = 'read word || kill -KILL "$1"'


class Program:
    """A process that is no part of the product; it does not outlive whoever started it."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path, env: dict[str, str]) -> None:
        self.name = name
        self.said = ""
        """The line with which it has said that it can be used."""
        self.arguments = arguments
        self._log = folder / f"{name}.log"
        self._env = {**os.environ, **env}
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What it has written to standard error."""
        return self._log.read_text("utf-8", errors="replace") if self._log.exists() else ""

    @property
    def has_ended(self) -> bool:
        """Whether there is no process."""
        return self._process is None or self._process.poll() is not None

    def start(self) -> None:
        """Start it; returns when it can be used.

        Raises:
            RuntimeError: it has ended before.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        guard = ["/bin/sh", "-c", _GUARD, "guard", str(self._process.pid)]
        self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        self.said = self._process.stdout.readline().decode().strip()
        if not self.said:
            raise RuntimeError(f"{self.name} ended with {self.wait()}: {self.log[-2_000:]}")

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self.wait()

    def terminate(self) -> int:
        """Tell it that it is enough, and wait until it has ended; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended; its exit code."""
        assert self._process is not None
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
            self._log.open("a").write(f"{self.name} did not end within {PATIENCE:g} s, and was killed\n")
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        if self._guard is not None:
            self._guard.communicate(b"done\n")
            self._guard = None
        return code


class TortureClient(Client):
    """Removes threads with runs as well: what the database had of them at that time may go."""

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
        except Exception:  # the database is away, in the way of its kind
            return []
        return [] if busy else [position for (position,) in found]


TortureClient.KINDS = {**Client.KINDS, "removes": TortureClient.remove_with_runs}


class People:
    """All who use a system.

    Args:
        system: what they use.
        seed: of what they do.
        clients: of servers, of each kind.
        pause: seconds between two things that one of them does, on average.
    """

    def __init__(self, system: System, *, seed: int, clients: int = 1, pause: float = 0.3) -> None:
        self._system = system
        self._chance = random.Random(seed)
        self.arrivals = system.folder / "arrivals"
        """What the receiver has got."""
        self._clients, self._pause = clients, pause
        self._made = 0
        self._crons: asyncio.Task[None] | None = None
        self.times = asyncio.Lock()
        """No time of a cron comes while somebody has it: whether one has come has to be known."""
        self.words = Words(system.folder / "clients.told")
        self.receiver = Program(
            "receiver", self._receiving("0"), system.folder, {"PYTHONPATH": os.pathsep.join(sys.path)}
        )
        self.users: list[Program] = []
        """Those of the library; none in a fleet, where servers and workers are all that there is."""
        self.load: Load | None = None

    @property
    def told_files(self) -> list[Path]:
        """What everybody has written of what he was told."""
        return sorted(self._system.folder.glob("*.told"))

    @property
    def hook(self) -> str:
        """Where the receiver is."""
        return f"http://{self._system.listens_at}:{self.receiver.said}"

    async def receive(self) -> None:
        """Have a receiver, which a system is told of as it starts."""
        await asyncio.to_thread(self.receiver.start)
        self.receiver.arguments = self._receiving(self.receiver.said)  # the port that it has, for all its lives

    async def come(self) -> None:
        """Begin to use the system."""
        TortureClient.url = self._system.url
        await self._make_crons()
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
        """Have as many users of the library as there should be."""
        for user in [*self.users]:
            if user.has_ended:
                self.users.remove(user)
        while len(self.users) < USERS:
            self._made += 1
            name = f"user-{self._made}"
            arguments = ["tests.torture.library_user", self._system.url, str(self._system.folder), name]
            user = Program(
                name, [*arguments, str(self._chance.randrange(2**32))], self._system.folder, self._system.env()
            )
            try:
                await asyncio.to_thread(user.start)
            except RuntimeError as exc:
                self.words.tell("wrong", why=str(exc))
                return
            self.users.append(user)

    async def stop(self) -> None:
        """Let everybody come to the end of what he does."""
        if self._crons is not None:
            self._crons.cancel()
            await asyncio.wait([self._crons])
        if self.load is not None:
            await self.load.stop()
        for user in self.users:
            code = await asyncio.to_thread(user.terminate)
            if code:
                self.words.tell("wrong", why=f"{user.name} ended with {code}: {user.log[-2_000:]}")
        self.users.clear()

    async def leave(self) -> None:
        """Be gone, whatever happens."""
        if self.load is not None:
            await self.load.__aexit__()
        for program in (*self.users, self.receiver):
            await asyncio.to_thread(program.kill)
        self.words.close()

    def _receiving(self, port: str) -> Sequence[str]:
        return ["tests.torture.receiver", str(self.arrivals), self._system.listens_at, port]

    async def _make_crons(self) -> None:
        urls = [server.url for server in self._system.servers]
        async with Balanced(urls, patience=PATIENCE) as balanced:
            for _ in range(CRONS):
                work: dict[str, Any] = {"parts": 1, "pause": 0, "token": ""}
                cron: Any = await balanced.surely(
                    lambda client, work=work: client.crons.create("talks", schedule="0 0 1 1 *", input=work)  # type: ignore[misc]
                )
                self.words.tell("cron", cron_id=cron["cron_id"], times=0)

    async def _let_times_come(self) -> None:
        """Have a time of each cron come now and then, unless one has come that it has not gone past."""
        for number in range(1_000_000):
            await asyncio.sleep(_CRON_PAUSE)
            for cron_id in [*self.words.crons]:
                async with self.times:
                    if await asyncio.to_thread(self._make_due, cron_id, number):
                        self.words.tell("cron", cron_id=cron_id, times=self.words.crons[cron_id] + 1)

    def _make_due(self, cron_id: str, number: int) -> bool:
        try:
            with look_into(self._system.url) as database:
                of_it = f"WHERE cron_id = '{cron_id}'"
                ((at,),) = database.execute(f"SELECT next_run_at FROM crons {of_it}").fetchall()
                if at <= LONG_AGO.format(59):
                    return False
                database.execute(f"UPDATE crons SET next_run_at = '{LONG_AGO.format(number % 59)}' {of_it}")
        except sqlite3.OperationalError:  # it is locked, or full: nothing has changed
            return False
        return True
