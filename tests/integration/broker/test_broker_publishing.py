"""What a broker gets: all events, in order, with the same bytes, and each of them once."""

import asyncio
import json

import pytest
from brokers import BrokerStage, NatsStage, RedisStage
from redis.asyncio import Redis

from trackside.app.delivery import DeliveryError
from trackside.harness.errors import ClosedError
from trackside.harness.observer import PartlyTaken, RunLifecycleEvent
from trackside.harness.types import RunStatus
from trackside.testing.events import make_event, make_run


def from_log(event: RunLifecycleEvent) -> RunLifecycleEvent:
    """The same event, as an observer that reads it from the log gets it."""
    rest = (event.event_id, event.event_type, event.run_id, event.thread_id, event.sequence, event.occurred_at)
    return RunLifecycleEvent(*rest, json.loads(json.dumps(dict(reversed([*event.payload.items()])))))


async def test_a_message_is_the_event_as_json_with_what_consumers_choose_by(stage: BrokerStage) -> None:
    run = make_run("r-1", thread_id="t-1", status=RunStatus.error)
    observer = stage.observer()
    for event in run:
        await observer.on_event(event)

    kept = {message.event_id: message for message in await stage.kept()}
    between = "." if isinstance(stage, NatsStage) else ":"
    assert {event_id: message.topic for event_id, message in kept.items()} == {
        event.event_id: f"{stage.name}{between}{event.event_type}" for event in run
    }
    failed = kept[run[3].event_id]
    assert json.loads(failed.body) == {
        "event_id": run[3].event_id,
        "event_type": "run_failed",
        "run_id": "r-1",
        "thread_id": "t-1",
        "sequence": 4,
        "occurred_at": run[3].occurred_at.isoformat().replace("+00:00", "Z"),
        "payload": run[3].payload,
    }
    assert failed.attributes == {"event_type": "run_failed", "run_id": "r-1", "thread_id": "t-1", "sequence": "4"}


async def test_an_event_that_comes_again_is_kept_once_and_has_the_same_bytes(own_stage: BrokerStage) -> None:
    run = make_run()
    first = own_stage.observer()
    await first.on_events(run)
    before = await own_stage.kept()

    await first.on_events(run)
    await asyncio.gather(*(first.on_event(event) for event in run * 3))
    await own_stage.observer().on_events([from_log(event) for event in run])
    await asyncio.to_thread(own_stage.restart)
    await own_stage.observer().on_events(run)

    assert await own_stage.kept() == before
    assert len(before) == len(run)


async def test_an_event_has_the_same_bytes_wherever_it_was_read_from(stage: BrokerStage) -> None:
    event = make_event(payload={"b": 1, "a": {"d": 0.1, "c": "naïve 日本"}})
    await stage.observer().on_event(event)
    await stage.observer(topic=f"{stage.name}-again", **({"stream": "again"} if stage.place() else {})).on_event(
        from_log(event)
    )
    first = (await stage.kept())[0]
    stage.name = "again" if stage.place() else f"{stage.name}-again"
    assert (await stage.kept())[0].body == first.body


async def test_a_batch_is_kept_in_its_order(stage: BrokerStage) -> None:
    runs = [make_run(f"r-{number}", messages=number % 20) for number in range(60)]  # more than are sent at once
    events = [event for run in runs for event in run]
    observer = stage.observer(topic=f"{stage.name}.all")
    await observer.on_events([])
    left = events
    while left:
        try:
            await observer.on_events(left)
            break
        except PartlyTaken as exc:
            if not (getattr(exc.cause, "held_back", False) or "did not answer within" in str(exc.cause)):
                raise  # else a busy machine takes longer for so many
            left = left[exc.taken :]
    assert [message.event_id for message in await stage.kept()] == [event.event_id for event in events]


async def test_runs_are_published_side_by_side_each_in_its_order(stage: BrokerStage) -> None:
    runs = [make_run(f"r-{number}") for number in range(64)]
    observer = stage.observer(topic=f"{stage.name}.all")

    async def publish(run: list[RunLifecycleEvent]) -> None:
        for event in run:
            await observer.on_event(event)

    await asyncio.gather(*map(publish, runs))
    kept = await stage.kept()
    assert {message.event_id for message in kept} == {event.event_id for run in runs for event in run}
    for run in runs:
        of_run = [int(m.attributes["sequence"]) for m in kept if m.attributes["run_id"] == run[0].run_id]
        assert of_run == [1, 2, 3, 4, 5]


async def test_who_leaves_while_it_publishes_takes_nobody_along(stage: BrokerStage) -> None:
    observer = stage.observer()
    events = [make_event(run_id=f"r-{number}") for number in range(20)]
    calls = [asyncio.create_task(observer.on_event(event)) for event in events]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls[::2])
    assert [call.exception() for call in calls[1::2]] == [None] * 10
    assert {event.event_id for event in events[1::2]} <= {message.event_id for message in await stage.kept()}


async def test_what_comes_after_the_observer_is_closed_is_refused(stage: BrokerStage) -> None:
    observer = stage.observer()
    await observer.on_event(make_event())
    await observer.aclose()
    await observer.aclose()
    with pytest.raises(ClosedError):
        await observer.on_event(make_event())


async def test_one_that_is_closed_before_it_published_anything_leaves_nothing(stage: BrokerStage) -> None:
    await stage.observer().aclose()


async def test_a_message_larger_than_the_broker_takes_is_not_tried_again(own_stage: BrokerStage) -> None:
    if isinstance(own_stage, RedisStage):
        async with Redis.from_url(own_stage.server.url, socket_timeout=60) as client:
            await client.config_set("proto-max-bulk-len", 1_048_576)
    observer = own_stage.observer()
    large, small, late = make_event(payload={"text": "x" * 1_048_500}), make_event(), make_event()
    with pytest.raises(
        DeliveryError, match=r"it has 1,048,\d\d\d bytes, and the broker takes at most 1,048,576"
    ) as one:
        await observer.on_event(large)
    with pytest.raises(PartlyTaken) as some:
        await observer.on_events([small, large, late])

    assert not one.value.retryable
    assert not one.value.away
    assert some.value.taken == 1
    assert isinstance(some.value.cause, DeliveryError)
    assert not some.value.cause.retryable
    await observer.on_event(make_event(payload={"text": "x" * 1_047_000}))
    kept = [message.event_id for message in await own_stage.kept()]
    assert small.event_id in kept
    assert late.event_id not in kept, "what comes after one that is not taken has to wait for what becomes of that"
    assert len(kept) == 2
