"""DBOS in a process of its own, as a contender: workflows of one step, which take as many commits as a run of ours."""

import asyncio
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from _databases import Databases, Peer, SqliteFiles
from _rounds import Contender, Work
from _servers import DBOS, NotThereError, installed

_PROGRAM = Path(__file__).with_name("_dbos_program.py")
NAME = "DBOS, a workflow of one step"


class Workflows:
    """This many workflows at once, on new databases of one kind."""

    def __init__(self, python: Path, databases: Databases, at_once: int) -> None:
        self._python = python
        self._databases = databases
        self._at_once = at_once
        self._cpu_ns = 0

    def cpu_ns(self) -> int:
        """CPU time so far of the program and of the database's server."""
        return self._cpu_ns + self._databases.cpu_ns()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Work]:
        async with self._databases.new(with_tables=False) as url:
            typed = (self._python, _PROGRAM, url, str(self._at_once))
            process = await asyncio.create_subprocess_exec(
                *typed, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            try:
                if await self._answer(process) != "ready":
                    raise NotThereError("DBOS does not start")
                yield partial(self._work, process)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()

    async def _work(self, process: asyncio.subprocess.Process, count: int) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{count}\n".encode())
        answer = await self._answer(process)
        if not answer:
            raise NotThereError("DBOS has stopped")
        self._cpu_ns += int(answer)

    @staticmethod
    async def _answer(process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        return (await process.stdout.readline()).decode().strip()


def dbos() -> tuple[list[Peer], list[str]]:
    """The peer, or none and the reason why it is not measured."""
    try:
        python = installed(DBOS)
        asyncio.run(_once(Workflows(python, SqliteFiles(), 1)))
    except NotThereError as exc:
        return [], [f"{NAME} is not measured: {exc}"]

    def contender(case: str, databases: Databases, at_once: int) -> Contender:
        workflows = Workflows(python, databases, at_once)
        return Contender(NAME, case, workflows.open, server_cpu_ns=workflows.cpu_ns)

    return [contender], []


async def _once(workflows: Workflows) -> None:
    async with workflows.open() as work:
        await work(1)
