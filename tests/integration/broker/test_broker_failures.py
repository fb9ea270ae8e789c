"""Brokers that are away, refuse or come back: nothing waits for ever, and no event takes the blame."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from brokers import BrokerStage, NatsStage, RedisStage

from trackside.app.delivery import DeliveryError
from trackside.app.observers.broker import BrokerObserver, _nats
from trackside.harness.errors import ClosedError
from trackside.harness.observer import RunLifecycleEvent
from trackside.testing.events import make_event, make_run

SCHEMES = ["nats", "redis"]


async def failure_of(observer: BrokerObserver, event: RunLifecycleEvent | None = None) -> DeliveryError:
    with pytest.raises(DeliveryError) as raised:
        await observer.on_event(event or make_event())
    return raised.value


@asynccontextmanager
async def mute_server() -> AsyncIterator[str]:
    """The host and port of a server that accepts connections and never says anything."""
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: connections.append(writer), "127.0.0.1", 0)
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for writer in connections:
        writer.close()
    await server.wait_closed()


async def test_a_broker_that_is_down_is_away_and_nothing_is_lost_when_it_comes_back(
    own_stage: BrokerStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    run = make_run()
    observer = own_stage.observer()
    await observer.on_event(run[0])
    await asyncio.to_thread(own_stage.server.stop)
    failures = [await failure_of(observer, event) for event in run[1:]]
    also_at_the_start = await failure_of(own_stage.observer())
    await asyncio.to_thread(own_stage.server.start)
    await observer.on_events(run)

    assert all(failure.away and failure.retryable for failure in [*failures, also_at_the_start])
    assert str(own_stage.server.port) in str(also_at_the_start)
    assert "Connect call failed" in str(also_at_the_start)
    assert {message.event_id for message in await own_stage.kept()} == {event.event_id for event in run}
    theirs = [record.name for record in caplog.records if record.name.startswith(("nats", "redis"))]
    assert not theirs, "an outage is said by who is fed, and not by the client of the broker again and again"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_broker_that_never_answers_is_away_in_bounded_time(scheme: str) -> None:
    async with mute_server() as place:
        observer = BrokerObserver(url=f"{scheme}://{place}", timeout=0.1)
        failures = await asyncio.gather(*(failure_of(observer) for _ in range(20)))
        assert all(failure.away for failure in failures)
        assert "answer" in str(failures[0])
        await observer.aclose()


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_closing_waits_for_no_broker_and_ends_what_is_under_way(scheme: str) -> None:
    async with mute_server() as place:
        observer = BrokerObserver(url=f"{scheme}://{place}", timeout=25)
        calls = [asyncio.create_task(observer.on_event(make_event())) for _ in range(3)]
        await asyncio.sleep(0)
        await observer.aclose()
        await asyncio.wait(calls)
        assert {type(call.exception()) for call in calls} == {ClosedError}


async def test_what_is_under_way_when_the_broker_dies_fails_at_once(own_stage: BrokerStage) -> None:
    observer = own_stage.observer(timeout=25)
    await observer.on_event(make_event())
    killed = asyncio.create_task(asyncio.to_thread(own_stage.server.stop, "KILL"))
    failures: list[DeliveryError] = []
    while not killed.done() or not failures:
        try:
            await observer.on_event(make_event())
        except DeliveryError as exc:
            failures.append(exc)
    assert all(failure.away for failure in failures)
    assert not any("did not answer" in str(failure) for failure in failures)


async def test_a_broker_that_dies_again_and_again_under_load_keeps_each_event_once(own_stage: BrokerStage) -> None:
    observer = own_stage.observer()
    runs: list[list[RunLifecycleEvent]] = []
    away, blamed, seen = 0, 0, 0
    is_back, is_over = asyncio.Event(), asyncio.Event()

    async def publish(run: list[RunLifecycleEvent]) -> None:
        nonlocal away, blamed
        for event in run:
            while True:
                try:
                    await observer.on_event(event)
                except DeliveryError as exc:
                    blamed += not exc.away
                    away += exc.away
                    await is_back.wait()
                else:
                    break

    async def publish_some() -> None:
        while not is_over.is_set():
            runs.append(make_run(f"r-{len(runs)}"))
            await publish(runs[-1])

    async def fifty_more() -> None:
        enough = len(runs) + 50
        while len(runs) < enough:
            await asyncio.sleep(0.01)

    is_back.set()
    publishing = [asyncio.create_task(publish_some()) for _ in range(32)]
    while seen < 3:  # deaths; nobody notices one that comes when everything sent has been answered
        await fifty_more()
        before = away
        is_back.clear()
        await asyncio.to_thread(own_stage.restart, "KILL")
        is_back.set()
        await fifty_more()
        seen += away > before
    is_over.set()
    await asyncio.gather(*publishing)

    kept = await own_stage.kept()
    assert sorted(message.event_id for message in kept) == sorted(event.event_id for run in runs for event in run)
    assert not blamed
    assert away >= 3
    of_status: dict[str, list[str]] = {}
    for message in kept:
        if message.attributes["event_type"] == "thread_status_updated":
            of_status.setdefault(message.attributes["run_id"], []).append(message.attributes["sequence"])
    assert of_status == {run[0].run_id: ["2", "5"] for run in runs}


@pytest.mark.parametrize(
    ("scheme", "login"),
    [
        ("nats", {}),
        ("nats", {"username": "anna", "password": "hunter2-wrong"}),
        ("nats", {"token": "hunter2-wrong"}),
        ("redis", {}),
        ("redis", {"password": "hunter2-wrong"}),
        ("redis", {"username": "anna", "password": "hunter2-wrong"}),
    ],
)
async def test_credentials_that_are_wrong_blame_no_event_and_are_shown_nowhere(
    scheme: str, login: dict[str, str], make_server: Callable[..., BrokerStage], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    if scheme == "nats":
        stage = make_server(NatsStage, "authorization { user: anna, password: hunter2-right }")
    else:
        stage = make_server(RedisStage, requirepass="hunter2-right")
    observer = stage.observer(**login)
    failure = await failure_of(observer)
    assert failure.away
    assert "does not let us in" in str(failure)
    for text in (str(failure), repr(failure), repr(observer), repr(vars(observer)), caplog.text):
        assert "hunter2" not in text


async def test_a_credentials_file_that_is_gone_is_named_and_nothing_else_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_nats, "_check_nkeys", lambda: None)
    observer = BrokerObserver(url="nats://127.0.0.1:1", credentials=str(tmp_path / "user.creds"))
    failure = await failure_of(observer)
    await observer.aclose()
    await asyncio.sleep(0)
    gc.collect()  # asyncio reports a failure that nobody retrieved when its task is collected
    assert "user.creds" in str(failure)
    assert caplog.messages == []


@pytest.mark.parametrize("in_url", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_credentials_are_options_or_in_the_url(
    scheme: str, in_url: bool, make_server: Callable[..., BrokerStage]
) -> None:
    if scheme == "nats":
        stage = make_server(NatsStage, 'authorization { user: anna, password: "h@nter2,/:" }')
    else:
        stage = make_server(RedisStage, user="anna on >h@nter2,/: ~* &* +@all")
    address = stage.server.url
    if in_url:
        observer = stage.observer(url=address.replace("://", "://anna:h%40nter2%2C%2F%3A@"))
    else:
        observer = stage.observer(username="anna", password="h@nter2,/:")
    await observer.on_event(make_event())

    await asyncio.to_thread(stage.server.stop)
    failure = await failure_of(observer)
    assert "nter2" not in f"{failure}{failure!r}{vars(observer)}"
    assert address in str(failure)
