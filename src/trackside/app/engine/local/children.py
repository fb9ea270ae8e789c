"""Processes of this one: started, watched, told to stop, and ended by somebody else if this one is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

_GUARD: Final = """
kept=
while read -r order pid signal; do
    case $order in
        keep) kept="$kept $pid:$signal" ;;
        drop)
            left=
            for one in $kept; do [ "${one%%:*}" = "$pid" ] || left="$left $one"; done
            kept=$left ;;
    esac
done
for one in $kept; do kill -s "${one#*:}" "${one%%:*}" 2>/dev/null; done
"""
"""Keeps a list of processes, and ends them when whoever holds the other end of its input is gone."""


def own_environment() -> dict[str, str]:
    """What a program that is none of ours needs of our environment."""
    return {"LC_ALL": "C", **{name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}}


class Guard:
    """Ends processes when this one is gone, also if it was killed. Open it with `async with`."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        nowhere = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            _GUARD,
            "trackside-guard",
            stdin=asyncio.subprocess.PIPE,
            stdout=nowhere,
            stderr=nowhere,
            start_new_session=True,  # Ctrl-C is for us alone
            cwd="/",
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    def keep(self, pid: int, ends_by: signal.Signals) -> None:
        """Send this process this signal when we are gone."""
        self._say(f"keep {pid} {ends_by.name.removeprefix('SIG')}")

    def drop(self, pid: int) -> None:
        """Forget a process that has ended: its number may be somebody else's soon."""
        self._say(f"drop {pid} -")

    def _say(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(f"{line}\n".encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a process is started, and how it is stopped.

    `speaks` says that its first line on standard output tells how it can be reached; what else it writes goes to `log`.
    """

    command: Sequence[str | Path]
    log: Path
    cwd: Path
    env: Mapping[str, str] = field(default_factory=own_environment)
    """All of its environment."""
    user: str | None = None
    speaks: bool = False
    stops_by: signal.Signals = signal.SIGTERM
    stops_quickly_by: signal.Signals = signal.SIGINT
    """A different signal: two of the same kind are one to a process that has not looked in between."""
    ends_by: signal.Signals = signal.SIGKILL
    """How it is ended when we are gone."""


class Child:
    """One process, from its start to its end."""

    def __init__(self, process: asyncio.subprocess.Process, launch: Launch, guard: Guard) -> None:
        self.pid = process.pid
        self.launch = launch
        self._process = process
        self._guard = guard
        guard.keep(self.pid, launch.ends_by)

    @classmethod
    async def start(cls, launch: Launch, guard: Guard) -> Self:
        """Start it."""
        log = await asyncio.to_thread(os.open, launch.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        user = launch.user
        try:
            process = await asyncio.create_subprocess_exec(
                *launch.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if launch.speaks else log,
                stderr=log,
                env=launch.env,
                cwd=launch.cwd,
                start_new_session=True,
                user=user,
                # Otherwise it would keep our groups, which are root's.
                group=None if user is None else _group_of(user),
                extra_groups=None if user is None else (),
            )
        finally:
            os.close(log)
        return cls(process, launch, guard)

    @property
    def exit_code(self) -> int | None:
        """How it has ended: its exit code, or the number of the signal that killed it, negative; None: it runs."""
        return self._process.returncode

    async def first_line(self) -> bytes:
        """What it says first; nothing if it ends without a word. What comes later is thrown away."""
        assert self._process.stdout is not None
        return await self._process.stdout.readline()

    async def wait(self) -> int:
        """Wait until it has ended."""
        reading = asyncio.create_task(self._read_on(), name="trackside-child-output")
        try:
            code = await self._process.wait()
        finally:
            reading.cancel()  # what it has started may hold the pipe open
            await asyncio.wait({reading})
        self._guard.drop(self.pid)
        return code

    async def _read_on(self) -> None:
        while self._process.stdout is not None and await self._process.stdout.read(65_536):
            pass

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, patience: float) -> int:
        """Stop it; what has not stopped after so many seconds is killed."""
        self.signal(self.launch.stops_by)
        waiting = asyncio.create_task(self.wait(), name="trackside-child-end")
        await asyncio.wait({waiting}, timeout=patience)
        if self.exit_code is None:
            self.signal(signal.SIGKILL)
        return await waiting


def _group_of(user: str) -> int:
    import pwd  # not on Windows, where there is no root either

    return pwd.getpwnam(user).pw_gid
