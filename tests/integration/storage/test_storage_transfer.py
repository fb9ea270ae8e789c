"""What is exported comes back as it was, bytes and positions; what is wrong with a file is said by line."""

import asyncio
import gzip
import io
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prepared_databases import EmptiedDatabase
from sqlalchemy import select
from tests.property.queue_hands import ForgetfulSession

from trackside import ObserverBinding, RunManager, RunSpec
from trackside.app.observers.storage import StorageObserver
from trackside.app.storage import ExportReport, ImportReport, Store, importing, transfer
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.tables import (
    counters,
    duration_totals,
    events,
    run_labels,
    run_totals,
    runs,
    threads,
    usage,
    usage_totals,
)
from trackside.app.storage.errors import (
    DamagedDatabaseError,
    DatabaseFullError,
    ExportDamagedError,
    ExportTooNewError,
    ExportTornError,
    ForeignExportError,
    ImportConflictError,
    InvalidQueryError,
    PartialExportError,
    ReadOnlyStoreError,
)
from trackside.harness.ids import new_id

FORMATS = ["jsonl", "parquet"]
LONG_AGO = datetime(2020, 1, 1, 3, 4, 5, 678901, UTC)
USAGE = {"input_tokens": 10, "output_tokens": 4, "cost_usd": 0.1}
DATA: dict[str, Any] = {
    "total_input_tokens": 10,
    "duration_seconds": 1.5,
    "cost_usd": 0.1,
    "token_usage_by_model": {"small": USAGE},
    "token_usage_by_caller": {"lead_agent": USAGE},
}
ODD = {"z": 1, "a": [1.0, -0.0, 1e300, 2**63, None, True], "text": 'Zoë\u2028"\\/\n\x7f😀', "": {"nested": {}}}

type Another = Callable[[], AbstractAsyncContextManager[Store]]


@pytest.fixture
def another(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> Another:
    """Opens one more empty store, in a database of the same kind."""
    made = 0

    @asynccontextmanager
    async def open_another() -> AsyncIterator[Store]:
        nonlocal made
        made += 1
        if dialect == "sqlite":
            path = tmp_path / f"another-{made}.db"
            await asyncio.to_thread(shutil.copy, request.getfixturevalue("sqlite_with_tables"), path)
            async with Store.open(f"sqlite:///{path}") as store:
                yield store
            return
        database = await asyncio.to_thread(databases, made)
        try:
            async with Store.open(database.url) as store:
                yield store
        finally:
            await asyncio.to_thread(database.empty)

    if dialect == "postgres":
        databases: Callable[[int], EmptiedDatabase] = request.getfixturevalue("emptied_databases")
    return open_another


async def fill(store: Store, script) -> None:
    """Runs of several kinds, some of them at once, and a hole where an old one was removed."""
    done, asking, failed, running = script(), script(), script(), script()
    gone = script(start=LONG_AGO)
    await store.append([done.started(metadata={"n": 1, "who": "Zoë"}, odd=ODD), gone.started(), asking.started()])
    await store.append(
        [gone.completed(), done.thread("busy"), running.started(parent_run_id=done.run_id), failed.started()]
    )
    await store.append([done.completed("A title", **DATA), failed.failed("timeout"), done.thread("idle")])
    await store.append([asking.event("run_completed", status="interrupted", interrupts=[{"id": "1", "value": "?"}])])
    await store.append([asking.thread("interrupted"), script().event("run_cancelled", cancel_mode="shutdown")])
    last = script(start=LONG_AGO)
    await store.append([last.started(), last.completed()])  # the counter goes on from there all the same
    assert (await store.prune(older_than=timedelta(days=1000))).runs == 2


async def exported(store: Store, **options: Any) -> bytes:
    file = io.BytesIO()
    await store.export_events(file, **options)
    return file.getvalue()


async def told(store: Store) -> dict[str, Any]:
    """All that follows from events."""
    tables = (events, runs, threads, usage, run_labels, run_totals, duration_totals, usage_totals, counters)

    def read(connection: Any) -> dict[str, Any]:
        rows = {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr) for table in tables
        }
        rows["counters"] = [row for row in rows["counters"] if row[0] == "position"]
        return rows

    return await store._readers.run(read)


