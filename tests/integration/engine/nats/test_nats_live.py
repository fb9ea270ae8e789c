"""All listeners hear what runs say, at once or from what is kept, in order and in bounded memory."""

import asyncio
from collections.abc import AsyncIterator

import nats
import pytest
from nats.aio.client import Client
from nats_engines import Open, until
from nats_server import NatsServer

from trackside.app.engine.nats._engine import NatsEngine
from trackside.app.engine.nats._link import Link
from trackside.app.streams.wire import Listening, LiveWire, Topic

RUN = Topic("thread", "run")


@pytest.fixture
async def speaker(shared_nats: NatsServer, fleet: str, open_engine: Open) -> NatsEngine:
    return await open_engine(shared_nats.url, prefix=fleet)


@pytest.fixture
async def listener(shared_nats: NatsServer, fleet: str, open_engine: Open) -> NatsEngine:
    return await open_engine(shared_nats.url, prefix=fleet)


@pytest.fixture
async def client(shared_nats: NatsServer) -> AsyncIterator[Client]:
    async with await nats.connect(shared_nats.url) as connected:
        yield connected


async def caught_up(listening: Listening) -> None:
    async with asyncio.timeout(30):
        await listening.caught_up.wait()


async def say_all(wire: LiveWire, messages: list[bytes], topic: Topic = RUN) -> None:
    """Say the messages, each as soon as the wire accepts it."""
    writable = asyncio.Event()
    wire.on_writable.append(writable.set)
    async with asyncio.timeout(60):
        for message in messages:
            while not wire.say(topic, message):
                await writable.wait()
                writable.clear()
    wire.on_writable.remove(writable.set)


def numbered(count: int, size: int = 0) -> list[bytes]:
    return [b"%d " % number + b"x" * size for number in range(count)]


async def test_who_listens_hears_what_is_said(speaker: NatsEngine, listener: NatsEngine) -> None:
    heard: list[bytes] = []
    other: list[bytes] = []
    await caught_up(listener.live.listen(RUN, heard.append))
    await caught_up(listener.live.listen(Topic("thread", "another run"), other.append))
    await say_all(speaker.live, numbered(100))
    await until(lambda: len(heard) == 100)
    assert heard == numbered(100)
    assert other == []
    assert speaker.stats().messages_said_total == 100
    assert listener.stats().messages_heard_total == 100


