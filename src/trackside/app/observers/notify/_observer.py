"""Sends messages about the events that a rule selects, a limited number per hour, and sums up the rest in digests."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import Any, ClassVar, Final, NoReturn

from trackside.app.daemon_threads import DaemonThreads
from trackside.app.delivery import Delivery, DeliveryError, ObserverOptionError, Order
from trackside.app.observers.notify._digest import Digest, HourlyRoom, Place, Subject, digest_of
from trackside.app.observers.notify._messages import Message, Templates
from trackside.app.observers.notify._receivers import NotSentError, Receiver
from trackside.app.observers.notify._rules import rules_of
from trackside.harness.amounts import is_count
from trackside.harness.errors import ClosedError
from trackside.harness.foreign.failures import line_of
from trackside.harness.foreign.timelimit import outlived
from trackside.harness.observer import RunLifecycleEvent

_GATHER: Final = 2.0
"""Seconds for which a digest waits for more events that belong in it."""

_CATCH_UP: Final = 5.0
"""Seconds after a digest in which events belong in the next: a subscription that had no room delivers the rest."""

_MARGIN: Final = 0.5
"""How many seconds after there is room an event that was held back comes."""

_REMEMBERED: Final = 10_000
"""How many events are remembered with who was told of them, and how many as held back."""

_LONGEST_TIMEOUT: Final = 13.0
"""Seconds. Twice that, for the message before and this one, plus a digest's wait, fits into a subscription's call."""

_LAST_NOTE: Final = (
    "This was the last of {size} messages in an hour. What else happens comes in one, when there is room again."
)

_FAILED_RUNS: Final = ({"events": ["run_failed"]},)


class NotifyObserver:
    """Notifies people by mail, chat or phone, through Apprise.

        NotifyObserver(to=os.environ["TEAM_CHAT"], on=[{"agent": "billing", "status": "error"}, {"cost_above": 1.0}])

    Events for which there is no room in an hour stay with the subscription until there is; one message then reports
    them together. So nothing is lost if the process dies. A receiver that was told of an event, alone or among others,
    is not told again because another receiver was not; only if the process dies in between, it may be.

    Args:
        to: one address or several, as Apprise takes them: "mailto://…", "slack://…", "ntfy://…".
        on: rules; the first that fits counts: see the page about notifications. Failed runs if left out.
        templates: `title` and `body` by type of event, with fields such as `$agent`.
        max_per_hour: how many messages may be sent in any hour, including digests, counted since the process began.
        timeout: how many seconds one receiver has for one message.

    Raises:
        ObserverOptionError: an option does not fit, or Apprise is not installed.
    """

    delivery: ClassVar[Delivery] = Delivery.durable
    order: ClassVar[Order] = Order.none
    # The subscription holds events without room; they return together for the digest. Few are ever sent side by side.
    concurrency: ClassVar[int] = 1_000
    attempts: ClassVar[int] = 15
    """About six minutes, with the pauses of a subscription: some outages cannot be told from other failures."""

    def __init__(
        self,
        *,
        to: str | Sequence[str],
        on: Sequence[Mapping[str, Any]] = _FAILED_RUNS,
        templates: Mapping[str, Any] | None = None,
        max_per_hour: int = 20,
        timeout: float = 10.0,
    ) -> None:
        if not is_count(max_per_hour):
            why = f"it is a number of messages, at least 1, not {max_per_hour!r}"
            raise ObserverOptionError(option="max_per_hour", why=why)
        if type(timeout) not in {int, float} or not 0 < timeout <= _LONGEST_TIMEOUT:
            why = f"it is a number of seconds, at most {_LONGEST_TIMEOUT:g}, not {timeout!r}"
            raise ObserverOptionError(option="timeout", why=why)
        urls: Any = [to] if isinstance(to, str) else to
        if not isinstance(urls, Sequence) or not urls:
            raise ObserverOptionError(
                option="to", why='it is an address as "mailto://user:password@example.com", or several'
            )
        self._templates = Templates({} if templates is None else templates)
        self._rules = rules_of(on)
        self._receivers = [Receiver(url, number) for number, url in enumerate(urls, 1)]
        if len(set(urls)) < len(urls):
            raise ObserverOptionError(option="to", why="one address is there twice, and would get each message twice")
        self._timeout = timeout
        self._room = HourlyRoom(max_per_hour)
        self._threads = DaemonThreads("trackside-notify")
        self._subjects: OrderedDict[str, Subject] = OrderedDict()
        self._held: OrderedDict[str, None] = OrderedDict()
        self._digest: Digest | None = None
        self._catching_up_until = 0.0
        self._telling: set[asyncio.Task[None]] = set()
        self._closed = False

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Send a message if a rule selects the event; returns when all receivers have taken it.

        Raises:
            DeliveryError: a receiver did not take it, or there is no room for it in this hour.
            ClosedError: the observer has been closed.
        """
        if self._closed:
            raise ClosedError(what="notify observer")
        if not any(rule.means(event) for rule in self._rules):
            return
        now = asyncio.get_running_loop().time()
        subject = self._subjects.get(event.event_id) or Subject()
        if self._goes_alone(subject, now):
            failures = await self._tell({event.event_id: (event, subject)})
        elif subject.has_room or self._room.left(now) or (self._digest is not None and self._digest.has_news):
            failures = await self._tell_together(event, subject)
        else:
            self._hold_back(event, now)
        lacking = {receiver: raised for receiver, raised in failures.items() if receiver not in subject.told}
        if lacking:
            raise _not_taken(event, lacking)
        self._subjects.pop(event.event_id, None)

    async def aclose(self) -> None:
        """Send nothing more. What waits for a digest stays with the subscription. May be called again."""
        self._closed = True
        telling = [*self._telling]
        for task in telling:
            task.cancel()
        if telling:
            await asyncio.wait(telling)

    def _goes_alone(self, subject: Subject, now: float) -> bool:
        """Whether a message is about this event only. A receiver that lacks what others got gets it as they did."""
        if subject.has_room:
            return not subject.together
        belongs_together = bool(self._held) or now < self._catching_up_until
        return self._digest is None and self._room.left(now) > 0 and not belongs_together

    def _hold_back(self, event: RunLifecycleEvent, now: float) -> NoReturn:
        """Leave the event to its subscription, which delivers all that are held back again at the same time.

        The receiver does not count as away, so that events of which nobody is notified go on meanwhile.
        """
        _remember(self._held, event.event_id, None)
        raise DeliveryError(
            receiver="the limit of messages",
            what=_named(event),
            why=f"it allows {self._room.size} an hour; the event comes with the next digest",
            held_back=True,
            retry_after=self._room.seconds_until_one(now) + _MARGIN,
        )

    async def _tell_together(self, event: RunLifecycleEvent, subject: Subject) -> Mapping[Receiver, NotSentError]:
        if (digest := self._digest) is None:
            digest = self._digest = Digest()
            # Not in the context of the event that happens to be first.
            task = asyncio.create_task(self._tell_all(digest), name="trackside-notify-digest", context=Context())
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)
        digest.add(event, subject)
        return await outlived(digest.failures)

    async def _tell_all(self, digest: Digest) -> None:
        """Wait for more events, and send each receiver one message about all that it lacks."""
        try:
            await asyncio.sleep(_GATHER)
            self._digest = None
            news = [subject for _, subject in digest.events.values() if not subject.told]
            failures = await self._tell(digest.events)
        except asyncio.CancelledError:
            digest.fail(ClosedError(what="notify observer"))
            raise
        except Exception as exc:  # noqa: BLE001  # every caller that waits raises it to its subscription
            digest.fail(exc)
        else:
            if any(subject.told for subject in news):
                self._catching_up_until = asyncio.get_running_loop().time() + _CATCH_UP
                self._held.clear()  # those that missed this digest come later, each by itself
            digest.failures.set_result(failures)

    def _message_about(self, events: Sequence[RunLifecycleEvent]) -> Message:
        if len(events) > 1:
            return digest_of(events, self._room.size)
        (event,) = events
        rule = next(rule for rule in self._rules if rule.means(event))
        return self._templates.message(event, title=rule.title, body=rule.body)

    async def _tell(self, events: Mapping[str, tuple[RunLifecycleEvent, Subject]]) -> Mapping[Receiver, NotSentError]:
        """Send each receiver one message about the events that it lacks; returns who did not take theirs, and why.

        This takes room in the hour if nobody has been told of one of the events; otherwise all were counted before. A
        message that may still be taken keeps that room even when nobody waits for it any longer.
        """
        for event_id, (_, subject) in events.items():
            _remember(self._subjects, event_id, subject)  # also for receivers that take it when nobody waits any more
        news = [subject for _, subject in events.values() if not subject.told]
        now = asyncio.get_running_loop().time()
        place = Place(self._room, now) if news else None
        is_last = place is not None and not self._room.left(now)
        told = [*events.values()]
        try:
            outcomes = await asyncio.gather(
                *(self._post(receiver, told, place, is_last=is_last) for receiver in self._receivers)
            )
        finally:
            if place is not None:
                place.end()
        return {
            receiver: raised for receiver, raised in zip(self._receivers, outcomes, strict=True) if raised is not None
        }

    async def _post(
        self,
        receiver: Receiver,
        events: Sequence[tuple[RunLifecycleEvent, Subject]],
        place: Place | None,
        *,
        is_last: bool,
    ) -> NotSentError | None:
        """Send a receiver what it lacks, once it is done with its previous message; returns what it failed with."""
        if all(receiver in subject.told for _, subject in events):
            return None
        taken = receiver.taken
        try:
            async with asyncio.timeout(self._timeout):
                await receiver.lock.acquire()
        except TimeoutError:
            if receiver.taken > taken:
                why = f"others came first, and it took {receiver.taken - taken} of them in {self._timeout:g} s"
                return NotSentError(why, away=False, in_line=True)
            return NotSentError(f"it is still busy with another message after {self._timeout:g} s", away=True)
        lacking = [(event, subject) for event, subject in events if receiver not in subject.told]
        if not lacking:  # by now: it took the message of the previous try late
            receiver.lock.release()
            return None
        try:
            message = self._message_about([event for event, _ in lacking])
            if is_last:
                message = message.with_note(_LAST_NOTE.format(size=self._room.size))
            job = asyncio.get_running_loop().run_in_executor(self._threads, receiver.send, message)
        except BaseException:  # for example, no more threads can be started
            receiver.lock.release()
            raise
        subjects = [subject for _, subject in lacking]
        for subject in subjects:
            subject.on_its_way += 1
        if place is not None:
            place.begin()
        job.add_done_callback(lambda job: _settle(receiver, job, subjects, place))
        await asyncio.wait((job,), timeout=self._timeout)
        if not job.done():
            return NotSentError(f"it has not answered after {self._timeout:g} s", away=True)
        raised = job.exception()
        if raised is None or isinstance(raised, NotSentError):
            return raised
        return NotSentError(line_of(raised), away=False)