@pytest.mark.parametrize("format", FORMATS)
async def test_what_comes_back_is_what_was_there(store: Store, another: Another, script, format: Any) -> None:
    await fill(store, script)
    file = await exported(store, format=format)
    async with another() as copy:
        report = await copy.import_events(io.BytesIO(file), format=format)
        again = await exported(copy, format=format)

        assert again == file
        assert await told(copy) == await told(store)
        assert await copy.stats() == await store.stats()
        (later,) = await copy.append([script().started()])

    assert report == ImportReport(imported=11, known=0, kept_positions=True, unfinished=1)
    assert later.position == 16


def made(*events: dict[str, Any], to: int) -> io.BytesIO:
    """An export, as somebody else has written it."""
    header = {"format": "trackside.events", "version": 1, "to": to, "chosen": {}}
    lines = [header, *events, {"events": len(events)}]
    return io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


async def test_an_export_without_events_ends_no_log_that_has_others_further_on(store: Store, script) -> None:
    await store.append([script().started()])

    report = await store.import_events(made(to=1_000))
    (later,) = await store.append([script().started()])

    assert report == ImportReport(imported=0, known=0, kept_positions=True, unfinished=0)
    assert later.position == 2


async def test_an_export_of_which_all_is_known_ends_no_log_that_has_more_further_on(store: Store, script) -> None:
    run = script()
    await store.append([run.started()])
    file = await exported(store)
    await store.append([run.completed()])

    await store.import_events(io.BytesIO(file.replace(b'"to":1,', b'"to":1000,')))
    (later,) = await store.append([script().started()])

    assert later.position == 3


@pytest.mark.parametrize("is_empty", [True, False])
async def test_behind_what_is_imported_is_room_for_more(store: Store, script, is_empty: bool) -> None:
    last = 2**63 - 1
    event = {"position": last, "event_id": "e", "event_type": "run_started", "run_id": "r", "thread_id": "t"}
    event |= {"sequence": 1, "occurred_at": LONG_AGO.isoformat(), "payload": {}}
    with pytest.raises((ForeignExportError, ExportDamagedError)):
        await store.import_events(made(to=last) if is_empty else made(event, to=1))

    (later,) = await store.append([script().started()])
    assert later.position == 1


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
    """Of what is written, the line with a text has a thread and its runs removed."""

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


async def test_pages_are_as_small_as_their_payloads_are_large(store: Store, another: Another, script) -> None:
    run = script()
    await store.append([run.started()])
    for _ in range(5):
        await store.append([run.message("x" * 3_000_000)])
    for _ in range(30):
        await store.append([run.message("x") for _ in range(100)])
    file = await exported(store)

    async with another() as copy:
        await copy.import_events(io.BytesIO(file))
        assert await exported(copy) == file


@pytest.mark.parametrize("format", FORMATS)
async def test_in_a_store_with_other_events_they_get_new_positions(
    store: Store, another: Another, script, format: Any
) -> None:
    await fill(store, script)
    file = await exported(store, format=format)
    async with another() as other:
        await other.append(script().whole())
        report = await other.import_events(io.BytesIO(file), format=format)
        again = await other.import_events(io.BytesIO(file), format=format)
        listed = [stored.event for stored in await other.events(5)]
        positions = [stored.position for stored in await other.events()]

    assert report == ImportReport(imported=11, known=0, kept_positions=False, unfinished=1)
    assert again == ImportReport(imported=0, known=11, kept_positions=False, unfinished=1)
    assert listed == [stored.event for stored in await store.events()]
    assert positions == [*range(1, 17)]


