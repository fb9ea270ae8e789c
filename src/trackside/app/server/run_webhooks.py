"""Tells the addresses that runs were asked for with (`webhook`) how these ended: after the end is stored, at least once.

One durable subscription feeds all of them. It is made when the first such run is asked for, in whichever process; from
then on, any process that serves and has the packages for it feeds it: so a receiver is told even if the process that
executed the run is gone. Servers whose clients never name an address pay nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

import msgspec

from trackside.app.delivery import RUN_WEBHOOKS, Delivery, DeliveryError, ObserverOptionError, Order
from trackside.app.server.failures import HttpError
from trackside.app.server.outcomes import RunEnd, thread_values, with_questions
from trackside.app.server.preparing import caller_of_request
from trackside.app.server.run_ends import end_said
from trackside.app.server.wire.runs import run_on_wire
from trackside.app.storage import Store, StoredRun
from trackside.app.storage.dispatcher import Dispatcher, DurableObserver
from trackside.app.storage.errors import StorageError, UnknownSubscriptionError
from trackside.app.storage.feeding import FeedPolicy
from trackside.app.storage.subscriptions import SubscriptionFilter, Subscriptions
from trackside.app.streams import Mirrors, StreamHub
from trackside.app.vitals import FeedStats
from trackside.harness import RunManager
from trackside.harness.errors import TracksideError
from trackside.harness.foreign.timelimit import outlived
from trackside.harness.lifecycle import TERMINAL_EVENTS
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.payload import json_bytes
from trackside.harness.states import Caller
from trackside.harness.threads import in_own_thread

if TYPE_CHECKING:
    from trackside.app.observers.webhook import Poster

logger = logging.getLogger("trackside.server")

MOST_RECEIVERS: Final = 64
"""Addresses whose connections are kept."""
_AT_ONCE: Final = 8
"""Requests to one origin at once, whatever their paths: a slow server must not have all places. An origin that has
taken none of so many in a row has two until it takes one: one for addresses that have failed, and one for others."""
_FIRST_ASKED_WITHIN: Final = timedelta(minutes=10)
"""How long a run's end waits for the place of addresses that have not failed; from then on waiting counts as trying."""
_MOST_IN_HAND: Final = 10_000
"""Ends that may wait to be told, most of them to servers that are away: only behind so many do those of others wait."""
_MOST_FAILING: Final = 1_000
"""How many origins, and how many addresses, have their failures counted."""
_FULL_PAUSE: Final = 0.25
_IN_HAND_SECONDS: Final = 1.0
"""How long closing waits for receivers that have not answered: the next server tells them again."""
_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
_PRIVATE_BY: Final = "server.private_webhooks = true"
_NEEDS: Final = "webhook needs a package that is not installed here: pip install 'trackside[webhook]'"

LOOK_EVERY: Final = 10.0
"""Seconds after which a process looks again whether any run was asked for with a receiver: sooner than the lease ends
of a process that was asked and then killed.
"""


async def keep_ends(subscriptions: Subscriptions) -> None:
    """See that the ends of runs that are let in from now on are kept to be told, by whichever process tells them.

    Raises:
        StorageError: the subscription could not be made.
    """
    await subscriptions.open(RUN_WEBHOOKS, types=TERMINAL_EVENTS, start="now")


