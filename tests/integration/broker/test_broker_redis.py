"""What only Redis has: trimmed streams, keys that mark entries as known, and servers that accept nothing for now."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from brokers import BrokerStage, RedisStage
from leading_address import LeadingAddress
from redis.asyncio import Redis
from tests.contract.ways_to_run import virtual
from valkey_server import ValkeyServer

from trackside.app.broker_access import addresses_in
from trackside.app.delivery import DeliveryError
from trackside.app.observers.broker import BrokerObserver
from trackside.app.observers.broker._message import Message
from trackside.app.observers.broker._redis import RedisStreams
from trackside.harness.observer import PartlyTaken
from trackside.harness.types import LifecycleEventType
from trackside.testing.events import make_event

type Make = Callable[..., BrokerStage]


@pytest.fixture
async def stage(make_server: Make) -> RedisStage:
    made = make_server(RedisStage)
    assert isinstance(made, RedisStage)
    return made


@pytest.fixture
async def client(stage: RedisStage) -> AsyncIterator[Redis]:
    async with Redis.from_url(stage.server.url, protocol=2, socket_timeout=60) as connected:
        yield connected


async def failure_of(observer: BrokerObserver) -> DeliveryError:
    with pytest.raises(DeliveryError) as raised:
        await observer.on_event(make_event())
    return raised.value


async def test_a_stream_keeps_about_as_many_entries_as_it_shall(stage: RedisStage, client: Redis) -> None:
    await stage.observer(max_length=100).on_events([make_event() for _ in range(1_000)])
    assert 100 <= await client.xlen("own:human_message") <= 200


async def test_an_event_is_known_for_as_long_as_is_asked_for(stage: RedisStage, client: Redis) -> None:
    event = make_event()
    observer = stage.observer(duplicate_window=3_600)
    await observer.on_event(event)
    (seen,) = [key async for key in client.scan_iter("{own:human_message}:seen:*")]
    assert seen.decode().endswith(event.event_id)
    assert 0 < await client.pttl(seen) <= 3_600_000

    await client.delete(seen)  # as if the window had passed
    await observer.on_event(event)
    assert await client.xlen("own:human_message") == 2


async def test_the_database_is_the_one_in_the_url(stage: RedisStage, client: Redis) -> None:
    await stage.observer(url=f"{stage.server.url}/5").on_event(make_event())
    assert not await client.exists("own:human_message")
    await client.select(5)
    assert await client.exists("own:human_message")


async def _no_memory(client: Redis) -> None:
    await client.config_set("maxmemory", 1)


async def _memory(client: Redis) -> None:
    await client.config_set("maxmemory", 0)


async def _replica(client: Redis) -> None:
    await client.replicaof("127.0.0.1", "1")


async def _primary(client: Redis) -> None:
    await client.replicaof("NO", "ONE")


async def _taken_key(client: Redis) -> None:
    await client.set("own:human_message", "something else")


async def _free_key(client: Redis) -> None:
    await client.delete("own:human_message")


@pytest.mark.parametrize(
    ("break_it", "mend_it", "says"),
    [
        pytest.param(_no_memory, _memory, "OOM: command not allowed", id="out-of-memory"),
        pytest.param(_replica, _primary, "READONLY: You can't write against a read only replica", id="replica"),
        pytest.param(_taken_key, _free_key, "WRONGTYPE", id="key-of-another-kind"),
    ],
)
async def test_a_server_that_takes_nothing_now_blames_no_event(
    stage: RedisStage, client: Redis, break_it: Any, mend_it: Any, says: str
) -> None:
    observer = stage.observer()
    await observer.aclose()
    observer = stage.observer()
    await break_it(client)
    failure = await failure_of(observer)
    assert failure.away
    assert says in str(failure)
    await mend_it(client)
    await observer.on_event(make_event())
    assert len(await stage.kept()) == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        pytest.param({}, "READONLY", id="replica"),
        pytest.param({"replica_serve_stale_data": "no"}, "MASTERDOWN", id="replica-that-shows-nothing"),
    ],
)
async def test_after_a_failover_events_go_to_the_server_to_which_the_address_leads_then(
    make_server: Make, settings: dict[str, str], says: str
) -> None:
    one, other = make_server(RedisStage, **settings), make_server(RedisStage)
    async with LeadingAddress(one.server.port) as address:
        observer = one.observer(url=f"redis://127.0.0.1:{address.port}")
        await observer.on_event(make_event())
        async with Redis.from_url(one.server.url, protocol=2, socket_timeout=60) as client:
            await _replica(client)
        address.leads_to = other.server.port
        failure = await failure_of(observer)
        assert failure.away
        assert says in str(failure)

        await observer.on_event(event := make_event())
        assert [message.event_id for message in await other.kept()] == [event.event_id]
        await observer.aclose()


async def _answers_as_an_old_replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Redis up to 6.2, and servers made from it, put the place in a script before the error that the script raised."""
    with suppress(asyncio.IncompleteReadError, OSError):
        while count := int((await reader.readuntil())[1:]):
            words = []
            for _ in range(count):
                length = int((await reader.readuntil())[1:])
                words.append((await reader.readexactly(length + 2))[:-2])
            match words[0].upper():
                case b"EVAL":
                    said = b"-@user_script: 6: -READONLY You can't write against a read only replica.  \r\n"
                case b"CONFIG":
                    said = b"*2\r\n$18\r\nproto-max-bulk-len\r\n$9\r\n536870912\r\n"
                case _:
                    said = b"+OK\r\n"
            writer.write(said)
    writer.close()