async def test_who_begins_to_listen_with_a_connection_hears_all_once(
    speaker: NatsEngine, listener: NatsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await caught_up(listener.live.listen(Topic("thread", "another run"), lambda _: None))
    heard: list[bytes] = []
    begun: list[Listening] = []
    attend = listener._announcer.attend

    async def listen_and_attend(link: Link) -> None:  # before live output is attended to
        begun.append(listener.live.listen(RUN, heard.append))
        await attend(link)

    monkeypatch.setattr(listener._announcer, "attend", listen_and_attend)
    assert listener._connection.link is not None
    listener._connection.link.lose("somebody has cut it")
    await until(lambda: len(begun) == 1)
    await caught_up(begun[0])
    await say_all(speaker.live, numbered(10))
    await until(lambda: len(heard) >= 10)
    assert heard == numbered(10)
    assert listener.stats().messages_heard_total == 10


async def test_a_defect_of_the_client_costs_a_connection_and_no_more(
    speaker: NatsEngine, listener: NatsEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []
    await caught_up(listener.live.listen(RUN, heard.append))
    assert speaker._connection.link is not None

    async def fail(*_: object) -> None:
        raise AttributeError("it has no transport")

    monkeypatch.setattr(speaker._connection.link._client, "publish", fail)
    speaker.live.say(RUN, b"lost")
    await until(lambda: speaker.stats().reconnects_total == 1 and speaker.status().connected)
    await say_all(speaker.live, [b"heard"])
    await until(lambda: heard == [b"heard"])


async def test_who_comes_late_hears_all_that_is_kept_first(speaker: NatsEngine, listener: NatsEngine) -> None:
    await say_all(speaker.live, numbered(1_000))
    await caught_up(speaker.live.listen(RUN, lambda _: None))  # so all messages have arrived
    heard: list[bytes] = []
    await caught_up(listener.live.listen(RUN, heard.append))
    assert heard == numbered(1_000)
    await say_all(speaker.live, [b"now"])
    await until(lambda: heard[-1] == b"now")


async def test_who_comes_in_the_middle_of_a_flood_misses_nothing_and_hears_it_in_order(
    speaker: NatsEngine, listener: NatsEngine
) -> None:
    heard: list[int] = []
    saying = asyncio.create_task(say_all(speaker.live, numbered(3_000, size=4_000)))
    await until(lambda: speaker.stats().messages_said_total > 500)
    listening = listener.live.listen(RUN, lambda message: heard.append(int(message.split()[0])))
    await saying
    await caught_up(listening)
    await until(lambda: heard and heard[-1] == 2_999)
    seen: set[int] = set()
    for number in heard:  # a message may come twice, but none comes before its predecessors
        assert number == 0 or number - 1 in seen
        seen.add(number)
    assert len(seen) == 3_000


async def test_what_is_kept_is_heard_before_what_comes_while_it_is_read(
    speaker: NatsEngine, listener: NatsEngine
) -> None:
    await say_all(speaker.live, numbered(5))
    await caught_up(speaker.live.listen(RUN, lambda _: None))
    heard: list[bytes] = []
    async with listener.live._replays:
        places = [asyncio.create_task(listener.live._replays.acquire()) for _ in range(15)]
        await asyncio.wait(places)
        listening = listener.live.listen(RUN, heard.append)
        await until(lambda: listening.subscribed and listening.subscribed.inner)
        for _ in range(1_000):  # the subscription is active once it hears the first message
            await say_all(speaker.live, [b"5"])
            await asyncio.sleep(0.001)
            if listening._buffered:
                break
        await say_all(speaker.live, [b"6"])
        await until(lambda: b"6" in (listening._buffer or []) or heard)
        assert heard == []
        for _ in places:
            listener.live._replays.release()
    await caught_up(listening)
    assert list(dict.fromkeys(message.strip() for message in heard)) == [b"%d" % number for number in range(7)]


async def test_who_listens_to_a_thread_hears_all_its_runs(speaker: NatsEngine, listener: NatsEngine) -> None:
    heard: list[bytes] = []
    await say_all(speaker.live, [b"kept"], Topic("thread", "run 1"))
    await caught_up(speaker.live.listen(Topic("thread"), lambda _: None))
    await caught_up(listener.live.listen(Topic("thread"), heard.append))
    await say_all(speaker.live, [b"live"], Topic("thread", "run 2"))
    await say_all(speaker.live, [b"elsewhere"], Topic("another thread", "run 3"))
    await until(lambda: len(heard) == 2)
    assert heard == [b"kept", b"live"]


async def test_ids_may_contain_anything(speaker: NatsEngine, listener: NatsEngine) -> None:
    topic = Topic("a.b *.> \r\nPUB x 0\r\n\x00 \ud800 é", "." * 3_000)
    heard: list[bytes] = []
    await caught_up(listener.live.listen(topic, heard.append))
    await say_all(speaker.live, [b"", b"\x00\r\n"], topic)
    await until(lambda: len(heard) == 2)
    assert heard == [b"", b"\x00\r\n"]


async def test_who_has_closed_hears_no_more(speaker: NatsEngine, listener: NatsEngine) -> None:
    heard: list[bytes] = []
    closed: list[bytes] = []
    listening = listener.live.listen(RUN, closed.append)
    at_once = listener.live.listen(RUN, closed.append)
    at_once.close()
    await caught_up(listening)
    await caught_up(listener.live.listen(RUN, heard.append))
    listening.close()
    listening.close()
    await say_all(speaker.live, [b"said"])
    await until(lambda: heard)
    assert closed == []
    await until(lambda: len(listener._connection.link._client._subs) == 4)  # type: ignore[union-attr]  # 3 are its own


async def test_a_listener_that_fails_does_not_disturb_others(
    speaker: NatsEngine, listener: NatsEngine, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []

    def fail(message: bytes) -> None:
        raise ZeroDivisionError(message)

    await caught_up(listener.live.listen(RUN, fail))
    await caught_up(listener.live.listen(RUN, heard.append))
    await say_all(speaker.live, numbered(3))
    await until(lambda: len(heard) == 3)
    assert "a listener could not take a message" in caplog.text


async def test_a_message_that_nats_will_never_take_is_counted_and_said_and_others_go_on(
    speaker: NatsEngine, listener: NatsEngine, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []
    await caught_up(listener.live.listen(RUN, heard.append))
    largest = b"x" * 2**20
    for message in (largest, b"y" + largest, b"z" + largest, b"small"):
        assert speaker.live.say(RUN, message)
    await until(lambda: len(heard) == 2)
    assert heard == [largest, b"small"]
    assert speaker.stats().messages_refused_total == 2
    assert sum("larger than NATS takes" in record.message for record in caplog.records) == 1


async def test_more_than_can_be_sent_is_refused_until_there_is_room(speaker: NatsEngine) -> None:
    writable = asyncio.Event()
    speaker.live.on_writable.append(writable.set)
    said = 0
    while speaker.live.say(RUN, b"x" * 100_000):  # without a turn of the loop, which could send something
        said += 1
    assert 40 <= said <= 60
    assert not speaker.live.say(RUN, b"again")
    async with asyncio.timeout(30):
        await writable.wait()
    assert speaker.live.say(RUN, b"x")
    assert speaker.stats().messages_refused_total == 2


async def test_of_a_run_no_more_is_kept_than_shall_be(shared_nats: NatsServer, fleet: str, open_engine: Open) -> None:
    speaker = await open_engine(shared_nats.url, prefix=fleet, live_messages=10)
    heard: list[bytes] = []
    await until(lambda: not speaker.live._replays.locked())
    await say_all(speaker.live, numbered(5), Topic("thread", "quiet"))
    await say_all(speaker.live, numbered(500))
    await caught_up(speaker.live.listen(RUN, lambda _: None))
    await caught_up(speaker.live.listen(Topic("thread"), heard.append))
    assert heard == numbered(5) + numbered(500)[-10:]


async def test_one_who_hears_slowly_loses_some_and_nobody_else_does(
    speaker: NatsEngine, listener: NatsEngine, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []
    await caught_up(listener.live.listen(RUN, heard.append))
    link = listener._connection.link
    assert link is not None
    [sub] = [sub for sub in link._client._subs.values() if sub.subject.count(".live.")]
    sub._pending_bytes_limit = 50_000  # instead of saying a hundred times as much
    await say_all(speaker.live, numbered(500, size=1_000))
    await say_all(speaker.live, [b"marker"])
    await until(lambda: b"marker" in heard or "is lost" in caplog.text)
    await until(lambda: speaker.live.say(RUN, b"last") and heard[-1:] == [b"last"])
    assert link.is_up
    order = [int(message.split()[0]) for message in heard if message.endswith(b"x")]
    assert order == sorted(order)


async def test_many_listeners_and_one_connection(speaker: NatsEngine, listener: NatsEngine) -> None:
    heard: dict[int, list[bytes]] = {number: [] for number in range(300)}
    listenings = [listener.live.listen(Topic("t", f"run {number}"), heard[number].append) for number in heard]
    for listening in listenings:
        await caught_up(listening)
    for number in heard:
        await say_all(speaker.live, numbered(3), Topic("t", f"run {number}"))
    await until(lambda: all(len(each) == 3 for each in heard.values()))
    assert all(each == numbered(3) for each in heard.values())
