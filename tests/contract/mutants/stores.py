"""Stores, each broken in one way, and the test of the contract that has to notice."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Self

import pytest
from tests.contract.memory_log import Disk, MemoryLog, Placed, RefusedError, Row
from tests.contract.mutants.shared_stores import (
    HasTheRowsOfItsOwnRunsAlone,
    HearsOfItsOwnAppendsAlone,
    KnowsARunAsItLeftIt,
    KnowsEventsOfItsOwnOnly,
    NumbersBeforeItCommitsBesideOthers,
    NumbersItsOwnEventsAlone,
    WritesRowsInASecondTransaction,
)

from trackside.harness import LifecycleEventType, RunLifecycleEvent, RunStatus
from trackside.harness.errors import EventOrderError, TracksideError
from trackside.harness.lifecycle import RunFold, is_final, is_terminal
from trackside.testing import StoreContract, Stores


class BelievesTheStatus(MemoryLog):
    """Its rows take the status of an ended run from the payload alone, and learn nothing if the payload has none."""

    async def run(self, run_id: str) -> Row | None:
        row = await super().run(run_id)
        if row is None or not is_final(row.status):
            return row
        end = next(p.event for p in self.visible() if p.event.run_id == run_id and is_terminal(p.event.event_type))
        return replace(row, status=RunStatus(end.payload.get("status", RunStatus.running)))


class DropsAnEvent(MemoryLog):
    def visible(self) -> list[Placed]:
        return [p for p in super().visible() if p.event.event_type is not LifecycleEventType.HUMAN_MESSAGE]


class ReadsBackwards(MemoryLog):
    def visible(self) -> list[Placed]:
        return super().visible()[::-1]


class IgnoresALimit(MemoryLog):
    async def events(self, after: int = 0, **options: Any) -> list[Placed]:
        return await super().events(after, **{**options, "limit": max(options.get("limit", 1000), 0) and 1000})


class AcceptsASecondEnd(MemoryLog):
    def follows(self, fold: RunFold, event: RunLifecycleEvent) -> RunFold:
        if is_final(fold.status) and is_terminal(event.event_type) and event.sequence == fold.sequence + 1:
            return replace(fold, sequence=event.sequence)
        return super().follows(fold, event)


class TakesEventsAfterTheEnd(MemoryLog):
    def follows(self, fold: RunFold, event: RunLifecycleEvent) -> RunFold:
        if is_final(fold.status) and not is_terminal(event.event_type) and event.sequence == fold.sequence + 1:
            return replace(fold, sequence=event.sequence)
        return super().follows(fold, event)


class TakesAGap(MemoryLog):
    def follows(self, fold: RunFold, event: RunLifecycleEvent) -> RunFold:
        if event.sequence > fold.sequence + 1 > 1 and not is_final(fold.status):
            fold = replace(fold, sequence=event.sequence - 1)
        return super().follows(fold, event)


class TakesAForeignThread(MemoryLog):
    def check_thread(self, event: RunLifecycleEvent) -> None: ...


class NumbersBeforeItCommits(MemoryLog):
    """Numbers as a database sequence does: a reader passes the hole before it is filled."""

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        placed = await super().append(events)
        hidden = [p for p in placed if p.position % 3 == 0]
        self.hidden: list[Placed] = [*getattr(self, "hidden", []), *hidden]
        for _ in range(7 if hidden else 0):
            await asyncio.sleep(0)
        self.hidden = [p for p in self.hidden if p not in hidden]
        return placed

    def visible(self) -> list[Placed]:
        return [p for p in super().visible() if p not in getattr(self, "hidden", [])]


class TellsBeforeItCommits(MemoryLog):
    committed = 0

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        placed = await super().append(events)
        asyncio.get_running_loop().call_later(0.01, self.commit, len(self.disk.log))
        return placed

    def commit(self, end: int) -> None:
        self.committed = end

    def visible(self) -> list[Placed]:
        return super().visible()[: self.committed]


class StoresWhatComesAgain(MemoryLog):
    def find(self, event: RunLifecycleEvent) -> Placed | None:
        return None

    def follows(self, fold: RunFold, event: RunLifecycleEvent) -> RunFold:
        if any(placed.event.event_id == event.event_id for placed in self.disk.log):
            return fold
        return super().follows(fold, event)


class RefusesWhatComesAgain(MemoryLog):
    def find(self, event: RunLifecycleEvent) -> Placed | None:
        return None


class TakesAnotherEventUnderTheSameId(MemoryLog):
    def check_same(self, known: RunLifecycleEvent, event: RunLifecycleEvent) -> None: ...


class LeavesAGapWhereItRefused(MemoryLog):
    gap = 0

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        try:
            return await super().append(events)
        except TracksideError:
            self.gap += 1
            raise

    def visible(self) -> list[Placed]:
        return [replace(p, position=p.position + self.gap) if p.position > 5 else p for p in super().visible()]


class StoresOneByOne(MemoryLog):
    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        return [placed for event in events for placed in await super(StoresOneByOne, self).append([event])]


class _Slow(MemoryLog):
    """Stores at once, and shows what it has stored as a slow database would."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.hidden: set[int] = set()

    def visible(self) -> list[Placed]:
        return [p for p in super().visible() if p.position not in self.hidden]