async def test_an_import_that_was_cut_short_goes_on(store: Store, another: Another, script) -> None:
    await fill(store, script)
    file = await exported(store)
    lines = file.splitlines(keepends=True)
    async with another() as copy:
        for cut in (1, 4, 9, 12):
            with pytest.raises(ExportDamagedError, match=f"Line {cut} .* its last line is missing"):
                await copy.import_events(io.BytesIO(b"".join(lines[:cut])))
            assert len(await copy.events()) == cut - 1
        report = await copy.import_events(io.BytesIO(file))
        assert await exported(copy) == file
        assert await told(copy) == await told(store)

    assert report == ImportReport(imported=0, known=11, kept_positions=True, unfinished=1)


@pytest.mark.parametrize("lost", [1, 2, 4])
async def test_an_import_keeps_positions_though_the_reply_to_a_commit_was_lost(
    store: Store, another: Another, script, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    monkeypatch.setattr(importing, "_BATCH_ROWS", 3)
    await fill(store, script)
    file = await exported(store)
    async with another() as copy:
        session: Any = ForgetfulSession(copy._writer._session)
        copy._writer._session, session.loses_in = session, lost

        report = await copy.import_events(io.BytesIO(file))

        assert session.loses_in < 0
        assert await exported(copy) == file
        (later,) = await copy.append([script().started()])

    assert report == ImportReport(imported=11, known=0, kept_positions=True, unfinished=1)
    assert later.position == 16


async def test_a_later_export_goes_on_where_the_first_one_ended(store: Store, another: Another, script) -> None:
    run = script()
    await store.append([run.started(), run.thread("busy")])
    first = await exported(store)
    await store.append([run.completed(), run.thread("idle")])
    rest = await exported(store, start=3)

    async with another() as copy:
        await copy.import_events(io.BytesIO(first))
        await copy.import_events(io.BytesIO(rest))

        assert await told(copy) == await told(store)


def changed(file: bytes, line: int, **fields: Any) -> bytes:
    lines = file.splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | fields).encode()
    return b"\n".join([*lines, b""])


def without(file: bytes, line: int) -> bytes:
    lines = file.splitlines(keepends=True)
    return b"".join(lines[: line - 1] + lines[line:])


DAMAGED: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "not JSON": (3, lambda file: file.replace(b'{"position":2', b"position 2")),
    "half a line": (3, lambda file: file[: file.index(b'{"position":3') - 20]),
    "another field": (3, lambda file: changed(file, 3, more=1)),
    "no event id": (3, lambda file: changed(file, 3, event_id="")),
    "no such type": (3, lambda file: changed(file, 3, event_type="run_paused")),
    "no such time": (3, lambda file: changed(file, 3, occurred_at="yesterday")),
    "a time without a zone": (3, lambda file: changed(file, 3, occurred_at="2026-01-31T09:30:00")),
    "a payload that is none": (3, lambda file: changed(file, 3, payload=[])),
    "a sequence that is none": (3, lambda file: changed(file, 3, sequence=-1)),
    "a position twice": (3, lambda file: changed(file, 3, position=1)),
    "a position beyond all": (3, lambda file: changed(file, 3, position=2**63)),
    "an event too few": (6, lambda file: changed(file, 6, events=5)),
    "an event too many": (7, lambda file: file + b'{"position":9}\n'),
    "no last line": (5, lambda file: without(file, 6)),
    "bytes": (3, lambda file: file.replace(b"run-b", b"\xff\xfe\xff", 1)),
}


