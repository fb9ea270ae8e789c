"""Finding runs and threads in a real store."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from trackside.app.cli.lookup import (
    AmbiguousIdError,
    NotWaitingError,
    UnknownIdError,
    find_paused_run,
    find_run,
    find_thread,
    open_questions,
)
from trackside.app.storage import Store
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType

BEGIN = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.open(f"sqlite:///{tmp_path / 'log.db'}") as opened:
        yield opened


async def record(store: Store, run_id: str, thread_id: str, *, minute: int = 0, **end: Any) -> None:
    """A run of two events, a second apart, `minute` minutes after the begin."""
    when = BEGIN + timedelta(minutes=minute)
    started = LifecycleEventType.RUN_STARTED
    completed = LifecycleEventType.RUN_FAILED if "error" in end else LifecycleEventType.RUN_COMPLETED
    await store.append(
        [
            RunLifecycleEvent(f"{run_id}/1", started, run_id, thread_id, 1, when, {"agent": "a"}),
            RunLifecycleEvent(f"{run_id}/2", completed, run_id, thread_id, 2, when + timedelta(seconds=1), end),
        ]
    )


async def test_an_id_is_found_by_its_beginning(store: Store) -> None:
    for number in range(8):
        await record(store, f"run-{number}-x", f"thread-{number}-x", minute=number)

    for number in range(8):
        assert (await find_run(store, f"run-{number}")).run_id == f"run-{number}-x"
        assert (await find_thread(store, f"thread-{number}")).thread_id == f"thread-{number}-x"


async def test_a_whole_id_wins_over_ids_that_go_on_behind_it(store: Store) -> None:
    for run_id in ("run-1", "run-10", "run-11"):
        await record(store, run_id, run_id)

    assert (await find_run(store, "run-1")).run_id == "run-1"


async def test_an_ambiguous_beginning_names_some_and_an_unknown_one_none(store: Store) -> None:
    for number in range(8):
        await record(store, f"run-{number}", "t", minute=number)

    with pytest.raises(AmbiguousIdError, match="run: run-7, run-6, run-5, …; write more"):
        await find_run(store, "run-")
    with pytest.raises(UnknownIdError, match="No run here has an id that begins with 'x'"):
        await find_run(store, "x")
    with pytest.raises(UnknownIdError):
        await find_run(store, "un-1")


async def test_as_many_ids_as_can_be_named_are_all_of_them(store: Store) -> None:
    for number in range(3):
        await record(store, f"run-{number}", "t", minute=number)

    with pytest.raises(AmbiguousIdError, match="run: run-2, run-1, run-0; write more"):
        await find_run(store, "run-")


async def test_only_a_thread_whose_last_run_asked_waits(store: Store) -> None:
    question = {"id": "q", "value": "May I?"}
    await record(store, "r-1", "asked", minute=1, status="interrupted", interrupts=[question])
    await record(store, "r-2", "answered", minute=2, status="interrupted", interrupts=[question])
    await record(store, "r-3", "answered", minute=3)

    assert (await find_paused_run(store, "asked"))[0].run_id == "r-1"
    with pytest.raises(NotWaitingError, match="Thread 'answered' does not wait"):
        await find_paused_run(store, "answered")


async def test_an_answer_that_failed_closes_no_question(store: Store) -> None:
    question = {"id": "q", "value": "May I?"}
    await record(store, "r-1", "asked", minute=1, status="interrupted", interrupts=[question])
    await record(store, "r-2", "asked", minute=2, error="that is no answer")
    await record(store, "r-3", "failed", minute=3)
    await record(store, "r-4", "failed", minute=4, error="no such thing")

    assert (await find_paused_run(store, "asked"))[0].run_id == "r-1"
    assert await open_questions(store, await find_thread(store, "asked")) == [question]
    with pytest.raises(NotWaitingError):
        await find_paused_run(store, "failed")
