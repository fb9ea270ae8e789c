"""What an app does at its start with what earlier processes could not record."""

import logging
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from trackside.app.settings import Settings, load_settings
from trackside.app.spool import Spool, SpoolFullError
from trackside.app.spool.spool import DEFAULT_MAX_BYTES
from trackside.app.wiring import open_app
from trackside.harness import RunSpec, RunStatus
from trackside.testing import assert_run_order, make_run


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path / 'log.db'}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log.db-spool"


async def echo(input: object) -> object:
    return input


async def test_what_is_spooled_is_delivered_before_anything_else_happens(
    settings: Settings, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = Spool(folder)
    await left.append(make_run("earlier", thread_id="t"))
    await left.aclose()

    with caplog.at_level(logging.INFO, "trackside.spool"):
        async with open_app(settings, {"echo": echo}) as app:
            handle = await app.manager.start(RunSpec("echo", "hello", thread_id="t"))
            result = await handle.result()
            events = [stored.event for stored in await app.store.events()]

    assert caplog.messages == [f"delivered from the spool {folder}: the remaining events of 1 runs"]
    assert [event.run_id for event in events][:6] == ["earlier"] * 5 + [result.run_id]
    assert_run_order(events)


async def test_what_is_refused_keeps_nobody_from_starting(
    settings: Settings, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = Spool(folder)
    await left.append(make_run("gone")[3:])  # somebody removed its database meanwhile
    await left.aclose()

    async with open_app(settings, {"echo": echo}) as app:
        result = await (await app.manager.start(RunSpec("echo", "hello"))).result()

    assert result.status is RunStatus.success
    assert app.recorder.delivered_at_start.refused == 1
    assert f"the log will never take the rest of run gone, which is in {folder}/refused.jsonl now" in caplog.text


async def test_nothing_is_made_where_nothing_was_missed(
    settings: Settings, folder: Path, blockbuster: BlockBuster
) -> None:
    blockbuster.deactivate()
    async with open_app(settings, {"echo": echo}) as app:
        await (await app.manager.start(RunSpec("echo", "hello"))).result()

    assert not folder.exists()


async def test_a_spool_holds_as_much_as_is_set(tmp_path: Path, blockbuster: BlockBuster) -> None:
    blockbuster.deactivate()
    settings = load_settings(environ={"TRACKSIDE_DATABASE_SPOOL_SIZE": "1KB"}, folder=tmp_path)
    async with open_app(settings, {"echo": echo}) as app:
        with pytest.raises(SpoolFullError, match="holds 0 bytes and may hold 1024"):
            await app.recorder.on_missed(make_run(), TimeoutError())

    assert load_settings(environ={}, folder=tmp_path).database_spool_size == DEFAULT_MAX_BYTES
