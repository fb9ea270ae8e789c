"""What an export has in it: the events that were chosen, nothing that was deleted, and all of each run, or it says so."""

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.storage.exported_logs import FORMATS, LONG_AGO, Another, exported, fill

from trackside.app.storage import ExportReport, Store, transfer
from trackside.app.storage.errors import DamagedDatabaseError, ExportTornError, InvalidQueryError


async def test_an_export_is_readable(store: Store, script) -> None:
    run = script("r", "t")
    await store.append([run.started(n=1), run.completed()])

    report = await store.export_events(file := io.BytesIO())

    header, first, second, footer = map(json.loads, file.getvalue().splitlines())
    assert header == {"format": "trackside.events", "version": 1, "to": 2, "chosen": {}}
    assert first == {
        "position": 1,
        "event_id": first["event_id"],
        "event_type": "run_started",
        "run_id": "r",
        "thread_id": "t",
        "sequence": 1,
        "occurred_at": "2026-01-31T09:30:00.123456Z",
        "payload": {"agent": "chat", "metadata": {}, "n": 1},
    }
    assert second["position"] == 2
    assert footer == {"events": 2}
    assert report == ExportReport(events=2, to=2)


@pytest.mark.parametrize(
    ("options", "positions"),
    [
        ({}, [1, 2, 3, 4]),
        ({"start": 2}, [2, 3, 4]),
        ({"to": 3}, [1, 2, 3]),
        ({"start": 2, "to": 2}, [2]),
        ({"start": 5}, []),
        ({"run_id": "a"}, [1, 3]),
        ({"thread_id": "t-b"}, [2, 4]),
        ({"agent": "search"}, [2, 4]),
        ({"types": "run_started"}, [1, 2]),
        ({"types": []}, []),
        ({"since": datetime(2026, 1, 31, 9, 30, 1, tzinfo=UTC)}, [3, 4]),
        ({"since": datetime(2027, 1, 1, tzinfo=UTC)}, []),
        ({"thread_id": "t-b", "to": 3}, [2]),
        ({"thread_id": "t-b", "start": 3}, [4]),
        ({"thread_id": "t-b", "agent": "search", "since": datetime(2026, 1, 31, 9, 30, 1, tzinfo=UTC)}, [4]),
        ({"thread_id": "t-b", "agent": "chat"}, []),
        ({"thread_id": "t-b", "run_id": "a"}, []),
        ({"thread_id": "t-c"}, []),
    ],
)
async def test_some_of_the_events(store: Store, script, options: dict[str, Any], positions: list[int]) -> None:
    a, b = script("a", "t-a"), script("b", "t-b")
    await store.append([a.started(), b.started("search"), a.completed(), b.completed()])

    lines = [json.loads(line) for line in (await exported(store, **options)).splitlines()]

    assert [line["position"] for line in lines[1:-1]] == positions
    assert bool(lines[0]["chosen"]) == bool(options.keys() - {"to"})


