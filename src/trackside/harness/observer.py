"""The contract between a harness that runs agents and an app that wants to know.

The harness announces what happens to a run as `RunLifecycleEvent`s and never calls storage. The app supplies observers
that turn the announcements into rows, metrics, spans, messages. An observer is anything with
`async def on_event(self, event)`, or an async function of one event:

    >>> import asyncio
    >>> async def watch(event: RunLifecycleEvent) -> None: ...
    >>> composite = CompositeObserver([ensure_observer(watch)])

Bind what must not miss anything as *required* and first: nothing bound after it ever sees an event that it did not take.
"""

from __future__ import annotations

import logging
import types as _types
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from typing import Any, Protocol, cast, runtime_checkable

from trackside.harness.errors import NotAnObserverError, NotObserversError
from trackside.harness.foreign.failures import is_own_failure
from trackside.harness.foreign.signatures import never_awaitable
from trackside.harness.types import LifecycleEventType, RunStatus

__all__ = [
    "BatchRunObserver",
    "CallbackObserver",
    "CompositeObserver",
    "LifecycleEventType",
    "MissedEventsObserver",
    "NullObserver",
    "ObserverBinding",
    "ObserverLike",
    "RunEventCallback",
    "RunLifecycleEvent",
    "RunObserver",
    "RunResult",
    "ensure_observer",
]

logger = logging.getLogger("trackside.observer")

_EMPTY: Mapping[str, Any] = _types.MappingProxyType({})
_METHODS = ("on_event", "on_events", "on_missed", "on_gap")  # the first is what makes an observer


@dataclass(frozen=True)
class RunLifecycleEvent:
    """One thing that happened to one run.

    `sequence` counts 1, 2, 3 … within the run, without a gap. `occurred_at` is aware UTC. `payload` is plain JSON; its keys
    depend on the type, unknown ones are kept.
    """

    event_id: str
    event_type: LifecycleEventType
    run_id: str
    thread_id: str
    sequence: int
    occurred_at: datetime
    payload: Mapping[str, Any] = field(default_factory=dict)

    # Written out, because the one generated for a frozen class takes two and a half times as long.
    def __init__(
        self,
        event_id: str,
        event_type: LifecycleEventType,
        run_id: str,
        thread_id: str,
        sequence: int,
        occurred_at: datetime,
        payload: Mapping[str, Any] = _EMPTY,
    ) -> None:
        fields = self.__dict__
        fields["event_id"] = event_id
        fields["event_type"] = event_type
        fields["run_id"] = run_id
        fields["thread_id"] = thread_id
        fields["sequence"] = sequence
        fields["occurred_at"] = occurred_at
        fields["payload"] = {} if payload is _EMPTY else payload


@dataclass
class RunResult:
    """All that the caller of a run gets; observers are told the details."""

    run_id: str
    thread_id: str
    status: RunStatus
    error: str | None = None
    completion_data: dict[str, Any] = field(default_factory=dict)
    """Token usage and message counts from the journal."""
    title: str | None = None
    """The thread's title, if the agent or its checkpoint has one."""
    output: Any = field(default=None, kw_only=True, compare=False)
    """What the agent returned, if it did so in this process. Only the caller has it: no event and no record contains it."""


@runtime_checkable
class RunObserver(Protocol):
    """Something that is told what happens to runs."""

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Take one event. An exception raised here concerns the run only if the observer is bound as required."""
        ...


@runtime_checkable
class BatchRunObserver(RunObserver, Protocol):
    """An observer that can take several events at once, for example in one transaction.

    `on_events` is all or nothing: if it raises, none of the events counts as taken, unless it raises `PartlyTaken`. A
    subclass that overrides `on_event` alone is given events one by one.
    """

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Take these events, which are in order."""
        ...


type HearTaken = Callable[[Sequence[RunLifecycleEvent]], Awaitable[None]]


@runtime_checkable
class MissedEventsObserver(RunObserver, Protocol):
    """An observer that, bound as required, keeps elsewhere the events of a run that it could not take in the end."""

    async def on_missed(self, events: Sequence[RunLifecycleEvent], failure: BaseException) -> str | None:
        """Keep these events of one run; they come to no `on_event` again.

        Called once the run is over and everything has been offered again in vain, with all that is left of the run, in
        order: up to its terminal event and what follows that. If the run announces something even then, it is called once
        more with that. The time limit of any call applies. What is kept still counts as not taken: observers bound after
        this one do not see it, and the run's result says that its end was not taken, and where it is.

        An observer whose method also has a parameter `on_taken` may take the events later. `on_taken` is a `HearTaken`:
        await it once with the events when they are taken after all, before any later one of the run is. Then later bindings
        see them.

        Args:
            events: what is left of the run.
            failure: what the observer raised when these were last offered.

        Returns:
            Where they are, for people to read; None if they are not kept.
        """
        ...


