"""The consumer of a subscription, as long as it has the lease."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from trackside.app.storage._databases.readers import Readers
from trackside.app.storage._reading.landmarks import Landmark
from trackside.app.storage._rows.encoding import time_text
from trackside.app.storage._subscriptions.reads import check_grant, read_batch, read_retries
from trackside.app.storage._subscriptions.records import (
    Batch,
    OnFailure,
    ParkedEvent,
    SubscriptionFilter,
    check_number,
    kept_text,
)
from trackside.app.storage._subscriptions.works import (
    Acknowledge,
    ConsumerWork,
    Fail,
    Grant,
    Park,
    Release,
    Renew,
    SettleRetry,
)
from trackside.app.storage._writing.writer import NoWriter, Writer
from trackside.app.storage.errors import InvalidSubscriptionError

READ_BYTES: Final = 64 * 1_048_576
"""About how many bytes of payloads one read takes in at most."""


class SubscriptionConsumer:
    """The only reader of a subscription, which may move its cursor; made by `Subscriptions.acquire`.

    Read a batch, handle its events, acknowledge up to where all are handled, and park what cannot be. Keep the lease by
    `renew` while that takes long, and give it back in the end (`async with` does). If the process dies before it
    acknowledges an event, the event comes again, with the same id, sequence and content (I25, I26).

    A consumer that handles events side by side reads `ahead`, may park any of them, and acknowledges up to the first
    that is neither handled nor parked yet. An event that is parked ahead of the cursor also comes again if the process
    dies.

    Every step raises `SubscriptionLostError`, and has changed nothing, if somebody else has the subscription by now, if
    it was moved, changed or deleted, or if the database has lost events that were read (a failover can do that).
    """

    def __init__(
        self,
        writer: Writer | NoWriter,
        readers: Readers,
        grant: Grant,
        *,
        name: str,
        consumer: str,
        lease_seconds: float,
        on_release: Callable[[], object],
    ) -> None:
        self.name = name
        self.consumer = consumer
        self.lease_seconds = lease_seconds
        self._writer = writer
        self._readers = readers
        self._grant = grant
        self._on_release = on_release
        self._passed = grant.cursor  # up to here nothing is left to be handled
        self._seen = Landmark(grant.cursor)  # up to here was read
        self._unhandled: deque[int] = deque()
        self._parked_ahead: set[int] = set()
        self._retrying: set[int] = set()
        self._settled: set[int] = set()  # since the last look for retries began, which may not have seen it

    @property
    def token(self) -> int:
        """A number that no consumer had before, for guarding what is written elsewhere, as fencing tokens do."""
        return self._grant.token

    @property
    def filter(self) -> SubscriptionFilter:
        """Which events come."""
        return self._grant.filter

    @property
    def on_failure(self) -> OnFailure:
        """What becomes of an event that keeps failing."""
        return self._grant.on_failure

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.release()

    @property
    def passed(self) -> int:
        """Everything up to this position is handled and acknowledged, parked, or not wanted."""
        return self._passed

    async def read(self, limit: int = 100, *, ahead: bool = False, max_bytes: int = READ_BYTES) -> Batch:
        """The next events, at most `limit`. What was read and not acknowledged comes again, unless you read `ahead` of
        that.

        There are fewer events if their payloads come to about `max_bytes`, but at least one, however large it is. A
        batch without events still moves on in the log, unless it is `at_end`: read again.

        Raises:
            InvalidSubscriptionError: `limit` or `max_bytes` is not a whole number from 1 up.
            SubscriptionPausedError: the subscription is paused.
            SubscriptionLostError: see the class.
        """
        check_number("limit", limit, least=1)
        check_number("max_bytes", max_bytes, least=1)
        batch, seen = await self._readers.run(
            read_batch(
                self.name,
                consumer=self.consumer,
                token=self.token,
                seen=self._seen,
                wanted=self.filter,
                after=self._seen.position if ahead else self._passed,
                limit=limit,
                max_bytes=max_bytes,
            )
        )
        self._seen = seen
        if not ahead:
            self._unhandled.clear()
            self._parked_ahead.clear()
        self._unhandled.extend(stored.position for stored in batch.events)
        if not self._unhandled:
            self._passed = batch.through
        return batch

    async def acknowledge(self, position: int) -> None:
        """Say that everything read up to this position is handled, or not wanted: it is never delivered again.

        Raises:
            InvalidSubscriptionError: the position was not read yet.
            SubscriptionLostError: see the class.
        """
        check_number("position", position)
        if position > self._seen.position:
            why = f"only what was read can be acknowledged, and that goes up to {self._seen.position}"
            raise InvalidSubscriptionError(field="position", value=position, why=why)
        await self._write(Acknowledge, position=position)
        self._pass(position)

    async def park(self, position: int, error: str, *, attempts: int = 1) -> None:
        """Put an event aside: one that was read, or one of `read_retries` that failed again.

        If it is the next one, the cursor goes past it. Ahead of others it stays parked when the cursor passes it later.

        Raises:
            InvalidSubscriptionError: the event is neither.
            SubscriptionLostError: see the class.
        """
        check_number("position", position)
        check_number("attempts", attempts, least=1)
        is_unhandled = position in self._unhandled
        if not is_unhandled and position not in self._retrying:
            why = "only an event that was read and not acknowledged can be parked, or one that was retried"
            raise InvalidSubscriptionError(field="position", value=position, why=why)
        is_next = is_unhandled and position == self._unhandled[0]
        await self._write(Park, position=position, attempts=attempts, error=kept_text(error), is_next=is_next)
        self._forget_retry(position)
        if is_next:
            self._pass(position)
        elif is_unhandled:
            self._unhandled.remove(position)
            self._parked_ahead.add(position)

    async def check(self) -> None:
        """Check that the consumer may go on. This costs less than a read, which says the same.

        Raises:
            SubscriptionPausedError: the subscription is paused.
            SubscriptionLostError: see the class.
        """
        await self._readers.run(check_grant(self.name, consumer=self.consumer, token=self.token))

    async def note_failure(self, error: str, *, attempts: int) -> None:
        """Record, where operators see it, how often in a row the next event has failed.

        Raises:
            SubscriptionLostError: see the class.
        """
        check_number("attempts", attempts, least=1)
        await self._write(Fail, error=kept_text(error), attempts=attempts)

    async def read_retries(self, limit: int = 100, *, max_bytes: int = READ_BYTES) -> list[ParkedEvent]:
        """Parked events that somebody wants tried again; as many as `read` would give.

        Raises:
            InvalidSubscriptionError: `limit` or `max_bytes` is not a whole number from 1 up.
            SubscriptionPausedError: the subscription is paused.
            SubscriptionLostError: see the class.
        """
        check_number("limit", limit, least=1)
        check_number("max_bytes", max_bytes, least=1)
        self._settled.clear()
        read = read_retries(self.name, consumer=self.consumer, token=self.token, limit=limit, max_bytes=max_bytes)
        found = [one for one in await self._readers.run(read) if one.stored.position not in self._settled]
        self._retrying.update(parked.stored.position for parked in found)
        return found

    async def settle_retry(self, position: int) -> None:
        """Say that an event of `read_retries` is handled; it is no longer parked.

        Raises:
            InvalidSubscriptionError: it is none of them.
            SubscriptionLostError: see the class.
        """
        check_number("position", position)
        if position not in self._retrying:
            raise InvalidSubscriptionError(field="position", value=position, why="it is not being retried")
        await self._write(SettleRetry, position=position)
        self._forget_retry(position)

    async def renew(self) -> bool:
        """Keep the lease for as long as at first, from now on. Returns True if the subscription was paused: stop then.

        Raises:
            SubscriptionLostError: see the class.
        """
        paused: bool = await self._write(Renew, lease_seconds=self.lease_seconds, passed=self._passed)
        return paused

    async def release(self) -> None:
        """Give the lease back, so that another consumer need not wait until it ends. May be called again, or when it is
        lost.
        """
        await self._write(Release, passed=self._passed)
        self._on_release()

    def _forget_retry(self, position: int) -> None:
        if position in self._retrying:
            self._retrying.discard(position)
            self._settled.add(position)

    def _pass(self, position: int) -> None:
        self._passed = max(self._passed, position)
        while self._unhandled and self._unhandled[0] <= position:
            self._unhandled.popleft()
        self._parked_ahead = {ahead for ahead in self._parked_ahead if ahead > position}

    async def _write(self, work: type[ConsumerWork], **values: Any) -> Any:
        now = time_text(datetime.now(UTC))
        return await self._writer.write(
            work(
                name=self.name,
                now=now,
                consumer=self.consumer,
                token=self.token,
                seen=self._seen,
                parked_ahead=frozenset(self._parked_ahead),
                **values,
            )
        )
