"""What `CompositeObserver` does with a batch: whom it gives it whole, and what of it comes again after a failure."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from tests.contract.ways_to_run import Draining

from trackside.harness.embedded import run_agent
from trackside.harness.observer import (
    CompositeObserver,
    ObserverBinding,
    PartlyTaken,
    RunLifecycleEvent,
    RunObserver,
    batches_of,
)
from trackside.harness.types import LifecycleEventType
from trackside.testing import Misbehaviour, RecordingBatchObserver, RecordingObserver, make_run


async def test_batch_goes_whole_to_observers_of_batches_and_singly_to_others() -> None:
    batches, singles = RecordingBatchObserver(), RecordingObserver()
    run = make_run()

    await CompositeObserver([batches, singles]).on_events(run)

    assert batches.batches == [run]
    assert singles.events == run


class Signing(RecordingBatchObserver):
    """Does something with each event, and knows nothing of batches."""

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await super().on_event(replace(event, payload={**event.payload, "signed": True}))


class SigningFor:
    """Signs events and passes them on to an observer; any other attribute is that observer's."""

    def __init__(self, observer: RunObserver) -> None:
        self._observer = observer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._observer, name)

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self._observer.on_event(replace(event, payload={**event.payload, "signed": True}))


@pytest.mark.parametrize("sign", [Signing, lambda: SigningFor(RecordingBatchObserver())])
async def test_what_overrides_on_event_alone_has_each_event_whether_it_runs_or_is_told_by_another(
    sign: Callable[[], Any],
) -> None:
    async def agent(input: str) -> str:
        return input

    run, alone, bound, required = make_run(), sign(), sign(), sign()
    await run_agent(agent, "hi", observer=alone)
    await CompositeObserver([bound, ObserverBinding(required, required=True)]).on_events(run)

    assert len(alone.events) == len(run)
    assert len(bound.events) == len(required.events) == len(run)
    for observer in (alone, bound, required):
        assert all(event.payload["signed"] for event in observer.events)
        assert observer.batches == []


async def test_a_test_double_that_answers_to_every_name_is_given_events() -> None:
    double, run = AsyncMock(), make_run()

    await CompositeObserver([ObserverBinding(double, required=True)]).on_events(run)

    assert [call.args for call in double.on_event.await_args_list] == [(event,) for event in run]
    double.on_events.assert_not_called()


def test_batches_are_for_who_says_how_it_takes_them_where_it_says_how_it_takes_an_event_or_after_that() -> None:
    class Both(Signing):
        async def on_event(self, event: RunLifecycleEvent) -> None: ...

        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None: ...

    class OnlyBatches(Signing):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None: ...

    class NoBatches(RecordingBatchObserver):
        on_events = None  # type: ignore[assignment]

    given_batches, taken_them = RecordingObserver(), RecordingBatchObserver()
    vars(given_batches)["on_events"] = vars(taken_them)["on_event"] = print

    batching: list[Any] = [RecordingBatchObserver(), Both(), OnlyBatches(), given_batches]
    assert [batches_of(observer) for observer in batching] == [observer.on_events for observer in batching]
    singly = [RecordingObserver(), Signing(), NoBatches(), taken_them]
    assert [batches_of(observer) for observer in singly] == [None] * 4


async def test_optional_observer_that_fails_on_a_batch_gets_its_events_singly_and_only_the_bad_one_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    observer = RecordingBatchObserver(Misbehaviour(how=ValueError("bad"), on=LifecycleEventType.HUMAN_MESSAGE))
    run = make_run()

    await CompositeObserver([observer]).on_events(run)

    assert observer.events == [event for event in run if event.event_type != "human_message"]
    assert [record.getMessage().split()[4] for record in caplog.records] == ["human_message"]


async def test_optional_observer_that_took_a_part_of_a_batch_gets_only_the_rest_again() -> None:
    class Partly(RecordingBatchObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            self.events.extend(events[:2])
            raise PartlyTaken(2, OSError("the third was too much"))

    observer = Partly()
    run = make_run()

    await CompositeObserver([observer]).on_events(run)

    assert observer.events == run


async def test_what_is_taken_as_a_batch_of_one_does_not_come_again_for_one_after_it_that_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class InBatches(RecordingBatchObserver):
        async def on_event(self, event: RunLifecycleEvent) -> None:
            await self.on_events((event,))

        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            for taken, event in enumerate(events):
                if event.sequence in {1, 5}:
                    raise PartlyTaken(taken, OSError("bad"))
                self.events.append(event)

    observer = InBatches()
    run = make_run()

    await CompositeObserver([observer]).on_events(run)

    assert observer.events == run[1:4]
    assert [record.getMessage().split()[4] for record in caplog.records] == ["run_started", "thread_status_updated"]


@pytest.mark.parametrize("is_required", [True, False])
async def test_a_batch_of_which_all_was_taken_in_part_is_taken(is_required: bool) -> None:
    class All(RecordingBatchObserver):
        async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
            self.events.extend(events)
            raise PartlyTaken(len(events), OSError("enough"))

    observer, after = All(), RecordingObserver()
    run = make_run()

    await CompositeObserver([ObserverBinding(observer, required=is_required), after]).on_events(run)

    assert observer.events == after.events == run


async def test_required_observer_that_fails_on_a_batch_keeps_it_from_those_after_it() -> None:
    error = OSError("locked")
    before, after = RecordingObserver(), RecordingObserver()
    storage = RecordingBatchObserver(Misbehaviour(how=error, on=LifecycleEventType.HUMAN_MESSAGE))
    run = make_run()

    with pytest.raises(OSError) as caught:
        await CompositeObserver([before, ObserverBinding(storage, required=True), after]).on_events(run)

    assert caught.value is error
    assert before.events == run
    assert after.events == storage.events == []


async def test_those_after_a_required_observer_see_of_a_batch_what_it_took() -> None:
    storage = RecordingObserver(Misbehaviour(how=OSError("locked"), on=LifecycleEventType.HUMAN_MESSAGE))
    after = RecordingObserver()
    run = make_run()

    with pytest.raises(OSError, match="locked"):
        await CompositeObserver([ObserverBinding(storage, required=True), after]).on_events(run)

    assert after.events == storage.events == run[:2]


@pytest.mark.parametrize("is_required", [True, False])
async def test_an_observer_that_empties_the_batch_it_is_given_hides_nothing_from_those_after_it(
    is_required: bool,
) -> None:
    draining, after = Draining(), RecordingBatchObserver()
    run = make_run()
    given = list(run)

    await CompositeObserver([ObserverBinding(draining, required=is_required), after]).on_events(given)

    assert draining.events == after.events == given == run
