"""The latest events of the log, in memory, for all who follow it."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from trackside.app.storage._reading.landmarks import Landmark
from trackside.app.storage._reading.queries import EventListing
from trackside.app.storage._rows.arguments import AnyOf
from trackside.app.storage._rows.encoding import EventRow
from trackside.app.storage._rows.records import StoredEvent
from trackside.harness.types import LifecycleEventType

_position_of = attrgetter("position")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events somebody wants; None wants all."""

    run_id: str | None = None
    thread_id: str | None = None
    agent: str | None = None
    types: frozenset[LifecycleEventType] | None = None
    since: datetime | None = None
    owner: str | None = None

    @classmethod
    def of(
        cls,
        *,
        run_id: str | None,
        thread_id: str | None,
        agent: str | None,
        types: AnyOf[LifecycleEventType] | None,
        since: datetime | None,
        owner: str | None,
        after: int,
    ) -> EventFilter:
        """What `Store.events` finds under these arguments.

        Raises:
            InvalidQueryError: an argument does not fit.
        """
        asked = EventListing.of(
            after=after,
            before=None,
            newest_first=False,
            run_id=run_id,
            thread_id=thread_id,
            agent=agent,
            status=None,
            types=types,
            since=since,
            owner=owner,
            limit=1,
        )
        return cls(
            run_id=asked.run_id,
            thread_id=asked.thread_id,
            agent=asked.agent,
            types=None if asked.types is None else frozenset(asked.types),
            since=asked.since,
            owner=asked.owner,
        )

    @property
    def wants_all(self) -> bool:
        """Whether nothing is left out."""
        return self == _EVERYTHING

    @property
    def subject(self) -> str | None:
        """The id of a run or thread without which no event fits."""
        return self.thread_id if self.run_id is None else self.run_id

    def fits(self, stored: StoredEvent, agents: Mapping[str, str | None], owners: Mapping[str, str | None]) -> bool:
        """Whether this event is wanted; `agents` and `owners` have those of its run."""
        event = stored.event
        return (
            (self.run_id is None or event.run_id == self.run_id)
            and (self.thread_id is None or event.thread_id == self.thread_id)
            and (self.types is None or event.event_type in self.types)
            and (self.since is None or event.occurred_at >= self.since)
            and (self.agent is None or agents.get(event.run_id) == self.agent)
            and (self.owner is None or owners.get(event.run_id) == self.owner)
        )


_EVERYTHING = EventFilter()