class RunWebhooks:
    """Tells receivers of the ends of runs. `begin` it; `expect` each address before its run is let in.

    Args:
        store: has the log with the ends, and what runs were asked for with.
        manager: its agents know what threads are.
        streams: has what runs have said last.
        mirrors: bring that from where runs are executed, if not here.
        checkpointer: keeps threads of graphs that have no checkpointer of their own.
        secret: signs requests as Standard Webhooks says; None: they are not signed.
        private: whether addresses on this machine and in private networks may be named, which any client could misuse.
    """

    def __init__(
        self,
        store: Store,
        manager: RunManager,
        streams: StreamHub,
        *,
        mirrors: Mirrors | None = None,
        checkpointer: Any = None,
        secret: str | None = None,
        private: bool = False,
    ) -> None:
        self._store = store
        self._receivers = Receivers(secret, private=private)
        self._teller = RunEndTeller(store, manager, streams, mirrors, checkpointer, self._receivers)
        self._dispatcher: Dispatcher | None = None
        self._opening = asyncio.Lock()
        self._openings: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Feed the receivers, as soon as any run has ever been asked for with one, in whichever process."""
        self._looking = asyncio.create_task(self._look(), name="trackside-run-webhooks")

    def stats(self) -> list[FeedStats]:
        """How the subscription stands, if it is fed here. May be called from any thread."""
        return self._dispatcher.stats() if self._dispatcher is not None and not self._dispatcher.failures else []

    async def aclose(self) -> None:
        """Stop; whichever process feeds next delivers what is left. May be called again."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
        if self._openings:
            await asyncio.wait(self._openings)
        if self._dispatcher is not None:
            await self._dispatcher.aclose()
        await self._receivers.aclose()

    async def expect(self, url: str) -> None:
        """See that a run may be asked for with this address, and that its end will be told.

        Raises:
            HttpError: it is no address that anything may be sent to (422), or the packages for it are not there (501).
            StorageError: the subscription could not be made.
        """
        self._receivers.poster_to(url)
        await self._receivers.let_idle_ones_go()  # another process may do all the telling
        # Not in the context of the client that happens to ask: the feed works for others, too (I21).
        opening = asyncio.create_task(self._open(), name="trackside-run-webhooks-open", context=Context())
        self._openings.add(opening)
        opening.add_done_callback(self._openings.discard)
        await outlived(opening)

    async def _look(self) -> None:
        """Feed the subscription once it exists. Another process may have made it, and may not live to feed it."""
        said = False
        while True:
            try:
                if not self._is_fed and await self._is_there():
                    await in_own_thread(_poster_maker)  # a process that could only park ends leaves them to others
                    await self._open()
                said = False
            except TracksideError as exc:
                if not said:  # once, not each time
                    said = True
                    logger.warning("this process does not call the webhooks of runs for now: %s", exc)
            await asyncio.sleep(LOOK_EVERY)

    @property
    def _is_fed(self) -> bool:
        return self._dispatcher is not None and not self._dispatcher.failures

    async def _is_there(self) -> bool:
        try:
            await self._store.subscriptions.get(RUN_WEBHOOKS)
        except UnknownSubscriptionError:
            return False
        return True

    async def _open(self) -> None:
        async with self._opening:
            if self._is_fed and await self._is_there():
                return
            if self._dispatcher is not None:  # somebody has deleted the subscription that it fed
                await self._dispatcher.aclose()
                self._dispatcher = None
            # Made here, so that a failure fails the request, not a task: the run's end comes after its beginning.
            await keep_ends(self._store.subscriptions)
            wanted = SubscriptionFilter.of(types=TERMINAL_EVENTS)
            policy = FeedPolicy.suiting(self._teller, grace=_IN_HAND_SECONDS, window=_MOST_IN_HAND)
            observer = _OurObserver(name=RUN_WEBHOOKS, observer=self._teller, filter=wanted, policy=policy)
            dispatcher = Dispatcher(self._store.subscriptions, [observer])
            await dispatcher.__aenter__()
            self._dispatcher = dispatcher


class _OurObserver(DurableObserver):
    """The only observer that may have the name that is reserved for it."""

    __slots__ = ()
    _taken: ClassVar[AbstractSet[str]] = frozenset()


