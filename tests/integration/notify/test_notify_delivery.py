"""Failures of receivers, and the limit of messages: nothing is lost, and nobody gets more than he wants."""

import asyncio
import itertools
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from inboxes import HttpInbox, SmtpInbox
from tests.contract.ways_to_run import virtual
from tests.integration.notify.conftest import notifier

from trackside import LifecycleEventType, RunLifecycleEvent
from trackside.app.delivery import DeliveryError
from trackside.app.observers.notify import NotifyObserver, _observer
from trackside.app.observers.notify._digest import HourlyRoom
from trackside.app.observers.notify._messages import Message
from trackside.app.storage import Store
from trackside.app.storage.dispatcher import Dispatcher, DurableObserver
from trackside.app.storage.feeding import FeedPolicy
from trackside.harness.errors import ClosedError
from trackside.testing.events import make_event

HOUR = 3_600.0


def failed(run_id: str, *, agent: str = "billing", error_type: str = "ValueError") -> RunLifecycleEvent:
    payload = {"agent": agent, "status": "error", "error": "it broke", "error_type": error_type, "completion_data": {}}
    return make_event(LifecycleEventType.RUN_FAILED, run_id=run_id, payload=payload)


def said(inbox: HttpInbox) -> list[dict[str, Any]]:
    return [json.loads(request.body) for request in inbox.requests]


def told(inbox: HttpInbox, events: Sequence[RunLifecycleEvent]) -> set[str]:
    """The ids of those runs of these events that a message has told of."""
    text = " ".join(one["title"] + one["message"] for one in said(inbox)) + " "
    return {event.run_id for event in events if any(f"{event.run_id}{end}" in text for end in "\n, ")}


async def offer(observer: NotifyObserver, *events: RunLifecycleEvent) -> list[DeliveryError | None]:
    """Offer these events at once, and return what became of each."""
    outcomes = await asyncio.gather(*(observer.on_event(event) for event in events), return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, DeliveryError) for outcome in outcomes)
    return [outcome if isinstance(outcome, DeliveryError) else None for outcome in outcomes]


@pytest.mark.parametrize(
    ("status", "away"), [(500, False), (401, False), (404, False), (429, True), (502, True), (503, True), (504, True)]
)
async def test_a_receiver_that_answers_with_an_error_is_said_to_with_its_answer(
    status: int, away: bool, inbox: HttpInbox
) -> None:
    observer = await notifier(inbox)
    inbox.status = status
    with pytest.raises(
        DeliveryError, match=rf"receiver 1 \(JSON\) did not take run_failed of run a: .*error={status}"
    ) as refused:
        await observer.on_event(failed("a"))
    assert refused.value.away is away


async def test_a_receiver_that_cannot_be_reached_is_away(inbox: HttpInbox) -> None:
    with HttpInbox() as gone:
        observer = await notifier(gone)
    with pytest.raises(DeliveryError, match="[Cc]onnection") as refused:
        await observer.on_event(failed("a"))
    assert refused.value.away


async def test_a_mail_server_that_refuses_a_mail_is_there(mails: SmtpInbox) -> None:
    to = f"mailto://127.0.0.1:{mails.port}/?from=a@example.org&to=b@example.org&mode=insecure"
    observer = await asyncio.to_thread(lambda: NotifyObserver(to=to))
    mails.refusal = "554 we do not want that"
    with pytest.raises(DeliveryError, match="E-Mail"):
        await observer.on_event(failed("a"))
    mails.refusal = None
    await observer.on_event(failed("a"))
    assert len(mails.mails) == 1


async def test_a_receiver_that_never_answers_holds_up_its_own_messages_for_a_bounded_time(
    inbox: HttpInbox, second: HttpInbox
) -> None:
    inbox.status = None
    observer = await notifier(inbox, second, timeout=0.1)

    async def refused(event: RunLifecycleEvent) -> list[DeliveryError]:
        """The failures until only the first receiver lacks it: the second answers, but maybe later than that."""
        said: list[DeliveryError] = []
        while not said or "receiver 2" in str(said[-1]):
            (failure,) = await offer(observer, event)
            assert failure is not None
            said.append(failure)
        return said

    first = await refused(failed("a"))
    assert "has not answered after 0.1 s" in str(first[0])
    later = await refused(failed("b"))
    assert "still busy with another message" in str(later[0])
    for last in (first[-1], later[-1]):
        assert "receiver 1 (JSON) did not take " in str(last)
        assert last.away
    assert [one["title"] for one in said(second)] == ["billing: error (ValueError)"] * 2
    while not inbox.requests:  # the thread that talks to it may be late, too
        await asyncio.sleep(0.01)
    assert len(inbox.requests) == 1
    inbox.released.set()
    await observer.aclose()