class ShowsABatchAsItGrows(_Slow):
    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        before = len(self.disk.log)
        placed = await super().append(events)
        growing = [p.position for p in placed[1:] if p.position > before]
        self.hidden.update(growing)
        try:
            for position in growing:
                await asyncio.sleep(0)
                self.hidden.remove(position)
        finally:
            self.hidden.difference_update(growing)
        return placed


class LeavesHalfABatchWhenCutOff(_Slow):
    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        before = len(self.disk.log)
        placed = await super().append(events)
        new = [p.position for p in placed if p.position > before]
        self.hidden.update(new)
        done = 0
        try:
            while done < len(new):
                await asyncio.sleep(0)
                done += 1
        except asyncio.CancelledError:
            self.hidden.difference_update(new[: done + 1])
            raise
        self.hidden.difference_update(new)
        return placed


class ForgetsUnknownKeys(MemoryLog):
    def payload(self, event: RunLifecycleEvent) -> dict[str, Any]:
        return {key: value for key, value in super().payload(event).items() if " " not in key}


class MakesWholeFloatsIntegers(MemoryLog):
    def payload(self, event: RunLifecycleEvent) -> dict[str, Any]:
        text = json.dumps(super().payload(event))
        return json.loads(
            text, parse_float=lambda digits: int(float(digits)) if digits.endswith(".0") else float(digits)
        )  # type: ignore[no-any-return]


class MarksNothing(MemoryLog):
    def payload(self, event: RunLifecycleEvent) -> dict[str, Any]:
        kept = super().payload(event)
        if "sanitized" not in event.payload:
            kept.pop("sanitized", None)
        return kept


class KeepsWhatItWasHanded(MemoryLog):
    def payload(self, event: RunLifecycleEvent) -> dict[str, Any]:
        kept = super().payload(event)
        return event.payload if kept == event.payload else kept  # type: ignore[return-value]


class CutsMicroseconds(MemoryLog):
    def encoded(self, event: RunLifecycleEvent) -> RunLifecycleEvent:
        event = super().encoded(event)
        return replace(event, occurred_at=event.occurred_at.replace(microsecond=0))


class FailsWithErrorsOfItsOwn(MemoryLog):
    def encoded(self, event: RunLifecycleEvent) -> RunLifecycleEvent:
        try:
            return super().encoded(event)
        except TracksideError as exc:
            raise RuntimeError("(sqlite3.IntegrityError) datatype mismatch") from exc


class LosesTheLastEventOnOpening(MemoryLog):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        del disk.log[4:]


class ForgetsEndsOnOpening(MemoryLog):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        for run_id, fold in disk.folds.items():
            disk.folds[run_id] = replace(fold, status=RunStatus.running)