async def test_the_events_of_a_thread_come_page_by_page(store: Store, script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_PAGE_ROWS", 2)
    for thread_id in ("t", *["u"] * 6, "t", *["u"] * 8):
        await store.append(script(thread_id=thread_id).whole())

    lines = [json.loads(line) for line in (await exported(store, thread_id="t")).splitlines()]

    assert [line["position"] for line in lines[1:-1]] == [*range(1, 6), *range(36, 41)]


async def test_a_thread_that_was_deleted_is_in_no_export(store: Store, another: Another, script) -> None:
    deleted, kept = script(thread_id="deleted"), script(thread_id="kept")
    await store.append([deleted.started(), kept.started(), deleted.completed(), kept.completed()])
    await store.threads_of(None).remove("deleted")

    file = await exported(store)
    async with another() as copy:
        await copy.import_events(io.BytesIO(file))
        assert [run.run_id for run in await copy.runs(removed=True)] == [kept.run_id]
        assert await copy.thread("deleted", removed=True) is None
    assert b"run_started" not in await exported(store, thread_id="deleted")
    assert b"run_started" not in await exported(store, run_id=deleted.run_id)


async def test_a_run_that_was_deleted_is_in_no_export(store: Store, another: Another, script) -> None:
    """Each began as the one before ended, so that only the last one has said that the thread rests."""
    first, deleted, last = (script(thread_id="t") for _ in range(3))
    await store.append([first.started(), first.thread("busy"), first.completed(), deleted.started()])
    await store.append([deleted.completed(), last.started(), last.completed(), last.thread("idle")])
    for run in (deleted, last):
        await store.remove_run("t", run.run_id)

    file = await exported(store)
    async with another() as copy:
        await copy.import_events(io.BytesIO(file))
        thread = await copy.thread("t")
        assert [run.run_id for run in await copy.runs(removed=True)] == [first.run_id]
        assert thread is not None
        assert thread.status == "idle"
    for options in ({"thread_id": "t"}, {"agent": "chat"}, {"types": "run_started"}, {"since": LONG_AGO}):
        assert await runs_exported(store, **options) == {first.run_id}
    assert await runs_exported(store, run_id=deleted.run_id) == set()
    assert await runs_exported(store, run_id=first.run_id) == {first.run_id}


async def test_what_clients_do_not_see_and_nobody_deleted_is_exported(
    store: Store, another: Another, script, database: Any
) -> None:
    rolled_back, went, deleted = script(), script(thread_id="ends"), script()
    await store.append([rolled_back.started(), rolled_back.event("run_cancelled", cancel_mode="rollback")])
    await store.append([*went.whole(), *deleted.whole()])
    for change in (
        "UPDATE threads SET ends = TRUE, removed_at = updated_at WHERE thread_id = 'ends'",
        "UPDATE runs SET removed_at = '2026-02-01T00:00:00.000000Z' WHERE thread_id = 'ends'",
    ):
        await asyncio.to_thread(database.execute, change)
    await store.remove_run(deleted.thread_id, deleted.run_id)

    assert await runs_exported(store) == {rolled_back.run_id, went.run_id}
    async with another() as copy:
        await copy.import_events(io.BytesIO(await exported(store)))
        assert [run.run_id for run in await copy.runs()] == [went.run_id]


async def runs_exported(store: Store, **options: Any) -> set[str]:
    lines = (await exported(store, **options)).splitlines()
    return {json.loads(line)["run_id"] for line in lines[1:-1]}


@pytest.mark.parametrize("kind", ["thread", "run"])
async def test_what_is_deleted_meanwhile_is_exported_whole(
    store: Store, script, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(transfer, "_PAGE_ROWS", 1)
    gone, run = script(thread_id="gone"), script(thread_id="t")
    await store.append([gone.started(), gone.completed(), run.started(), run.completed()])

    async def delete(what: Any) -> None:
        if kind == "thread":
            await store.threads_of(None).remove(what.thread_id)
        else:
            await store.remove_run(what.thread_id, what.run_id)

    class Deleting(io.BytesIO):
        """While it is written, something goes."""

        def write(self, data: Any) -> int:
            if b"run_started" in data:
                asyncio.run_coroutine_threadsafe(delete(run), loop).result()
            return super().write(data)

    await delete(gone)
    loop = asyncio.get_running_loop()
    report = await store.export_events(file := Deleting())

    assert (report.events, b"gone" in file.getvalue()) == (2, False)
    assert (await store.export_events(io.BytesIO())).events == 0


async def test_an_export_ends_where_the_log_ended_when_it_began(store: Store, script) -> None:
    await fill(store, script)

    class Appending(io.BytesIO):
        """While it is written, the log goes on."""

        def write(self, data: Any) -> int:
            asyncio.run_coroutine_threadsafe(store.append([script().started()]), loop).result()
            return super().write(data)

    loop = asyncio.get_running_loop()
    before = await exported(store)
    await store.export_events(file := Appending())

    assert file.getvalue() == before


class Removing(io.BytesIO):
    """Prunes the runs of a thread when what is written has a certain text in it."""

    def __init__(self, store: Store, at: str, thread_id: str) -> None:
        super().__init__()
        self._store, self._at, self._thread_id = store, at.encode(), thread_id
        self._loop = asyncio.get_running_loop()

    def write(self, data: Any) -> int:
        if self._at in bytes(data):
            removing = self._store.prune(older_than=None, thread_id=self._thread_id)
            asyncio.run_coroutine_threadsafe(removing, self._loop).result()
        return super().write(data)


@pytest.mark.parametrize("options", [{}, {"agent": "chat"}, {"types": ["run_started", "thread_status_updated"]}])
@pytest.mark.parametrize("rows", [1, 2, 3])
async def test_an_export_that_a_prune_has_torn_says_so(
    store: Store, script, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], rows: int
) -> None:
    monkeypatch.setattr(transfer, "_PAGE_ROWS", rows)
    run, beside = script(thread_id="t"), script()
    await store.append([run.started(), beside.started(), *[beside.message() for _ in range(3)], run.thread("busy")])
    await store.append([run.completed(), beside.completed(), run.thread("idle")])

    with pytest.raises(ExportTornError):
        await store.export_events(Removing(store, beside.run_id, "t"), **options)


@pytest.mark.parametrize(
    ("options", "removed", "at"),
    [
        ({}, "before", "r-begun"),
        ({}, "behind", "r-begun"),
        ({"types": "run_started"}, "before", "r-begun"),
        ({"since": LONG_AGO + timedelta(seconds=3)}, "before", "r-behind"),
        ({"to": 8}, "begun", "the last of these"),
        ({"thread_id": "begun"}, "behind", "the last of these"),
    ],
)
async def test_an_export_is_whole_though_runs_were_removed_of_which_it_has_all_or_nothing(
    store: Store, script, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], removed: str, at: str
) -> None:
    monkeypatch.setattr(transfer, "_PAGE_ROWS", 2)
    before, begun, behind = (script(f"r-{name}", name, LONG_AGO) for name in ("before", "begun", "behind"))
    await store.append([*before.whole(), begun.started(), begun.message(), begun.message("the last of these")])
    await store.append([*behind.whole(), begun.completed()])
    lines = (await exported(store, **options)).splitlines()

    await store.export_events(file := Removing(store, at, removed), **options)

    assert await store.runs(thread_id=removed) == []
    told = [line for line in lines[:-1] if removed != "behind" or b"r-behind" not in line]
    assert file.getvalue().splitlines() == [*told, b'{"events":%d}' % (len(told) - 1)]


