"""Which workers there are and which of them seem to have room, as far as a process that tells them of runs knows.

It need not be right. A worker that is told too much passes it on; a run nobody was told of is found by whoever looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from trackside.app.engine.postgres._notices import Room

if TYPE_CHECKING:
    from trackside.app.storage.fleet import StoredWorker

_FRESH: Final = 5.0  # seconds for which what a worker said counts more than what the database says of it
_ON_ITS_WAY: Final = 0.05  # seconds for which a run that a worker was told of is counted as one of its own


class Needs(NamedTuple):
    """What runs need of a worker, as far as is known: its pool, an agent, a version of its agents."""

    pool: str
    agent: str = ""
    version: str | None = None


@dataclass(slots=True)
class _Known:
    """A worker, as far as is known. `told` are the times at which it was told of a run.

    Which `agents` it has, in which `version`, it does not say itself: the database does.
    """

    pools: frozenset[str]
    places: int
    agents: frozenset[str] | None = None
    version: str | None = None
    is_full: bool = False
    said_at: float = float("-inf")
    told: deque[float] = field(default_factory=deque[float])

    def room(self, now: float) -> int:
        while self.told and now - self.told[0] > _ON_ITS_WAY:
            self.told.popleft()
        return 0 if self.is_full else self.places - len(self.told)

    def may_execute(self, needs: Needs) -> bool:
        """Whether it can execute such runs, as far as is known."""
        if self.agents is None:
            return True
        has_agent = not needs.agent or needs.agent in self.agents
        return has_agent and (needs.version is None or needs.version == self.version)


class Directory:
    """The workers of a fleet by pool, each in its turn."""

    def __init__(self) -> None:
        self._workers: dict[str, _Known] = {}
        self._turns: dict[str, deque[str]] = {}

    def serves(self, pool: str) -> bool:
        """Whether any worker of this pool is known."""
        return bool(self._turns.get(pool))

    def note_stored(self, workers: Sequence[StoredWorker]) -> None:
        """Take in what the database has of them: one not in it, and not heard of for a while, is gone."""
        now = monotonic()
        executes_none = {one.isolated_in for one in workers}  # but its child processes do
        live = {
            one.worker_id: one
            for one in workers
            if one.kind == "worker" and one.seconds_left > 0 and one.worker_id not in executes_none
        }
        for worker_id in [*self._workers.keys() - live.keys()]:
            if now - self._workers[worker_id].said_at > _FRESH:
                self._remove(worker_id)
        for worker_id, stored in live.items():
            if stored.draining:
                self._remove(worker_id)
                continue
            known = self._add(worker_id, frozenset(stored.pools))
            known.agents, known.version = frozenset(stored.agents), stored.version
            if now - known.said_at > _FRESH:
                known.places = stored.capacity - stored.running

    def note_said(self, room: Room) -> None:
        """Take in what a worker says of itself."""
        if room.gone:
            self._remove(room.worker)
            return
        known = self._add(room.worker, frozenset(room.pools))
        known.places, known.is_full, known.said_at = room.places, room.places <= 0, monotonic()
        known.told.clear()

    def forget_said(self) -> None:
        """Forget what workers said, as what they said since was not heard: any may have room."""
        for known in self._workers.values():
            known.is_full, known.said_at = False, float("-inf")

    def choose(self, needs: Needs, *, but: str | None = None) -> str | None:
        """The next worker that seems to have room for one more run; it counts as having that run from now on."""
        now = monotonic()
        for worker_id in self._in_turn(needs, but):
            known = self._workers[worker_id]
            if known.room(now) > 0:
                known.told.append(now)
                return worker_id
        return None

    def note_round(self, pool: str, chosen: int) -> None:
        """Note how many were chosen in a row: if the same runs come again, each goes to another worker than now."""
        if (turns := self._turns.get(pool)) and chosen % len(turns) == 0:
            turns.rotate(-1)

    def choose_any(self, needs: Needs, count: int, *, but: str | None = None) -> list[str]:
        """The next workers that have not said that they are full, up to `count` of them."""
        found: list[str] = []
        for worker_id in self._in_turn(needs, but):
            if len(found) == count:
                break
            if not self._workers[worker_id].is_full:
                found.append(worker_id)
        return found

    def _in_turn(self, needs: Needs, but: str | None) -> list[str]:
        """The workers for such runs in turn: the one of the pool that was first last time is last now.

        Where none is known that could execute them, all of the pool: what a worker says of its agents may be out of date.
        """
        if not (turns := self._turns.get(needs.pool)):
            return []
        turns.rotate(-1)
        others = [worker_id for worker_id in turns if worker_id != but]
        return [worker_id for worker_id in others if self._workers[worker_id].may_execute(needs)] or others

    def _add(self, worker_id: str, pools: frozenset[str]) -> _Known:
        known = self._workers.get(worker_id)
        if known is not None and known.pools != pools:
            self._remove(worker_id)
            known = None
        if known is None:
            known = self._workers[worker_id] = _Known(pools, 0)
            for pool in pools:
                self._turns.setdefault(pool, deque()).append(worker_id)
        return known

    def _remove(self, worker_id: str) -> None:
        if (known := self._workers.pop(worker_id, None)) is None:
            return
        for pool in known.pools:
            turns = self._turns[pool]
            turns.remove(worker_id)
            if not turns:
                del self._turns[pool]
