"""The screen of `trackside top`: what goes on, live, and what keys do to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from textual.widgets import DataTable, Input, RichLog, Static

from trackside.app.cli.records.protocol import Home
from trackside.app.cli.records.stored import StoredRecords
from trackside.app.cli.top import screen
from trackside.app.cli.top.screen import SHOWN, Said, TopApp
from trackside.app.cli.top.watching import Watched
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import Store
from trackside.app.storage.errors import DatabaseIOError
from trackside.harness import ObserverBinding, RunHandle, RunManager, RunSpec
from trackside.harness.ids import new_id
from trackside.harness.observer import LifecycleEventType, RunLifecycleEvent
from trackside.harness.types import RunStatus


def started(number: int, agent: str) -> RunLifecycleEvent:
    run_id = f"{agent}-{number:05}"
    kind = LifecycleEventType.RUN_STARTED
    return RunLifecycleEvent(new_id(), kind, run_id, f"thread-{run_id}", 1, datetime.now(UTC), {"agent": agent})


def ended(run: RunLifecycleEvent, **more: Any) -> RunLifecycleEvent:
    payload = {"agent": run.payload["agent"], "status": "success", "completion_data": {"total_tokens": 600}, **more}
    kind = LifecycleEventType.RUN_COMPLETED
    return RunLifecycleEvent(new_id(), kind, run.run_id, run.thread_id, 2, datetime.now(UTC), payload)


def said(run: RunLifecycleEvent, number: int, text: str) -> RunLifecycleEvent:
    payload = {"message": {"type": "human", "id": f"m{number}", "content": text}}
    kind = LifecycleEventType.HUMAN_MESSAGE
    return RunLifecycleEvent(new_id(), kind, run.run_id, run.thread_id, number, datetime.now(UTC), payload)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'trackside.db'}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with Store.open(url) as store:
        yield store


async def until(pilot: Any, holds: Callable[[], object]) -> None:
    """Let the screen go on until this holds; the test's time limit ends it else."""
    while not holds():
        await pilot.pause(0.02)


def row_keys(app: TopApp) -> list[str]:
    return [str(row.key.value) for row in app.query_one("#runs", DataTable).ordered_rows]


def shown(app: TopApp, name: str) -> str:
    console = Console(width=300, color_system=None)
    with console.capture() as capture:
        console.print(app.screen.query_one(name, Static).content)
    return capture.get()


def tail(app: TopApp) -> list[str]:
    return [line.text.strip() for line in app.query_one("#tail", RichLog).lines]


async def test_runs_come_go_are_found_sorted_and_cancelled(store: Store, url: str) -> None:
    one, other = started(1, "chat"), started(2, "mail")
    await store.append([one, other])
    app = TopApp(StoredRecords(store, Home(url)))
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: len(row_keys(app)) == 2)
        third = started(3, "chat")
        await store.append([third])
        await until(pilot, lambda: len(row_keys(app)) == 3)
        await store.append([ended(third)])
        await until(pilot, lambda: "1 success" in shown(app, "#numbers"))
        assert "600 tokens/min" in shown(app, "#numbers")
        assert row_keys(app)[-1] == third.run_id, "what has ended is below what goes on"

        await pilot.press("slash", *"mail", "enter")
        await until(pilot, lambda: row_keys(app) == [other.run_id])
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, Said))
        assert f"Cancel run {other.run_id} of mail?" in shown(app, "#text")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Said))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Said))
        assert f"trackside runs {other.run_id}" in shown(app, "#text")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Said))
        await pilot.press("escape")
        await until(pilot, lambda: len(row_keys(app)) == 3)
        assert not app.query_one("#filter", Input).value
        await pilot.press("s", "s")
        await until(pilot, lambda: "sorted by tokens" in shown(app, "#numbers"))
        assert row_keys(app)[0] == third.run_id
        await pilot.press("r")
        await until(pilot, lambda: any("--url" in note.message for note in app._notifications))
        await pilot.press("p")
        await store.append([started(4, "chat")])
        await until(pilot, lambda: "chat-00004" in app.watched.runs)
        assert len(row_keys(app)) == 3
        await pilot.press("p")
        await until(pilot, lambda: len(row_keys(app)) == 4)
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Said))


class Busy(StoredRecords):
    """Records that take their time, of somebody who executes runs."""

    def __init__(self, store: Store, home: Home) -> None:
        super().__init__(store, home)
        self.go_on = asyncio.Event()
        self.cancelled: list[str] = []
        self.retried: list[str] = []

    async def run(self, run_id: str) -> Any:
        await self.go_on.wait()
        return await super().run(run_id)

    async def cancel(self, run: Any, **how: Any) -> None:
        self.cancelled.append(run.run_id)

    async def retry(self, run_id: str) -> str:
        self.retried.append(run_id)
        await self.go_on.wait()
        return f"again-{len(self.retried)}"