class PartlyTaken(Exception):
    """A batch was taken only as far as the first `taken` events; the cause says what happened to the next."""

    def __init__(self, taken: int, cause: BaseException) -> None:
        super().__init__(f"only {taken} events of the batch were taken: {cause!r}")
        self.taken = taken
        self.cause = cause

    def taken_of(self, count: int) -> int:
        """How many of `count` events were taken, whatever the observer says: anything but a whole number means none."""
        said: object = self.taken
        return max(0, min(said, count)) if isinstance(said, int) else 0


type RunEventCallback = Callable[[RunLifecycleEvent], Awaitable[None]]
type RunEventsCallback = Callable[[Sequence[RunLifecycleEvent]], Coroutine[Any, Any, None]]
type ObserverLike = RunObserver | RunEventCallback | None


@dataclass(frozen=True, init=False)
class ObserverBinding:
    """An observer, or an async function of one event, and whether a run may go on without it.

    `name` is what the observer is called where several are counted; its type if left out.

    Raises:
        NotAnObserverError: (a `TypeError`) `observer` cannot take events.
    """

    observer: RunObserver
    required: bool = False
    name: str | None = field(default=None, kw_only=True)

    # Written out, because it takes more than `observer` holds: there, a function becomes a `CallbackObserver`.
    def __init__(
        self,
        observer: RunObserver | RunEventCallback,
        required: bool = False,  # noqa: FBT001, FBT002  # the seam's contract takes it by position, too
        *,
        name: str | None = None,
    ) -> None:
        if observer is None:
            raise NotAnObserverError(passed="None", why="nobody would be told")
        vars(self).update(observer=ensure_observer(observer), required=required, name=name)

    @cached_property
    def on_events(self) -> RunEventsCallback | None:
        """The method that takes several events at once; None if the observer wants them one by one (`batches_of`)."""
        return batches_of(self.observer)


def batches_of(observer: RunObserver) -> RunEventsCallback | None:
    """The observer's `on_events`; None if it has none, or only one that its `on_event` knows nothing of.

    A class that overrides `on_event` alone does something with each event that an inherited `on_events` would bypass,
    and so does a proxy that passes on whatever it is asked for. What an object makes up when asked is no method.
    """
    for names in (getattr(observer, "__dict__", {}), *map(vars, type(observer).__mro__)):
        if "on_events" in names:
            return getattr(observer, "on_events", None)
        if "on_event" in names:
            return None
    return None


class _Bound(Protocol):
    """A binding, or something that wraps one."""

    @property
    def observer(self) -> RunObserver: ...


class NullObserver:
    """An observer that does nothing."""

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Do nothing."""


@dataclass(slots=True)
class CallbackObserver:
    """Makes an observer of an async function. For anything else it raises a `NotAnObserverError`, a `TypeError`."""

    callback: RunEventCallback

    def __post_init__(self) -> None:
        if isinstance(self.callback, type):
            raise NotAnObserverError(passed=_name_of(self.callback), why="it is a class; pass an instance of it")
        if why := never_awaitable(self.callback):
            raise NotAnObserverError(passed=_name_of(self.callback), why=why)

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Await the callback.

        Raises:
            NotAnObserverError: (a `TypeError`) the callback is a plain function, whose result cannot be awaited.
        """
        answer = self.callback(event)
        if not isinstance(answer, Awaitable):
            raise NotAnObserverError(passed=_name_of(self.callback), why=f"it returned {answer!r}, nothing to await")
        await answer