async def test_after_a_failover_of_an_old_redis_they_do_so_too(make_server: Make) -> None:
    other = make_server(RedisStage)
    async with await asyncio.start_server(_answers_as_an_old_replica, "127.0.0.1", 0) as old:
        async with LeadingAddress(old.sockets[0].getsockname()[1]) as address:
            observer = other.observer(url=f"redis://127.0.0.1:{address.port}")
            failure = await failure_of(observer)
            assert failure.away
            assert "READONLY" in str(failure)

            address.leads_to = other.server.port
            await observer.on_event(event := make_event())
            assert [message.event_id for message in await other.kept()] == [event.event_id]
            await observer.aclose()
        old.close_clients()


async def test_nothing_is_in_a_stream_before_what_was_to_be_there_first(stage: RedisStage, client: Redis) -> None:
    observer = stage.observer(topic="own")
    first, refused, third = events = [make_event() for _ in range(3)]
    others = [make_event() for _ in range(2)]
    key = f"{{own}}:seen:{refused.event_id}"
    await client.rpush(key, "of another kind")  # type: ignore[misc]
    publishing = [asyncio.create_task(observer.on_events(many)) for many in (events, others)]
    await asyncio.wait(publishing)
    assert [type(task.exception()) for task in publishing] == [PartlyTaken, DeliveryError]
    assert [message.event_id for message in await stage.kept()] == [first.event_id]
    await client.delete(key)
    await observer.on_events(events)
    await observer.on_events(others)
    assert [message.event_id for message in await stage.kept()] == [
        event.event_id for event in (first, refused, third, *others)
    ]


async def test_what_is_taken_in_one_stream_behind_what_is_not_in_another_is_told_in_its_order(
    stage: RedisStage, client: Redis
) -> None:
    observer = stage.observer(topic="own:{event_type}")
    quick = [make_event() for _ in range(2)]
    refused, behind = make_event(), make_event(LifecycleEventType.RUN_COMPLETED)
    await client.rpush(f"{{own:human_message}}:seen:{refused.event_id}", "of another kind")  # type: ignore[misc]
    with pytest.raises(PartlyTaken) as raised:
        await observer.on_events([*quick, refused, behind])
    assert raised.value.taken == 2
    kept = {message.event_id for message in await stage.kept()}
    assert {event.event_id for event in quick} <= kept
    assert refused.event_id not in kept


async def test_who_may_do_what_publishing_needs_and_no_more_can_publish(make_server: Make) -> None:
    stage = make_server(RedisStage, user="anna on >pw ~own:* ~{own:* -@all +eval +xadd +get +set")
    await stage.observer(username="anna", password="pw").on_event(make_event())
    assert len(await stage.kept()) == 1


async def test_who_may_not_publish_is_told_so(make_server: Make) -> None:
    stage = make_server(RedisStage, user="anna on >pw ~own:* -@all +get +set")
    failure = await failure_of(stage.observer(username="anna", password="pw"))
    assert failure.away
    assert "it does not allow that" in str(failure)


async def test_a_connection_that_was_cut_while_nobody_used_it_costs_nobody_a_failure(
    stage: RedisStage, client: Redis
) -> None:
    observer = stage.observer()
    await observer.on_event(make_event())
    await client.client_kill_filter(_type="normal", skipme=True)
    await observer.on_event(make_event())
    assert len(await stage.kept()) == 2


async def test_a_broker_that_stops_in_the_middle_of_a_batch_keeps_none_of_it_twice(stage: RedisStage) -> None:
    observer = stage.observer()
    events = [make_event(payload={"text": "x" * 50_000}) for _ in range(300)]
    publishing = asyncio.create_task(observer.on_events(events))
    await asyncio.to_thread(stage.restart)
    await asyncio.wait([publishing])
    await observer.on_events(events)
    assert [message.event_id for message in await stage.kept()] == [event.event_id for event in events]


@virtual
async def test_an_answer_that_comes_in_the_very_moment_in_which_the_time_is_up_counts() -> None:
    answered = asyncio.get_running_loop().create_future()

    class AnswersLate(RedisStreams):
        async def _ask_limit(self) -> int:
            return 1_000

        async def _add(self, messages: Sequence[Message]) -> list[Exception | None]:
            await answered
            return [None for _ in messages]

    (address,), login = addresses_in("redis://127.0.0.1:1")
    broker = AnswersLate(address, login=login, ca_file=None, timeout=5.0, max_length=None, duplicate_window=1.0)
    asyncio.get_running_loop().call_later(5.0, answered.set_result, None)
    assert await broker.publish([Message(topic="t", event_id="e", body=b"{}", attributes={})]) == (1, None)
    await broker.aclose()


async def test_a_password_is_in_no_message_of_a_server_that_does_not_know_its_command() -> None:
    with ValkeyServer(rename_command="AUTH gone") as server:
        observer = BrokerObserver(url=server.url, username="anna", password="hunter2")
        with pytest.raises(DeliveryError, match="unknown command 'AUTH'") as raised:
            await observer.on_event(make_event())
        await observer.aclose()
    assert "hunter2" not in str(raised.value)
    assert raised.value.away