@pytest.mark.parametrize(("line", "damage"), DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_line_is_named_and_what_came_before_stays(
    store: Store, another: Another, script, line: int, damage: Callable[[bytes], bytes]
) -> None:
    a, b = script("run-a"), script("run-b")
    await store.append([a.started(), b.started(), a.completed(), b.completed()])
    file = await exported(store)
    async with another() as copy:
        with pytest.raises(ExportDamagedError) as damaged:
            await copy.import_events(io.BytesIO(damage(file)))
        assert damaged.value.line == line
        events_before = line - 1 if damage is DAMAGED["no last line"][1] else min(line - 2, 4)
        assert [stored.position for stored in await copy.events()] == [*range(1, events_before + 1)]
        await copy.import_events(io.BytesIO(file))
        assert await exported(copy) == file


CONFLICTS: dict[str, tuple[int, Callable[[bytes], bytes], str]] = {
    "an event is missing": (3, lambda file: without(file, 3), "the next sequence number is 2"),
    "a run without its beginning": (2, lambda file: without(file, 2), "the next sequence number is 1"),
    "another thread": (3, lambda file: changed(file, 3, thread_id="x"), "its thread is 'x'"),
    "two ends": (6, lambda file: changed(file, 6, event_type="run_failed", payload={}), "the run has ended"),
    "an id twice": (
        4,
        lambda file: changed(file, 4, event_id=json.loads(file.splitlines()[1])["event_id"]),
        "is taken",
    ),
}


@pytest.mark.parametrize(("line", "spoil", "why"), CONFLICTS.values(), ids=CONFLICTS)
async def test_an_event_that_cannot_follow_is_refused_with_its_line(
    store: Store, another: Another, script, line: int, spoil: Callable[[bytes], bytes], why: str
) -> None:
    run = script()
    await store.append(run.whole())
    file = await exported(store)
    async with another() as copy:
        with pytest.raises(ImportConflictError) as conflict:
            await copy.import_events(io.BytesIO(spoil(file).replace(b'{"events": 5}', b'{"events":5}')))
        assert (conflict.value.line, conflict.value.fault) == (line, "caller")
        assert why in str(conflict.value)


async def test_an_event_that_is_there_otherwise_is_refused(store: Store, script) -> None:
    run = script()
    await store.append(run.whole())
    file = await exported(store)

    with pytest.raises(ImportConflictError, match="Line 4 .* is taken by another event"):
        await store.import_events(io.BytesIO(changed(file, 4, payload={"other": 1})))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"{}\n",
        b"hello\n",
        b'{"format":"other","version":1,"to":1,"chosen":{}}\n',
        b"\x00" * 5_000,
        b'{"form',
    ],
)
async def test_a_file_of_somebody_else(store: Store, content: bytes) -> None:
    with pytest.raises(ForeignExportError):
        await store.import_events(io.BytesIO(content))
    with pytest.raises(ForeignExportError):
        await store.import_events(io.BytesIO(content), format="parquet")
    assert await store.events() == []


async def test_a_file_of_a_newer_version(store: Store) -> None:
    header = b'{"format":"trackside.events","version":2,"to":1,"chosen":{},"more":1}\n'
    with pytest.raises(ExportTooNewError, match="version 2"):
        await store.import_events(io.BytesIO(header))


