"""Observers, each broken in one way, and the test of the contract that has to notice."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import pytest
from tests.contract.mutants.ending_observers import (
    ClosesOnlyOnce,
    CountsNoBatch,
    DropsWhatWaitsAsItCloses,
    FlushesForAsLongAsItTakes,
    GoesOnAfterEachCancel,
    GoesOnAfterItsFirstCancel,
    IsLateAndTakesItWhenCancelled,
    LeavesATaskThatNothingEnds,
    MiscountsWhatItTook,
    NeverCloses,
    NeverClosesAndGoesOnAfterEachCancel,
    NeverOpens,
    RaisesWhereAFlushHasNoTime,
    SaysYesToAFlush,
    TakesBatchesSilentlyAfterItsEnd,
    TakesEndsSilentlyAfterItsEnd,
    TakesSilentlyAfterItsEnd,
)
from tests.contract.mutants.sound_observers import Sound, SoundForEnds

from trackside.harness import LifecycleEventType, RunLifecycleEvent
from trackside.harness.lifecycle import is_terminal
from trackside.testing import ObserverContract


class SwallowsCancel(Sound):
    async def on_event(self, event: RunLifecycleEvent) -> None:
        try:
            await super().on_event(event)
        except asyncio.CancelledError:
            self.take([event])


class SwallowsCancelOfABatch(Sound):
    async def on_event(self, event: RunLifecycleEvent) -> None:
        await Sound.on_events(self, [event])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        try:
            await super().on_events(events)
        except asyncio.CancelledError:
            self.take(events)


class KeepsItsLockWhenCancelled(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self.lock.acquire()
        await super().on_event(event)
        self.lock.release()


class ChangesTheEvent(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            event.payload["seen"] = True  # type: ignore[index]
        super().take(events)


class LosesTheLastOfABatch(Sound):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        await super().on_events(events[:-1] if len(events) > 1 else events)


class KeepsPartOfARefusedBatch(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.sequences: Counter[str] = Counter()

    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            if event.event_id not in self.done:
                if event.sequence != self.sequences[event.run_id] + 1:
                    raise ValueError("out of order")
                self.sequences[event.run_id] += 1
            super().take([event])


class RefusesUnknownKeys(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        if unknown := [key for event in events for key in event.payload if " " in key]:
            raise TypeError(f"unexpected keyword {unknown[0]!r}")
        super().take(events)


class NeedsAStatus(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            if event.event_type is LifecycleEventType.RUN_COMPLETED:
                event.payload["status"]
        super().take(events)


class NeedsAStart(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.started: set[str] = set()

    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            if event.event_type is LifecycleEventType.RUN_STARTED:
                self.started.add(event.run_id)
            elif event.run_id not in self.started:
                raise LookupError(event.run_id)
        super().take(events)


class RefusesWhatComesAgain(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        if any(event.event_id in self.done for event in events):
            raise ValueError("UNIQUE constraint failed")
        super().take(events)


class CountsWhatComesAgain(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        self.done.extend(event.event_id for event in events)


class KnowsOneRunAtATime(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.current: str | None = None

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            if event.event_type is LifecycleEventType.RUN_STARTED:
                self.current = event.run_id
        await super().on_events([event for event in events if event.run_id == self.current])


class TakesTheLatestFirst(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            if event.event_id not in self.done:
                self.done.insert(0, event.event_id)


class TakesABatchFromItsEnd(Sound):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        await super().on_events(events[::-1])


class MarksBeforeItWrites(Sound):
    """If cancelled in between, it takes the repeated event for one that it already has."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: set[str] = set()

    def fresh(self, events: Sequence[RunLifecycleEvent]) -> Sequence[RunLifecycleEvent]:
        fresh = [event for event in events if event.event_id not in self.marked]
        self.marked.update(event.event_id for event in fresh)
        return fresh

    async def on_event(self, event: RunLifecycleEvent) -> None:
        await super().on_events(self.fresh([event]))


class MarksABatchBeforeItWrites(MarksBeforeItWrites):
    async def on_event(self, event: RunLifecycleEvent) -> None:
        await Sound.on_events(self, [event])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        await super().on_events(self.fresh(events))