async def test_what_waits_in_line_while_others_are_taken_comes_again_and_the_receiver_is_there(
    inbox: HttpInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = await notifier(inbox, timeout=13)
    (receiver,) = observer._receivers
    send, timeout = receiver.send, asyncio.timeout
    waits: list[asyncio.Timeout] = []
    begun, let_go = [asyncio.Event() for _ in range(3)], [threading.Event() for _ in range(3)]
    numbers, loop = itertools.count(), asyncio.get_running_loop()

    def send_when_let_go(message: Message) -> None:
        number = next(numbers)
        loop.call_soon_threadsafe(begun[number].set)
        assert let_go[number].wait(60)
        send(message)

    def noted(seconds: float | None) -> asyncio.Timeout:
        waits.append(timeout(seconds))
        return waits[-1]

    monkeypatch.setattr(receiver, "send", send_when_let_go)
    monkeypatch.setattr(asyncio, "timeout", noted)
    first, second, third = (asyncio.create_task(offer(observer, failed(run_id))) for run_id in "abc")
    await begun[0].wait()
    while len(waits) < 3:
        await asyncio.sleep(0)
    let_go[0].set()
    await begun[1].wait()
    waits[2].reschedule(0)  # the third has waited for its turn as long as it may
    (failure,) = await third
    assert failure is not None
    assert (failure.held_back, failure.away) == (True, False)
    assert "it took 1 of them in 13 s" in str(failure)
    for event in let_go:
        event.set()
    assert await first == await second == await offer(observer, failed("c")) == [None]
    assert len(inbox.requests) == 3
    await observer.aclose()


async def test_who_takes_a_message_too_late_does_not_get_it_again(inbox: HttpInbox) -> None:
    inbox.status = None
    observer = await notifier(inbox, timeout=0.1)
    event = failed("a")
    with pytest.raises(DeliveryError, match=r"has not answered after 0.1 s"):
        await observer.on_event(event)
    inbox.released.set()
    while (await offer(observer, event))[0] is not None:  # as its subscription does
        pass
    assert len(inbox.requests) == 1
    inbox.status = 200
    event = failed("b")
    while (await offer(observer, event))[0] is not None:
        pass
    assert len(inbox.requests) == 2


async def test_who_has_a_message_does_not_get_it_again_because_another_one_has_not(
    inbox: HttpInbox, second: HttpInbox
) -> None:
    observer = await notifier(inbox, second, max_per_hour=1)
    event = failed("a")
    second.status = 503
    for _ in range(3):
        with pytest.raises(DeliveryError, match="receiver 2"):
            await observer.on_event(event)
    second.status = 200
    await observer.on_event(event)
    assert (len(inbox.requests), len(second.requests)) == (1, 4)


@virtual
async def test_what_nobody_took_takes_no_room(inbox: HttpInbox) -> None:
    observer = await notifier(inbox, max_per_hour=1)
    inbox.status = 500
    for _ in range(5):
        with pytest.raises(DeliveryError, match="error=500"):
            await observer.on_event(failed("a"))
    inbox.status = 200
    await observer.on_event(failed("a"))
    with pytest.raises(DeliveryError, match="limit of messages"):
        await observer.on_event(failed("b"))


async def test_what_is_taken_too_late_takes_room_all_the_same(inbox: HttpInbox) -> None:
    observer = await notifier(inbox, max_per_hour=1, timeout=0.1)
    inbox.status = None
    first = failed("a")
    for why in ("not answered after 0.1 s", "still busy with another message"):  # neither is held back: it has its room
        with pytest.raises(DeliveryError, match=why):
            await observer.on_event(first)
    inbox.released.set()
    while not observer._subjects[first.event_id].told:  # in the pause before the next try
        await asyncio.sleep(0.01)
    await observer.on_event(first)
    inbox.status = 200
    with pytest.raises(DeliveryError, match="limit of messages"):
        await observer.on_event(failed("b"))
    assert len(inbox.requests) == 1


async def test_what_comes_while_a_digest_may_be_taken_late_has_no_room_in_the_next_one(
    inbox: HttpInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_observer, "_GATHER", 0.1)
    observer = await notifier(inbox, max_per_hour=1, timeout=0.1)
    inbox.status = None
    first = failed("a")
    await offer(observer, first, failed("b"))  # for the second there is no room
    inbox.status = 500
    inbox.released.set()
    while observer._subjects[first.event_id].on_its_way:
        await asyncio.sleep(0.01)
    inbox.status = None
    inbox.released.clear()
    await offer(observer, first)  # in a digest, which takes the hour's room
    again, new = await offer(observer, first, failed("c"))
    assert again is not None
    assert new is not None
    assert (again.held_back, new.held_back) == (False, True)
    inbox.status = 200
    inbox.released.set()
    while (await offer(observer, first))[0] is not None:
        pass
    assert (len(inbox.requests), observer._room.left(0.0)) == (2, 0)


async def test_what_is_refused_too_late_takes_no_room(inbox: HttpInbox) -> None:
    observer = await notifier(inbox, max_per_hour=1, timeout=0.1)
    inbox.status = None
    first = failed("a")
    with pytest.raises(DeliveryError, match=r"not answered after 0.1 s"):
        await observer.on_event(first)
    inbox.status = 500
    inbox.released.set()
    while observer._subjects[first.event_id].on_its_way:
        await asyncio.sleep(0.01)
    inbox.status = 200
    other = failed("b")
    while (refused := (await offer(observer, other))[0]) is not None:
        assert not refused.held_back


@virtual
async def test_the_rest_of_an_hour_comes_in_one_digest_when_there_is_room(inbox: HttpInbox) -> None:
    observer = await notifier(inbox, max_per_hour=3)
    events = [failed(f"r{number}", agent=f"agent{number % 2}") for number in range(12)]
    outcomes = await offer(observer, *events)
    held = [event for event, outcome in zip(events, outcomes, strict=True) if outcome is not None]
    refusals = [outcome for outcome in outcomes if outcome is not None]
    assert len(said(inbox)) == 3
    assert "This was the last of 3 messages in an hour." in said(inbox)[2]["message"]
    assert all(refusal.held_back for refusal in refusals)  # being held back is no failure of these events
    assert not any(refusal.away for refusal in refusals)  # so that its subscription goes on with all other events
    (wait,) = {refusal.retry_after for refusal in refusals}
    assert wait == pytest.approx(HOUR, abs=1)

    await asyncio.sleep(wait or 0)
    assert await offer(observer, *held) == [None] * 9
    digest = said(inbox)[3]
    assert len(said(inbox)) == 4
    assert digest["title"] == "9 more: agent1: error (ValueError) …"
    assert "5 × agent1: error (ValueError)\n    r3, r5, r7, r9, r11" in digest["message"]
    assert "4 × agent0: error (ValueError)\n    r4, r6, r8, r10" in digest["message"]
    assert told(inbox, events) == {event.run_id for event in events}


@virtual
async def test_what_comes_right_after_a_digest_waits_for_the_next_one_and_later_ones_come_alone(
    inbox: HttpInbox,
) -> None:
    observer = await notifier(inbox, max_per_hour=2)
    outcomes = await offer(observer, *(failed(f"r{number}") for number in range(4)))
    await asyncio.sleep(max(outcome.retry_after or 0 for outcome in outcomes if outcome))
    assert await offer(observer, failed("r2"), failed("r3")) == [None, None]
    assert await offer(observer, failed("r4")) == [None]
    assert said(inbox)[-1]["title"] == "billing: error (ValueError)"
    assert [len(await offer(observer, failed("r5")))] == [1]
    await asyncio.sleep(HOUR)
    assert await offer(observer, failed("r6")) == [None]
    assert told(inbox, [failed("r6")]) == {"r6"}


@virtual
async def test_a_digest_that_nobody_took_leaves_all_of_it_to_the_subscription(inbox: HttpInbox) -> None:
    observer = await notifier(inbox, max_per_hour=1)
    await offer(observer, *(failed(f"r{number}") for number in range(3)))
    await asyncio.sleep(HOUR + 1)
    inbox.status = 503
    outcomes = await offer(observer, failed("r1"), failed("r2"))
    assert [outcome is not None and outcome.away for outcome in outcomes] == [True, True]
    inbox.status = 200
    assert await offer(observer, failed("r1"), failed("r2")) == [None, None]
    assert said(inbox)[-1]["title"] == "2 more: billing: error (ValueError)"


@virtual
async def test_who_has_a_digest_does_not_get_it_again_because_another_one_has_not(
    inbox: HttpInbox, second: HttpInbox
) -> None:
    observer = await notifier(inbox, second, max_per_hour=2)
    events = [failed(f"r{number}") for number in range(6)]
    await offer(observer, *events)
    await asyncio.sleep(HOUR + 1)
    second.status = 500
    for some in (events[2:], events[2:5], events[4:], events[3:]):  # as they come again after their own pauses
        outcomes = await offer(observer, *some)
        assert all(outcome is not None and "receiver 2" in str(outcome) for outcome in outcomes)
        assert not any("receiver 1" in str(outcome) for outcome in outcomes)
    assert [one["title"] for one in said(inbox)[2:]] == ["4 more: billing: error (ValueError)"]

    second.status = 200
    assert await offer(observer, *events[2:]) == [None] * 4
    assert len(said(inbox)) == 3
    assert said(second)[-1]["title"] == "4 more: billing: error (ValueError)"
    assert told(second, events) == {event.run_id for event in events}


@virtual
async def test_who_lacks_what_others_have_gets_it_as_they_did(inbox: HttpInbox, second: HttpInbox) -> None:
    observer = await notifier(inbox, second, max_per_hour=1)
    events = [failed(f"r{number}") for number in range(3)]
    second.status = 500
    await offer(observer, *events)
    await asyncio.sleep(HOUR + 1)
    await offer(observer, *events)
    second.status = 200
    assert await offer(observer, *events) == [None] * 3
    assert [one["title"] for one in said(inbox)] == [
        "billing: error (ValueError)",
        "2 more: billing: error (ValueError)",
    ]
    assert [one["title"] for one in said(second)[-2:]] == [one["title"] for one in said(inbox)]


@virtual
async def test_what_one_receiver_lacks_goes_to_it_with_what_is_new_and_to_the_others_what_is_new_alone(
    inbox: HttpInbox, second: HttpInbox
) -> None:
    observer = await notifier(inbox, second, max_per_hour=2)
    events = [failed(f"r{number}") for number in range(4)]
    await offer(observer, *events)
    await asyncio.sleep(HOUR + 1)
    second.status = 500
    await offer(observer, *events[2:])
    second.status = 200
    assert await offer(observer, *events[2:], failed("new")) == [None] * 3
    assert "Run new" in said(inbox)[-1]["message"]
    assert "3 × billing: error (ValueError)\n    r2, r3, new" in said(second)[-1]["message"]


@virtual
async def test_what_one_receiver_lacks_takes_no_room_and_makes_none(inbox: HttpInbox, second: HttpInbox) -> None:
    observer = await notifier(inbox, second, max_per_hour=2)
    events = [failed(f"r{number}") for number in range(4)]
    await offer(observer, *events)
    await asyncio.sleep(HOUR + 1)
    second.status = 500
    for _ in range(3):
        await offer(observer, *events[2:])
    second.status = 200
    await asyncio.sleep(10)
    assert await offer(observer, failed("one more")) == [None], "the second of this hour"
    outcomes = await offer(observer, *events[2:], failed("too many"))
    assert [outcome is not None and outcome.held_back for outcome in outcomes] == [False, False, True]
    assert [one["title"][:6] for one in said(inbox)[2:]] == ["2 more", "billin"]
    assert said(second)[-1]["title"] == "2 more: billing: error (ValueError)"


@virtual
async def test_closing_leaves_a_digest_that_waits_to_the_subscription(inbox: HttpInbox) -> None:
    observer = await notifier(inbox, max_per_hour=1)
    await offer(observer, failed("a"), failed("b"))
    await asyncio.sleep(HOUR + 1)
    waiting = asyncio.create_task(observer.on_event(failed("b")))
    await asyncio.sleep(1)
    await observer.aclose()
    with pytest.raises(ClosedError):
        await waiting
    assert len(said(inbox)) == 1


@virtual
async def test_one_who_waits_for_a_digest_may_go_without_keeping_the_others_from_it(inbox: HttpInbox) -> None:
    observer = await notifier(inbox, max_per_hour=1)
    await offer(observer, *(failed(f"r{number}") for number in range(4)))
    await asyncio.sleep(HOUR + 1)
    waiting = [asyncio.create_task(observer.on_event(failed(f"r{number}"))) for number in (1, 2, 3)]
    await asyncio.sleep(1)
    waiting[0].cancel()
    await asyncio.wait(waiting)
    assert [task.cancelled() for task in waiting] == [True, False, False]
    assert said(inbox)[-1]["title"] == "3 more: billing: error (ValueError)"


async def test_a_subscription_tells_each_receiver_once_though_one_refuses_the_digest_until_it_is_parked(
    inbox: HttpInbox, second: HttpInbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_observer, "_GATHER", 0.02)
    events = [failed(f"r{number}") for number in range(6)]
    second.status = 500
    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        await store.append(events)
        observer = await notifier(inbox, second, max_per_hour=2)
        observer._room = HourlyRoom(2, hour=0.5)
        policy = FeedPolicy.suiting(observer, attempts=3, first_pause=0.2, longest_pause=0.2)
        durable = DurableObserver(name="team", observer=observer, start="beginning", policy=policy)
        async with Dispatcher(store.subscriptions, [durable]) as dispatcher:
            assert (await dispatcher.drain(60.0)).complete
        assert (await store.subscriptions.get("team")).parked == 6
    texts = [one["title"] + one["message"] for one in said(inbox)]
    assert [sum(f"{event.run_id}" in text for text in texts) for event in events] == [1] * 6
    assert len(second.requests) > len(inbox.requests)


class RoomLater(HourlyRoom):
    """Its hour goes on until the test makes room; who is held back looks again and again."""

    def seconds_until_one(self, now: float) -> float:
        return 0.0


async def until_held_back(events: int, observer: NotifyObserver, dispatcher: Dispatcher) -> None:
    """Wait until two messages were taken, and there was no room for so many events."""
    while dispatcher.stats()[0].handled_total < 2 or len(observer._held) < events:
        await asyncio.sleep(0.01)


async def test_a_subscription_loses_nothing_of_a_digest_although_its_process_ends_before(
    inbox: HttpInbox, tmp_path: Path
) -> None:
    """The first process tells of two runs out of six and ends; the second tells of two more, and then gets room."""
    events = [failed(f"r{number}") for number in range(6)]

    def durable(observer: NotifyObserver) -> DurableObserver:
        return DurableObserver(name="team", observer=observer, start="beginning")

    async with Store.open(f"sqlite:///{tmp_path / 'runs.db'}") as store:
        await store.append(events)
        first = await notifier(inbox, max_per_hour=2)
        async with Dispatcher(store.subscriptions, [durable(first)]) as dispatcher:
            await until_held_back(4, first, dispatcher)
            (stats,) = dispatcher.stats()
        assert len(said(inbox)) == 2
        standing = await store.subscriptions.get("team")
        assert (standing.behind, standing.failures, standing.last_error, stats.failed_calls_total) == (4, 0, None, 0)
        second = await notifier(inbox, max_per_hour=2)
        second._room = RoomLater(2)
        async with Dispatcher(store.subscriptions, [durable(second)]) as dispatcher:
            await until_held_back(2, second, dispatcher)
            second._room._taken.clear()
            report = await dispatcher.drain(60.0)
        assert report.complete
        assert (await store.subscriptions.get("team")).parked == 0
    assert told(inbox, events) == {event.run_id for event in events}
    assert len(said(inbox)) == 5