class CompositeObserver:
    """Gives each event to several observers, one after another, in binding order.

    If an optional observer raises, a warning is logged and the others go on. What a required observer raises reaches the
    caller as it is, and observers bound after it do not see the event. Observers that are added or removed while an event
    is on its way count from the next event on.

    Raises:
        NotAnObserverError: (a `TypeError`) something in `observers` cannot take events.
        NotObserversError: (a `TypeError`) `observers` is not a list; a single observer has to be in one, too.
    """

    def __init__(self, observers: Sequence[RunObserver | RunEventCallback | ObserverBinding] | None = None) -> None:
        _check_list(observers)
        self._bindings: tuple[ObserverBinding, ...] = tuple(_as_binding(o) for o in observers or ())

    @property
    def bindings(self) -> tuple[ObserverBinding, ...]:
        """What is bound now, in order."""
        return self._bindings

    def add(self, observer: RunObserver | RunEventCallback, *, required: bool = False) -> None:
        """Bind one more observer, after all others, from the next event on."""
        if isinstance(observer, ObserverBinding):
            raise NotAnObserverError(passed=repr(observer), why="it is a binding; add its observer and say `required`")
        self._bindings = (*self._bindings, _as_binding(observer, required=required))

    def remove(self, observer: RunObserver | RunEventCallback) -> None:
        """Take an observer away, from the next event on.

        Raises:
            ValueError: the observer is not bound.
        """
        kept = tuple(b for b in self._bindings if not _is_bound_as(b, observer))
        if len(kept) == len(self._bindings):
            raise ValueError(f"{_name_of(observer)} is not bound here")
        self._bindings = kept

    async def on_event(self, event: RunLifecycleEvent) -> None:
        """Give the event to every observer in binding order; the class says which may stop it."""
        for binding in self._bindings:
            try:
                await binding.observer.on_event(event)
            except BaseException as exc:  # an optional observer's failure is its own
                if binding.required or not is_own_failure(exc):
                    raise
                warn_of_failure(binding.observer, event, exc)

    async def on_events(self, events: Sequence[RunLifecycleEvent]) -> None:
        """Give several events, in order, to every observer in binding order, as one batch to those that take batches.

        If a required observer fails on one of the events, those bound after it see only the events before that one. Then
        what it raised reaches the caller.
        """
        failure, _ = await self._pass_on(events, self._bindings)
        if failure is not None:
            raise failure

    def _is_outdated(self, bound: Sequence[ObserverBinding]) -> bool:
        return self._bindings is not bound

    async def _pass_on(
        self, events: Sequence[RunLifecycleEvent], bindings: Sequence[ObserverBinding]
    ) -> tuple[BaseException | None, Sequence[ObserverBinding]]:
        """What the first required observer that failed raised, and the bindings that may have what comes after these
        events: those that were told, or those in front of the failed one.
        """
        failure: BaseException | None = None
        may_have_more = bindings
        for place, binding in enumerate(bindings):
            bound = self._bindings
            changed = partial(self._is_outdated, bound)
            if binding.required:
                taken, raised = await take_in_order(binding.observer, events, binding.on_events, changed)
                if failure is None and raised is not None:
                    failure, may_have_more = raised, bindings[:place]
            else:
                taken, raised = await _offer(binding, events, changed), None
            events, rest = events[:taken], events[taken:]
            if rest and raised is None:
                first, told = await self._pass_on(events, bindings[place + 1 :])
                if first is None:
                    chain = after_change(bindings[place:], bound, self._bindings)
                else:
                    chain = _staying([binding, *told], bound, self._bindings)
                later, told = await self._pass_on(rest, chain)
                return failure or first or later, may_have_more if failure else [*bindings[:place], *told]
            if not events:
                break
        return failure, may_have_more


def ensure_observer(observer: ObserverLike) -> RunObserver:
    """Make an observer of None or an async function of one event; return an observer as it is.

    Raises:
        NotAnObserverError: (a `TypeError`) it is none of these; the message says what was passed and what is accepted.
    """
    if observer is None:
        return NullObserver()
    if hasattr(observer, "on_event"):  # like `isinstance(observer, RunObserver)`, which takes five times as long
        _check_observer(observer)
        return cast("RunObserver", observer)
    if isinstance(observer, ObserverBinding):
        raise NotAnObserverError(passed=repr(observer), why="it is a binding, which belongs in a `CompositeObserver`")
    return CallbackObserver(cast("Any", observer))


def after_change[B: _Bound](chain: Sequence[B], before: Sequence[B], now: Sequence[B]) -> Sequence[B]:
    """The bindings that get what comes after a change of bindings: those of a chain that stay, and those that are new.

    Those bound `before` that are not in the chain stood in front of it and have had all of that. So has an observer of
    theirs that was taken away and is bound anew.
    """
    then, others = {id(one) for one in before}, {id(one) for one in (*chain, *now)}
    in_front = [one.observer for one in before if id(one) not in others]
    come = (one for one in now if id(one) not in then)
    new = (one for one in come if not any(_is_bound_as(one, observer) for observer in in_front))
    return [*_staying(chain, before, now), *new]