class MarksAfterAMoment(Sound):
    """If cancelled between the effect and the mark, it repeats the effect."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: set[str] = set()

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        if self.closed:
            raise RuntimeError("closed")
        fresh = [event.event_id for event in events if event.event_id not in self.marked]
        self.done.extend(fresh)
        await asyncio.sleep(0)
        self.marked.update(fresh)


class MarksBeforeItRefuses(MarksBeforeItWrites):
    """It takes an event that it refused for one that it already has, when the event comes again."""

    def __init__(self) -> None:
        super().__init__()
        self.sequences: Counter[str] = Counter()

    async def on_event(self, event: RunLifecycleEvent) -> None:
        self.check(self.fresh([event]))
        await Sound.on_events(self, [event] if event.sequence <= self.sequences[event.run_id] else [])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            await self.on_event(event)

    def check(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            if event.sequence != self.sequences[event.run_id] + 1:
                raise ValueError("out of order")
            self.sequences[event.run_id] += 1


class MarksABatchBeforeItRefuses(MarksBeforeItRefuses):
    async def on_event(self, event: RunLifecycleEvent) -> None:
        await self.on_events([event])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        fresh = self.fresh(events)
        self.check(fresh)
        await Sound.on_events(self, fresh)


class ExitsOnWhatItDoesNotExpect(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.started: set[str] = set()

    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            if event.event_type is LifecycleEventType.RUN_STARTED and event.event_id not in self.done:
                if event.run_id in self.started:
                    raise SystemExit("a run started twice")
                self.started.add(event.run_id)
        super().take(events)


class PassesOverABatchThatBeginsWithAKnownEvent(Sound):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        if events and events[0].event_id not in self.done:
            await super().on_events(events)


class SpoilsWhatIsDeepInside(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            (event.payload.get("completion_data") or {}).pop("last_ai_message", None)
        super().take(events)


class SpoilsABatch(Sound):
    async def on_event(self, event: RunLifecycleEvent) -> None:
        await Sound.on_events(self, [event])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            cast("dict[str, Any]", event.payload)["seen"] = True
        await super().on_events(events)


class MarksEndsBeforeItWrites(MarksBeforeItWrites, SoundForEnds): ...


class SwallowsCancelOfAnEnd(SwallowsCancel, SoundForEnds): ...


class DoesNothing(SoundForEnds):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None: ...


class DoesNothingAboutFailures(DoesNothing):
    events = (LifecycleEventType.RUN_FAILED,)


class LooksAtTheFirstOfABatch(Sound):
    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        assert events[0] not in self.done
        await super().on_events(events)


class RefusesABatchOfWhichItHasAPart(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        if len({event.event_id in self.done for event in events}) > 1:
            raise ValueError("UNIQUE constraint failed")
        super().take(events)


class KnowsOneWayToCancel(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            if event.payload.get("cancel_mode", "interrupt") != "interrupt":
                raise LookupError(event.payload["cancel_mode"])
        super().take(events)


class NeedsOneRunToEndBeforeTheNext(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.going_on: set[str] = set()

    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        for event in events:
            if event.event_type is LifecycleEventType.RUN_STARTED:
                self.going_on.add(event.run_id)
            elif is_terminal(event.event_type):
                self.going_on.discard(event.run_id)
        if len(self.going_on) > 1:
            raise RuntimeError("another run goes on")
        super().take(events)


class PassesOverQuestions(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        super().take([event for event in events if event.payload.get("status") != "interrupted"])


class PassesOverEndsWithoutAStatus(Sound):
    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        ends = {LifecycleEventType.RUN_COMPLETED, LifecycleEventType.RUN_FAILED}
        super().take([event for event in events if event.event_type not in ends or "status" in event.payload])


class TellsRunsOfAThreadApartBySequenceAlone(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.places: set[tuple[str, int]] = set()

    def take(self, events: Sequence[RunLifecycleEvent]) -> None:
        fresh = [event for event in events if (event.thread_id, event.sequence) not in self.places]
        super().take(fresh)
        self.places |= {(event.thread_id, event.sequence) for event in fresh}


class PassesOverQuestionsInABatch(Sound):
    async def on_event(self, event: RunLifecycleEvent) -> None:
        await Sound.on_events(self, [event])

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        await super().on_events([event for event in events if event.payload.get("status") != "interrupted"])


MUTANTS: dict[type[Sound], str] = {
    SwallowsCancel: "test_a_cancel_of_on_event_is_not_swallowed",
    SwallowsCancelOfABatch: "test_a_cancel_of_on_events_is_not_swallowed",
    KeepsItsLockWhenCancelled: "test_a_cancel_of_on_event_is_not_swallowed",
    ChangesTheEvent: "test_leaves_events_as_they_are",
    LosesTheLastOfABatch: "test_a_batch_has_the_effects_of_its_events",
    KeepsPartOfARefusedBatch: "test_a_batch_that_is_refused_has_no_effect",
    RefusesUnknownKeys: "test_takes_payloads_with_unknown_keys_without_status_or_with_nothing",
    NeedsAStatus: "test_takes_payloads_with_unknown_keys_without_status_or_with_nothing",
    NeedsAStart: "test_takes_the_end_of_a_run_that_never_started",
    RefusesWhatComesAgain: "test_takes_an_event_that_comes_again",
    CountsWhatComesAgain: "test_an_event_that_comes_again_has_one_effect",
    KnowsOneRunAtATime: "test_every_event_has_its_effect",
    TakesTheLatestFirst: "test_effects_come_in_the_order_of_the_run",
    TakesABatchFromItsEnd: "test_effects_of_batches_come_in_the_order_of_the_run",
    MarksBeforeItWrites: "test_an_event_whose_call_was_cancelled_has_its_effect_when_it_comes_again",
    MarksABatchBeforeItWrites: "test_a_batch_whose_call_was_cancelled_has_its_effects_when_it_comes_again",
    MarksAfterAMoment: "test_what_comes_again_after_a_cancel_has_one_effect",
    MarksBeforeItRefuses: "test_an_event_that_was_refused_has_its_effect_when_it_comes_again_and_is_taken",
    MarksABatchBeforeItRefuses: "test_a_batch_that_was_refused_has_its_effects_when_it_comes_again",
    ExitsOnWhatItDoesNotExpect: "test_goes_on_after_events_that_are_out_of_order",
    MiscountsWhatItTook: "test_accounts_for_every_event_at_any_moment",
    CountsNoBatch: "test_accounts_for_every_event_of_a_batch_at_any_moment",
    FlushesForAsLongAsItTakes: "test_flush_reports_and_may_be_repeated",
    SaysYesToAFlush: "test_flush_reports_and_may_be_repeated",
    ClosesOnlyOnce: "test_closes_as_often_as_asked_and_loses_nothing_silently_after_it",
    TakesSilentlyAfterItsEnd: "test_closes_as_often_as_asked_and_loses_nothing_silently_after_it",
    PassesOverABatchThatBeginsWithAKnownEvent: "test_a_batch_that_overlaps_what_was_taken_has_the_effects_of_the_rest",
    SpoilsWhatIsDeepInside: "test_leaves_events_as_they_are",
    SpoilsABatch: "test_leaves_events_as_they_are",
    RaisesWhereAFlushHasNoTime: "test_flush_reports_and_may_be_repeated",
    DropsWhatWaitsAsItCloses: "test_closes_as_often_as_asked_and_loses_nothing_silently_after_it",
    TakesBatchesSilentlyAfterItsEnd: "test_closes_as_often_as_asked_and_loses_nothing_silently_after_it",
    MarksEndsBeforeItWrites: "test_an_event_whose_call_was_cancelled_has_its_effect_when_it_comes_again",
    SwallowsCancelOfAnEnd: "test_a_cancel_of_on_event_is_not_swallowed",
    TakesEndsSilentlyAfterItsEnd: "test_closes_as_often_as_asked_and_loses_nothing_silently_after_it",
    DoesNothing: "test_every_event_has_its_effect",
    DoesNothingAboutFailures: "test_every_event_has_its_effect",
    PassesOverQuestions: "test_every_form_of_an_event_has_its_effect",
    PassesOverEndsWithoutAStatus: "test_every_form_of_an_event_has_its_effect",
    TellsRunsOfAThreadApartBySequenceAlone: "test_every_form_of_an_event_has_its_effect",
    PassesOverQuestionsInABatch: "test_a_batch_has_the_effects_of_every_form_of_an_event",
    LooksAtTheFirstOfABatch: "test_takes_batches_of_one_run_of_many_runs_and_of_nothing",
    RefusesABatchOfWhichItHasAPart: "test_takes_a_batch_that_comes_again_in_parts",
    KnowsOneWayToCancel: "test_takes_each_kind_of_event_in_all_its_forms",
    NeedsOneRunToEndBeforeTheNext: "test_takes_runs_that_go_on_side_by_side",
    GoesOnAfterEachCancel: "test_takes_the_end_of_a_run_that_never_started",
    GoesOnAfterItsFirstCancel: "test_takes_the_end_of_a_run_that_never_started",
    IsLateAndTakesItWhenCancelled: "test_takes_the_end_of_a_run_that_never_started",
    LeavesATaskThatNothingEnds: "test_takes_the_end_of_a_run_that_never_started",
    NeverOpens: "test_takes_the_end_of_a_run_that_never_started",
    NeverCloses: "test_takes_the_end_of_a_run_that_never_started",
    NeverClosesAndGoesOnAfterEachCancel: "test_takes_the_end_of_a_run_that_never_started",
}


def suite(kind: type[Sound]) -> type[ObserverContract]:
    class TestSuite(ObserverContract):
        virtual_time = True
        complete = True
        idempotent = True
        accounts = True

        @pytest.fixture
        async def observer(self) -> Sound:
            return kind()

        async def effects(self, observer: Sound) -> list[str]:
            return observer.done

    return TestSuite
