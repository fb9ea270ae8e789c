"""Durable subscriptions: observers with a name and a cursor, fed from the log.

A subscription outlives the process that consumes it. Its cursor only moves ahead, past events that were handled or
parked, so each event that it wants is handled at least once, whatever dies in between (I25). One consumer at a time has
it, by a lease. `trackside.app.storage.feeding.SubscriptionFeed` consumes one for an observer; this module is for code
that consumes one itself, and for operators.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from trackside.app.process_name import process_name
from trackside.app.storage._databases.growth import log_end
from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._databases.signals import CommitSignals, Listener
from trackside.app.storage._databases.telling import tell_each
from trackside.app.storage._rows.arguments import AnyOf, plain, time
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._rows.leases import MAX_LEASE_SECONDS
from trackside.app.storage._subscriptions.consumer import SubscriptionConsumer
from trackside.app.storage._subscriptions.deliveries import DeliveriesOfRun, read_deliveries
from trackside.app.storage._subscriptions.reads import parked, parked_of, read_standing, seconds_until_free
from trackside.app.storage._subscriptions.records import (
    Batch,
    OnFailure,
    ParkedEvent,
    ParkedState,
    Start,
    Subscription,
    SubscriptionFilter,
    SubscriptionState,
    check_member,
    check_number,
    check_seconds,
    check_start,
    check_text,
)
from trackside.app.storage._subscriptions.works import (
    Acquire,
    DecideParked,
    Delete,
    Open,
    Seek,
    SetState,
    SubscriptionWork,
    Update,
)
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import InvalidSubscriptionError, SubscriptionBusyError, UnknownSubscriptionError
from trackside.harness.types import LifecycleEventType

__all__ = [
    "Batch",
    "DeliveriesOfRun",
    "OnFailure",
    "ParkedEvent",
    "ParkedState",
    "Start",
    "Subscription",
    "SubscriptionConsumer",
    "SubscriptionFilter",
    "SubscriptionState",
    "Subscriptions",
]

LEASE_SECONDS = 30.0
_LEAST_LEASE_SECONDS = 1.0


class Subscriptions:
    """The subscriptions of a store: `store.subscriptions`."""

    def __init__(self, writer: Writer | NoWriter, readers: Readers, signals: CommitSignals) -> None:
        self._writer = writer
        self._readers = readers
        self._signals = signals
        self._listeners: set[Listener] = set()
        writer.on_commit.append(lambda _: self._tell())

    async def open(
        self,
        name: str,
        *,
        types: AnyOf[LifecycleEventType] | None = None,
        run_id: str | None = None,
        thread_id: str | None = None,
        agent: str | None = None,
        start: Start = "now",
        on_failure: OnFailure | str = OnFailure.park,
    ) -> Subscription:
        """Open the subscription with this name: create it if there is none yet, else continue where it was.

            await store.subscriptions.open("mail", types=["run_failed"])

        Args:
            name: what it is called, in all processes.
            types: only events of this type, or one of these.
            run_id: only of this run.
            thread_id: only of this thread.
            agent: only of runs of this agent.
            start: where a new subscription begins: "now" (with the next event; resolved once, and stored), "beginning",
                or after a position.
            on_failure: whether an event that keeps failing is parked, or blocks those after it.

        Raises:
            SubscriptionConflictError: the subscription exists, and wants other events or has another policy; see
                `update`.
            InvalidSubscriptionError: an argument does not fit; the message names it.
            StorageError: it cannot be stored.
        """
        wanted = SubscriptionFilter.of(types=types, run_id=run_id, thread_id=thread_id, agent=agent)
        policy = check_member(OnFailure, "on_failure", on_failure)
        check_text("name", name)
        await self._write(Open, name, filter=wanted, on_failure=policy, start=check_start("start", start))
        return await self.get(name)

    async def get(self, name: str) -> Subscription:
        """How a subscription stands.

        Raises:
            UnknownSubscriptionError: there is none with this name.
        """
        found = await self._readers.run(read_standing(check_text("name", name)))
        if not found:
            raise UnknownSubscriptionError(name=name)
        return found[0]

    async def all(self) -> list[Subscription]:
        """How all subscriptions stand, by name."""
        return await self._readers.run(read_standing(None))

    async def end(self) -> int:
        """The last position in the log."""
        return await self._readers.run(log_end)

    async def update(
        self, name: str, *, filter: SubscriptionFilter | None = None, on_failure: OnFailure | str | None = None
    ) -> Subscription:
        """Change which events a subscription wants, from its cursor on, or its policy; what is left out stays.

        Its consumer loses it, and acquires it again.

        Raises:
            UnknownSubscriptionError: there is none with this name.
            InvalidSubscriptionError: an argument does not fit; the message names it.
        """
        if filter is not None and not isinstance(filter, SubscriptionFilter):
            raise InvalidSubscriptionError(field="filter", value=filter, why="it is a SubscriptionFilter")
        policy = None if on_failure is None else check_member(OnFailure, "on_failure", on_failure)
        await self._write(Update, name, filter=filter, on_failure=policy)
        return await self.get(name)

    async def pause(self, name: str) -> None:
        """Deliver nothing until `resume`. The consumer may still acknowledge the events that it has in hand.

        Raises:
            UnknownSubscriptionError: there is none with this name.
        """
        await self._write(SetState, name, state=SubscriptionState.paused)

    async def resume(self, name: str) -> None:
        """Go on at the cursor.

        Raises:
            UnknownSubscriptionError: there is none with this name.
        """
        await self._write(SetState, name, state=SubscriptionState.active)

    async def seek(self, name: str, position: Start) -> None:
        """Move the cursor: the next event is the first after `position`. Its consumer loses it, and begins anew.

        After a move back, events are delivered again, as far as they are still in the log; a move ahead skips what lies
        between. Parked events stay parked, except one that is handled once more on the way.

        Raises:
            UnknownSubscriptionError: there is none with this name.
            InvalidSubscriptionError: this is not a position, or it is behind the end of the log.
        """
        await self._write(Seek, name, to=check_start("position", position))

    async def delete(self, name: str) -> None:
        """Delete a subscription, its cursor and its parked events. Its consumer loses it.

        Raises:
            UnknownSubscriptionError: there is none with this name.
        """
        await self._write(Delete, name)

    async def acquire(
        self, name: str, *, consumer: str | None = None, lease_seconds: float = LEASE_SECONDS
    ) -> SubscriptionConsumer:
        """Become the consumer of a subscription.

            async with await store.subscriptions.acquire("mail") as consumer:
                batch = await consumer.read()

        Args:
            name: the subscription.
            consumer: the name of the consumer that others see; this machine and process if left out.
            lease_seconds: how long others wait for a consumer that does not `renew`; from 1 to 3600.

        Raises:
            UnknownSubscriptionError: there is none with this name.
            SubscriptionBusyError: another consumer has it; its `seconds` say for how long at least.
            SubscriptionPausedError: the subscription is paused.
            InvalidSubscriptionError: an argument does not fit; the message names it.
        """
        check_text("name", name)
        consumer = process_name() if consumer is None else check_text("consumer", consumer)
        lease = check_seconds("lease_seconds", lease_seconds, least=_LEAST_LEASE_SECONDS, most=MAX_LEASE_SECONDS)
        # Looked at first, so that those who wait for their turn do not write.
        left, holder = await self._readers.run(seconds_until_free(name))
        if left:
            raise SubscriptionBusyError(name=name, consumer=holder, seconds=left)
        grant = await self._write(Acquire, name, consumer=consumer, lease_seconds=lease)
        return SubscriptionConsumer(
            self._writer,
            self._readers,
            grant,
            name=name,
            consumer=consumer,
            lease_seconds=lease,
            on_release=self._announce,
        )

    async def parked(self, name: str, *, after: int = 0, limit: int = 1000) -> list[ParkedEvent]:
        """A subscription's parked events, in order of position; ask for the next page after the last one's position.

        Raises:
            UnknownSubscriptionError: there is none with this name.
            InvalidSubscriptionError: an argument does not fit; the message names it.
        """
        check_number("after", after)
        check_number("limit", limit, least=1)
        await self.get(name)
        return await self._readers.all(parked(name, after=after, limit=limit), parked_of)

    async def deliveries(self, run_id: str) -> DeliveriesOfRun:
        """What the subscriptions that want events of a run did with them, by name, whatever the log has.

        If a run has more than 10,000 events, the last ones are looked at.

        Raises:
            InvalidQueryError: `run_id` is not a text.
        """
        return await self._readers.run(read_deliveries(plain("run_id", run_id)))

    async def retry_parked(self, name: str, position: int | None = None, *, until: datetime | None = None) -> int:
        """Have the consumer try a parked event again, or all of them; returns how many. Events that it then handles are
        no longer parked.

        Args:
            name: the subscription.
            position: the event's position; None: all.
            until: only events that were parked, or tried once more in vain, until then.

        Raises:
            UnknownSubscriptionError: there is none with this name.
            NotParkedError: nothing is parked at this position.
            InvalidQueryError: `until` is not a datetime with a time zone.
        """
        return await self._decide(name, position, until, retry=True)

    async def drop_parked(self, name: str, position: int | None = None, *, until: datetime | None = None) -> int:
        """Give up a parked event, or all of them; returns how many. They stay in the log.

        Args:
            name: the subscription.
            position: the event's position; None: all.
            until: only events that were parked, or tried once more in vain, until then.

        Raises:
            UnknownSubscriptionError: there is none with this name.
            NotParkedError: nothing is parked at this position.
            InvalidQueryError: `until` is not a datetime with a time zone.
        """
        return await self._decide(name, position, until, retry=False)

    def listen(self, listener: Listener) -> None:
        """Call `listener` on the loop when something was committed, here or elsewhere, that may matter to a consumer.

        This costs something: stop when nobody waits. If the listener raises, the program's log says so.
        """
        self._listeners.add(listener)
        self._signals.listen(listener)

    def stop_listening(self, listener: Listener) -> None:
        """Stop calling this listener. May be called again."""
        self._listeners.discard(listener)
        self._signals.stop_listening(listener)

    async def _decide(self, name: str, position: int | None, until: datetime | None, *, retry: bool) -> int:
        if position is not None:
            check_number("position", position)
        moment = None if until is None else time_text(time("until", until))
        decided: int = await self._write(DecideParked, name, position=position, until=moment, retry=retry)
        return decided

    async def _write(self, work: type[SubscriptionWork], name: str, **values: Any) -> Any:
        check_text("name", name)
        done = await self._writer.write(work(name=name, now=time_text(datetime.now(UTC)), **values))
        self._announce()
        return done

    def _announce(self) -> None:
        self._tell()
        self._signals.announce()

    def _tell(self) -> None:
        tell_each(self._listeners)
