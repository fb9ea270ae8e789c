"""What runs say reaches all followers, early or late, in order; only what a lost server held is lost."""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
import pytest
from postgres_server import PostgresServer
from raw_postgres import RawConnection
from tests.integration.engine.postgres.conftest import Fleet, end_sessions, until

from trackside.app.engine.postgres import PostgresEngine, _hearing
from trackside.app.engine.postgres._wire import GATHER
from trackside.app.storage import live_parts
from trackside.app.storage.live_parts import LiveRetention, token_of
from trackside.app.streams.wire import Topic

RUN = Topic("thread", "run")


class Ear:
    """Follows a topic."""

    def __init__(self, engine: PostgresEngine, topic: Topic = RUN) -> None:
        self.heard: list[bytes] = []
        self._numbers: dict[int, None] = {}
        self.listening = engine.live.listen(topic, self._hear)

    def _hear(self, message: bytes) -> None:
        self.heard.append(message)
        number = message[:10].partition(b" ")[0]
        if number.isdigit():
            self._numbers[int(number)] = None

    @property
    def numbers(self) -> list[int]:
        """The numbers with which the messages begin, in the order in which each first came."""
        return [*self._numbers]

    async def caught_up(self) -> None:
        async with asyncio.timeout(60):
            await self.listening.caught_up.wait()