async def test_it_outlives_runs_whose_emitters_say_no_numbers(store: Store, url: str) -> None:
    app = TopApp(StoredRecords(store, Home(url)))
    async with app.run_test(size=(140, 40)) as pilot:
        odd = ({"total_tokens": "9 k"}, {"cost_usd": "0.12", "total_tokens": 7}, [1, 2])
        for number, completion in enumerate(odd):
            run = started(number, "theirs")
            await store.append([run, ended(run, completion_data=completion)])
        await until(pilot, lambda: "3 success" in shown(app, "#numbers"))
        await pilot.press("s", "s", "s")
        await until(pilot, lambda: "sorted by cost" in shown(app, "#numbers"))
        assert "7 tokens/min" in shown(app, "#numbers")


async def test_what_was_asked_for_is_done_whatever_is_looked_at_next(store: Store, url: str) -> None:
    await store.append([started(1, "chat"), started(2, "mail")])
    records = Busy(store, Home(url))
    app = TopApp(records)
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: len(row_keys(app)) == 2 and app._marked)
        first = app._marked
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, Said))
        await pilot.press("y")
        await until(pilot, lambda: not isinstance(app.screen, Said))
        await pilot.press("down", "c")
        await until(pilot, lambda: isinstance(app.screen, Said))
        await pilot.press("escape", "enter")
        records.go_on.set()
        await until(pilot, lambda: records.cancelled)
        await until(pilot, lambda: isinstance(app.screen, Said))
    assert records.cancelled == [first]


async def test_of_a_run_that_goes_on_as_another_attempt_that_is_cancelled(store: Store, url: str) -> None:
    first, again = started(1, "chat"), started(2, "chat")
    await store.append([first, again])
    records = Busy(store, Home(url))
    records.go_on.set()
    app = TopApp(records)
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: len(row_keys(app)) == 2)
        await store.append([ended(first, retried_as=again.run_id)])
        await until(
            pilot, lambda: row_keys(app) == [again.run_id, first.run_id] and "1 success" in shown(app, "#numbers")
        )
        await pilot.press("up", "down")
        await until(pilot, lambda: app._marked == first.run_id)
        await pilot.press("c")
        await until(pilot, lambda: isinstance(app.screen, Said))
        assert f"Cancel run {again.run_id} of chat?" in shown(app, "#text")
        await pilot.press("y")
        await until(pilot, lambda: records.cancelled)
    assert records.cancelled == [again.run_id]


async def test_who_presses_twice_retries_once_and_is_asked_before_another_one(store: Store, url: str) -> None:
    run = started(1, "chat")
    await store.append([run])
    records = Busy(store, Home(url))
    app = TopApp(records)
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: row_keys(app))
        await store.append([ended(run)])
        await until(pilot, lambda: "1 success" in shown(app, "#numbers"))
        await pilot.press("r", "r", "r")
        records.go_on.set()
        await until(pilot, lambda: any("again-1" in note.message for note in app._notifications))
        assert records.retried == [run.run_id]
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, Said))
        assert "Run again-1 already repeats run" in shown(app, "#text")
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Said))
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, Said))
        await pilot.press("y")
        await until(pilot, lambda: any("again-2" in note.message for note in app._notifications))
    assert records.retried == [run.run_id] * 2


async def test_keys_act_on_no_run_that_is_not_on_the_screen(store: Store, url: str) -> None:
    run = started(1, "chat")
    await store.append([run])
    records = Busy(store, Home(url))
    records.go_on.set()
    app = TopApp(records)
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: row_keys(app))
        await store.append([ended(run)])
        await until(pilot, lambda: "1 success" in shown(app, "#numbers"))
        await pilot.press("slash", *"nobody", "enter")
        await until(pilot, lambda: not row_keys(app))
        for key in ("r", "c"):
            app.clear_notifications()
            await pilot.press(key)
            await until(pilot, lambda: any(note.message == "No run is marked." for note in app._notifications))
        assert tail(app) == []
        await pilot.press("escape")
        await until(pilot, lambda: row_keys(app) and len(tail(app)) == 2)
        await pilot.press("r")
        await until(pilot, lambda: records.retried)
    assert records.retried == [run.run_id]