async def test_compressed_files_that_end_too_early(store: Store, another: Another, script) -> None:
    for _ in range(20):
        await store.append(script().whole())
    packed = gzip.compress(await exported(store))
    async with another() as copy:
        with pytest.raises(ExportDamagedError, match="Line"):
            await copy.import_events(gzip.GzipFile(fileobj=io.BytesIO(packed[: len(packed) // 2])))
        await copy.import_events(gzip.GzipFile(fileobj=io.BytesIO(packed)))
        assert len(await copy.events()) == 100


@pytest.mark.parametrize("keep", [0.5, 0.99])
async def test_parquet_that_ends_too_early_imports_nothing(store: Store, another: Another, script, keep: float) -> None:
    await fill(store, script)
    file = await exported(store, format="parquet")
    async with another() as copy:
        with pytest.raises(ForeignExportError):
            await copy.import_events(io.BytesIO(file[: int(len(file) * keep)]), format="parquet")
        assert await copy.events() == []


async def test_parquet_with_damaged_rows(store: Store, another: Another, script) -> None:
    await fill(store, script)
    file = bytearray(await exported(store, format="parquet"))
    file[40:120] = b"\xff" * 80
    async with another() as copy:
        with pytest.raises(ExportDamagedError):
            await copy.import_events(io.BytesIO(bytes(file)), format="parquet")


async def test_an_import_while_others_append(store: Store, another: Another, script) -> None:
    for _ in range(300):
        await store.append(script().whole())
    file = await exported(store)
    async with another() as copy:
        importing = asyncio.create_task(copy.import_events(io.BytesIO(file)))
        own = 0
        while not importing.done():
            own += len(await copy.append(script().whole()))
        report = await importing
        positions = [stored.position for stored in await copy.events(limit=100_000)]

    assert (report.imported, len(positions)) == (1_500, 1_500 + own)
    assert positions == sorted(set(positions))


async def test_an_import_into_a_full_disk_goes_on_when_there_is_room(
    url: str, path: Path, store: Store, another: Another, script, blockbuster
) -> None:
    for _ in range(40):
        await store.append([script().started(text="x" * 200_000)])
    file = await exported(store)
    blockbuster.deactivate()  # the test limits the writer's own connection
    async with another() as copy:
        await copy.append([])
        copy._writer._session._driver.execute("PRAGMA max_page_count = 1500")
        with pytest.raises(DatabaseFullError):
            await copy.import_events(io.BytesIO(file))
        there = await copy.events(limit=100)
        assert 0 < len(there) < 40

        copy._writer._session._driver.execute("PRAGMA max_page_count = 1000000")
        report = await copy.import_events(io.BytesIO(file))
        assert (report.known, report.imported) == (len(there), 40 - len(there))
        assert await exported(copy) == file


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


@pytest.mark.parametrize("file", [io.StringIO(), Path("x"), "x", None], ids=["text", "path", "name", "none"])
@pytest.mark.parametrize("format", FORMATS)
async def test_what_is_no_file_of_bytes_is_refused(store: Store, format: Any, file: Any) -> None:
    with pytest.raises(InvalidQueryError, match=r'pass a file of bytes, as open\(path, "wb"\)'):
        await store.export_events(file, format=format)
    with pytest.raises(InvalidQueryError, match=r'pass a file of bytes, as open\(path, "rb"\)'):
        await store.import_events(file, format=format)


async def test_an_import_says_how_many_runs_nobody_ends(store: Store, another: Another, script) -> None:
    a, b = script(), script()
    await store.append([a.started(), b.started(), b.completed()])
    cut = await exported(store)
    await store.append([a.completed()])
    async with another() as copy:
        assert (await copy.import_events(io.BytesIO(cut))).unfinished == 1
        assert (await copy.import_events(io.BytesIO(await exported(store)))).unfinished == 0
        assert (await copy.import_events(io.BytesIO(cut))).unfinished == 0


@pytest.mark.parametrize(("status", "rests"), [("success", "idle"), ("interrupted", "interrupted")])
async def test_a_thread_rests_whose_last_run_was_exported_without_the_next(
    store: Store, another: Another, script, status: str, rests: str
) -> None:
    first, follows, goes_on = script(thread_id="t"), script(thread_id="t"), script(thread_id="u")
    await store.append([first.started(), first.thread("busy"), first.event("run_completed", status=status)])
    await store.append([follows.started()])
    await store.append([goes_on.started(), goes_on.thread("busy")])
    async with another() as copy:
        await copy.import_events(io.BytesIO(await exported(store, run_id=first.run_id)))
        await copy.import_events(io.BytesIO(await exported(store, run_id=goes_on.run_id)))
        assert {thread.thread_id: thread.status for thread in await copy.threads()} == {"u": "busy", "t": rests}


async def test_older_runs_that_are_imported_leave_a_thread_that_waits_as_it_is(store: Store, script) -> None:
    old = script(thread_id="t", start=LONG_AGO)
    asks = script(thread_id="t", start=LONG_AGO + timedelta(days=1))
    await store.append([old.started("old"), old.thread("busy"), old.completed("An old title"), old.thread("idle")])
    file = await exported(store)
    await store.append([asks.started("new"), asks.thread("busy")])
    await store.append([asks.event("run_completed", status="interrupted", title="A title", interrupts=[{"id": "1"}])])
    await store.append([asks.thread("interrupted")])
    assert (await store.prune(older_than=None)).runs == 1
    (before,) = await store.threads()

    report = await store.import_events(io.BytesIO(file))

    assert report.imported == 4
    assert await store.threads() == [before]
    assert (before.status, before.last_run_id, before.agent) == ("interrupted", asks.run_id, "new")
    kept = await store.prune(older_than=None)
    assert (kept.runs, kept.threads, kept.kept_waiting) == (1, 0, 1)


async def test_a_thread_rests_as_the_log_has_it_whatever_clocks_said(store: Store, another: Another, script) -> None:
    answer = script(thread_id="t", start=LONG_AGO)
    asks = script(thread_id="t", start=LONG_AGO + timedelta(days=1))  # on a machine that is a day ahead
    await store.append([asks.started(), asks.thread("busy"), asks.event("run_completed", status="interrupted")])
    await store.append([answer.started(), answer.completed()])
    async with another() as copy:
        await copy.import_events(io.BytesIO(await exported(store)))
        assert [thread.status for thread in await copy.threads()] == ["idle"]


@pytest.mark.parametrize("then_fails", [True, False])
async def test_an_older_question_that_is_imported_is_not_the_one_that_is_open(
    store: Store, script, then_fails: bool
) -> None:
    old, asks, wrong = (script(thread_id="t", start=LONG_AGO + timedelta(days=days)) for days in range(3))
    await store.append([old.started(), old.event("run_completed", status="interrupted"), old.thread("interrupted")])
    file = await exported(store)
    await store.append([asks.started(), asks.event("run_completed", status="interrupted"), asks.thread("interrupted")])
    assert (await store.prune(older_than=None)).runs == 1
    if then_fails:
        await store.append([wrong.started(), wrong.failed(), wrong.thread("interrupted")])

    assert (await store.import_events(io.BytesIO(file))).imported == 3

    assert [run.run_id for run in await store.runs(waiting=True)] == [asks.run_id]
    await store.prune(older_than=None)
    assert asks.run_id in {run.run_id for run in await store.runs()}


async def test_newer_runs_that_are_imported_let_a_thread_go_on(store: Store, another: Another, script) -> None:
    old, new = script(thread_id="t", start=LONG_AGO), script(thread_id="t")
    async with another() as behind:
        await behind.append(script(start=LONG_AGO).whole())
        await store.append(old.whole())
        await behind.import_events(io.BytesIO(await exported(store)))
        await store.append([new.started("new"), new.thread("busy"), new.failed(), new.thread("error")])
        (thread,) = await store.threads()

        await behind.import_events(io.BytesIO(await exported(store)))

        assert (await behind.threads())[0] == thread


async def test_the_imported_end_of_a_run_that_goes_on_here_ends_its_thread_though_a_newer_run_was_imported(
    store: Store, script
) -> None:
    begun, opened = asyncio.Event(), asyncio.Event()

    async def wait(input: Any) -> None:
        begun.set()
        await opened.wait()

    observer = ObserverBinding(StorageObserver(store), required=True)
    async with RunManager({"wait": wait}, observers=[observer], coordinator=store.coordinator()) as manager:
        handle = await manager.start(RunSpec("wait", thread_ends=True))
        await begun.wait()
        file = [json.loads(line) for line in (await exported(store)).splitlines()[1:-1]]
        last = file[-1]
        newer = script(thread_id=handle.thread_id, start=datetime.now(UTC) + timedelta(days=1)).whole()
        others = [
            {
                "position": last["position"] + number,
                "event_id": event.event_id,
                "event_type": event.event_type,
                "run_id": event.run_id,
                "thread_id": event.thread_id,
                "sequence": event.sequence,
                "occurred_at": time_text(event.occurred_at),
                "payload": event.payload,
            }
            for number, event in enumerate(newer, 1)
        ]
        to = last["position"] + len(others) + 1
        end = last | {"position": to, "event_id": new_id(), "sequence": last["sequence"] + 1}
        end |= {"event_type": "run_failed", "payload": {"error": "lost", "error_type": "worker_lost"}}

        assert (await store.import_events(made(*others, to=to))).imported == len(others)
        assert (await store.import_events(made(end, to=to))).imported == 1

        thread = await store.thread(handle.thread_id, removed=True)
        assert thread is not None
        assert thread.removed_at is not None
        opened.set()
        await handle.result()
    assert [one.run_id for one in await store.runs(status="error", removed=True)] == [handle.run_id]


@pytest.mark.parametrize("rows", [1, 2, 3, 1_000])
async def test_a_run_that_was_cancelled_as_another_one_ran_leaves_an_imported_thread_as_it_was(
    store: Store, another: Another, script, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(importing, "_BATCH_ROWS", rows)
    asks, waits = script(thread_id="t"), script(thread_id="t", start=LONG_AGO + timedelta(days=9_000))
    await store.append([asks.started(), asks.thread("busy"), waits.event("run_cancelled", cancel_mode="interrupt")])
    await store.append([asks.event("run_completed", status="interrupted", interrupts=[{"id": "1", "value": "?"}])])
    await store.append([asks.thread("interrupted")])
    (thread,) = await store.threads()
    async with another() as other:
        await other.append(script(start=LONG_AGO).whole())

        await other.import_events(io.BytesIO(await exported(store)))

        assert (await other.threads())[0] == thread


@pytest.mark.parametrize("options", [{"types": "run_completed"}, {"start": 2}])
async def test_an_export_of_parts_of_runs_is_refused_as_such(
    store: Store, another: Another, script, options: dict[str, Any]
) -> None:
    await store.append(script().whole())
    async with another() as copy:
        with pytest.raises(PartialExportError, match="Line 2 .* export whole runs instead"):
            await copy.import_events(io.BytesIO(await exported(store, **options)))


async def test_a_field_that_is_wrong_is_named(store: Store, another: Another, script) -> None:
    await store.append(script().whole())
    whole = await exported(store)
    async with another() as copy:
        with pytest.raises(ExportDamagedError, match="Line 3 .* occurred_at 'yesterday' is not a time"):
            await copy.import_events(io.BytesIO(changed(whole, 3, occurred_at="yesterday")))
        with pytest.raises(ExportDamagedError, match="Line 3 .* payload is a mapping, not NoneType"):
            await copy.import_events(io.BytesIO(changed(whole, 3, payload=None)))


@pytest.mark.parametrize("format", FORMATS)
async def test_damage_is_not_exported(store: Store, database: Any, script, format: Any) -> None:
    await store.append(script().whole())
    await asyncio.to_thread(database.execute, "UPDATE events SET payload = '{' WHERE position = 2")

    with pytest.raises(DamagedDatabaseError, match="the payload of the event at position 2 is not JSON"):
        await store.export_events(io.BytesIO(), format=format)
    with pytest.raises(DamagedDatabaseError, match=r"'{' is not JSON .*db check --all"):
        await store.events()


async def test_who_may_only_look_imports_nothing(url: str, store: Store, script) -> None:
    await store.append(script().whole())
    async with Store.open(url, read_only=True) as looking:
        file = await exported(looking)
        with pytest.raises(ReadOnlyStoreError):
            await looking.import_events(io.BytesIO(file))
