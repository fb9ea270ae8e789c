"""What one worker is offered: runs that it was told of, and looks where it may have missed some."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trackside.app.engine.postgres._dispatch import Counts, Dispatch
from trackside.app.engine.postgres._notices import MAX_HOPS, Room, Stop, Told, channel_of, notice_of
from trackside.app.storage.fleet import ReadyRun

if TYPE_CHECKING:
    from trackside.app.storage import PostgresBus

_STEADY: Final = 0.02  # seconds for which it has to have room, or none, before others hear of it
_MOST_DECLINED: Final = 1_000


class RunOffer:
    """A run that this worker may claim."""

    def __init__(self, offers: PostgresOffers, run: ReadyRun, hops: int) -> None:
        self._offers = offers
        self._run = run
        self._hops = hops

    @property
    def run_id(self) -> str:
        return self._run.run_id

    @property
    def passed_on(self) -> int:
        return self._hops

    def done(self) -> None:
        """Whoever else was told of it finds in the database that it is gone."""

    def decline(self, *, after: float) -> None:
        self._offers.pass_on_later(self._run, self._hops + 1, after)


class LookOffer:
    """Some runs may be ready."""

    run_id: None = None
    passed_on = 0

    def __init__(self, offers: PostgresOffers) -> None:
        self._offers = offers

    def done(self) -> None:
        self._offers.note_looked(missed=False)

    def decline(self, *, after: float) -> None:
        self._offers.note_looked(missed=True)


@dataclass(slots=True)
class _Said:
    """Whether others have heard that this worker has room."""

    has_room: bool = False
    timer: asyncio.TimerHandle | None = None


class PostgresOffers:
    """The offers of one worker, as long as it is joined; after that, until it is closed, only the stops.

    It says that it is full, or has room again, when that has lasted for a moment: short runs, and its own looks, which
    take all places for as long as they last, would make it say so all the time.
    """

    def __init__(
        self,
        worker_id: str,
        pools: Sequence[str],
        bus: PostgresBus,
        dispatch: Dispatch,
        counts: Counts,
        on_stop: Callable[[str], object],
    ) -> None:
        self._worker_id = worker_id
        self._pools = tuple(pools)
        self._bus = bus
        self._dispatch = dispatch
        self._counts = counts
        self._on_stop = on_stop
        self._free = 0
        self._told: deque[tuple[ReadyRun, int]] = deque()
        self._must_look = False
        self._has_missed = False
        """Whether it was told of something while it had no room."""
        self._looking = 0
        self._said = _Said()
        self._declined: set[asyncio.TimerHandle] = set()
        self._changed = asyncio.Event()
        self._left = False

    def begin(self) -> None:
        """Hear what this worker is told."""
        self._dispatch.add_here(self._worker_id, self)
        self._bus.on_connected.append(self._changed.set)
        self._bus.listen(channel_of(self._worker_id), self._hear, on_gap=self._begin_anew)

    async def next(self) -> RunOffer | LookOffer:
        """The next offer."""
        while True:
            if self._bus.status.connected:
                if self._must_look:
                    self._must_look, self._looking = False, self._looking + 1
                    self._counts.offers += 1
                    return LookOffer(self)
                if self._told:
                    run, hops = self._told.popleft()
                    self._counts.offers += 1
                    self._counts.redelivered += hops > 0
                    return RunOffer(self, run, hops)
            self._changed.clear()
            await self._changed.wait()

    def note_free(self, places: int) -> None:
        """How many places are free now."""
        had_room, self._free = self._free > 0, places
        if places > 0 and not had_room and not self._looking and (self._has_missed or not self._said.has_room):
            self._look()
        if (places > 0) != self._said.has_room:
            if self._said.timer is None:
                self._said.timer = asyncio.get_running_loop().call_later(_STEADY, self._say)
        elif self._said.timer is not None:
            self._said.timer.cancel()
            self._said.timer = None

    def hear(self, notice: Told | Stop) -> None:
        """Take what this worker was told."""
        if isinstance(notice, Stop):
            self._counts.stops_heard += 1
            self._on_stop(notice.run)
        elif not notice.runs:
            if self._free > 0:
                self._look()
            else:
                self._has_missed = True
        else:
            room = max(0, self._free - len(self._told))
            runs = [*notice.each()]
            self._told.extend((run, notice.hops) for run in runs[:room])
            self._changed.set()
            self._pass_on(runs[room:], notice.hops + 1)

    def pass_on_later(self, run: ReadyRun, hops: int, seconds: float) -> None:
        """Have another worker told of a run, in so many seconds."""
        if len(self._declined) >= _MOST_DECLINED:
            return
        loop = asyncio.get_running_loop()

        def pass_on() -> None:
            self._declined.discard(timer)
            self._dispatch.announce([run], hops=hops, but=self._worker_id)

        timer = loop.call_later(seconds, pass_on)
        self._declined.add(timer)

    def note_looked(self, *, missed: bool) -> None:
        """A look that was offered is over; or (`missed`) there was no room for it."""
        self._looking = max(0, self._looking - 1)
        self._has_missed |= missed
        if self._has_missed and self._free > 0:
            self._look()

    def leave(self) -> None:
        """Take no more, and have others told of what was not taken, and of what this worker is still told."""
        self._left = True
        self._bus.on_connected.remove(self._changed.set)
        self._dispatch.say(Room(self._worker_id, self._pools, 0, gone=True))
        for timer in (self._said.timer, *self._declined):
            if timer is not None:
                timer.cancel()
        self._free = 0
        self._pass_on_told()

    def close(self) -> None:
        """Hear no more."""
        self._bus.unlisten(channel_of(self._worker_id), self._hear)
        self._dispatch.remove_here(self._worker_id)

    def _hear(self, payload: str) -> None:
        if isinstance(notice := notice_of(payload), Told | Stop):
            self.hear(notice)

    def _begin_anew(self) -> None:
        """Begin again: others may have told it what was not heard, and do not know whether it has room."""
        if not self._left:
            self._say()
            self._look()

    def _look(self) -> None:
        self._must_look, self._has_missed = True, False
        self._changed.set()

    def _say(self) -> None:
        if self._said.timer is not None:
            self._said.timer.cancel()
        self._said = _Said(has_room=self._free > 0)
        self._dispatch.say(Room(self._worker_id, self._pools, self._free))
        if self._free <= 0:
            self._pass_on_told()

    def _pass_on_told(self) -> None:
        told, self._told = self._told, deque()
        for run, hops in told:
            self._pass_on([run], hops + 1)

    def _pass_on(self, runs: Sequence[ReadyRun], hops: int) -> None:
        if runs:
            self._has_missed = True  # nobody else may have room, either
            if hops <= MAX_HOPS:
                self._dispatch.announce(runs, hops=hops, but=self._worker_id)