async def test_the_mark_stays_on_its_run_as_the_table_is_brought_up_to_date(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.append([started(number, "chat") for number in (1, 2, 3)])
    app = TopApp(StoredRecords(store, Home(url)))
    marked: list[str] = []
    show_tail = app._show_tail

    def noted(run_id: str) -> Any:
        marked.append(run_id)
        return show_tail(run_id)

    monkeypatch.setattr(app, "_show_tail", noted)
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: len(row_keys(app)) == 3 and marked)
        await pilot.press("down")
        await until(pilot, lambda: app._marked == row_keys(app)[1])
        before = [*marked]
        for _ in range(3):
            app._redraw()
            await pilot.pause()
        assert (marked, app._marked) == (before, row_keys(app)[1])


def words(app: TopApp) -> list[str]:
    return [line.split()[-1] for line in tail(app)]


async def test_what_happens_while_the_screen_is_paused_is_told_behind_it(store: Store, url: str) -> None:
    run, other = started(1, "chat"), started(2, "mail")
    await store.append([run])
    app = TopApp(StoredRecords(store, Home(url)))
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: words(app) == ["chat"])
        await pilot.press("p")
        await store.append([said(run, 2, "paused"), other])
        await until(pilot, lambda: other.run_id in app.watched.runs)
        assert words(app) == ["chat"]
        await pilot.press("p")
        await store.append([said(run, 3, "after")])
        await until(pilot, lambda: len(tail(app)) > 1 and words(app)[-1] == "after")
        assert words(app) == ["chat", "paused", "after"]


async def test_what_happens_while_the_events_of_a_run_are_read_is_told_once(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = started(1, "chat"), started(2, "mail")
    await store.append([run])
    asked, go_on, read, answer = (asyncio.Event() for _ in range(4))
    records = StoredRecords(store, Home(url))
    events = records.events

    async def events_later(**wanted: Any) -> Any:
        asked.set()
        await go_on.wait()
        found = await events(**wanted)
        read.set()
        await answer.wait()
        return found

    app = TopApp(records)
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: words(app) == ["chat"])
        monkeypatch.setattr(records, "events", events_later)
        app._show_tail(run.run_id)
        await asked.wait()
        await store.append([said(run, 2, "before")])
        go_on.set()
        await read.wait()
        await store.append([said(run, 3, "behind"), other])
        await until(pilot, lambda: other.run_id in app.watched.runs)
        answer.set()
        await until(pilot, lambda: len(tail(app)) > 2)
        assert words(app) == ["chat", "before", "behind"]


@asynccontextmanager
async def one_behind_another(store: Store) -> AsyncIterator[tuple[RunManager, RunHandle, asyncio.Event]]:
    """A manager in which one run waits for the place of another, the waiting run, and what lets both end."""
    go_on = asyncio.Event()

    async def work(input: object) -> None:
        await go_on.wait()

    storage, coordinator = ObserverBinding(StorageObserver(store), required=True), store.coordinator()
    async with RunManager({"work": work}, observers=[storage], coordinator=coordinator, max_running=1) as manager:
        await manager.start(RunSpec("work", 1))
        yield manager, await manager.start(RunSpec("work", 2)), go_on
        go_on.set()


async def test_a_run_that_has_started_does_not_wait_again_for_a_list_that_was_on_its_way(store: Store) -> None:
    async with one_behind_another(store) as (_, run, go_on):
        waiting = await store.runs(status=[RunStatus.pending])
        go_on.set()
        await run.result()
    began = next(one for one in await store.events(run_id=run.run_id) if one.event.event_type == "run_started")
    watched = Watched()
    watched.begin(waiting)
    assert watched.runs[run.run_id].status is RunStatus.pending
    watched.take(began, 0.0)
    watched.begin(waiting)
    assert watched.runs[run.run_id].status is RunStatus.running


async def test_nor_does_one_that_many_have_ended_after(store: Store, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer, asked_again = asyncio.Event(), asyncio.Event(), asyncio.Event()
    app = TopApp(records := StoredRecords(store, Home(url)))
    runs, others = records.runs, [started(number, "chat") for number in range(600)]

    async def runs_later(**wanted: Any) -> Any:
        if answer.is_set():
            asked_again.set()
        found = await runs(**wanted)
        if wanted["status"] == [RunStatus.pending] and found:
            asked.set()
            await answer.wait()
        return found

    monkeypatch.setattr(records, "runs", runs_later)
    monkeypatch.setattr(screen, "COUNTED_EVERY", 0.02)
    async with one_behind_another(store) as (manager, run, _), app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: asked.is_set() and app._follower is not None)
        await manager.cancel(run.run_id, wait=True)
        await store.append([*others, *map(ended, others)])
        await until(pilot, lambda: app.watched.outcomes[RunStatus.success] == 600)
        answer.set()
        await asked_again.wait()
        assert run.run_id not in app.watched.runs