class RunEndTeller:
    """The observer that is fed: it tells a run's receiver, if the run has one, how the run has ended."""

    delivery: ClassVar[Delivery] = Delivery.durable
    order: ClassVar[Order] = Order.none
    concurrency: ClassVar[int] = 32
    attempts: ClassVar[int] = 15
    """Within four to eight minutes, as the pauses are random, or longer where the receiver is slow or asks for that
    (`Retry-After`): receivers fail while they are deployed."""

    def __init__(
        self,
        store: Store,
        manager: RunManager,
        streams: StreamHub,
        mirrors: Mirrors | None,
        checkpointer: Any,
        receivers: Receivers,
    ) -> None:
        self._store = store
        self._manager = manager
        self._streams = streams
        self._mirrors = mirrors
        self._checkpointer = checkpointer
        self._receivers = receivers

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Take the end of a run.

        Raises:
            DeliveryError: the receiver did not take it.
        """
        request = await self._store.request_of(event.run_id)
        url = ((request or {}).get("options") or {}).get("webhook")
        if not isinstance(url, str):
            return
        async with self._receivers.place_at(url, event) as poster:
            await poster.post(event, await self._body(event, request))

    async def _body(self, event: RunLifecycleEvent, request: Mapping[str, Any] | None) -> bytes:
        """The run as clients see it, who asked for it, how it ended, and the thread's values at that time, or, if those
        are not known, now; nothing (`null`) where its agent cannot say them.

        For a run that is an attempt, it says of which run (`retry_of`), and for one that goes on, as which
        (`retried_as`): a receiver that did not know would take a failure that a later attempt makes good for the end of
        it all.
        """
        run = await self._store.run(event.run_id, removed=True)
        if run is None:
            raise _refused(event, "the run was removed")
        says: dict[str, Any] = msgspec.to_builtins(run_on_wire(run, request))
        says |= {"run_started_at": run.started_at, "run_ended_at": run.ended_at, "webhook_sent_at": datetime.now(UTC)}
        caller = caller_of_request(request, self._store.items)
        if caller.user is not None:  # the signature, which is the same for all, tells no users apart
            says["user_id"] = caller.user["identity"]
        end = RunEnd.said(end_said(event))
        if end.failure is not None:
            says["error"] = end.failure
        says |= {name: other for name, other in (("retry_of", run.retry_of), ("retried_as", end.retried_as)) if other}
        said = await self._said(run)
        if said is not None:
            says["values"] = with_questions(msgspec.json.decode(said), end.interrupts)
        else:
            says["values"] = await self._values_now(run, caller)
        return json_bytes(says)

    async def _values_now(self, run: StoredRun, caller: Caller) -> Any:
        agents, thread_id = self._manager.agents, run.thread_id
        try:
            return await thread_values(
                agents, self._store, self._checkpointer, agent=run.agent or "", thread_id=thread_id, caller=caller
            )
        except StorageError:  # the store has them, and comes back
            raise
        except TracksideError as exc:  # the receiver waits to hear how the run ended, and would for ever
            logger.warning("the webhook of run %s is sent without values: %s", run.run_id, exc, exc_info=exc.__cause__)
            return None

    async def _said(self, run: StoredRun) -> bytes | None:
        """The newest values that a run has said, if they are known here, or come here."""
        if self._mirrors is not None:
            with self._mirrors.run(run.thread_id, run.run_id):  # this ends soon, as the run has ended
                await self._streams.read(run.run_id).wait_for_end()
        return self._streams.values(run.run_id)


class Receivers:
    """The receivers: connections to each address, and how many requests to it are under way."""

    def __init__(self, secret: str | None, *, private: bool) -> None:
        self._secret = secret
        self._private = private
        self._posters: OrderedDict[str, Poster] = OrderedDict()
        self._under_way: Counter[str] = Counter()
        self._failures = Failures()
        self._failed = Failures()
        """Failures of single addresses: others at the same server may be somebody else's."""

    def __len__(self) -> int:
        return len(self._posters)

    def poster_to(self, url: str) -> Poster:
        """What posts to an address.

        Raises:
            HttpError: nothing may post there, or nothing can.
        """
        if (poster := self._posters.get(url)) is not None:
            self._posters.move_to_end(url)
            return poster
        make = _poster_maker()
        try:
            poster = make(url, secret=self._secret, private=self._private, private_by=_PRIVATE_BY)
            self._posters[url] = poster
        except ObserverOptionError as exc:
            raise HttpError(status=422, detail=f"webhook: {exc.details['why']}") from exc
        return poster

    @asynccontextmanager
    async def place_at(self, url: str, event: RunLifecycleEvent) -> AsyncGenerator[Poster]:
        """What posts to an address, for one request.

        Raises:
            DeliveryError: there are too many at once, or the address is not allowed any more; or the request failed, as
                a failure that concerns this event alone: other runs have other receivers.
        """
        origin, has_failed = _origin_of(url), self._failed[url] > 0
        in_a_row = self._failures[origin]
        under_way = [one for one in self._under_way.elements() if _origin_of(one) == origin]
        if in_a_row >= _AT_ONCE and any((self._failed[one] > 0) is has_failed for one in under_way):
            why = f"its server has taken none of the last {in_a_row}, and is asked one by one"
            may_wait = not has_failed and datetime.now(UTC) - event.occurred_at < _FIRST_ASKED_WITHIN
            raise _refused(event, why, retryable=True, held_back=may_wait)  # else an event might wait for ever
        if len(under_way) >= _AT_ONCE:
            raise _refused(event, "it is busy", retryable=True, held_back=True, retry_after=_FULL_PAUSE)
        self._under_way[url] += 1
        try:
            yield self.poster_to(url)
            self._has_answered(url, origin)
        except HttpError as exc:
            raise _refused(event, exc.details["detail"]) from exc
        except DeliveryError as exc:
            if exc.details["retryable"]:
                self._failures.add(origin)
                self._failed.add(url)
            else:
                self._has_answered(url, origin)  # it refused this event, but it is there
            named = {name: exc.details[name] for name in ("receiver", "what", "why", "retryable", "retry_after")}
            raise DeliveryError(**named) from exc
        finally:
            self._under_way[url] -= 1
            if not self._under_way[url]:
                del self._under_way[url]
            await self.let_idle_ones_go()

    def _has_answered(self, url: str, origin: str) -> None:
        self._failures.end(origin)
        self._failed.end(url)

    async def aclose(self) -> None:
        """Close all connections. May be called again."""
        while self._posters:
            _, poster = self._posters.popitem()
            await poster.aclose()

    async def let_idle_ones_go(self) -> None:
        """Close connections to addresses that nothing is being sent to, first those that were named longest ago."""
        while len(self._posters) > MOST_RECEIVERS:
            url = next((url for url in self._posters if url not in self._under_way), None)
            if url is None:
                return
            await self._posters.pop(url).aclose()  # another task may do the same meanwhile


