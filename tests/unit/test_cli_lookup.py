"""Finding runs and threads in a real store."""

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trackside.app.cli.arguments import ArgumentError
from trackside.app.cli.records.lookup import (
    AmbiguousIdError,
    NotWaitingError,
    UnknownIdError,
    find_ended_run,
    find_paused_run,
    find_run,
    find_thread,
    open_questions,
)
from trackside.app.cli.records.protocol import Home
from trackside.app.cli.records.stored import StoredRecords
from trackside.app.storage import Store
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunRecord, RunSpec, RunStatus

BEGIN = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.open(f"sqlite:///{tmp_path / 'log.db'}") as opened:
        yield opened


@pytest.fixture
def records(store: Store) -> StoredRecords:
    return StoredRecords(store, Home("here"))


async def record(store: Store, run_id: str, thread_id: str, *, minute: int = 0, **end: Any) -> None:
    """A run of two events, a second apart, `minute` minutes after the beginning."""
    when = BEGIN + timedelta(minutes=minute)
    started = LifecycleEventType.RUN_STARTED
    completed = LifecycleEventType.RUN_FAILED if "error" in end else LifecycleEventType.RUN_COMPLETED
    await store.append(
        [
            RunLifecycleEvent(f"{run_id}/1", started, run_id, thread_id, 1, when, {"agent": "a"}),
            RunLifecycleEvent(f"{run_id}/2", completed, run_id, thread_id, 2, when + timedelta(seconds=1), end),
        ]
    )


async def test_an_id_is_found_by_its_beginning(store: Store, records: StoredRecords) -> None:
    for number in range(8):
        await record(store, f"run-{number}-x", f"thread-{number}-x", minute=number)

    for number in range(8):
        assert (await find_run(records, f"run-{number}")).run_id == f"run-{number}-x"
        assert (await find_thread(records, f"thread-{number}")).thread_id == f"thread-{number}-x"


async def test_a_whole_id_wins_over_ids_that_go_on_behind_it(store: Store, records: StoredRecords) -> None:
    for run_id in ("run-1", "run-10", "run-11"):
        await record(store, run_id, run_id)

    assert (await find_run(records, "run-1")).run_id == "run-1"


async def test_an_ambiguous_beginning_names_some_and_an_unknown_one_none(store: Store, records: StoredRecords) -> None:
    for number in range(8):
        await record(store, f"run-{number}", "t", minute=number)

    with pytest.raises(AmbiguousIdError, match="run: run-7, run-6, run-5, …; write more"):
        await find_run(records, "run-")
    with pytest.raises(UnknownIdError, match="No run here has an id that begins with 'x'"):
        await find_run(records, "x")
    with pytest.raises(UnknownIdError):
        await find_run(records, "un-1")


async def test_an_id_is_found_by_its_end_where_none_begins_so(store: Store, records: StoredRecords) -> None:
    for number in range(5):
        await record(store, f"0199-{number}-7ba13be{number}", f"0199-{number}-abcdef{number // 2}", minute=number)
    await record(store, "7ba13be4-later", "7ba13be4", minute=9)
    await record(store, "titled", "t", minute=10, error="of 7ba13be1 and abcdef1")
    await store.threads_of(None).create("0199-alone-7777777")

    for typed in ("7ba13be1", "…7ba13be1", "…e1", "7BA13BE1"):
        assert (await find_run(records, typed)).run_id == "0199-1-7ba13be1"
    assert (await find_run(records, "7ba13be4")).run_id == "7ba13be4-later"
    assert (await find_run(records, "…7ba13be4")).run_id == "0199-4-7ba13be4"
    assert (await find_thread(records, "abcdef2")).thread_id == "0199-4-abcdef2"
    assert (await find_thread(records, "…7777777")).thread_id == "0199-alone-7777777"


async def test_an_end_that_does_not_tell_says_so(store: Store, records: StoredRecords) -> None:
    for number in range(5):
        await record(store, f"{number}-abcdef", f"{number}-thread", minute=number)

    with pytest.raises(
        AmbiguousIdError, match="'abcdef' is the end .* run: 4-abcdef, 3-abcdef, 2-abcdef, …; write more"
    ):
        await find_run(records, "abcdef")
    with pytest.raises(AmbiguousIdError, match="'…thread' is the end of the ids of more than one thread"):
        await find_thread(records, "…thread")
    for typed in ("cdef", "…", "…x", "…x" * 400):
        with pytest.raises(UnknownIdError, match="and no recent one an id that ends with it"):
            await find_run(records, typed)


