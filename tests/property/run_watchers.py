"""Watchers of a generated schedule's runs: witnesses that check, observers with moods, a store that can be lost."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from trackside.harness import LifecycleEventType, RunLifecycleEvent, RunRecord, RunResult, RunStatus, current_run
from trackside.harness.errors import EventOrderError
from trackside.harness.lifecycle import RunFold, is_final, is_terminal
from trackside.harness.observer import PartlyTaken

if TYPE_CHECKING:
    from tests.property.run_schedules import World

type Mood = BaseException | Literal["hang", "swallow", "starts", "takes a part"]

SECRET = "4242-4242-4242-4242"
"""A text that agents get and repeat everywhere, and that nobody may see."""


class MoodError(Exception):
    """What an observer or an agent in a bad mood raises."""


class OddError(BaseException):
    """An exception that `except Exception` does not catch."""


class Redaction:
    """Takes the secret out of what is announced, unless it fails."""

    def __init__(self) -> None:
        self.fails = 0
        """How many of the next calls fail."""
        self.poorly_told: set[str] = set()
        """Runs that were announced without their texts, because the redaction failed."""

    def __call__(self, kind: LifecycleEventType, payload: dict[str, Any]) -> Any:
        if not self.fails:
            return json.loads(json.dumps(payload).replace(SECRET, "…"))
        self.fails -= 1
        if (run := current_run()) is not None:
            self.poorly_told.add(run.run_id)
        raise RecursionError(f"in {kind}: {payload}")


class Thread:
    """A thread as its events tell it."""

    def __init__(self) -> None:
        self.status = "idle"
        self.active: str | None = None
        self.agents: set[str] = set()
        self.open: tuple[str, ...] = ()
        """The ids of the questions that wait for an answer."""


class Watcher:
    """Checks what every observer may rely on: the order of a run's events, each once, and which run they belong to."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.taken: list[RunLifecycleEvent] = []
        self.started: set[str] = set()
        self.ended: set[str] = set()
        self._last: dict[str, int] = {}

    async def on_event(self, event: RunLifecycleEvent) -> None:
        self.check_current([event])
        self.take(event)

    def check_current(self, events: Sequence[RunLifecycleEvent]) -> None:
        """I21: an observer sees the run of its events; events of several runs belong to none."""
        ids = {event.run_id for event in events}
        run = current_run()
        expected = ids.pop() if len(ids) == 1 else None
        seen = None if run is None else run.run_id
        self.world.check(seen == expected, f"I21: {self.name} sees run {seen} with events of {expected}")

    def take(self, event: RunLifecycleEvent) -> None:
        self.taken.append(event)
        before = self._last.get(event.run_id, 0)
        self.world.check(event.sequence > before, f"I12: {self.name} got {event.sequence} after {before}")
        self._last[event.run_id] = event.sequence
        if event.event_type == "run_started":
            self.started.add(event.run_id)
        if is_terminal(event.event_type):
            self.world.check(event.run_id not in self.ended, f"{self.name} got two ends of a run")
            self.ended.add(event.run_id)