class ForgetsTheRowOfAnEnd(MemoryLog):
    async def run(self, run_id: str) -> Row | None:
        row = await super().run(run_id)
        return replace(row, status=RunStatus.running) if row is not None and is_final(row.status) else row


class ForgetsAnEndBesideOtherEvents(MemoryLog):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.left: set[str] = set()

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        placed = await super().append(events)
        if len(events) > 1:
            self.left |= {event.run_id for event in events if is_terminal(event.event_type)}
        return placed

    async def run(self, run_id: str) -> Row | None:
        row = await super().run(run_id)
        return replace(row, status=RunStatus.running) if row is not None and run_id in self.left else row


class NamesAnotherThread(MemoryLog):
    async def run(self, run_id: str) -> Row | None:
        row = await super().run(run_id)
        return None if row is None else replace(row, thread_id=run_id)


class FollowsEveryType(MemoryLog):
    def follow(self, after: int = 0, **filters: Any) -> AsyncIterator[Placed]:
        return super().follow(after, run_id=filters.get("run_id"))


class FollowsWhatFitsFromTheStart(MemoryLog):
    def follow(self, after: int = 0, **filters: Any) -> AsyncIterator[Placed]:
        return super().follow(0 if any(filters.values()) else after, **filters)


class WakesNoFollowerWhileItReads(MemoryLog):
    async def follow(self, after: int = 0, **filters: Any) -> AsyncIterator[Placed]:
        while True:
            for placed in await self.events(after, **filters):
                after = placed.position
                yield placed
            await asyncio.sleep(0)
            await self.disk.grown.wait()


class LogIsAwayError(TracksideError):
    """The log is away: {why}."""


class RefusesAsIfItWereAway(MemoryLog):
    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        try:
            return await super().append(events)
        except TracksideError as exc:
            raise LogIsAwayError(why=str(exc)) from exc


class RefusesAnEmptyAppend(MemoryLog):
    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        if not events:
            raise RefusedError(field="events", value=events, why="there are none")
        return await super().append(events)


class TakesNothingBehindAnEndThatStandsAlone(MemoryLog):
    def follows(self, fold: RunFold, event: RunLifecycleEvent) -> RunFold:
        if is_final(fold.status) and fold.sequence == 1:
            raise RefusedError(field="run_id", value=event.run_id, why="it never started")
        return super().follows(fold, event)


class TakesTheRestOfARunSingly(MemoryLog):
    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        if len(events) > 1 and events[0].sequence > 1:
            raise RefusedError(field="sequence", value=events[0].sequence, why="it is not the first of the run")
        return await super().append(events)


class FailsWithItsNeighbours(MemoryLog):
    """Commits together whatever arrives at the same time."""

    failing = False

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        try:
            placed = await super().append(events)
        except TracksideError:
            self.failing = True
            asyncio.get_running_loop().call_soon(setattr, self, "failing", False)
            raise
        if self.failing:
            raise LogIsAwayError(why="the transaction was rolled back")
        return placed


class LooksBeforeItWaits(MemoryLog):
    """Checks whether a run has ended in one statement, and appends in another."""

    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        found = {event.run_id: self.disk.folds.get(event.run_id) for event in events}
        try:
            return await super().append(events)
        except EventOrderError:
            if any(fold is None or is_final(fold.status) for fold in found.values()) or len(events) > 1:
                raise
            return [Placed(len(self.disk.log) + 1, events[0])]


class LooksBeforeItWaitsBesideOthers(LooksBeforeItWaits): ...


class TellsThePlaceThatItExpected(MemoryLog):
    async def append(self, events: Sequence[RunLifecycleEvent]) -> list[Placed]:
        end = len(self.disk.log)
        placed = await super().append(events)
        return [replace(p, position=end + number) if p.position > end else p for number, p in enumerate(placed, 1)]


class FindsARunOnAnyThread(MemoryLog):
    async def events(
        self, after: int = 0, *, run_id: str | None = None, thread_id: str | None = None, **options: Any
    ) -> list[Placed]:
        return await super().events(after, run_id=run_id, thread_id=thread_id if run_id is None else None, **options)