class RunAgents:
    """The agents of the latest runs. Only the start of a run tells; if it was not seen, the agent must be looked up.

    It remembers the `count` runs that were noted last.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._agents: OrderedDict[str, str | None] = OrderedDict()
        self._unknown: dict[str, None] = {}

    @property
    def known(self) -> Mapping[str, str | None]:
        """The agents by run; None where a run has none, or its agent is unknown."""
        return self._agents

    @property
    def unknown(self) -> list[str]:
        """The runs that have to be looked up."""
        return [*self._unknown]

    def knows(self, run_id: str) -> bool:
        """Whether this run need not be looked up."""
        return run_id not in self._unknown

    def note(self, stored: StoredEvent) -> None:
        """Note an event that has come: if it starts its run, it names the agent."""
        event = stored.event
        if event.event_type is LifecycleEventType.RUN_STARTED and isinstance(agent := event.payload.get("agent"), str):
            self._agents[event.run_id] = agent
        elif event.run_id not in self._agents:
            self._agents[event.run_id] = None
            self._unknown[event.run_id] = None
        self._agents.move_to_end(event.run_id)
        if len(self._agents) > self._count:
            forgotten, _ = self._agents.popitem(last=False)
            self._unknown.pop(forgotten, None)

    def learn(self, looked_up: Iterable[str], agents: Mapping[str, str | None]) -> None:
        """Take what was looked up; a run that was not found has been removed, and has no agent any more."""
        for run_id in looked_up:
            if run_id in self._unknown:
                del self._unknown[run_id]
                self._agents[run_id] = agents.get(run_id)


class RecentEvents:
    """A stretch of the log without gaps, up to its end as far as that is known: events after `start`, up to `end`.

    What is removed from the log may stay here a little longer. Bounded in count and bytes; the newest event always stays.

    Owners are kept by run, although threads have them: the id of a deleted thread may be somebody else's by now, but
    not before its runs are gone, and those are nobody's then.
    """

    def __init__(self, *, count: int, size: int) -> None:
        self._count = count
        self._size = size
        self._events: deque[StoredEvent] = deque()
        self._sizes: deque[int] = deque()
        self._total = 0
        self.agents = RunAgents(count)
        self._owners: OrderedDict[str, str | None] = OrderedDict()
        self.start = self.end = 0
        self._reached = Landmark(0)
        self._before: list[Landmark] = []

    @property
    def landmark(self) -> Landmark:
        """A landmark of the end, by which it can be found again."""
        if self._events and self._events[-1].position == self.end:
            return _landmark_of(self._events[-1])
        return self._reached

    @property
    def landmarks(self) -> list[Landmark]:
        """Landmarks of what is here, and of some of what came before, by which a place can be found again."""
        return [*self._before, *map(_landmark_of, self._events)]

    def restart(self, end: Landmark, before: Sequence[Landmark] = ()) -> None:
        """Forget everything, and go on after `end`; `before` are landmarks before it."""
        self._events.clear()
        self._sizes.clear()
        self._total = 0
        self.agents = RunAgents(self._count)
        self._owners.clear()
        self.start = self.end = end.position
        self._reached = end
        self._before = [*before]

    def append(self, stored: StoredEvent, size: int) -> None:
        """Take the next event of the log; between `end` and it there is none."""
        self._events.append(stored)
        self._sizes.append(size)
        self._total += size
        self.end = stored.position
        self.agents.note(stored)
        if stored.event.sequence == 1:  # a removed run may have been here under the same id
            self._owners.pop(stored.event.run_id, None)
        while len(self._events) > self._count or (self._total > self._size and len(self._events) > 1):
            self.start = self._events.popleft().position
            self._total -= self._sizes.popleft()
            self._before = []  # there is enough here to go back to

    def reach(self, end: Landmark) -> None:
        """Note that the log has nothing more between the last event and this place."""
        if end.position > self.end:
            self.end, self._reached = end.position, end

    def has_another(self, row: EventRow) -> bool:
        """Whether a different event was here at the position of this one."""
        if row.position > self.end:
            return False
        known: Sequence[StoredEvent | Landmark] = self._before if row.position <= self.start else self._events
        place = bisect_right(known, row.position, key=_position_of) - 1
        if place < 0 or (found := known[place]).position != row.position:
            return False
        event_id = found.event_id if isinstance(found, Landmark) else found.event.event_id
        return event_id != row.event.event_id

    def holds(self, cursor: int) -> bool:
        """Whether everything after this position is here, as far as it is known."""
        return self.start <= cursor <= self.end

    def first(self, cursor: int, wanted: EventFilter) -> StoredEvent | None:
        """The first event here after a position that is wanted, or of which it is not yet known whether it is."""
        if cursor == self.end:
            return None
        events, known, owners = self._events, self.agents.known, self._owners
        start = bisect_right(events, cursor, key=_position_of)
        if wanted.wants_all:
            return events[start] if start < len(events) else None

        def may_be_meant(stored: StoredEvent) -> bool:
            return not self.is_known(stored, wanted) or wanted.fits(stored, known, owners)

        return next(filter(may_be_meant, map(events.__getitem__, range(start, len(events)))), None)

    def is_known(self, stored: StoredEvent, wanted: EventFilter) -> bool:
        """Whether enough is known of an event's run to say whether the event is wanted."""
        event = stored.event
        return (wanted.agent is None or self.agents.knows(event.run_id)) and (
            wanted.owner is None or event.run_id in self._owners
        )

    def unowned(self, cursor: int) -> list[str]:
        """The runs of events after a position whose owners have to be looked up. Only a filter by owner needs them."""
        start = bisect_right(self._events, cursor, key=_position_of)
        ids = (self._events[place].event.run_id for place in range(start, len(self._events)))
        return [*dict.fromkeys(run_id for run_id in ids if run_id not in self._owners)]

    def learn_owners(self, looked_up: Iterable[str], owners: Mapping[str, str | None]) -> None:
        """Take what was looked up; a run that was not found has been removed, and is nobody's."""
        for run_id in looked_up:
            self._owners[run_id] = owners.get(run_id)
        while len(self._owners) > 2 * self._count:
            self._owners.popitem(last=False)


def _landmark_of(stored: StoredEvent) -> Landmark:
    return Landmark(stored.position, stored.event.event_id)