class Failures:
    """How many requests in a row each receiver has not taken; those that failed longest ago are forgotten.

    Receivers are known by their hashes: an address may be as long as a request.
    """

    def __init__(self) -> None:
        self._in_a_row: OrderedDict[int, int] = OrderedDict()

    def __getitem__(self, who: str) -> int:
        return self._in_a_row.get(hash(who), 0)

    def add(self, who: str) -> None:
        """Note that it has failed once more."""
        self._in_a_row[hash(who)] = self._in_a_row.pop(hash(who), 0) + 1
        if len(self._in_a_row) > _MOST_FAILING:
            self._in_a_row.popitem(last=False)

    def end(self, who: str) -> None:
        """Note that it has answered."""
        self._in_a_row.pop(hash(who), None)


def _poster_maker() -> Callable[..., Poster]:
    """What makes a `Poster`.

    Raises:
        HttpError: the packages for it are not there.
    """
    try:
        from trackside.app.observers.webhook import poster_to
    except ModuleNotFoundError as exc:
        raise HttpError(status=501, detail=_NEEDS) from exc
    return poster_to


def _origin_of(url: str) -> str:
    """The server that an address is at; the text itself if it is no address: what posts to it says what is wrong."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return url
    return f"{parts.scheme}://{(parts.hostname or '').rstrip('.')}:{port}"


def _refused(event: RunLifecycleEvent, why: str, *, retryable: bool = False, **more: Any) -> DeliveryError:
    what = f"{event.event_type.value} of run {event.run_id}"
    return DeliveryError(receiver="a webhook", what=what, why=why, retryable=retryable, **more)
