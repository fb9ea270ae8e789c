"""A worker's process of its own for the runs of one place: started, watched, heard, ended.

It is heard on a socket on which it says, line by line and from its event loop, what only it knows (`ChildStats`): first
by which limits it stops runs, then which runs it executes, and where each stands. It says so when it has more or fewer,
and every `BEAT` seconds in any case, so that it is known to be alive. Its supervisor reads the rest in the database:
what is wanted of those runs, and whether they are still its own. `sentencing` says what to make of both.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Final, Self

import msgspec

from trackside.app.vitals import WorkerStats
from trackside.harness.foreign.timelimit import outlived
from trackside.harness.types import AgentStanding, FailureReason

VARIABLE: Final = "_TRACKSIDE_ISOLATED"
"""The environment variable by which a process learns that it is such a process."""

BEAT: Final = 0.5
"""Seconds after which it says again how it is doing."""
LEAST_GRACE: Final = 2 * BEAT
"""Seconds that its runs have in any case to stop when they are cancelled: at most that late, it is heard that the agent
of one has come to its end.
"""
_LONGEST_LINE: Final = 1_048_576  # bytes; the first one names agents
_LAST_WORDS: Final = 1.0  # seconds to read what a process had said before it ended
_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_RESIDENT: Final = 1  # field of /proc/PID/statm, see proc_pid_statm(5)


class Birth(msgspec.Struct, kw_only=True):
    """What a child process is told when it is started."""

    descriptor: int
    """That of the socket on which it says how it is doing, and which closes when its supervisor is gone."""
    parent: int
    """The supervisor's process."""
    isolated_in: str
    """The supervisor's worker."""


class ChildLimits(msgspec.Struct, kw_only=True, frozen=True):
    """What a child process gives its runs, by the settings as it read them; its supervisor may have read older ones."""

    grace: float
    """Seconds in which an agent that was told to stop has stopped, `LEAST_GRACE` or more."""
    timeout: float | None = None
    """Seconds that a run may take, unless its request says others."""
    timeouts: dict[str, float | None] = {}
    """The same for agents that have limits of their own."""

    def timeout_of(self, agent: str) -> float | None:
        """Seconds that a run of an agent may take."""
        return self.timeouts.get(agent, self.timeout)


class ChildStats(msgspec.Struct, kw_only=True):
    """What a child process says of itself: when it takes runs, whenever it has more or fewer, and every `BEAT` seconds."""

    worker_id: str
    running: int = 0
    """Places that are taken, also while it looks whether there is a run."""
    executing: int = 0
    runs: dict[str, AgentStanding] = {}
    """The runs that it executes, and where the agent of each stands."""
    taken: int = 0
    found: int = 0
    missed: int = 0
    foreign: int = 0
    lost: int = 0
    duties: tuple[str, ...] = ()
    """What it does for all of the fleet."""
    limits: ChildLimits | None = None
    """The limits by which it stops runs: said with the first line, and kept from that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a child process has died, and what its death means for its runs; see `FleetStore.bury`."""

    why: str
    failure: FailureReason = FailureReason.worker_lost
    stopped: Mapping[str, str] = field(default_factory=dict)
    timed_out: Mapping[str, str] = field(default_factory=dict)


