"""What only JetStream has: a stream that must exist, and TLS that must be used."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from brokers import BrokerStage, NatsStage
from certificates import Certificates
from nats.js import JetStreamContext
from nats_server import NatsServer, nats_cluster

from trackside.app.delivery import DeliveryError
from trackside.app.observers.broker import BrokerObserver, _nats
from trackside.harness.observer import PartlyTaken
from trackside.testing.events import make_event, make_run
from trackside.testing.loop import run_virtual

SUBJECTS = ["human_message", "run_cancelled", "run_completed", "run_failed", "run_started", "thread_status_updated"]


@pytest.fixture
async def stage(servers: dict[str, Any], names: Iterator[str]) -> AsyncIterator[NatsStage]:
    made = NatsStage(servers["nats"], next(names))
    yield made
    await made.aclose()


@asynccontextmanager
async def stream_of(server: NatsServer, *, timeout: float = 60.0) -> AsyncIterator[JetStreamContext]:
    async with await nats.connect(server.url, connect_timeout=60) as client:
        yield client.jetstream(timeout=timeout)


async def failure_of(observer: BrokerObserver) -> DeliveryError:
    with pytest.raises(DeliveryError) as raised:
        await observer.on_event(make_event())
    return raised.value


async def test_the_stream_is_made_if_it_is_missing(make_server: Callable[..., BrokerStage]) -> None:
    server = make_server(NatsStage).server
    observer = BrokerObserver(url=server.url)
    await observer.on_event(make_event())
    await observer.aclose()
    async with stream_of(server) as stream:
        config = (await stream.stream_info("TRACKSIDE")).config
    assert config.subjects == [f"trackside.events.{kind}" for kind in SUBJECTS]
    assert (config.storage, config.max_msgs, config.duplicate_window) == ("file", -1, 600)


async def test_what_it_is_made_with_are_options(stage: NatsStage) -> None:
    observers = [stage.observer(duplicate_window=30, max_length=3, topic="one.subject") for _ in range(4)]
    run = make_run()
    await asyncio.gather(*(each.on_events(run) for each in observers))  # all of them find no stream, and one makes it
    async with stream_of(stage.server) as stream:
        config = (await stream.stream_info(stage.name)).config
    assert (config.subjects, config.max_msgs, config.duplicate_window) == (["one.subject"], 3, 30)
    assert [message.event_id for message in await stage.kept()] == [event.event_id for event in run[2:]]


async def test_a_stream_that_is_there_is_used_as_it_is(stage: NatsStage) -> None:
    async with stream_of(stage.server) as stream:
        await stream.add_stream(name=stage.name, subjects=[f"{stage.name}.>", "and.more"], max_msgs=7)
        await stage.observer(max_length=3).on_events(make_run(messages=5))
        info = await stream.stream_info(stage.name)
    assert (info.config.max_msgs, info.state.messages) == (7, 7)


async def test_a_stream_without_the_subjects_blames_no_event_and_says_which(stage: NatsStage) -> None:
    observer = stage.observer()
    async with stream_of(stage.server) as stream:
        covered = [f"{stage.name}.{kind}" for kind in SUBJECTS[1:]]
        await stream.add_stream(name=stage.name, subjects=covered)
        failure = await failure_of(observer)
        await stream.update_stream(name=stage.name, subjects=[f"{stage.name}.*"])
    assert failure.away
    assert f"stream {stage.name} does not have the subjects {stage.name}.human_message;" in str(failure)
    await observer.on_event(make_event())


async def test_a_stream_that_cannot_be_made_blames_no_event(stage: NatsStage) -> None:
    async with stream_of(stage.server) as stream:
        await stream.add_stream(name=f"{stage.name}-other", subjects=[f"{stage.name}.*"])
    failure = await failure_of(stage.observer())
    assert failure.away
    assert "subjects overlap with an existing stream" in str(failure)


async def test_a_stream_that_is_deleted_meanwhile_is_made_again(stage: NatsStage) -> None:
    observer = stage.observer()
    await observer.on_event(make_event())
    async with stream_of(stage.server) as stream:
        await stream.delete_stream(stage.name)
    failure = await failure_of(observer)
    assert failure.away
    assert "no stream answers" in str(failure)
    await observer.on_event(make_event())
    assert len(await stage.kept()) == 1


@pytest.mark.parametrize("runs", [("a", "a", "a"), ("a", "b", "c")])
async def test_nothing_is_in_a_stream_before_what_was_to_be_there_first(
    stage: NatsStage, runs: tuple[str, ...]
) -> None:
    async with stream_of(stage.server) as stream:
        await stream.add_stream(name=stage.name, subjects=[f"{stage.name}.*"], max_bytes=2_000, discard="new")
        first, large, third = events = [
            make_event(run_id=run_id, sequence=n + 1, payload={"text": "x" * size})
            for n, (run_id, size) in enumerate(zip(runs, (9, 2_000, 9), strict=True))
        ]
        observer = stage.observer()
        with pytest.raises(PartlyTaken) as raised:
            await observer.on_events(events)
        assert raised.value.taken == 1
        assert [message.event_id for message in await stage.kept()] == [first.event_id]
        await stream.update_stream(name=stage.name, subjects=[f"{stage.name}.*"], max_bytes=20_000, discard="new")
        await observer.on_events([large, third])
    assert [message.event_id for message in await stage.kept()] == [event.event_id for event in events]


@pytest.fixture
async def replicated() -> AsyncIterator[NatsStage]:
    """A stream with three replicas."""
    with nats_cluster() as servers:
        made = NatsStage(servers[0], "place")
        async with stream_of(made.server, timeout=5) as stream:
            while True:  # until the cluster has a leader
                with suppress(nats.errors.Error):
                    await stream.add_stream(
                        name=made.name, subjects=[f"{made.name}.*"], num_replicas=3, max_msg_size=1_500
                    )
                    break
                await asyncio.sleep(0.1)
        yield made
        await made.aclose()


async def test_what_is_refused_stops_no_stream_with_replicas(replicated: NatsStage) -> None:
    first, large, third = (
        make_event(run_id=f"run {n}", payload={"text": "x" * size}) for n, size in enumerate((9, 3_000, 9))
    )
    observer = replicated.observer()
    with pytest.raises(PartlyTaken) as raised:
        await observer.on_events([first, large, third])
    assert raised.value.taken == 1
    assert "takes less" in str(raised.value.cause)
    await observer.on_events([third, first, make_event(run_id="another")])
    others = [[make_event(run_id=f"{lane} {n}") for n in range(20)] for lane in range(2)]
    await asyncio.gather(observer.on_events(others[0]), replicated.observer().on_events(others[1]))
    kept = [message.event_id for message in await replicated.kept()]
    assert kept[:2] == [first.event_id, third.event_id]
    assert len(kept) == 3 + 40


async def test_others_may_publish_to_the_same_stream(stage: NatsStage) -> None:
    batches = [[make_event(run_id=f"{lane} {n}", sequence=1) for n in range(50)] for lane in range(8)]
    observers = [stage.observer(), stage.observer()]
    await asyncio.gather(*(observers[lane % 2].on_events(batch) for lane, batch in enumerate(batches)))
    kept = [message.event_id for message in await stage.kept()]
    for batch in batches:
        ids = [event.event_id for event in batch]
        assert [event_id for event_id in kept if event_id in set(ids)] == ids


async def test_what_was_taken_before_the_time_was_up_is_not_asked_for_again(
    stage: NatsStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, timeout = _nats._Link._send, asyncio.timeout
    sent: list[str] = []
    times: list[asyncio.Timeout] = []

    def noted(seconds: float | None) -> asyncio.Timeout:
        times.append(timeout(seconds))
        return times[-1]

    async def send_five(self: Any, message: Any, **more: Any) -> Any:
        sent.append(message.event_id)
        if len(sent) > 5:
            times[0].reschedule(0)  # the time for the whole batch is up
            return asyncio.get_running_loop().create_future()
        return await send(self, message, **more)

    monkeypatch.setattr(_nats._Link, "_send", send_five)
    events = [make_event(sequence=n + 1) for n in range(10)]
    observer = stage.observer(timeout=25)
    monkeypatch.setattr(asyncio, "timeout", noted)
    with pytest.raises(PartlyTaken, match="did not answer within 25 s") as raised:
        await observer.on_events(events)
    assert raised.value.taken == 5


def test_on_a_slow_link_the_rest_of_a_batch_is_left_for_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[str] = []
    links: list[Any] = []

    async def connect(self: Any, *_: Any) -> None:
        links.append(self)

    async def publish(self: Any, message: Any) -> None:
        await asyncio.sleep(0.3)
        published.append(message.event_id)

    monkeypatch.setattr(_nats._Link, "connect", connect)
    monkeypatch.setattr(_nats._Link, "publish", publish)
    monkeypatch.setattr(_nats._Link, "is_up", True)
    events = [make_event(sequence=n + 1) for n in range(100)]

    async def publish_all() -> list[BaseException]:
        observer = BrokerObserver(url="nats://127.0.0.1:4222", timeout=10)
        refusals: list[BaseException] = []
        while left := events[len(published) :]:
            try:
                await observer.on_events(left)
            except PartlyTaken as part:
                refusals.append(part.cause)
        await observer.aclose()
        return refusals

    refusals = run_virtual(publish_all())
    assert published == [event.event_id for event in events]
    assert refusals
    assert all(getattr(each, "held_back", False) and not getattr(each, "away", False) for each in refusals)
    assert len(links) == 1


async def test_a_stream_that_is_full_blames_no_event(stage: NatsStage) -> None:
    async with stream_of(stage.server) as stream:
        await stream.add_stream(name=stage.name, subjects=[f"{stage.name}.*"], max_msgs=1, discard="new")
    observer = stage.observer()
    await observer.on_event(make_event())
    failure = await failure_of(observer)
    assert failure.away
    assert "maximum messages exceeded" in str(failure)


async def test_a_message_larger_than_the_stream_takes_is_not_tried_again(stage: NatsStage) -> None:
    async with stream_of(stage.server) as stream:
        await stream.add_stream(name=stage.name, subjects=[f"{stage.name}.*"], max_msg_size=500)
    observer = stage.observer()
    with pytest.raises(DeliveryError, match=rf"it has 1,\d\d\d bytes, and stream {stage.name} takes less") as raised:
        await observer.on_event(make_event(payload={"text": "x" * 1_000}))
    assert not raised.value.retryable
    await observer.on_event(make_event())


async def test_a_server_without_jetstream_blames_no_event() -> None:
    with NatsServer(jetstream=False) as server:
        observer = BrokerObserver(url=server.url)
        failure = await failure_of(observer)
        await observer.aclose()
    assert failure.away
    assert "JetStream is not there" in str(failure)


async def test_one_who_may_not_publish_is_told_so() -> None:
    user = '{ user: anna, password: pw, permissions: { publish: { deny: "trackside.>" } } }'
    with NatsServer(f"authorization {{ users: [ {user} ] }}") as server:
        observer = BrokerObserver(url=server.url, username="anna", password="pw", timeout=0.5)
        while "permissions violation" not in str(failure := await failure_of(observer)):
            assert failure.away  # the time was up before the observer was connected
        await observer.aclose()
    assert failure.away
    assert 'permissions violation for publish to "trackside.events.human_message"' in str(failure)


async def test_of_several_servers_one_that_runs_is_enough(stage: NatsStage, own_nats: NatsServer) -> None:
    gone = own_nats.url
    await asyncio.to_thread(own_nats.close)
    for _ in range(4):
        observer = stage.observer(url=f"{gone},{stage.server.url}")
        await observer.on_event(make_event())
    assert len(await stage.kept()) == 4


@pytest.fixture
def own_nats() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path)
    made.server("127.0.0.1")
    return made


async def test_with_tls_the_server_has_to_be_the_one_that_it_says_it_is(
    certificates: Certificates, make_server: Callable[..., BrokerStage], tmp_path: Path
) -> None:
    own = tmp_path / "127.0.0.1.pem"
    server = make_server(NatsStage, f'tls {{ cert_file: "{own}", key_file: "{own}" }}').server
    url = server.url.replace("nats://", "tls://")
    trusting = BrokerObserver(url=url, ca_file=str(certificates.ca_file))
    await trusting.on_event(make_event())
    await trusting.aclose()
    doubting = BrokerObserver(url=url)
    failure = await failure_of(doubting)
    await doubting.aclose()
    assert failure.away
    assert "certificate verify failed" in str(failure)


async def failure_with(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], *, scheme: str, **options: Any
) -> DeliveryError:
    """Return the failure of an observer whose server opens as NATS does, goes on with `talk` and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.11.0","headers":true,"max_payload":1048576}\r\n')
        await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    observer = BrokerObserver(url=f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", **options)
    failure = await failure_of(observer)
    await observer.aclose()
    server.close()
    await server.wait_closed()
    return failure


@pytest.mark.parametrize("login", [{}, {"username": "anna", "password": "hunter2"}, {"token": "hunter2"}])
async def test_nothing_is_said_in_the_clear_to_a_server_that_offers_no_tls(login: dict[str, str]) -> None:
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read())

    failure = await failure_with(listen, scheme="tls", timeout=0.5, **login)
    assert failure.away
    assert b"hunter2" not in heard
    assert b"PUB" not in heard


@pytest.mark.parametrize(
    ("login", "told"), [({"username": "anna", "password": 'hunter "2"'}, "hunter "), ({"token": "hunter2"}, "hunter2")]
)
async def test_what_a_server_was_told_is_in_no_message_also_if_it_says_it_again(
    login: dict[str, str], told: str
) -> None:
    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR 'what is " + (await reader.readline()).strip() + b"'\r\n")

    failure = await failure_with(repeat, scheme="nats", timeout=25, **login)
    assert "what is" in str(failure)
    assert told not in str(failure)
