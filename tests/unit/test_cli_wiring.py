"""What the wiring assembles from settings and agents: a manager that records into a store."""

from pathlib import Path

import pytest

from trackside.app.settings import Settings, SettingsError
from trackside.app.storage.errors import DamagedDatabaseError, DatabaseBusyError
from trackside.app.wiring import NothingRecordedError, blaming, open_app, open_store
from trackside.harness import (
    ClosedError,
    CompositeObserver,
    RunContext,
    RunLifecycleEvent,
    RunSpec,
    RunStatus,
    ThreadStatus,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{tmp_path / 'log.db'}")


async def echo(input: object) -> object:
    return input


async def test_a_run_is_stored_before_other_observers_hear_of_it(settings: Settings) -> None:
    stored_when_seen: list[bool] = []

    async with open_app(settings, {"echo": echo}, observers=[composite := CompositeObserver()]) as app:

        async def watch(event: RunLifecycleEvent) -> None:
            stored = await app.store.events(run_id=event.run_id)
            stored_when_seen.append(any(one.event.event_id == event.event_id for one in stored))

        composite.add(watch)
        result = await (await app.manager.start(RunSpec("echo", "hello"))).result()
        stored = await app.store.run(result.run_id)

    assert result.status is RunStatus.success
    assert stored is not None
    assert stored.status is RunStatus.success
    assert len(stored_when_seen) == stored.last_sequence
    assert all(stored_when_seen)


async def test_without_agents_those_of_the_settings_are_loaded(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configured_agents.py").write_text("async def shout(input): return input.upper()\n")
    named = Settings(database_url=settings.database_url, agents={"loud": f"{tmp_path}/configured_agents.py:shout"})

    async with open_app(named) as app:
        result = await (await app.manager.start(RunSpec("loud", "hello"))).result()
        run = await app.store.run(result.run_id)

    assert result.completion_data["last_ai_message"] == "HELLO"
    assert run is not None
    assert run.agent == "loud"


async def test_a_thread_keeps_its_status_from_one_process_to_the_next(settings: Settings) -> None:
    async def fail(input: object) -> None:
        raise LookupError

    async with open_app(settings, {"fail": fail}) as app:
        await (await app.manager.start(RunSpec("fail", thread_id="t-1"))).result()
    async with open_app(settings, {"echo": echo}) as app:
        await (await app.manager.start(RunSpec("echo", thread_id="t-1"))).result()
        events = await app.store.events(thread_id="t-1", types=["thread_status_updated"])

    changes = [(one.event.payload["previous"], one.event.payload["status"]) for one in events]
    assert changes == [
        (ThreadStatus.idle, ThreadStatus.busy),
        (ThreadStatus.busy, ThreadStatus.error),
        (ThreadStatus.error, ThreadStatus.busy),
        (ThreadStatus.busy, ThreadStatus.idle),
    ]


async def test_everything_is_closed_in_the_end_also_after_a_failure(settings: Settings) -> None:
    with pytest.raises(LookupError):
        async with open_app(settings, {"echo": echo}) as app:
            raise LookupError

    with pytest.raises(ClosedError):
        await app.store.events()
    with pytest.raises(ClosedError):
        await app.manager.start(RunSpec("echo"))


async def test_a_database_that_cannot_be_opened_blames_who_chose_it(tmp_path: Path) -> None:
    settings = Settings(
        database_url=f"sqlite:///{tmp_path}/missing/log.db", sources={"database.url": "TRACKSIDE_DATABASE_URL"}
    )

    with pytest.raises(SettingsError, match="^TRACKSIDE_DATABASE_URL: There is no folder"):
        async with open_store(settings):
            pass


async def test_a_database_that_is_locked_blames_nobody_for_its_address(tmp_path: Path) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path}/runs.db", sources={"database.url": "--database"})
    busy = DatabaseBusyError(database="runs.db", seconds=5.0)

    with pytest.raises(DatabaseBusyError) as raised, blaming(settings):
        raise busy
    with (
        pytest.raises(SettingsError, match="^--database: The database runs.db is damaged") as damaged,
        blaming(settings),
    ):
        raise DamagedDatabaseError(database="runs.db", why="it is malformed")

    assert raised.value is busy
    assert damaged.value.fault == "store"


async def test_looking_makes_no_database(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(NothingRecordedError, match="nothing recorded at sqlite:"):
        async with open_store(settings, read_only=True):
            pass

    assert list(tmp_path.iterdir()) == []


async def test_calls_of_models_have_the_price_that_is_listed(settings: Settings) -> None:
    async def ask(input: object, run: RunContext) -> None:
        run.record_usage("gpt-4.1", input_tokens=1_000, output_tokens=100)

    for one_run in (False, True):
        async with open_app(settings, {"ask": ask}, one_run=one_run) as app:
            result = await (await app.manager.start(RunSpec("ask"))).result()

        assert result.completion_data["cost_usd"] == pytest.approx(0.001 * 2 + 0.0001 * 8)