def _staying[B: _Bound](chain: Sequence[B], before: Sequence[B], now: Sequence[B]) -> Sequence[B]:
    """The bindings of a chain that are still bound after a change of bindings."""
    then, bound = {id(one) for one in before}, {id(one) for one in now}
    return [one for one in chain if id(one) in bound or id(one) not in then]


def _never() -> bool:
    return False


async def take_in_order(
    observer: RunObserver,
    events: Sequence[RunLifecycleEvent],
    on_events: RunEventsCallback | None = None,
    enough: Callable[[], bool] = _never,
) -> tuple[int, BaseException | None]:
    """How many of the events the observer took from the front, and what it raised instead of taking the next one.

    They go to its `on_events` all at once, if that is given, else one by one until all are taken or `enough` says so. A
    failure that is not the observer's own (`is_own_failure`) is raised, not returned.
    """
    taken = 0
    try:
        if on_events is not None:
            await on_events([*events])  # a list of its own, to do with as it likes
            return len(events), None
        for event in events:
            await observer.on_event(event)
            taken += 1
            if enough():
                break
    except PartlyTaken as part:
        if on_events is None:
            return taken, part.cause  # about a batch of one, which it made of the event itself
        taken = part.taken_of(len(events))
        return taken, part.cause if taken < len(events) else None
    except BaseException as exc:  # judged by the caller, who knows whether the observer is required
        if not is_own_failure(exc):
            raise
        return taken, exc
    return taken, None


async def _offer(binding: ObserverBinding, events: Sequence[RunLifecycleEvent], enough: Callable[[], bool]) -> int:
    """Give events to an optional observer until `enough` says so; each failure is logged and costs that event alone.

    Returns how many events it has had.
    """
    had, raised = await take_in_order(binding.observer, events, binding.on_events, enough)
    if raised is not None and binding.on_events is not None:
        # Given one by one, a bad event among those not taken fails alone.
        taken, raised = await take_in_order(binding.observer, events[had:], enough=enough)
        had += taken
    while raised is not None:
        warn_of_failure(binding.observer, events[had], raised)
        had += 1
        if enough():
            break
        taken, raised = await take_in_order(binding.observer, events[had:], enough=enough)
        had += taken
    return had


def warn_of_failure(observer: RunObserver, event: RunLifecycleEvent, raised: BaseException) -> None:
    """Say in the log that an observer failed on an event and that the others go on."""
    logger.warning(
        "%s failed on %s of run %s",
        described(observer),
        event.event_type.value,
        event.run_id,
        exc_info=raised,
    )


def described(observer: RunObserver) -> str:
    """How a message about an observer begins: what it is, and its name if that says something else."""
    kind, name = type(observer).__qualname__, observer_name(observer)
    return f"observer {name}" if name == kind else f"{kind} {name}"


def observer_name(observer: RunObserver) -> str:
    """What to call an observer in messages: its type, or the function behind a callback.

    One that only passes events on to another says so as functions do, by `__wrapped__`, and is called what that one is.
    """
    if isinstance(observer, CallbackObserver):
        return _name_of(observer.callback)
    wrapped = getattr(observer, "__dict__", {}).get("__wrapped__")
    return type(observer).__qualname__ if wrapped is None else observer_name(wrapped)


def _as_binding(observer: Any, *, required: bool = False) -> ObserverBinding:
    if isinstance(observer, ObserverBinding):
        return observer
    return ObserverBinding(observer, required)


def _is_bound_as(binding: _Bound, observer: Any) -> bool:
    bound = binding.observer
    return bound is observer or (isinstance(bound, CallbackObserver) and observer in (bound.callback, bound))


def _check_list(observers: Any) -> None:
    if observers is not None and (not isinstance(observers, Iterable) or hasattr(observers, "on_event")):
        raise NotObserversError(passed=f"{observers!r:.80}")


def _check_observer(observer: Any) -> None:
    if isinstance(observer, type):
        raise NotAnObserverError(passed=_name_of(observer), why="it is a class; pass an instance of it")
    if not callable(getattr(observer, "on_event", None)):
        raise NotAnObserverError(passed=repr(observer), why="it has no method on_event")
    for name in _METHODS:
        method = getattr(observer, name, None)
        if method is not None and (why := never_awaitable(method, takes_one=name != "on_missed")):
            raise NotAnObserverError(passed=f"{type(observer).__qualname__}.{name}", why=why)


def _name_of(thing: object) -> str:
    name = getattr(thing, "__qualname__", None)
    return name if isinstance(name, str) else repr(thing)
