"""A live observer gets the events that it wants, in the form in which it takes them."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from trackside.app.wiring.choosing import ChosenEvents, EventChoice
from trackside.harness import LifecycleEventType, RunLifecycleEvent
from trackside.harness.observer import (
    BatchRunObserver,
    CallbackObserver,
    CompositeObserver,
    HearTaken,
    MissedEventsObserver,
    PartlyTaken,
    observer_name,
)
from trackside.harness.observing.buffered import BufferedObserver, EventGap, GapObserver
from trackside.testing import RecordingBatchObserver, RecordingObserver, make_event, make_run, run_virtual

MESSAGES = EventChoice([LifecycleEventType.HUMAN_MESSAGE], None)


def run_of(agent: str, run_id: str) -> list[RunLifecycleEvent]:
    first, *rest = make_run(run_id)
    kept = {key: value for key, value in rest[-2].payload.items() if key != "agent"}
    end = make_event(rest[-2].event_type, run_id=run_id, sequence=4, payload=kept)
    start = make_event(first.event_type, run_id=run_id, payload={"agent": agent, "metadata": {}})
    return [start, *rest[:-2], end, rest[-1]]


async def test_only_events_of_the_types_come() -> None:
    seen = RecordingObserver()
    chosen = ChosenEvents(seen, MESSAGES)
    for event in make_run():
        await chosen.on_event(event)

    assert [event.event_type for event in seen.events] == ["human_message"]


async def test_a_batch_comes_as_a_batch_and_an_empty_one_not_at_all() -> None:
    seen = RecordingBatchObserver()
    chosen = ChosenEvents(seen, MESSAGES)
    await chosen.on_events(make_run(messages=3))
    await chosen.on_events(make_run(messages=0))

    assert [len(batch) for batch in seen.batches if batch] == [3]


async def test_only_runs_of_the_agent_come_from_start_to_end_and_what_follows() -> None:
    seen = RecordingBatchObserver()
    chosen = ChosenEvents(seen, EventChoice(None, "chat"))
    mine, others = run_of("chat", "mine"), run_of("search", "others")
    for pair in zip(mine, others, strict=True):
        await chosen.on_events(pair)

    assert seen.events == mine


async def test_a_run_that_never_started_is_known_by_its_end() -> None:
    seen = RecordingBatchObserver()
    chosen = ChosenEvents(seen, EventChoice(None, "chat"))
    end = make_event(LifecycleEventType.RUN_CANCELLED, payload={"agent": "chat"})
    await chosen.on_events([end, make_event(LifecycleEventType.RUN_CANCELLED, run_id="run-2")])

    assert seen.events == [end]


async def test_runs_that_ended_long_ago_are_forgotten() -> None:
    choice = EventChoice(None, "chat")
    for number in range(3_000):
        choice.of(run_of("chat", f"run-{number}"))

    assert len(choice._is_wanted) <= 1_001


class Failing(RecordingBatchObserver):
    def __init__(self, at: RunLifecycleEvent) -> None:
        super().__init__()
        self.at = at

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        for number, event in enumerate(events):
            if event is self.at:
                raise PartlyTaken(number, ConnectionError("away"))


async def test_of_a_batch_that_is_taken_in_part_the_unwanted_events_before_the_failure_are_taken_too() -> None:
    events = [*make_run("run-1"), *make_run("run-2")]
    second_message = events[7]
    with pytest.raises(PartlyTaken) as caught:
        await ChosenEvents(Failing(second_message), MESSAGES).on_events(events)

    assert caught.value.taken == 7
    assert isinstance(caught.value.cause, ConnectionError)


def test_whoever_takes_single_events_gets_no_batches() -> None:
    assert not isinstance(ChosenEvents(RecordingObserver(), MESSAGES), BatchRunObserver)
    assert isinstance(ChosenEvents(RecordingBatchObserver(), MESSAGES), BatchRunObserver)


async def test_who_overrides_on_event_alone_has_each_event_by_it() -> None:
    class Counting(RecordingBatchObserver):
        counted = 0

        async def on_event(self, event: RunLifecycleEvent) -> None:
            self.counted += 1
            await super().on_event(event)

    seen = Counting()
    await CompositeObserver([ChosenEvents(seen, MESSAGES)]).on_events(make_run(messages=3))

    assert (seen.counted, len(seen.events)) == (3, 3)


def test_a_slow_one_that_takes_single_events_gets_each_once_however_many_wait() -> None:
    ends = EventChoice([LifecycleEventType.RUN_COMPLETED], None)
    begun: list[str] = []

    async def say(event: RunLifecycleEvent) -> None:
        begun.append(event.run_id)
        await asyncio.sleep(1)

    async def give() -> None:
        buffer = BufferedObserver(ChosenEvents(CallbackObserver(say), ends), call_limit=30)
        for number in range(40):
            await buffer.on_events(make_run(f"run-{number}"))
        assert (await buffer.aclose(timeout=60)).complete

    run_virtual(give())
    assert begun == [f"run-{number}" for number in range(40)]


def test_it_is_called_where_the_run_was_started_however_many_wait() -> None:
    whose: ContextVar[str] = ContextVar("whose", default="nobody")
    seen: list[tuple[str, str]] = []

    async def look(event: RunLifecycleEvent) -> None:
        seen.append((event.run_id, whose.get()))

    async def give() -> None:
        buffer = BufferedObserver(ChosenEvents(CallbackObserver(look), MESSAGES))
        for run_id in ("run-1", "run-2"):
            whose.set(run_id)
            await buffer.on_events(make_run(run_id))
        await buffer.aclose()

    run_virtual(give())
    assert seen == [("run-1", "run-1"), ("run-2", "run-2")]


async def test_a_batch_of_which_all_was_taken_in_part_is_taken() -> None:
    class All(RecordingBatchObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            self.events.extend(events)
            raise PartlyTaken(len(events), OSError("enough"))

    seen = All()
    await ChosenEvents(seen, MESSAGES).on_events(make_run(messages=3))

    assert [event.event_type for event in seen.events] == ["human_message"] * 3


class Careful(RecordingObserver):
    def __init__(self) -> None:
        super().__init__()
        self.gaps: list[EventGap] = []
        self.missed: list[Sequence[RunLifecycleEvent]] = []

    async def on_gap(self, gap: EventGap) -> None:
        self.gaps.append(gap)

    async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str | None:
        self.missed.append(events)
        return "a drawer"


async def test_it_hears_of_gaps_and_of_what_it_missed_if_it_wants_to() -> None:
    careful = Careful()
    chosen, simple = ChosenEvents(careful, MESSAGES), ChosenEvents(RecordingObserver(), MESSAGES)
    assert isinstance(chosen, GapObserver)
    assert isinstance(chosen, MissedEventsObserver)
    events = make_run()

    assert await chosen.on_missed(events, OSError()) == "a drawer"
    assert await chosen.on_missed(events[:1], OSError()) is None
    assert careful.missed == [[events[2]]]
    assert not isinstance(simple, GapObserver | MissedEventsObserver)


class TakesLate(RecordingObserver):
    def __init__(self) -> None:
        super().__init__()
        self.hear: HearTaken | None = None

    async def on_missed(
        self, events: Sequence[RunLifecycleEvent], failure: BaseException, *, on_taken: HearTaken
    ) -> str | None:
        self.events.extend(events)
        self.hear = on_taken
        return "a drawer"


async def test_those_behind_it_hear_of_all_that_it_takes_later_also_of_what_it_does_not_want() -> None:
    late = TakesLate()
    chosen = ChosenEvents(late, MESSAGES)
    assert isinstance(chosen, MissedEventsObserver)
    events, taken = make_run(), list[RunLifecycleEvent]()

    async def hear(some: Sequence[RunLifecycleEvent]) -> None:
        taken.extend(some)

    assert await chosen.on_missed(events, OSError(), on_taken=hear) == "a drawer"  # type: ignore[call-arg]
    assert late.events == [events[2]]
    assert late.hear is not None
    await late.hear(late.events)

    assert taken == events


def test_messages_call_it_as_the_observer_behind_it() -> None:
    assert observer_name(ChosenEvents(Careful(), MESSAGES)) == "Careful"


async def test_runs_that_never_end_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trackside.app.wiring.choosing._RUNS_KEPT", 2)
    choice = EventChoice(None, "chat")
    runs = [run_of("chat", f"run-{number}") for number in range(3)]
    assert len(choice.of([run[0] for run in runs])) == 3
    assert choice.of([run[1] for run in runs]) == [run[1] for run in runs[1:]]