@pytest.mark.timeout(280)
async def test_ten_thousand_runs_at_once_do_not_hold_up_a_key(store: Store, url: str) -> None:
    for first in range(0, 10_000, 1_000):
        await store.append([started(number, "chat") for number in range(first, first + 1_000)])
    app = TopApp(StoredRecords(store, Home(url)), light=True)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: len(app.watched.runs) == 10_000)
        await until(pilot, lambda: len(row_keys(app)) == SHOWN)
        await pilot.press("slash", *"chat-09999")
        await until(pilot, lambda: row_keys(app) == ["chat-09999"])


class Away(StoredRecords):
    """Records that cannot be counted for a while."""

    is_away = False

    async def now(self) -> Any:
        if self.is_away:
            raise DatabaseIOError(database="trackside.db", why="disk I/O error")
        return await super().now()


async def test_an_outage_is_said_and_over_when_it_is(store: Store, url: str) -> None:
    await store.append([started(1, "chat")])
    records = Away(store, Home(url))
    app = TopApp(records)

    def is_said() -> bool:
        app._away["events"] = "The database is away."  # again, as a count that was under way may have taken it back
        return app.query_one("#banner").has_class("shown") and "The database is away." in shown(app, "#banner")

    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: row_keys(app))
        records.is_away = True
        await until(pilot, is_said)
        records.is_away = False
        await until(pilot, lambda: not app.query_one("#banner").has_class("shown"))


class Slow(StoredRecords):
    """Records that take longer to be counted than it is until they are to be counted again."""

    async def now(self) -> Any:
        await asyncio.sleep(0.2)
        return await super().now()


async def test_what_is_counted_slowly_is_shown_all_the_same(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "COUNTED_EVERY", 0.02)
    app = TopApp(Slow(store, Home(url)))
    async with app.run_test(size=(120, 30)) as pilot, asyncio.timeout(60):
        await until(pilot, lambda: "0 running" in shown(app, "#numbers"))


async def test_it_may_be_left_while_the_events_of_a_run_are_looked_for(
    store: Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(1, "mail")
    await store.append([run])
    asked, answered = asyncio.Event(), asyncio.Event()
    records = StoredRecords(store, Home(url))
    events = records.events

    async def events_later(**wanted: Any) -> Any:
        asked.set()
        await answered.wait()
        return await events(**wanted)

    monkeypatch.setattr(records, "events", events_later)
    app = TopApp(records)
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: run.run_id in row_keys(app))
        await asked.wait()
        await app.query_one("#tail").remove()  # which is what leaving begins with
        answered.set()
        await app.workers.wait_for_complete([one for one in app.workers if one.name == "trackside-top-tail"])
        again = app._show_tail(run.run_id)
        await again.wait()
    assert again.is_finished


async def test_it_fits_a_small_terminal_and_uses_a_large_one(store: Store, url: str) -> None:
    await store.append([started(1, "chat")])
    app = TopApp(StoredRecords(store, Home(url)))
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: row_keys(app))
        table = app.query_one("#runs", DataTable)
        assert [str(column.label) for column in table.ordered_columns] == [
            "RUN",
            "STATUS",
            "AGENT",
            "TIME",
            "TOKENS",
            "COST",
        ]
        assert table.virtual_size.width <= 80
        await pilot.resize_terminal(160, 50)
        await until(pilot, lambda: row_keys(app) and len(table.ordered_columns) == 7)
        assert str(table.ordered_columns[-1].label) == "THREAD"
        assert table.virtual_size.width <= 160


async def test_it_has_its_runs_in_another_width_while_the_screen_is_paused(store: Store, url: str) -> None:
    await store.append([started(1, "chat"), started(2, "mail")])
    app = TopApp(StoredRecords(store, Home(url)))
    async with app.run_test(size=(140, 40)) as pilot:
        await until(pilot, lambda: len(row_keys(app)) == 2)
        before = row_keys(app)
        await pilot.press("down")
        await until(pilot, lambda: app._marked == before[1])
        await pilot.press("p")
        for width, columns in ((70, 6), (140, 7)):
            await pilot.resize_terminal(width, 40)
            table = app.query_one("#runs", DataTable)
            await until(pilot, lambda table=table, columns=columns: len(table.ordered_columns) == columns)
            assert (row_keys(app), table.cursor_row, app._marked) == (before, 1, before[1])