class ChildProcess:
    """One process, from its start on. Made by `start`.

    It leads a session of its own: what is typed at the supervisor's terminal does not reach it, and what its agent starts
    can be ended with it.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = process.pid
        self.stats: ChildStats | None = None
        """What it said of itself last; None: it has not begun to take runs."""
        self.unheard = 0
        """How often its supervisor has looked since. So time in which the supervisor stood still does not count."""
        self.heard_at = 0.0
        """When that was, by this process's clock."""
        self.verdict: Verdict | None = None
        """Why it was killed by its supervisor."""
        self.begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether it takes runs, or has ended before it did."""
        self._is_asked_to_end = False
        self._process = process
        self._reader = reader
        self._writer = writer  # nothing is written; but when it closes, the process ends, too
        self._end = asyncio.create_task(self._see_end(), name=f"trackside-child-{self.pid}")

    @classmethod
    async def start(cls, command: Sequence[str], environ: Mapping[str, str], isolated_in: str) -> Self:
        """Start it; it inherits nothing but standard output and standard error.

        Raises:
            OSError: the system has no room for it.
        """
        ours, theirs = socket.socketpair()
        try:
            birth = Birth(descriptor=theirs.fileno(), parent=os.getpid(), isolated_in=isolated_in)
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                env={**environ, VARIABLE: msgspec.json.encode(birth).decode()},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, *await asyncio.open_connection(sock=ours, limit=_LONGEST_LINE))

    @property
    def is_up(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self._process.returncode is None

    @property
    def running(self) -> int:
        """How many runs it may have, as it said last."""
        return 0 if self.stats is None or not self.is_up else self.stats.running

    @property
    def executing(self) -> int:
        """How many runs it has, as it said last."""
        return 0 if self.stats is None or not self.is_up else self.stats.executing

    def resident(self) -> int:
        """Bytes of memory that it has; 0 if it has ended. Reads a file."""
        try:
            return int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[_RESIDENT]) * _PAGE
        except (OSError, ValueError, IndexError):
            return 0

    def ask_to_end(self) -> None:
        """Have it take no more runs, and end when it has finished; asked again, it cancels them."""
        if self.is_up:
            # Two signals of the same kind are one to a process that has not looked in between.
            number = signal.SIGINT if self._is_asked_to_end else signal.SIGTERM
            self._is_asked_to_end = True
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def ask_to_finish(self) -> None:
        """Have it take no more runs, and end when it has finished, however long that takes."""
        if self.stats is None:  # it has none, and would not heed the signal while it loads
            self.ask_to_end()
        elif self.is_up:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGHUP)

    def kill(self, verdict: Verdict | None = None) -> None:
        """End it at once, and what its agent has started."""
        if self.is_up:
            self.verdict = self.verdict or verdict
            self._kill_group()

    async def wait(self) -> Verdict | None:
        """Wait for its end; returns why it died, with nothing left of what it had started. None: it left as asked."""
        code = await outlived(self._end)
        if self.verdict is None and code == 0 and not (self.stats is not None and self.stats.running):
            return None
        self._kill_group()
        return self.verdict or Verdict(why=self.how_it_ended, failure=_failure(code))

    @property
    def how_it_ended(self) -> str:
        """How it has ended: with which code, or what it was killed for."""
        return f"the agent's process {_ending(self.exit_code or 0)}" if self.verdict is None else self.verdict.why

    @property
    def exit_code(self) -> int | None:
        """The code with which it has ended, negative if it was a signal; None while it is up."""
        return self._process.returncode

    async def _see_end(self) -> int:
        """Its exit code, when it has ended and what it said has been heard."""
        hearing = asyncio.create_task(self._hear(), name=f"trackside-child-said-{self.pid}")
        try:
            code = await self._process.wait()
            # A process that the agent has forked has the socket, too: it may be long until that closes.
            if code != 0:
                self._kill_group()
            await asyncio.wait({hearing}, timeout=_LAST_WORDS)
        finally:
            hearing.cancel()
            await asyncio.wait({hearing})
            self._writer.close()
        return code

    async def _hear(self) -> None:
        """Take in what it says, to the end of its life."""
        try:
            # An agent's code may write to a descriptor that it has guessed: something else, or a line without an end.
            with suppress(ConnectionError, ValueError):
                async for line in self._reader:
                    with suppress(msgspec.MsgspecError):
                        said = msgspec.json.decode(line, type=ChildStats)
                        if said.limits is None and self.stats is not None:
                            said.limits = self.stats.limits
                        self.stats = said
                        self.heard_at, self.unheard = monotonic(), 0
                        _settle(self.begun, begun=True)
        finally:
            _settle(self.begun, begun=False)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def _ending(code: int) -> str:
    """How a process with this exit code ended, in words that follow its name."""
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"was ended by signal {-code}"


def total(children: Sequence[ChildProcess], gone: ChildStats, places: int) -> WorkerStats:
    """What child processes do now, and what all that there ever were have done."""
    said = [gone, *(child.stats for child in children if child.stats is not None)]
    return WorkerStats(
        places=places,
        running=sum(child.running for child in children),
        taken_total=sum(one.taken for one in said),
        found_total=sum(one.found for one in said),
        missed_total=sum(one.missed for one in said),
        foreign_total=sum(one.foreign for one in said),
        lost_total=sum(one.lost for one in said),
    )


def _failure(code: int) -> FailureReason:
    """Whoever sends SIGKILL, be it a person or a system without memory, is not the agent."""
    return FailureReason.worker_lost if code == -signal.SIGKILL else FailureReason.process_crashed


def _settle(future: asyncio.Future[bool], *, begun: bool) -> None:
    if not future.done():
        future.set_result(begun)
