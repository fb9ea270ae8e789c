"""What is exported comes back as it was, bytes and positions, also if an import was cut short or others write meanwhile."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from tests.integration.storage.exported_logs import FORMATS, LONG_AGO, Another, exported, fill, made, told
from tests.property.queue_hands import ForgetfulSession

from trackside.app.storage import ImportReport, Store, importing
from trackside.app.storage.errors import (
    DatabaseFullError,
    ExportDamagedError,
    ForeignExportError,
    InvalidQueryError,
    ReadOnlyStoreError,
)


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


async def test_who_may_only_look_imports_nothing(url: str, store: Store, script) -> None:
    await store.append(script().whole())
    async with Store.open(url, read_only=True) as looking:
        file = await exported(looking)
        with pytest.raises(ReadOnlyStoreError):
            await looking.import_events(io.BytesIO(file))
