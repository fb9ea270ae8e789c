"""Keeps this process connected to NATS, and begins what it does there anew on each connection."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from datetime import UTC, datetime
from typing import Final, Protocol

import nats.errors

from trackside.app.engine.nats._errors import EngineOptionError
from trackside.app.engine.nats._link import Link, why_not
from trackside.app.engine.nats._options import Access, NatsOptions, load_access
from trackside.app.engine.ports import EngineStatus
from trackside.harness.threads import in_own_thread

__all__ = ["WORK_QUEUE", "Connection", "Part"]

logger = logging.getLogger("trackside.engine")

_FIRST_PAUSE: Final = 0.1  # seconds
_LONGEST_PAUSE: Final = 2.0
WORK_QUEUE: Final = "the work queue"
"""A connection moves nothing without it; `report` is told of it on each connection."""
_NOT_YET: Final = "it is being connected"


class Part(Protocol):
    """Something that a process does on each connection, from its beginning to its loss."""

    async def attend(self, link: Link) -> None:
        """Do it until cancelled; whatever it needs of NATS, it makes sure of itself."""
        ...


class Connection:
    """The connection of this process: there is one, or the next one is being made."""

    def __init__(self, options: NatsOptions, access: Access) -> None:
        self._options = options
        self._access: Access | None = access
        self._parts: dict[Part, asyncio.Task[None] | None] = {}
        self._problems: dict[str, str] = {}
        self._notes: dict[str, str | None] = {}
        self._why: str | None = _NOT_YET
        self._since: datetime | None = datetime.now(UTC)
        self._keeper: asyncio.Task[None] | None = None
        self._losses = 0
        self._slow = self._denied = False
        self.link: Link | None = None
        self.reconnects = 0
        self.on_lost: list[Callable[[], object]] = []
        """Called when nothing can be moved any more."""

    def start(self) -> None:
        """Begin to connect."""
        # Not in the context of whoever happens to open it: it works for others, too.
        self._keeper = asyncio.create_task(self._keep(), name="trackside-nats", context=Context())

    def add(self, part: Part) -> None:
        """Have this done on each connection from now on."""
        self._parts[part] = self._begin(part) if self.link is not None else None

    async def remove(self, part: Part) -> None:
        """Have this done no more."""
        await _end([self._parts.pop(part, None)])

    def status(self) -> EngineStatus:
        """Whether anything can be moved now."""
        why = self._why
        if why is None and self._problems:
            why = next(iter(self._problems.values()), None)
        if why is None:
            return EngineStatus(connected=True)
        return EngineStatus(connected=False, why=f"NATS {self._options.shown}: {why}", since=self._since)

    def report(self, what: str, why: str | None) -> None:
        """Say that something is not as it has to be, or (None) that it is."""
        if why is None:
            before = self._problems.pop(what, None)
            if not self._problems:
                self._since = None
            if before not in {None, _NOT_YET}:
                logger.warning("NATS %s: %s works again", self._options.shown, what)
            return
        was_in_order = self.status().connected
        if self._problems.get(what) != why:
            logger.warning("NATS %s: %s: %s", self._options.shown, what, why)
            self._since = self._since or datetime.now(UTC)
        self._problems[what] = why
        if was_in_order:
            self._tell_lost()

    def note(self, what: str, why: str | None) -> None:
        """Say once that something is not as it should be, which keeps nothing from being moved."""
        if self._notes.get(what) != why:
            self._notes[what] = why
            if why is None:
                logger.info("NATS %s: %s works again", self._options.shown, what)
            else:
                logger.warning("NATS %s: %s: %s", self._options.shown, what, why)

    async def aclose(self) -> None:
        """Let go of the connection. May be called again."""
        keeper, self._keeper = self._keeper, None
        await _end([keeper])
        self._why = "closed"
        self._since = self._since or datetime.now(UTC)

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            link = await self._connect()
            if link is None:
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            try:
                self._take_up(link)
                await asyncio.wait([link.lost])
            finally:
                await self._let_go(link)

    async def _connect(self) -> Link | None:
        link: Link | None = None
        try:
            access, self._access = self._access, None
            if access is None:  # what the files say may be new
                access = await in_own_thread(load_access, self._options)
            link = Link(access, name=self._options.name, on_slow=self._note_slow, on_denied=self._note_denied)
            await link.connect()
        except (
            nats.errors.Error,
            OSError,
            ValueError,
            EngineOptionError,
        ) as exc:  # a TimeoutError is an OSError
            why = str(exc) if isinstance(exc, EngineOptionError) else why_not(exc, link.said if link else None)
            if link is not None:
                await link.aclose()
            self._note_away(why)
            return None
        except BaseException:
            if link is not None:
                await link.aclose()
            raise
        return link

    def _take_up(self, link: Link) -> None:
        if self._losses:
            self.reconnects += 1
        if self._why is not _NOT_YET:
            logger.warning("NATS %s is back", self._options.shown)
        self._problems = {WORK_QUEUE: _NOT_YET}
        self._slow = self._denied = False
        self.link, self._why, self._since = link, None, self._since or datetime.now(UTC)
        for part in self._parts:
            self._parts[part] = self._begin(part)

    async def _let_go(self, link: Link) -> None:
        self.link = None
        self._losses += 1
        if link.lost.done():
            self._note_away(link.lost.result())
        tasks = [*self._parts.values()]
        self._parts.update(dict.fromkeys(self._parts))
        await _end(tasks)
        await link.aclose()

    def _begin(self, part: Part) -> asyncio.Task[None]:
        name = f"trackside-nats-{type(part).__name__.lower()}"
        return asyncio.create_task(self._attend(part), name=name, context=Context())

    async def _attend(self, part: Part) -> None:
        link = self.link
        if link is None:
            return
        try:
            await part.attend(link)
        except Exception as exc:  # a part's failure, which must not stop the others for good: all begin anew
            if link.lost.done() or _is_loss(exc):
                link.lose("the connection is lost")
                return
            logger.exception("NATS %s: a part of the engine failed; it connects again", self._options.shown)
            link.lose("a part of the engine failed")

    def _note_away(self, why: str) -> None:
        was_there = self._why is None or self._why is _NOT_YET
        if was_there:
            logger.warning("NATS %s is away: %s", self._options.shown, why)
            self._since = self._since or datetime.now(UTC)
        self._why = why
        if was_there:
            self._tell_lost()

    def _tell_lost(self) -> None:
        for tell in [*self.on_lost]:
            tell()

    def _note_slow(self, subject: str) -> None:
        if not self._slow:
            self._slow = True
            logger.warning(
                "NATS %s sends more than this process can take; some is lost on %s", self._options.shown, subject
            )

    def _note_denied(self, what: str) -> None:
        if not self._denied:
            self._denied = True
            logger.warning("NATS %s: %s (docs/nats.md says what each role needs)", self._options.shown, what)


def _is_loss(exc: Exception) -> bool:
    if isinstance(exc, ExceptionGroup):
        return all(map(_is_loss, exc.exceptions))
    return isinstance(exc, ConnectionError)


async def _end(tasks: list[asyncio.Task[None] | None]) -> None:
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for each in tasks:
        if each is not None:
            with suppress(asyncio.CancelledError):
                each.exception()
