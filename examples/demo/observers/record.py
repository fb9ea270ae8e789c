"""What the log has in the end, and how what a receiver got compares with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from demo.view import LANE
from trackside import LifecycleEventType, RunLifecycleEvent
from trackside.app.storage import Store, StoredRun
from trackside.harness.lifecycle import is_terminal

_PAGE = 1_000


@dataclass(frozen=True)
class Record:
    """All events, in the order of the log, and all runs."""

    events: tuple[RunLifecycleEvent, ...]
    runs: tuple[StoredRun, ...]

    @classmethod
    async def read(cls, store: Store) -> Self:
        """Read everything that a store has."""
        events: list[RunLifecycleEvent] = []
        position = 0
        while page := await store.events(position, limit=_PAGE):
            events += (stored.event for stored in page)
            position = page[-1].position
        return cls(tuple(events), tuple(await store.runs()))

    @cached_property
    def by_id(self) -> Mapping[str, RunLifecycleEvent]:
        """The events by id."""
        return {event.event_id: event for event in self.events}

    @property
    def ends(self) -> list[RunLifecycleEvent]:
        """The events that end runs."""
        return [event for event in self.events if is_terminal(event.event_type)]

    def ids(self, types: Collection[str] | None = None) -> list[str]:
        """The ids of all events, or of those of the given types."""
        return [event.event_id for event in self.events if types is None or event.event_type in types]

    def lane(self, run_id: str) -> str:
        """The thread of the demo to which a run belongs."""
        return next((str(run.metadata.get(LANE, "")) for run in self.runs if run.run_id == run_id), "")

    def calls(self) -> list[Mapping[str, Any]]:
        """All calls that runs made of models, tools and other agents."""
        return [call for event in self.ends for call in event.payload["completion_data"].get("calls", ())]

    def of_type(self, kind: LifecycleEventType) -> list[RunLifecycleEvent]:
        """The events of one type."""
        return [event for event in self.events if event.event_type is kind]


@dataclass(frozen=True, slots=True)
class Arrival:
    """How much of what a receiver should get has arrived; `things` names what is counted."""

    who: str
    things: str
    wanted: Counter[str]
    got: Counter[str]
    remark: str = ""

    @classmethod
    def of(cls, who: str, things: str, wanted: Iterable[str], got: Iterable[str], remark: str = "") -> Self:
        """Compare what was wanted with what came, each thing by a name; what occurs twice counts twice."""
        return cls(who, things, Counter(wanted), Counter(got), remark)

    @property
    def complete(self) -> bool:
        """Whether everything came, and nothing else."""
        return self.wanted == self.got

    @property
    def counted(self) -> str:
        """The count, such as `57 of 57`; says, too, how much came that was not wanted."""
        surplus = (self.got - self.wanted).total()
        words = f"{(self.wanted & self.got).total()} of {self.wanted.total()}"
        return f"{words} and {surplus} more" if surplus else words