@pytest.mark.parametrize(
    ("argument", "value"),
    [("start", -1), ("to", "end"), ("run_id", 3), ("agent", "\0"), ("types", "x"), ("since", "2h"), ("format", "csv")],
)
async def test_an_argument_that_does_not_fit_is_named(store: Store, argument: str, value: Any) -> None:
    with pytest.raises(InvalidQueryError, match=argument):
        await store.export_events(io.BytesIO(), **{argument: value})


@pytest.mark.parametrize(
    ("options", "field"),
    [({"start": 0}, "start"), ({"start": 7}, "start"), ({"start": 3, "to": 2}, "to"), ({"to": 6}, "to")],
)
async def test_positions_that_are_none_of_the_log_are_refused(
    store: Store, script, options: dict[str, int], field: str
) -> None:
    await store.append(script().whole())

    with pytest.raises(InvalidQueryError) as refused:
        await store.export_events(file := io.BytesIO(), **options)
    assert (refused.value.details["field"], file.getvalue()) == (field, b"")


@pytest.mark.parametrize("format", FORMATS)
async def test_damage_is_not_exported(store: Store, database: Any, script, format: Any) -> None:
    await store.append(script().whole())
    await asyncio.to_thread(database.execute, "UPDATE events SET payload = '{' WHERE position = 2")

    with pytest.raises(DamagedDatabaseError, match="the payload of the event at position 2 is not JSON"):
        await store.export_events(io.BytesIO(), format=format)
    with pytest.raises(DamagedDatabaseError, match=r"'{' is not JSON .*db check --all"):
        await store.events()