def numbered(number: int, size: int = 0) -> bytes:
    return b"%d " % number + bytes(range(256)) * (size // 256) + b"x" * (size % 256)


async def say(engine: PostgresEngine, messages: Sequence[bytes], topic: Topic = RUN) -> None:
    for message in messages:
        async with asyncio.timeout(60):
            while not engine.live.say(topic, message):
                await asyncio.sleep(0.001)


async def test_who_comes_at_any_time_hears_all_in_its_order_and_once(fleet: Fleet) -> None:
    worker, server, other = [await fleet.engine() for _ in range(3)]
    early = Ear(server)
    late: list[Ear] = []
    for number in range(600):
        await say(worker, [numbered(number, size=number)])
        if number % 50 == 0:
            late += [Ear(server), Ear(other)]
        await asyncio.sleep(0)
    late.append(Ear(worker))
    for ear in (early, *late):
        await ear.caught_up()
        await until(lambda ear=ear: len(ear.heard) >= 600)

    await fleet.heard_by(worker, server, other)
    for ear in (early, *late):
        assert ear.heard == [numbered(number, size=number) for number in range(600)]
    assert worker.stats().messages_said_total == 600


async def test_large_messages_come_between_the_small_ones(fleet: Fleet) -> None:
    worker, server = await fleet.engine(), await fleet.engine()
    ear = Ear(server)
    await ear.caught_up()
    sizes = [
        0,
        1,
        5_400,
        5_497,
        5_498,
        5_499,
        5_500,
        100_000,
        3,
        7_500,
        8_000,
        20_000,
        1,
        1,
        1,
        3_000_000,
        2,
        7_000_000,
        1,
    ]
    messages = [numbered(number, size) for number, size in enumerate(sizes)] + [b""]

    await say(worker, messages)
    await until(lambda: len(ear.heard) == len(messages))

    late = Ear(server)
    await until(lambda: len(late.heard) == len(messages))
    assert ear.heard == late.heard == messages


async def test_a_thread_is_heard_with_all_its_runs_and_a_run_alone(fleet: Fleet) -> None:
    one, two, server = [await fleet.engine() for _ in range(3)]
    names = ["a", "A", "' \" \\ \0", "ü" * 300, "\ud800", ""]
    topics = [Topic(thread, run) for thread in names for run in ("x", "x" * 500, "\0")]
    await say(one, [b"kept"], topics[0])
    ears = {topic: Ear(server, topic) for topic in topics}
    threads = {name: Ear(server, Topic(name)) for name in names}
    for ear in [*ears.values(), *threads.values()]:
        await ear.caught_up()

    for number, topic in enumerate(topics):
        await say([one, two][number % 2], [repr(topic).encode(errors="surrogatepass")], topic)
    await until(lambda: sum(len(ear.heard) for ear in threads.values()) == len(topics) + 1)

    for topic, ear in ears.items():
        assert ear.heard == [b"kept"] * (topic is topics[0]) + [repr(topic).encode(errors="surrogatepass")]
    assert {name: len(ear.heard) for name, ear in threads.items()} == dict.fromkeys(names, 3) | {"a": 4}


async def test_only_what_somebody_follows_is_listened_to(fleet: Fleet) -> None:
    server = await fleet.engine()
    before = {*server._bus._heard}
    ears = [Ear(server, topic) for topic in (RUN, RUN, Topic("thread"), Topic("other", "run"))]
    for ear in ears:
        await ear.caught_up()
    assert len({*server._bus._heard} - before) == 2

    for ear in ears:
        ear.listening.close()
        ear.listening.close()
    await until(lambda: {*server._bus._heard} == before)

    await say(server, [b"nobody hears"])
    again = Ear(server)
    await until(lambda: again.heard == [b"nobody hears"])
    assert not any(ear.heard for ear in ears)


async def test_who_is_closed_while_he_hears_hears_no_more(fleet: Fleet) -> None:
    worker, server = await fleet.engine(), await fleet.engine()
    await say(worker, [numbered(number) for number in range(500)])
    heard: list[bytes] = []

    def hear(message: bytes) -> None:
        heard.append(message)
        listening.close()

    listening = server.live.listen(RUN, hear)
    await until(lambda: heard)
    await say(worker, [b"more"])
    ear = Ear(server)
    await until(lambda: len(ear.heard) == 501)

    assert len(heard) == 1


async def test_what_is_said_in_a_moment_goes_together(fleet: Fleet) -> None:
    worker, server = await fleet.engine(), await fleet.engine()
    ear = Ear(server)
    await ear.caught_up()
    statements: list[int] = []
    keep = worker._wire._parts.keep
    worker._wire._parts.keep = lambda batch: statements.append(len(batch)) or keep(batch)  # type: ignore[method-assign]

    await say(worker, [numbered(number, 200) for number in range(3_000)])
    await until(lambda: len(ear.heard) == 3_000)

    assert ear.numbers == [*range(3_000)]
    assert len(statements) < 30


async def test_more_than_there_is_room_for_is_refused_until_there_is(fleet: Fleet) -> None:
    worker, server = await fleet.engine(), await fleet.engine()
    ear = Ear(server)
    await ear.caught_up()
    writable = asyncio.Event()
    worker.live.on_writable.append(writable.set)
    message = b"x" * 100_000
    said = 0
    while worker.live.say(RUN, message):
        said += 1
    assert 40 <= said <= 42
    assert worker.stats().messages_refused_total == 1

    async with asyncio.timeout(60):
        await writable.wait()
    assert worker.live.say(RUN, b"last")
    await until(lambda: len(ear.heard) == said + 1)
    assert ear.heard[-1] == b"last"


async def test_lost_connections_cost_nothing_that_was_said(fleet: Fleet, database: RawConnection) -> None:
    worker, server = await fleet.engine(), await fleet.engine()
    ear, whole = Ear(server), Ear(server, Topic("thread"))
    await ear.caught_up()
    saying = asyncio.ensure_future(say_slowly(worker, 1_000))
    for round_ in range(1, 4):
        await end_sessions(database)
        await until(lambda round_=round_: worker.stats().reconnects_total >= round_)
        await until(lambda: worker.status().connected and server.status().connected)
    await saying
    await until(lambda: len(ear.numbers) == len(whole.numbers) == 1_000)

    assert ear.numbers == whole.numbers == [*range(1_000)]


async def test_what_comes_as_a_lost_connection_is_back_is_heard_behind_what_came_before(
    fleet: Fleet, database: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL notifies as soon as a client listens, maybe before the process knows that there was a gap."""
    worker, server = await fleet.engine(), await fleet.engine()
    ear = Ear(server)
    await ear.caught_up()
    listen, is_late = asyncpg.Connection.add_listener, False

    async def listen_late(self: Any, channel: str, callback: Any) -> None:
        nonlocal is_late
        if is_late or not channel.startswith("live_"):
            return await listen(self, channel, callback)
        is_late = True
        await say(worker, [numbered(0), numbered(1)])
        await until(lambda: worker.stats().messages_said_total == 2)
        await listen(self, channel, callback)
        await say(worker, [numbered(2)])
        await until(lambda: worker.stats().messages_said_total == 3)
        await self.fetchval("SELECT 1")  # returns after the notifications have arrived
        return None

    monkeypatch.setattr(asyncpg.Connection, "add_listener", listen_late)
    await end_sessions(database)
    await until(lambda: len(ear.numbers) == 3)
    assert is_late
    assert ear.numbers == [0, 1, 2]


async def test_what_is_said_at_the_moment_in_which_the_connection_is_lost_is_sent_by_the_next(fleet: Fleet) -> None:
    worker, server = await fleet.engine(), await fleet.engine()
    ear = Ear(server)
    await ear.caught_up()
    await say(worker, [numbered(0)])
    await until(lambda: ear.numbers == [0])
    await asyncio.sleep(2 * GATHER)  # so that the next one is sent at once

    assert worker.live.say(RUN, numbered(1))
    connection = worker._bus._connection
    assert connection is not None
    connection.terminate()  # it is closed at once; the driver tells of it when the message has been tried

    await until(lambda: ear.numbers == [0, 1])


async def say_slowly(engine: PostgresEngine, count: int) -> None:
    for number in range(count):
        await say(engine, [numbered(number, 300 if number % 20 else 10_000)])
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_server_that_is_restarted_under_load_is_followed_again(
    own_postgres_server: PostgresServer, fleet: Fleet, mode: str
) -> None:
    url = own_postgres_server.create_database("runs")
    worker, server = await fleet.engine(url), await fleet.engine(url)
    ear = Ear(server)
    await ear.caught_up()
    saying = asyncio.ensure_future(say_slowly(worker, 500))
    await until(lambda: len(ear.heard) > 20)

    await asyncio.to_thread(own_postgres_server.restart, mode)
    await saying
    late = Ear(server)
    await until(lambda: 499 in ear.numbers and 499 in late.numbers)

    assert ear.numbers == sorted(ear.numbers)
    if mode == "fast":  # a crash empties the table, along with what nobody had heard yet
        assert ear.numbers == late.numbers == [*range(500)]
    else:
        assert len(ear.numbers) > 400
    assert late.numbers == [*range(late.numbers[0], 500)]


async def test_while_the_server_is_away_nothing_is_taken(own_postgres_server: PostgresServer, fleet: Fleet) -> None:
    url = own_postgres_server.create_database("runs")
    worker = await fleet.engine(url)
    await asyncio.to_thread(own_postgres_server.stop, "fast")
    await until(lambda: not worker.status().connected)
    writable = asyncio.Event()
    worker.live.on_writable.append(writable.set)
    ear = Ear(worker)

    assert not worker.live.say(RUN, b"lost")
    await asyncio.to_thread(own_postgres_server.start)
    async with asyncio.timeout(60):
        await writable.wait()
    assert worker.live.say(RUN, b"said")

    await until(lambda: ear.heard == [b"said"])


async def test_what_the_database_refuses_is_dropped_and_counted(fleet: Fleet, database: RawConnection) -> None:
    worker = await fleet.engine()
    ear = Ear(worker)
    await ear.caught_up()
    database.execute("ALTER TABLE live_parts RENAME TO elsewhere")
    try:
        assert worker.live.say(RUN, b"refused")
        await until(lambda: worker.stats().messages_refused_total == 1)
    finally:
        database.execute("ALTER TABLE elsewhere RENAME TO live_parts")
    assert worker.live.say(RUN, b"taken")

    await until(lambda: ear.heard == [b"taken"])


async def test_nonsense_on_the_channel_of_a_thread_is_ignored(fleet: Fleet, database: RawConnection) -> None:
    worker, server = await fleet.engine(), await fleet.engine()
    ear = Ear(server)
    await ear.caught_up()
    channel = server._bus.name_of(f"live_{token_of('thread')}")
    run = token_of("run")
    for payload in [
        "",
        "x",
        f"{run} ",
        f"{run} x",
        f"{run} 1 ?",
        f"{run} 999999999",
        f"{run} 1 ü",
        "9" * 5_000,
        f"{run} {'9' * 30}",
    ]:
        database.execute("SELECT pg_notify($1, $2)", (channel, payload))
    await say(worker, [b"sense"])

    await until(lambda: ear.heard == [b"sense"])


@pytest.mark.parametrize("limit", ["_WAITING", "_WAITING_BYTES"])
async def test_more_than_can_wait_for_who_catches_up_is_read_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(_hearing, limit, 50)
    worker, server = await fleet.engine(), await fleet.engine()
    await say(worker, [numbered(number, 20_000 if number % 9 == 0 else 10) for number in range(300)])
    ear = Ear(server)
    await say(worker, [numbered(number, 20_000 if number % 9 == 0 else 10) for number in range(300, 600)])

    await until(lambda: len(ear.numbers) == 600)
    assert ear.numbers == [*range(600)]


async def test_pages_of_what_is_kept_are_bounded_and_complete(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_parts, "_PAGE_ROWS", 7)
    monkeypatch.setattr(live_parts, "_PAGE_BYTES", 10_000)
    worker, server = await fleet.engine(), await fleet.engine()
    messages = [numbered(number, 20_000 if number % 10 == 3 else number) for number in range(100)]
    await say(worker, messages)
    ear = Ear(server)

    await until(lambda: len(ear.heard) == 100)
    assert ear.heard == messages


async def test_what_is_old_or_more_than_is_kept_of_a_run_is_removed(fleet: Fleet, database: RawConnection) -> None:
    worker, server = await fleet.engine(), await fleet.engine()
    worker._wire._retention = LiveRetention(seconds=100, rows_of_run=10)
    await say(worker, [numbered(number) for number in range(25)])
    await say(worker, [b"of another"], Topic("thread", "other"))
    ear = Ear(server, Topic("thread"))
    await until(lambda: len(ear.heard) == 26)
    database.execute("UPDATE live_parts SET at = at - interval '101 s' WHERE id % 25 = 20")
    await worker.tidy()

    late, other = Ear(server), Ear(server, Topic("thread", "other"))
    await late.caught_up()
    await other.caught_up()
    assert late.numbers == [n for n in range(25) if numbered(n) in late.heard]
    assert len(late.numbers) == 10
    assert other.heard == [b"of another"]
    assert database.execute("SELECT count(*) FROM live_parts").fetchall() == [(11,)]


async def test_tables_that_grow_are_removed_in_pieces(fleet: Fleet, database: RawConnection) -> None:
    worker = await fleet.engine()
    database.execute("""INSERT INTO live_parts (topic, grp, message, at)
        SELECT 'r' || n % 3, 't', 'x', now() - interval '1 h' * (n % 2) FROM generate_series(1, 20000) AS n""")
    await worker.tidy()
    assert database.execute("SELECT count(*) FROM live_parts").fetchall() == [(10_000,)]
    worker._wire._retention = LiveRetention(seconds=100, rows_of_run=100)
    await worker.tidy()
    assert database.execute("SELECT topic, count(*) FROM live_parts GROUP BY topic ORDER BY topic").fetchall() == [
        ("r0", 100),
        ("r1", 100),
        ("r2", 100),
    ]


async def test_what_waits_is_sent_before_an_engine_is_closed(fleet: Fleet) -> None:
    worker, server = await fleet.engine(), await fleet.engine()
    ear = Ear(server)
    await ear.caught_up()
    for number in range(100):
        assert worker.live.say(RUN, numbered(number))

    await worker.aclose()
    await worker.aclose()

    await until(lambda: ear.numbers == [*range(100)])
    assert not worker.live.say(RUN, b"too late")
    closed = worker.live.listen(RUN, ear.heard.append)
    closed.close()
    assert len(ear.heard) == 100
