"""One process of a fleet: what is known about it, and what keeps it up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import Final

from trackside.app.engine.local.children import Child, Guard, Launch
from trackside.app.engine.local.errors import LocalServerError

_START_SECONDS: Final = 60.0
_SHORT_LIFE: Final = 10.0  # seconds
_LONGEST_PAUSE: Final = 10.0  # seconds
_MOST_DOUBLINGS: Final = 10
_TAIL: Final = 4_096  # bytes


class MemberKind(StrEnum):
    """The kind of a fleet's process."""

    postgres = "postgres"
    nats = "nats"
    server = "server"
    worker = "worker"


class MemberState(StrEnum):
    """What a process is doing now; one that is `down` has died and is started again soon."""

    starting = "starting"
    up = "up"
    down = "down"
    stopping = "stopping"
    stopped = "stopped"


@dataclass(slots=True)
class Member:
    """One process of a fleet, through all its restarts."""

    name: str
    kind: MemberKind
    port: int | None = None
    """The port at which it listens on this machine, if any."""
    state: MemberState = MemberState.starting
    pid: int | None = None
    """Its process id; None: there is no process now."""
    restarts: int = 0
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    """Since when it has its state."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened to a process of a fleet, in a few words."""

    at: datetime
    member: str
    what: str
    is_bad: bool = False


class Keeper:
    """Keeps one process up, from its first start until it is told to stop.

    Args:
        member: what is known of it, kept up to date.
        launch: how it is started.
        until_ready: returns when it can be used, or has ended.
        guard: ends it when we are gone.
        say: is told what happens.
        pause: seconds before it is started again; more and more where it does not live long.
    """

    def __init__(
        self,
        member: Member,
        launch: Launch,
        until_ready: Callable[[Child], Awaitable[None]],
        *,
        guard: Guard,
        say: Callable[[Happening], object],
        pause: float,
    ) -> None:
        self.member = member
        self._launch = launch
        self._until_ready = until_ready
        self._guard = guard
        self._say = say
        self._pause = pause
        self._short_lives = 0
        self._child: Child | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Start it for the first time, and keep it up from then on.

        Raises:
            LocalServerError: it does not come up.
        """
        child = await self._start()
        if child.exit_code is not None or self.member.state is not MemberState.up:
            code = await child.stop(0.0)
            why = await asyncio.to_thread(self._last_words) or f"it ended with {code}"
            raise LocalServerError(what=self.member.name, why=why.removesuffix("."))
        self._keeping = asyncio.create_task(self._keep(child), name=f"trackside-fleet-{self.member.name}")

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, if there is one."""
        if self._child is not None:
            self._child.signal(number)

    def hurry(self) -> None:
        """Have it stop quickly, once it was told to stop."""
        if self.member.state is MemberState.stopping:
            self.signal(self._launch.stops_quickly_by)

    async def stop(self, patience: float) -> None:
        """Stop it, and let it be; what has not stopped after so many seconds is killed."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        if self._child is not None and self._child.exit_code is None:
            self._become(MemberState.stopping)
            code = await self._child.stop(patience)
            self._tell("stopped" if code == 0 else _end_in_words(code), is_bad=code != 0)
        self.member.pid = None
        self._become(MemberState.stopped)

    async def _keep(self, child: Child) -> None:
        while True:
            began = monotonic()
            code = await child.wait()
            self.member.pid = None
            self._become(MemberState.down)
            words = await asyncio.to_thread(self._last_words) if code > 0 else ""
            self._tell(": ".join(filter(None, (_end_in_words(code), words))), is_bad=True)
            self._short_lives = self._short_lives + 1 if monotonic() - began < _SHORT_LIFE else 0
            child = await self._start_again()

    async def _start_again(self) -> Child:
        while True:
            times_longer = 2 ** min(max(0, self._short_lives - 1), _MOST_DOUBLINGS)
            await asyncio.sleep(min(self._pause * times_longer, _LONGEST_PAUSE))
            self.member.restarts += 1
            try:
                return await self._start()
            except OSError as exc:  # no memory, no disk: that may pass
                self._short_lives += 1
                self._become(MemberState.down)
                self._tell(f"cannot be started: {exc.strerror}", is_bad=True)

    async def _start(self) -> Child:
        self._become(MemberState.starting)
        self._child = child = await Child.start(self._launch, self._guard)
        self.member.pid = child.pid
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._until_ready(child)
        except TimeoutError:
            child.signal(signal.SIGKILL)
            return child
        if child.exit_code is None:
            self._become(MemberState.up)
            self._tell("is up again" if self.member.restarts else "is up")
        return child

    def _become(self, state: MemberState) -> None:
        self.member.state, self.member.since = state, datetime.now(UTC)

    def _tell(self, what: str, *, is_bad: bool = False) -> None:
        self._say(Happening(datetime.now(UTC), self.member.name, what, is_bad))

    def _last_words(self) -> str:
        """The last line of its log, unless somebody has removed the log."""
        try:
            with self._launch.log.open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - _TAIL))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return last.removeprefix("error: ")


def _end_in_words(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    return f"was killed by {signal.Signals(-code).name}"
