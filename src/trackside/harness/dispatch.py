"""Brings events to observers: in order, isolated from each other, in bounded time, retried where the run depends on it.

A `CompositeObserver` says which observers are bound, and in which order. `ObserverSet` puts each of them into a wrapper
that bounds it: one of `bounding`, or a `BufferedObserver`. It keeps the wrappers in step with the bindings, passes
events along them, and is the one thing that the worker and the manager know of all this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from contextvars import Context
from functools import partial
from itertools import chain, count
from typing import Any

from trackside.harness.errors import ClosedError, OtherLoopError
from trackside.harness.foreign.failures import is_own_failure
from trackside.harness.foreign.timelimit import call_observer
from trackside.harness.observer import (
    CompositeObserver,
    NullObserver,
    ObserverBinding,
    RunEventCallback,
    RunLifecycleEvent,
    RunObserver,
    after_change,
    warn_of_failure,
)
from trackside.harness.observing.bounding import (
    REDELIVERIES,
    Bindings,
    DispatchPolicy,
    MissedEvents,
    MissedStats,
    OptionalObserver,
    RequiredObserver,
)
from trackside.harness.observing.buffered import BufferedObserver, BufferStats, FlushReport
from trackside.harness.ports import RunLog

logger = logging.getLogger("trackside.observer")

_RETIREMENT = 60.0  # seconds


type _Wrapped = RequiredObserver | OptionalObserver | BufferedObserver


class ObserverSet:
    """The observers of a manager or of one run, each behind what bounds it.

    `add` and `remove` count from the next event on (I19): if an observer that takes events one by one is at one of
    several, from the one after that, else from the next dispatch on. A binding sees a run's events in order (I12).

    Args:
        observers: bare observers (optional), bindings, or a `CompositeObserver`, whose later changes count, too.
        policy: what an observer may cost a run.
        log: what a required observer writes; buffers bound after the first required one read again from there what they
            had no room for.
    """

    def __init__(
        self,
        observers: CompositeObserver | Sequence[RunObserver | RunEventCallback | ObserverBinding] = (),
        *,
        policy: DispatchPolicy,
        log: RunLog | None = None,
    ) -> None:
        self._source = observers if type(observers) is CompositeObserver else CompositeObserver(_listed(observers))
        self.policy = policy
        self._log = log
        self._wrapped: dict[int, tuple[ObserverBinding, _Wrapped]] = {}
        self._named: dict[str, tuple[int, BufferedObserver]] = {}
        self._seen: tuple[ObserverBinding, ...] = ()
        self._chain: tuple[_Wrapped, ...] = ()
        self._under_way: set[object] = set()
        self._leaving: dict[BufferedObserver, set[object]] = {}
        self._retiring: dict[asyncio.Task[FlushReport], BufferedObserver] = {}
        self._closed = False
        self.missed = MissedStats()

    def add(self, observer: RunObserver | RunEventCallback, *, required: bool = False) -> None:
        """Bind one more observer, after all others, from the next event on."""
        if self._closed:
            raise ClosedError(what="set of observers")
        self._source.add(observer, required=required)

    def remove(self, observer: RunObserver | RunEventCallback) -> None:
        """Remove an observer. It has a minute to take what its buffer has accepted.

        Raises:
            ValueError: it is not bound.
        """
        self._source.remove(observer)

    @property
    def bindings(self) -> tuple[ObserverBinding, ...]:
        """What is bound now, in order."""
        return self._source.bindings

    def stats(self) -> Mapping[str, BufferStats]:
        """What became of the events of each observer behind a buffer, by name.

        The second observer of a name is `NAME 2`, even after the first is removed.
        """
        return {name: observer.stats() for name, (_, observer) in self._named.items()}

    async def deliver(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Give events of one run to all observers, in binding order; this finishes before it returns, whoever cancels
        the caller (I17). Those bound after a required observer see what it took, in the order in which it took it.

        Raises:
            BaseException: what a required observer raised, as it is.
        """
        if self._source.bindings is not self._seen:
            self._rewrap()
        if not self._chain:
            return
        dispatch = object()
        self._under_way.add(dispatch)
        try:
            failure = await self._pass_on_to_the_end(events)
        finally:
            self._under_way.discard(dispatch)
            if self._leaving:
                self._let_go(dispatch)
        if failure is not None:
            raise failure

    async def _pass_on_to_the_end(self, events: Sequence[RunLifecycleEvent]) -> BaseException | None:
        for _ in range(REDELIVERIES):
            try:
                return await self._pass_on(events, self._chain)
            except asyncio.CancelledError:
                # Each wrapper holds off a cancel of the caller. This one hit an observer's own call, as a closing
                # event loop does; observers know events by their id.
                continue
        return await self._pass_on(events, self._chain)

    async def _pass_on(self, events: Sequence[RunLifecycleEvent], chain: Sequence[_Wrapped]) -> BaseException | None:
        """What the first required observer that failed raised, or Ctrl-C in any other; the others see what those before
        them took.
        """
        failure: BaseException | None = None
        for observer in chain:
            raised: BaseException | None = None
            if self._source.bindings is not self._seen:
                self._rewrap()
            seen, bound = self._seen, self._chain
            if isinstance(observer, RequiredObserver):
                had, raised = await observer.give(events, seen)
                failure = failure or raised
                if not had:
                    break
            else:
                try:
                    had = await _offer(observer, events, seen)
                except KeyboardInterrupt as exc:  # somebody at the keyboard: those behind it are still told (I18)
                    had, failure = events, exc
            if raised is None and had[-1] is not events[-1]:
                later = await self._pass_on_rest(had, events, chain[chain.index(observer) :], bound)
                return failure or later
            events = had
        return failure

    async def _pass_on_rest(
        self,
        had: Sequence[RunLifecycleEvent],
        events: Sequence[RunLifecycleEvent],
        chain: Sequence[_Wrapped],
        before: Sequence[_Wrapped],
    ) -> BaseException | None:
        """Observers have come or gone while the first of `chain` had the last event of `had`: those behind it still get
        that event, and the change counts from the rest of `events` on (I19).
        """
        rest = events[1 + next(place for place, event in enumerate(events) if event is had[-1]) :]
        failure = await self._pass_on(had, chain[1:])
        self._rewrap_if_changed()
        later = await self._pass_on(rest, after_change(chain, before, self._chain))
        return failure or later

    async def finish(self, run_id: str) -> list[MissedEvents]:
        """Offer the events of an ended run that required observers refused, for the last time.

        Returns, for each observer that never took some, which these are and what it did with them instead.
        """
        return await self._offer_rest(run_id, self._chain)

    async def _offer_rest(
        self, run_id: str, chain: Sequence[_Wrapped], late: Sequence[RunLifecycleEvent] = ()
    ) -> list[MissedEvents]:
        """Offer what each observer refused of an ended run, and before it, what those ahead of it took `late`."""
        missed: list[MissedEvents] = []
        for observer in chain:
            if isinstance(observer, RequiredObserver):
                taken = (await observer.give(late))[0] if late else ()
                late = [*taken, *await observer.give_rest(run_id)]
                if (never_taken := await observer.give_up(run_id, partial(self._hear_taken, observer))) is not None:
                    missed.append(never_taken)
                    self.missed.count(never_taken)
            elif late:
                await _offer(observer, late)
        return missed

    async def _hear_taken(self, taker: RequiredObserver, events: Sequence[RunLifecycleEvent]) -> None:
        """A required observer has now taken what it kept of a run that is over: tell those bound after it (I11)."""
        self._rewrap_if_changed()
        chain, run_id = self._chain, events[0].run_id
        behind = chain[chain.index(taker) + 1 :] if taker in chain else ()
        if self._closed and any(isinstance(observer, BufferedObserver) for observer in behind):
            logger.info("the rest of run %s was taken when observers were closed: they are not told of it", run_id)
            behind = tuple(observer for observer in behind if not isinstance(observer, BufferedObserver))
        await self._offer_rest(run_id, behind, events)

    def drop(self, run_id: str) -> None:
        """Somebody else has ended a run: what observers here refused of it is neither offered again nor kept."""
        for observer in self._chain:
            if not isinstance(observer, BufferedObserver):
                observer.drop(run_id)

    async def catch_up(self) -> None:
        """Wait briefly until buffered observers have what they accepted; not for one that hangs (I13) or fails."""
        for observer in self._chain:
            if isinstance(observer, BufferedObserver):
                try:
                    await observer.catch_up()
                except BaseException as exc:  # a buffer in use elsewhere: its own failure alone
                    if not is_own_failure(exc):
                        raise
                    logger.warning("observer %s cannot be waited for", observer.name, exc_info=exc)

    async def flush(self, timeout: float) -> list[FlushReport]:
        """Wait until every buffered observer has what it accepted, for at most `timeout` seconds (I23)."""
        return list(await asyncio.gather(*(_seen_to(buffer, buffer.flush(timeout)) for buffer in self._buffers())))

    async def aclose(self, timeout: float) -> None:
        """Flush for at most `timeout` seconds and take nothing more; may be called again."""
        self._closed = True
        self._rewrap_if_changed()  # close also what was never told anything: a run that is left behind may still end
        closes = [_seen_to(buffer, buffer.aclose(timeout)) for buffer in self._buffers()]
        await asyncio.gather(*closes, *self._retiring)

    def _buffers(self) -> list[BufferedObserver]:
        bound = [observer for _, observer in self._wrapped.values() if isinstance(observer, BufferedObserver)]
        return [*bound, *self._leaving, *self._retiring.values()]

    def _rewrap_if_changed(self) -> None:
        if self._source.bindings is not self._seen:
            self._rewrap()

    def _rewrap(self) -> None:
        bindings = self._source.bindings
        wrapped: dict[int, tuple[ObserverBinding, _Wrapped]] = {}
        log = None
        for b in bindings:
            wrapped[id(b)] = self._wrapped.get(id(b)) or (b, self._wrap(b, log))
            if b.required:  # I11: observers before it may be told of what the log will never have
                log = self._log
        for key, (binding, observer) in self._wrapped.items():
            if key not in wrapped and isinstance(observer, BufferedObserver) and observer is not binding.observer:
                self._leaving[observer] = set(self._under_way)
        self._let_go()
        self._wrapped, self._seen = wrapped, bindings
        self._name_buffers()
        self._chain = tuple(observer for b, observer in wrapped.values() if not _is_null(b))

    def _name_buffers(self) -> None:
        """Give each buffer a name that no other has, for as long as it is bound."""
        named = {name: (key, buffer) for name, (key, buffer) in self._named.items() if key in self._wrapped}
        known = {key for key, _ in named.values()}
        for key, (_, observer) in self._wrapped.items():
            if isinstance(observer, BufferedObserver) and key not in known:
                names = chain([observer.name], (f"{observer.name} {number}" for number in count(2)))
                named[next(name for name in names if name not in named)] = key, observer
        self._named = named

    def _let_go(self, ended: object = None) -> None:
        """Close the buffers of removed observers, each when no dispatch that began before can have events for it."""
        for buffer, dispatches in list(self._leaving.items()):
            dispatches.discard(ended)
            if not dispatches:
                del self._leaving[buffer]
                retiring = _seen_to(buffer, buffer.aclose(_RETIREMENT))
                task = asyncio.create_task(retiring, name=f"trackside-retire-{buffer.name}")
                self._retiring[task] = buffer
                task.add_done_callback(self._retiring.pop)

    def _wrap(self, binding: ObserverBinding, log: RunLog | None) -> _Wrapped:
        if binding.required:
            return RequiredObserver(binding.observer, self.policy, self._source)
        if isinstance(binding.observer, BufferedObserver):
            return binding.observer
        if self.policy.buffer:
            # Not in the context of the run whose event happens to be first: the buffer outlives that run (I21).
            limit = self.policy.call_limit
            return Context().run(BufferedObserver, binding.observer, call_limit=limit, log=log, name=binding.name)
        return OptionalObserver(binding.observer, self.policy, self._source)