class Guest(Watcher):
    """Comes while others are there and leaves before them: both take effect from the next event on (I19)."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "a guest")
        self._before = set(map(id_of, world.last.taken))
        self._missed_after: int | None = None

    def leave(self) -> None:
        """The guest must not get anything that is announced from now on."""
        self._missed_after = len(self.world.witness.taken)

    def take(self, event: RunLifecycleEvent) -> None:
        super().take(event)
        self.world.check(event.event_id not in self._before, f"I19: a guest got {event}, from before it came")
        announced = self.world.witness.places[event.event_id]
        late = self._missed_after is not None and announced >= self._missed_after
        self.world.check(not late, f"I19: a guest got {event}, from after it left")


class Witness(Watcher):
    """Gets everything: checks each run against the rules, and each thread's status against what was said before."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.runs: dict[str, RunFold] = {}
        self.starts: dict[str, RunLifecycleEvent] = {}
        self.ends: dict[str, RunLifecycleEvent] = {}
        self.threads: dict[str, Thread] = {}
        self.places: dict[str, int] = {}

    async def on_event(self, event: RunLifecycleEvent) -> None:
        self.world.others.refuse(event)
        await super().on_event(event)

    def take(self, event: RunLifecycleEvent) -> None:
        self.places[event.event_id] = len(self.taken)
        super().take(event)
        fold = self.runs.get(event.run_id) or RunFold(event.run_id)
        try:
            self.runs[event.run_id] = fold.apply(event.event_type, event.sequence, event.payload)
        except EventOrderError as exc:
            self.world.wrong.append(f"I1: {exc}")
        if self is self.world.witness:
            self.world.check_hidden(event.payload, f"{event.event_type} {event.sequence}")
        if event.event_type == "run_started":
            self.starts[event.run_id] = event
        self._follow_thread(event)
        if is_terminal(event.event_type):
            self.ends[event.run_id] = event
            self.world.check_end(event)
            if event.event_type == "run_cancelled":
                self._check_cancelled(event)

    def _follow_thread(self, event: RunLifecycleEvent) -> None:
        thread = self.threads.setdefault(event.thread_id, Thread())
        if event.event_type == "run_started":
            self.world.check(thread.active is None, f"thread {event.thread_id} has two active runs")
            thread.active = event.run_id
        elif event.event_type == "thread_status_updated":
            says = event.payload
            self.world.check(says["previous"] == thread.status, f"{says} although the thread was {thread.status}")
            thread.status = says["status"]
        elif is_terminal(event.event_type) and thread.active == event.run_id:
            stopped = event.run_id not in thread.agents or event.run_id in self.world.others.ended
            self.world.check(stopped, "a run ends while its agent still runs")
            thread.active = None
            if event.event_type == "run_completed":  # all other ends leave the thread's memory as it was
                thread.open = tuple(question["id"] for question in event.payload.get("interrupts", ()))

    def _check_cancelled(self, event: RunLifecycleEvent) -> None:
        mode, reason = event.payload["cancel_mode"], event.payload.get("reason") or ""
        excused = (
            event.run_id in self.world.stoppable
            or (mode == "shutdown" and self.world.closed)
            or (mode == "task_cancelled" and (self is self.world.embedded_witness or "starting it" in reason))
            or "took its place" in reason
            or event.run_id in self.world.redaction.poorly_told
        )
        self.world.check(excused, f"I16: nobody had cancelled {event.run_id}, but {dict(event.payload)}")

    def check_result(self, run_id: str, result: RunResult) -> None:
        """The caller got what was announced."""
        status = self.runs[run_id].status
        self.world.check(is_final(status), f"a result of {run_id}, which has not ended")
        undelivered = "did not take that" in (result.error or "")
        same = result.status is status or (undelivered and result.status is RunStatus.error)
        self.world.check(same, f"the result says {result.status}, the events {status}")
        if result.thread_id.startswith("keyed-") or run_id in self.world.others.ended:
            return  # these get what the coordinator knows, which does not include who took the end
        stored = self is not self.world.witness or all(run_id in m.ended for m in self.world.required)
        self.world.check(stored or undelivered, "nobody says that the end of a run was not taken")
        if self is self.world.witness and run_id in self.world.store.spooled_ends:
            self.world.check("kept for later in the spool" in (result.error or ""), f"where is its end? {result}")

    def check_record(self, record: RunRecord) -> None:
        """I6: what the manager says of an ended run is the plain fold of the run's events."""
        run_id, end = record.run_id, self.ends.get(record.run_id)
        if end is None:
            self.world.wrong.append(f"I6: {run_id} has not ended, but {record}")
            return
        says, start = end.payload, self.starts.get(run_id)
        told = (record.status, record.error, record.title, record.completion_data)
        folded = (self.runs[run_id].status, says.get("error"), says.get("title"), says["completion_data"])
        self.world.check(told == folded, f"I6: the record says {told}, the events {folded}")
        if run_id not in self.world.others.ended:
            self.world.check((record.started_at is None) == (start is None), f"I6: started or not? {record}")
        if start is not None:
            about = (record.agent, record.metadata)
            folded = (start.payload["agent"], start.payload["metadata"])
            self.world.check(
                about == folded or run_id in self.world.redaction.poorly_told, f"I6: {about} is announced as {folded}"
            )


class Moody(Watcher):
    """Takes its events, unless it is in a mood: each mood spoils one call."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.moods: deque[Mood] = deque()
        self.has_hung = False
        """Whether a call did not end by itself."""

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self.give_in_to_mood()
        await super().on_event(event)

    async def give_in_to_mood(self) -> None:
        if not self.moods:
            return
        mood = self.moods.popleft()
        if isinstance(mood, BaseException):
            raise mood
        if mood == "takes a part":
            raise PartlyTaken(0, MoodError())
        if mood == "starts":
            await self.world.start_from_an_observer()
            return
        self.has_hung = True
        while not self.world.release.is_set():
            try:
                await self.world.release.wait()
            except asyncio.CancelledError:
                if mood == "hang":
                    raise
        raise MoodError  # its caller left it behind long ago


class MoodyBatches(Moody):
    """The same for batches, all or nothing."""

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        if self.moods and self.moods[0] == "takes a part":
            self.moods.popleft()
            self.take(events[0])
            raise PartlyTaken(1, MoodError())
        await self.give_in_to_mood()
        self.check_current(events)
        for event in events:
            self.take(event)


class LosableStore(Watcher):
    """A store that is away at times, with a spool for what it missed meanwhile (I14)."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "the store")
        self.away = False
        self.spool: list[RunLifecycleEvent] = []
        self.spooled_ends: set[str] = set()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self.on_events([event])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        if self.away:
            raise ConnectionError("the database is away")
        self.check_current(events)
        for event in events:
            self.take(event)

    async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str:
        self.world.check(isinstance(failure, ConnectionError), f"spooled because of {failure!r}")
        self.spool.extend(events)
        self.spooled_ends.update(event.run_id for event in events if is_terminal(event.event_type))
        return "the spool"

    def check_all_kept(self, announced: Sequence[RunLifecycleEvent]) -> None:
        """Nothing was lost: each event is stored in its order, or spooled once."""
        kept: dict[str, list[int]] = {}
        for event in [*self.taken, *self.spool]:
            kept.setdefault(event.run_id, []).append(event.sequence)
        for event in announced:
            if event.run_id not in self.world.others.ended:
                sequences = kept.get(event.run_id, [])
                once = sequences.count(event.sequence) == 1
                self.world.check(once, f"I14: {event} is one of {sequences} in store and spool")
        for run_id, sequences in kept.items():
            in_store = [event.sequence for event in self.taken if event.run_id == run_id]
            gap = in_store != [*range(1, len(in_store) + 1)] and run_id not in self.spooled_runs
            self.world.check(
                not gap or run_id in self.world.others.ended, f"I14: the store has {sequences} of {run_id}"
            )

    @property
    def spooled_runs(self) -> set[str]:
        return {event.run_id for event in self.spool}


def id_of(event: RunLifecycleEvent) -> str:
    """What distinguishes an event from all others."""
    return event.event_id