def _settle(receiver: Receiver, job: asyncio.Future[None], subjects: Sequence[Subject], place: Place | None) -> None:
    """Record what became of a message, whether or not anybody still waits for it."""
    receiver.lock.release()
    is_taken = not job.cancelled() and job.exception() is None
    receiver.taken += is_taken
    if place is not None:
        place.end(is_news=is_taken and not all(subject.told for subject in subjects))
    for subject in subjects:
        subject.on_its_way -= 1
        if is_taken:
            subject.told.add(receiver)


def _not_taken(event: RunLifecycleEvent, failures: Mapping[Receiver, NotSentError]) -> DeliveryError:
    raised_by_all = [*failures.values()]
    return DeliveryError(
        receiver=", ".join(receiver.label for receiver in failures),
        what=_named(event),
        why="; ".join(dict.fromkeys(raised.why for raised in raised_by_all)),
        away=any(raised.away for raised in raised_by_all)
        and all(raised.away or raised.in_line for raised in raised_by_all),
        held_back=all(raised.in_line for raised in raised_by_all),
    )


def _named(event: RunLifecycleEvent) -> str:
    return f"{event.event_type.value} of run {event.run_id}"


def _remember[V](known: OrderedDict[str, V], key: str, value: V) -> None:
    known[key] = value
    known.move_to_end(key)
    while len(known) > _REMEMBERED:
        known.popitem(last=False)
