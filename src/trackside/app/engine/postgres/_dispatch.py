"""Who is told of runs that are ready: one worker that has room, as PostgreSQL wakes all who listen for each notice.

If none seems to have room, those that have not said that they are full are told to look. If all have said so, nobody is
told: a worker that gets a place free looks of its own accord.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from trackside.app.engine.postgres._directory import Directory, Needs
from trackside.app.engine.postgres._notices import (
    MAX_HOPS,
    WORKERS,
    Notice,
    Room,
    Stop,
    Told,
    bunches,
    channel_of,
    notice_of,
    payload_of,
)
from trackside.app.storage.errors import StorageError
from trackside.app.storage.fleet import ReadyRun
from trackside.harness.errors import ClosedError

if TYPE_CHECKING:
    from trackside.app.storage import PostgresBus
    from trackside.app.storage.fleet import StoredWorker

logger = logging.getLogger("trackside.engine")

_READ_EVERY: Final = 2.0  # seconds for which what was read of the workers is new enough, while there are runs
_UNTOLD: Final = 0.25  # seconds for which a worker that gets room is told that there was nobody for a run
_MOST_WAITING: Final = 10_000

type ReadWorkers = Callable[[], Awaitable[Sequence[StoredWorker]]]


class LocalWorker(Protocol):
    """A worker of this very process, which hears without the bus."""

    def hear(self, notice: Told | Stop) -> None:
        """Take a notice that was meant for it."""
        ...


@dataclass(slots=True)
class Counts:
    """What this engine has done so far."""

    announced: int = 0
    announce_failures: int = 0
    offers: int = 0
    redelivered: int = 0
    stops_sent: int = 0
    stops_heard: int = 0


class Dispatch:
    """Tells workers of runs, from `begin` to `aclose`."""

    def __init__(self, bus: PostgresBus, read_workers: ReadWorkers, counts: Counts) -> None:
        self._bus = bus
        self._read_workers = read_workers
        self._counts = counts
        self._directory = Directory()
        self._here: dict[str, LocalWorker] = {}
        self._waiting: list[tuple[ReadyRun, int, str | None]] = []
        self._untold: dict[str, float] = {}
        self._sending: asyncio.Handle | None = None
        self._reading: asyncio.Task[None] | None = None
        self._read_at = float("-inf")
        self._closed = False

    def begin(self) -> None:
        """Hear what workers say."""
        self._bus.listen(WORKERS, self._hear, own=False, on_gap=self._forget)

    def add_here(self, worker_id: str, here: LocalWorker) -> None:
        """Have a worker of this process told without a detour."""
        self._here[worker_id] = here

    def remove_here(self, worker_id: str) -> None:
        """Tell a worker without a detour no more."""
        self._here.pop(worker_id, None)

    def announce(self, ready: Sequence[ReadyRun], *, hops: int = 0, but: str | None = None) -> bool:
        """Tell workers of runs, soon; `but` is the worker that passes them on. False: nobody will be told."""
        if self._closed or not self._bus.status.connected or hops > MAX_HOPS:
            self._counts.announce_failures += len(ready)
            return False
        room = _MOST_WAITING - len(self._waiting)
        self._counts.announce_failures += max(0, len(ready) - room)
        self._waiting.extend((run, hops, but) for run in ready[:room])
        if self._sending is None:
            self._sending = asyncio.get_running_loop().call_soon(self._send)
        return True

    def stop(self, worker_id: str, run_id: str) -> None:
        """Tell a worker that somebody wants one of its runs to stop."""
        self._counts.stops_sent += 1
        self._tell(worker_id, Stop(run_id))

    def say(self, room: Room) -> None:
        """Tell all what room a worker of this process has."""
        self._note(room)
        self._notify(WORKERS, room, anew=True)  # it may have said the same before the opposite, which waits, too

    def _send(self) -> None:
        """Tell of the runs that wait; for pools that nobody is known to serve, once it was read who does."""
        self._sending = None
        if asyncio.get_running_loop().time() - self._read_at > _READ_EVERY:
            self._read()
        waiting, self._waiting = self._waiting, []
        groups: dict[tuple[Needs, int, str | None], list[str]] = {}
        for run, hops, but in waiting:
            if self._reading is not None and not self._directory.serves(run.pool):
                self._waiting.append((run, hops, but))
            else:
                needs = Needs(run.pool, run.agent, run.version)
                groups.setdefault((needs, hops, but), []).append(run.run_id)
        for (needs, hops, but), run_ids in groups.items():
            self._send_group(needs, run_ids, hops, but)

    def _send_group(self, needs: Needs, run_ids: Sequence[str], hops: int, but: str | None) -> None:
        chosen: dict[str, list[str]] = {}
        told = 0
        for run_id in run_ids:
            if (worker_id := self._directory.choose(needs, but=but)) is None:
                break
            chosen.setdefault(worker_id, []).append(run_id)
            told += 1
        for worker_id, theirs in chosen.items():
            for bunch in bunches(theirs):
                self._tell(worker_id, Told(needs.pool, bunch, hops, needs.agent, needs.version))
        self._directory.note_round(needs.pool, told)
        self._counts.announced += told
        if (left := len(run_ids) - told) > 0:
            for worker_id in self._directory.choose_any(needs, left, but=but):
                self._tell(worker_id, Told(needs.pool, (), hops))
            # A worker may have got a place free, and looked, a moment before these were there.
            self._untold[needs.pool] = asyncio.get_running_loop().time()

    def _tell(self, worker_id: str, notice: Told | Stop) -> None:
        if (here := self._here.get(worker_id)) is not None:
            here.hear(notice)
        else:
            self._notify(channel_of(worker_id), notice)

    def _notify(self, channel: str, notice: Notice, *, anew: bool = False) -> None:
        try:
            self._bus.notify(channel, payload_of(notice), anew=anew)
        except ValueError as exc:  # names that fit into no notice: whoever looks finds the run
            logger.debug("nobody can be told: %s", exc)

    def _hear(self, payload: str) -> None:
        if isinstance(room := notice_of(payload), Room):
            self._note(room)

    def _note(self, room: Room) -> None:
        self._directory.note_said(room)
        if room.places <= 0:
            return
        now = asyncio.get_running_loop().time()
        for pool in room.pools:
            if now - self._untold.pop(pool, float("-inf")) <= _UNTOLD:
                self._tell(room.worker, Told(pool, (), MAX_HOPS))

    def _forget(self) -> None:
        self._directory.forget_said()
        self._read()

    def _read(self) -> None:
        if self._reading is None and not self._closed:
            self._reading = asyncio.create_task(self._read_directory(), name="trackside-directory")

    async def _read_directory(self) -> None:
        try:
            self._directory.note_stored(await self._read_workers())
        except (StorageError, ClosedError) as exc:
            logger.debug("the workers cannot be read: %s", exc)
        finally:
            self._reading = None
            self._read_at = asyncio.get_running_loop().time()
            if self._waiting and not self._closed:
                self._send()

    async def aclose(self) -> None:
        """Tell of what waits, and hear no more. May be called again."""
        if self._sending is not None:
            self._sending.cancel()
            self._send()
        self._closed = True
        self._bus.unlisten(WORKERS, self._hear)
        if (reading := self._reading) is not None:
            reading.cancel()
            await asyncio.wait([reading])
