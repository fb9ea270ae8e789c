"""Too little of something for a while: room on the disk, memory, file descriptors."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from fleet import FleetProcess
from tests.torture.faults._fault import Fault, revive
from tests.torture.systems import OnSqlite

_BLOCK: Final = 1 << 22
_LITTLE_MEMORY: Final = 4 << 20  # bytes that it may have beyond what it has now
_FEW: Final = 3  # descriptors that it may have beyond what it has now
_CROWD: Final = 30


class FullDisk(Fault):
    name = "full-disk"
    does = "the disk with the SQLite file and its spool is full (a small file system, else `prlimit --fsize`)"
    needs = "SQLite; a mount, or Linux"
    kind = "shortage"

    @property
    def concerns(self) -> bool:
        return isinstance(self.system, OnSqlite)

    def why_not(self) -> str | None:
        return None if self.system.disk is not None or sys.platform == "linux" else "file sizes are limited on Linux"

    async def inject(self) -> str:
        self._limited: tuple[FleetProcess, int, Any] | None = None
        if self.system.disk is not None:
            await asyncio.to_thread(self._fill, self.system.disk)
            return "ENOSPC"
        wal = Path(f"{self.system.url.removeprefix('sqlite:///')}-wal")
        size = wal.stat().st_size if wal.exists() else 0
        self._limited = _limit(self.system.servers[0], resource.RLIMIT_FSIZE, size)
        return "EFBIG"

    async def hold(self) -> None:
        await asyncio.sleep(self.chance.uniform(1.0, 3.0))

    async def heal(self) -> None:
        if self.system.disk is not None:
            (self.system.disk / "filler").unlink(missing_ok=True)
        _lift(self._limited)

    def _fill(self, disk: Path) -> None:
        with (disk / "filler").open("wb", buffering=0) as file:
            size = 0
            for block in (_BLOCK, 4_096):
                try:
                    while True:
                        os.posix_fallocate(file.fileno(), size, block)
                        size += block
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise


class _Limited(Fault):
    """A process that may have no more of something."""

    needs = "Linux"
    kind = "shortage"

    def why_not(self) -> str | None:
        return None if sys.platform == "linux" else "what another process may have is limited on Linux"


class Memory(_Limited):
    name = "memory"
    does = "a process gets no more memory than it has (`prlimit --as`); it may die of that"

    async def inject(self) -> str:
        self._process = self.chance.choice(self.system.processes)
        size = int(Path(f"/proc/{self._process.pid}/statm").read_text("ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        self._limited = _limit(self._process, resource.RLIMIT_AS, size + _LITTLE_MEMORY)
        return self._process.name

    async def hold(self) -> None:
        await asyncio.sleep(self.chance.uniform(0.5, 2.5))

    async def heal(self) -> None:
        if self._process.is_up:
            _lift(self._limited)
            return
        code = await asyncio.to_thread(self._process.process.wait)
        self.toll.deaths.append(f"{self._process.name} without memory: exit code {code}")
        await revive(self._process, self.toll)


class Descriptors(_Limited):
    name = "descriptors"
    does = "a server has no file descriptor left (`prlimit --nofile`), while a crowd wants to connect"

    async def inject(self) -> str:
        self._server = self.chance.choice(self.system.servers)
        used = [int(file.name) for file in Path(f"/proc/{self._server.pid}/fd").iterdir()]
        self._limited = _limit(self._server, resource.RLIMIT_NOFILE, max(used) + _FEW)
        self._crowd = ExitStack()
        place = urlsplit(self._server.url)
        await asyncio.to_thread(self._come, place.hostname or "", place.port or 0)
        return self._server.name

    async def heal(self) -> None:
        self._crowd.close()
        if self._server.is_up:
            _lift(self._limited)
            return
        self.toll.wrong.append(f"{self._server.name} ended because it had no descriptors")
        await revive(self._server, self.toll)

    def _come(self, host: str, port: int) -> None:
        for _ in range(_CROWD):
            try:
                self._crowd.enter_context(socket.create_connection((host, port), timeout=1))
            except OSError:  # the queue of connections that nobody has accepted is full
                return


def _limit(process: FleetProcess, what: int, most: int) -> tuple[FleetProcess, int, Any]:
    """Limit a process to this much."""
    soft, hard = resource.prlimit(process.pid, what)
    resource.prlimit(process.pid, what, (most, hard))
    return process, what, (soft, hard)


def _lift(limited: tuple[FleetProcess, int, Any] | None) -> None:
    if limited is not None:
        process, what, before = limited
        resource.prlimit(process.pid, what, before)