async def _offer(
    observer: OptionalObserver | BufferedObserver, events: Sequence[RunLifecycleEvent], seen: Bindings | None = None
) -> Sequence[RunLifecycleEvent]:
    """Give events to an optional observer; returns those it has had, as observers may have come or gone meanwhile."""
    if isinstance(observer, OptionalObserver):
        return await observer.give(events, seen)
    taking = observer.on_events(events)
    try:
        if observer.has_room_for(events):
            await taking
        else:
            await call_observer(taking, observer=observer.name, limit=None, to_the_end=True)
    except BaseException as exc:  # a buffer that is closed: its own failure alone
        if not is_own_failure(exc):
            raise
        warn_of_failure(observer, events[0], exc)
    return events


async def _seen_to(buffer: BufferedObserver, flushing: Coroutine[Any, Any, FlushReport]) -> FlushReport:
    """What became of a buffer's events; nothing if the buffer is in use elsewhere, which is its own failure alone."""
    try:
        return await flushing
    except OtherLoopError as exc:
        logger.warning("observer %s is left as it is", buffer.name, exc_info=exc)
        return FlushReport(complete=False, delivered=0, failed=0, dropped={}, pending=buffer.stats().pending)


def _listed(
    observers: CompositeObserver | Sequence[RunObserver | RunEventCallback | ObserverBinding],
) -> Sequence[RunObserver | RunEventCallback | ObserverBinding]:
    if isinstance(observers, CompositeObserver):  # a subclass: what it raises, its required observers raised
        return [ObserverBinding(observers, required=True)]
    return observers


def _is_null(binding: ObserverBinding) -> bool:
    return type(binding.observer) is NullObserver