@pytest.mark.parametrize("find", [find_run, find_thread, find_ended_run, find_paused_run])
async def test_nothing_typed_never_means_the_only_one_there_is(
    store: Store, records: StoredRecords, find: Callable[[StoredRecords, str], Awaitable[object]]
) -> None:
    await record(store, "run", "thread")

    with pytest.raises(ArgumentError, match="it is empty; was it taken from a variable that is not set?"):
        await find(records, "")


async def test_as_many_ids_as_can_be_named_are_all_of_them(store: Store, records: StoredRecords) -> None:
    for number in range(3):
        await record(store, f"run-{number}", "t", minute=number)

    with pytest.raises(AmbiguousIdError, match="run: run-2, run-1, run-0; write more"):
        await find_run(records, "run-")


async def test_only_a_thread_whose_last_run_asked_waits(store: Store, records: StoredRecords) -> None:
    question = {"id": "q", "value": "May I?"}
    await record(store, "r-1", "asked", minute=1, status="interrupted", interrupts=[question])
    await record(store, "r-2", "answered", minute=2, status="interrupted", interrupts=[question])
    await record(store, "r-3", "answered", minute=3)

    assert (await find_paused_run(records, "asked"))[0].run_id == "r-1"
    with pytest.raises(NotWaitingError, match="Thread 'answered' does not wait"):
        await find_paused_run(records, "answered")


async def test_a_thread_that_asks_nothing_is_named_as_a_shell_reads_it(store: Store, records: StoredRecords) -> None:
    await record(store, "r-1", "it's c", minute=1)

    with pytest.raises(NotWaitingError, match="does not wait") as refused:
        await find_paused_run(records, "it's c")
    command = str(refused.value).partition("`")[2].rstrip("`.")
    assert shlex.split(command) == ["trackside", "run", "AGENT", "INPUT", "--thread", "it's c"]


async def test_an_answer_that_failed_closes_no_question(store: Store, records: StoredRecords) -> None:
    question = {"id": "q", "value": "May I?"}
    await record(store, "r-1", "asked", minute=1, status="interrupted", interrupts=[question])
    await record(store, "r-2", "asked", minute=2, error="that is no answer")
    await record(store, "r-3", "failed", minute=3)
    await record(store, "r-4", "failed", minute=4, error="no such thing")

    assert (await find_paused_run(records, "asked"))[0].run_id == "r-1"
    assert await open_questions(records, await find_thread(records, "asked")) == [question]
    with pytest.raises(NotWaitingError):
        await find_paused_run(records, "failed")


async def test_the_question_of_a_thread_that_waits_is_that_of_the_run_which_the_log_has_last(
    store: Store, records: StoredRecords
) -> None:
    for run_id, minute in (("r-1", 2), ("r-2", 1)):  # the first ran on a machine whose clock is a minute ahead
        question = {"id": run_id, "value": "May I?"}
        await record(store, run_id, "asked", minute=minute, status="interrupted", interrupts=[question])
        says = {"status": "interrupted", "previous": "busy"}
        at, kind = BEGIN + timedelta(minutes=minute), LifecycleEventType.THREAD_STATUS_UPDATED
        await store.append([RunLifecycleEvent(f"{run_id}-rests", kind, run_id, "asked", 3, at, says)])

    assert (await find_paused_run(records, "asked"))[0].run_id == "r-2"
    assert [one["id"] for one in await open_questions(records, await find_thread(records, "asked"))] == ["r-2"]


async def test_a_run_that_is_to_begin_later_closes_no_question_before_it_is_due(
    store: Store, records: StoredRecords
) -> None:
    question = {"id": "q", "value": "May I?"}
    await record(store, "r-1", "asked", minute=1, status="interrupted", interrupts=[question])
    now = datetime.now(UTC)
    async with aclosing(store.coordinator()) as coordinator:
        for run_id, seconds in (("r-2", 3_600.0), ("r-3", None)):
            spec = RunSpec("a", "remind", run_id=run_id, thread_id="asked", after_seconds=seconds)
            due_at = None if seconds is None else now + timedelta(seconds=seconds)
            pending = RunRecord(
                run_id=run_id, thread_id="asked", agent="a", status=RunStatus.pending, created_at=now, due_at=due_at
            )
            await coordinator.admit(pending, spec=spec)
            asks = await open_questions(records, await find_thread(records, "asked"))
            assert asks == ([question] if seconds is not None else [])