class PassesOverTheFirstBehindACursor(MemoryLog):
    async def events(self, after: int = 0, **options: Any) -> list[Placed]:
        return await super().events(after + 1 if after else after, **options)


class TakesAnyLimit(MemoryLog):
    async def events(self, after: int = 0, *, limit: int = 1000, **filters: Any) -> list[Placed]:
        return await super().events(after, limit=max(limit, 1), **filters)


class PutsTextIntoItsStatements(MemoryLog):
    async def events(self, after: int = 0, *, run_id: str | None = None, **options: Any) -> list[Placed]:
        if "'" in str(run_id):
            raise RefusedError(field="run_id", value=run_id, why="syntax error")
        return await super().events(after, run_id=run_id, **options)


class FindsByPattern(MemoryLog):
    """Looks for an id with `GLOB` or `LIKE`."""

    async def events(self, after: int = 0, *, run_id: str | None = None, **options: Any) -> list[Placed]:
        if run_id is None or "*" not in run_id:
            return await super().events(after, run_id=run_id, **options)
        return [p for p in await super().events(after, **options) if fnmatchcase(p.event.run_id, run_id)]


class TakesNoNoticeOfCase(MemoryLog):
    """Compares ids as the usual collation of a database does."""

    def encoded(self, event: RunLifecycleEvent) -> RunLifecycleEvent:
        event = super().encoded(event)
        known = {p.event.run_id.casefold(): p.event.run_id for p in self.disk.log}
        return replace(event, run_id=known.get(event.run_id.casefold(), event.run_id))


class FoldsWhatItRefuses(MemoryLog):
    def follows(self, fold: RunFold, event: RunLifecycleEvent) -> RunFold:
        after = self.disk.folds[event.run_id] = super().follows(fold, event)
        return after


class FollowsFromNowOn(MemoryLog):
    def follow(self, after: int = 0, **filters: Any) -> AsyncIterator[Placed]:
        return super().follow(max(after, len(self.disk.log)), **filters)


class NeverCloses(MemoryLog):
    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await asyncio.Event().wait()


