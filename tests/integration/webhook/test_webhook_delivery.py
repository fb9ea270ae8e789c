"""From the log to a receiver: everything arrives, whatever fails on the way, and repeats have the same bytes."""

import asyncio
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from webhook_receiver import NEW, Connection, Request, WebhookReceiver, raw, reset, reset_after, status

from trackside.app.observers.storage import StorageObserver
from trackside.app.observers.webhook import WebhookObserver
from trackside.app.storage import Store
from trackside.app.storage.dispatcher import Dispatcher, DurableObserver
from trackside.app.storage.feeding import FeedPolicy
from trackside.app.storage.subscriptions import SubscriptionState
from trackside.harness.observer import RunLifecycleEvent
from trackside.testing.events import make_run

type Make = Callable[..., WebhookObserver]

LONG = 60.0
FAILURES = [
    status(500, body=b"not now"),
    status(404),
    reset,
    reset_after(b"HTTP/1.1 2"),
    raw(b"no HTTP at all\r\n\r\n"),
    status(200, {"Connection": "close"}),
]


@pytest.fixture
async def store(sqlite_with_tables: Path, tmp_path: Path) -> AsyncIterator[Store]:
    shutil.copy(sqlite_with_tables, tmp_path / "runs.db")
    async with Store.open(f"sqlite:///{tmp_path}/runs.db") as opened:
        yield opened


async def append_runs(store: Store, number: int) -> list[RunLifecycleEvent]:
    runs = [make_run(f"run-{i}", thread_id=f"thread-{i}", messages=i % 3) for i in range(number)]
    storing = StorageObserver(store)
    await asyncio.gather(*(storing.on_events(run) for run in runs))
    return [event for run in runs for event in run]


def posting(name: str, observer: WebhookObserver) -> DurableObserver:
    policy = FeedPolicy.suiting(observer, attempts=100, first_pause=0.002, longest_pause=0.01)
    return DurableObserver(name=name, observer=observer, start="beginning", policy=policy)


def bodies_of(receiver: WebhookReceiver) -> dict[str, set[bytes]]:
    """The bodies that the receiver got of each event, by the ids under which it knows them."""
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for request in receiver.requests:
        assert request.verified[0]
        bodies[request.headers["webhook-id"]].add(request.body)
    return bodies


@pytest.mark.parametrize("body_format", ["trackside", "cloudevents"])
async def test_every_event_arrives_and_what_comes_twice_has_the_same_bytes(
    store: Store, receiver: WebhookReceiver, make: Make, body_format: str
) -> None:
    receiver.answers.extend(FAILURES * 6)
    durable = posting("hook", make(format=body_format))
    async with Dispatcher(store.subscriptions, [durable]) as dispatching:
        events = await append_runs(store, 20)
        assert (await dispatching.drain(LONG)).delivered == ("hook",)

    bodies = bodies_of(receiver)
    assert bodies.keys() == {event.event_id for event in events}
    assert {len(each) for each in bodies.values()} == {1}
    assert len(receiver.requests) > len(events)
    assert (await store.subscriptions.get("hook")).parked == 0


async def test_a_replay_to_somebody_new_has_the_same_bytes(store: Store, receiver: WebhookReceiver, make: Make) -> None:
    await append_runs(store, 5)
    async with Dispatcher(store.subscriptions, [posting("first", make())]) as dispatching:
        await dispatching.drain(LONG)
    first = [*receiver.requests]
    receiver.requests.clear()
    async with Dispatcher(store.subscriptions, [posting("second", make())]) as dispatching:
        await dispatching.drain(LONG)

    def told(requests: list[Request]) -> dict[str, bytes]:
        return {request.headers["webhook-id"]: request.body for request in requests}

    assert told(first) == told([*receiver.requests])


async def test_an_event_that_cannot_be_delivered_is_parked_and_the_others_go_on(
    store: Store, receiver: WebhookReceiver, make: Make
) -> None:
    receiver.answers.append(status(302, {"Location": "/elsewhere"}))
    async with Dispatcher(store.subscriptions, [posting("hook", make())]) as dispatching:
        events = await append_runs(store, 3)
        await dispatching.drain(LONG)

    (parked,) = await store.subscriptions.parked("hook")
    assert "it answered 302 Found to /elsewhere, and redirects are not followed" in parked.error
    assert len(receiver.requests) == len(events)


