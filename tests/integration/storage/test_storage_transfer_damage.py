"""Files that are damaged, torn, foreign or too new are refused, and what is wrong with one is said by line."""

import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.integration.storage.exported_logs import Another, exported, fill

from trackside.app.storage import Store
from trackside.app.storage.errors import (
    ExportDamagedError,
    ExportTooNewError,
    ForeignExportError,
    ImportConflictError,
    PartialExportError,
)


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