MUTANTS: dict[type[MemoryLog], str] = {
    BelievesTheStatus: "test_the_rows_follow_events_that_say_no_status_or_nothing",
    DropsAnEvent: "test_what_was_appended_is_there_as_it_was_given",
    ReadsBackwards: "test_pages_give_every_event_once_and_in_order",
    IgnoresALimit: "test_pages_give_every_event_once_and_in_order",
    AcceptsASecondEnd: "test_a_run_ends_once",
    TakesEventsAfterTheEnd: "test_a_run_that_has_ended_takes_no_further_event",
    TakesAGap: "test_an_event_that_cannot_follow_is_refused",
    TakesAForeignThread: "test_an_event_that_cannot_follow_is_refused",
    NumbersBeforeItCommits: "test_a_reader_with_a_cursor_misses_nothing_while_others_write",
    TellsBeforeItCommits: "test_what_an_append_has_returned_is_there_to_be_read",
    StoresWhatComesAgain: "test_an_event_that_comes_again_is_not_stored_again",
    RefusesWhatComesAgain: "test_an_append_whose_reply_was_lost_may_be_repeated_by_many_at_once",
    TakesAnotherEventUnderTheSameId: "test_an_event_id_names_one_event",
    LeavesAGapWhereItRefused: "test_a_refused_append_uses_no_position",
    StoresOneByOne: "test_an_append_with_one_event_that_cannot_follow_stores_none",
    ForgetsUnknownKeys: "test_what_was_appended_is_there_as_it_was_given",
    MakesWholeFloatsIntegers: "test_json_comes_back_as_it_was",
    MarksNothing: "test_any_python_value_comes_back_in_its_canonical_form",
    KeepsWhatItWasHanded: "test_what_is_stored_does_not_change_with_what_its_emitter_still_holds",
    CutsMicroseconds: "test_times_keep_their_microseconds_and_come_back_in_utc",
    FailsWithErrorsOfItsOwn: "test_what_is_no_event_is_refused",
    LosesTheLastEventOnOpening: "test_what_was_stored_is_there_after_a_restart",
    ForgetsEndsOnOpening: "test_a_restart_forgets_no_end_and_no_event_id",
    ForgetsTheRowOfAnEnd: "test_the_rows_of_run_and_thread_follow_each_event",
    ForgetsAnEndBesideOtherEvents: "test_the_rows_follow_whole_runs_in_one_append_for_everybody",
    HasTheRowsOfItsOwnRunsAlone: "test_the_rows_follow_whole_runs_in_one_append_for_everybody",
    NamesAnotherThread: "test_the_rows_of_run_and_thread_follow_each_event",
    FollowsEveryType: "test_a_follower_gets_only_what_fits",
    FollowsWhatFitsFromTheStart: "test_a_follower_gets_only_what_fits",
    WakesNoFollowerWhileItReads: "test_followers_miss_nothing_while_others_write",
    NumbersBeforeItCommitsBesideOthers: "test_a_reader_with_a_cursor_misses_nothing_while_other_stores_write",
    KnowsEventsOfItsOwnOnly: "test_an_event_that_comes_again_through_another_store_is_not_stored_again",
    KnowsARunAsItLeftIt: "test_a_run_that_another_store_has_ended_takes_no_further_event",
    WritesRowsInASecondTransaction: "test_an_append_that_was_cut_off_and_is_taken_again_has_its_rows",
    RefusesAsIfItWereAway: "test_an_event_that_cannot_follow_is_refused",
    RefusesAnEmptyAppend: "test_an_append_of_nothing_is_nothing",
    TakesNothingBehindAnEndThatStandsAlone: "test_after_the_end_of_a_run_its_thread_may_change",
    TakesTheRestOfARunSingly: "test_events_of_a_run_may_come_one_by_one_or_together",
    FailsWithItsNeighbours: "test_a_bad_append_among_good_ones_fails_alone",
    LooksBeforeItWaits: "test_of_many_that_end_a_run_at_once_one_does",
    LooksBeforeItWaitsBesideOthers: "test_of_many_stores_that_end_a_run_one_does",
    TellsThePlaceThatItExpected: "test_positions_have_no_gap_however_many_append_at_once",
    FindsARunOnAnyThread: "test_nothing_is_found_where_nothing_is",
    PassesOverTheFirstBehindACursor: "test_a_cursor_is_where_a_reader_goes_on",
    TakesAnyLimit: "test_a_question_that_makes_no_sense_is_refused",
    PutsTextIntoItsStatements: "test_text_that_looks_like_sql_is_text",
    FindsByPattern: "test_ids_that_look_alike_name_different_events_runs_and_threads",
    TakesNoNoticeOfCase: "test_ids_that_look_alike_name_different_events_runs_and_threads",
    FoldsWhatItRefuses: "test_a_refused_append_leaves_the_rows_as_they_were",
    FollowsFromNowOn: "test_a_follower_gets_what_is_there_and_then_what_comes",
    HearsOfItsOwnAppendsAlone: "test_a_follower_hears_of_what_another_store_of_the_log_appends",
    NumbersItsOwnEventsAlone: "test_stores_on_one_log_number_their_events_together",
    ShowsABatchAsItGrows: "test_a_reader_beside_an_append_sees_all_of_its_events_or_none",
    LeavesHalfABatchWhenCutOff: "test_an_append_that_was_cut_off_leaves_all_of_its_events_or_none",
    NeverCloses: "test_an_append_of_nothing_is_nothing",
}


def suite(kind: type[MemoryLog]) -> type[StoreContract]:
    class TestSuite(StoreContract):
        virtual_time = True
        durable = True
        shared = True
        rows = True
        follows = True

        @pytest.fixture
        async def stores(self) -> Stores:
            disk = getattr(kind, "disk_kind", Disk)()
            return Stores(lambda: kind(disk))

    return TestSuite