async def test_an_endpoint_that_is_down_delays_no_other(store: Store, receiver: WebhookReceiver, make: Make) -> None:
    async with WebhookReceiver(NEW) as gone:
        pass
    down, up = posting("down", make(url=gone.url)), posting("up", make())
    async with Dispatcher(store.subscriptions, [down, up]) as dispatching:
        events = await append_runs(store, 3)
        await receiver.until(len(events))

        async with gone:  # at the same port
            assert (await dispatching.drain(LONG)).delivered == ("down", "up")
        assert bodies_of(gone).keys() == {event.event_id for event in events}


async def test_a_receiver_that_wants_no_more_pauses_its_subscription_until_somebody_resumes_it(
    store: Store, receiver: WebhookReceiver, make: Make
) -> None:
    receiver.answers.append(status(410, body=b"moved away"))
    durable = DurableObserver(name="hook", observer=make(), start="beginning", policy=FeedPolicy())  # one after another
    async with Dispatcher(store.subscriptions, [durable]) as dispatching:
        events = await append_runs(store, 2)
        await receiver.until(1)
        while (subscription := await store.subscriptions.get("hook")).state is not SubscriptionState.paused:
            await asyncio.sleep(0.005)
        assert (subscription.cursor, subscription.parked, len(receiver.requests)) == (0, 0, 1)
        assert subscription.last_error is not None
        assert 'it answered 410 Gone ("moved away"): it wants no more events' in subscription.last_error

        await store.subscriptions.resume("hook")
        await receiver.until(1 + len(events))
        await dispatching.drain(LONG)
    assert bodies_of(receiver).keys() == {event.event_id for event in events}


async def test_nothing_is_parked_while_the_receiver_is_away(
    store: Store, receiver: WebhookReceiver, make: Make
) -> None:
    receiver.answers.extend([status(503, {"Retry-After": "0"})] * 40)
    observer = make()
    policy = FeedPolicy.suiting(observer, attempts=1, first_pause=0.001, longest_pause=0.002)
    durable = DurableObserver(name="hook", observer=observer, start="beginning", policy=policy)
    async with Dispatcher(store.subscriptions, [durable]) as dispatching:
        events = await append_runs(store, 5)
        assert (await dispatching.drain(LONG)).delivered == ("hook",)

    assert bodies_of(receiver).keys() == {event.event_id for event in events}
    assert (await store.subscriptions.get("hook")).parked == 0


async def test_an_event_that_crashes_its_receiver_is_parked_and_the_others_arrive(
    store: Store, receiver: WebhookReceiver, make: Make
) -> None:
    observer = make()
    policy = FeedPolicy(attempts=3, first_pause=0.001)  # one after another
    durable = DurableObserver(name="hook", observer=observer, start="beginning", policy=policy)
    receiver.answers.extend([reset] * 3)
    async with Dispatcher(store.subscriptions, [durable]) as dispatching:
        first, *others = await append_runs(store, 2)
        assert (await dispatching.drain(LONG)).delivered == ("hook",)

    (parked,) = await store.subscriptions.parked("hook")
    assert (parked.stored.event.event_id, parked.attempts) == (first.event_id, 3)
    assert "the connection ended without an answer" in parked.error
    assert [request.headers["webhook-id"] for request in [*receiver.requests][3:]] == [e.event_id for e in others]


async def test_an_event_is_tried_for_minutes_before_it_is_parked(make: Make) -> None:
    policy = FeedPolicy.suiting(make())
    assert 4 * 60 < sum(policy.pause(attempts) for attempts in range(1, policy.attempts)) < 9 * 60


async def test_many_are_posted_side_by_side(store: Store, receiver: WebhookReceiver, make: Make) -> None:
    everybody = asyncio.Barrier(WebhookObserver.concurrency)

    async def when_all_are_there(connection: Connection) -> None:
        await everybody.wait()
        await status(200)(connection)

    receiver.answers.extend([when_all_are_there] * WebhookObserver.concurrency)
    async with Dispatcher(store.subscriptions, [posting("hook", make())]) as dispatching:
        await append_runs(store, 10)
        await dispatching.drain(LONG)

    assert receiver.connections == WebhookObserver.concurrency
