"""What one observer may cost a run: wrappers that call it in bounded time, and again where the run depends on it.

`RequiredObserver` retries and gates the run; `OptionalObserver` gives up at once, and the run goes on. An optional
observer that is decoupled from the run is behind a `BufferedObserver` instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trackside.harness.amounts import seconds_of, timeout_of
from trackside.harness.errors import InvalidSpecError, ObserverTimeoutError
from trackside.harness.foreign.failures import is_own_failure, line_of, trace_of
from trackside.harness.foreign.signatures import takes
from trackside.harness.foreign.timelimit import call_observer, settled
from trackside.harness.lifecycle import is_terminal
from trackside.harness.observer import (
    CompositeObserver,
    HearTaken,
    ObserverBinding,
    PartlyTaken,
    RunLifecycleEvent,
    RunObserver,
    batches_of,
    observer_name,
    warn_of_failure,
)

logger = logging.getLogger("trackside.dispatch")

type Bindings = tuple[ObserverBinding, ...]

REDELIVERIES = 2
"""How often a call that a closing event loop has cut off is begun again."""

_LEAST_PAUSE = 0.001  # seconds
_OF_ONE_LEFT_BEHIND = 0.1  # of the limit of a call


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchPolicy:
    """How much an observer may cost a run. All times are seconds.

    `call_limit` bounds one call. A required observer that fails is tried again after `first_pause`, then after twice
    that, and so on, for `retry_for` in all; with 0 it gets one try. The same patience applies to loading, saving and
    rolling back what a thread remembers. But saving is begun once more only within `retry_for` of its beginning: stores
    wait themselves then.

    With `buffer`, optional observers take events from a queue of their own and cost the run nothing. Without it they
    are called in line and cost the run up to `call_limit` each; once a call was left behind, a tenth of that, until a
    call ends in time.

    Raises:
        InvalidSpecError: (a `ValueError`) one of these is not such a time, a pause is shorter than a millisecond, or
            `buffer` is neither True nor False.
    """

    call_limit: float | None = 30.0
    retry_for: float = 2.0
    first_pause: float = 0.02
    longest_pause: float = 0.5
    buffer: bool = True

    def __post_init__(self) -> None:
        timeout_of(self.call_limit, "call_limit")
        seconds_of(self.retry_for, "retry_for")
        for name in ("first_pause", "longest_pause"):
            pause = getattr(self, name)
            if seconds_of(pause, name) < _LEAST_PAUSE:
                why = f"it is a number of seconds from {_LEAST_PAUSE:g} up, in which the observer is left alone"
                raise InvalidSpecError(field=name, value=pause, why=why)
        if not isinstance(self.buffer, bool):
            raise InvalidSpecError(field="buffer", value=self.buffer, why="it is True or False")


IN_LINE = DispatchPolicy(retry_for=0.0, buffer=False)
"""Each observer is called once, directly, before the run goes on: for a script."""


class Retries:
    """For how long something that a run cannot go on without is tried again, counted from its first failure."""

    def __init__(self, policy: DispatchPolicy, what: str) -> None:
        self._policy = policy
        self._what = what
        self._clock = asyncio.get_running_loop().time
        self._give_up = self._clock() + policy.retry_for
        self._pause = policy.first_pause

    def pause_after(self, failure: BaseException) -> float | None:
        """How many seconds to wait before the next try; None if there is no other try."""
        pause = self._pause
        if self._clock() + pause > self._give_up:
            return None
        self._pause = min(2 * pause, self._policy.longest_pause)
        logger.warning("%s failed (%r); trying again in %.2f s", self._what, failure, pause)
        return pause


class MissedEvents(NamedTuple):
    """What a required observer never took of an ended run, and where it keeps that instead (None: nowhere)."""

    observer: str
    events: Sequence[RunLifecycleEvent]
    kept_in: str | None
    not_kept: str | None = None
    """Why an observer that keeps such events could not keep these."""

    @property
    def has_end(self) -> bool:
        """Whether the end of the run is among them."""
        return any(is_terminal(event.event_type) for event in self.events)


@dataclass(slots=True)
class MissedStats:
    """How many events required observers never took: those that they keep elsewhere, and those that are lost to them."""

    kept: int = 0
    lost: int = 0

    def count(self, missed: MissedEvents) -> None:
        """Add what one observer missed."""
        if missed.kept_in is None:
            self.lost += len(missed.events)
        else:
            self.kept += len(missed.events)


class _Calls:
    """The calls of one observer, each bounded in time, however many events it is for.

    An observer that takes them one by one gets no more of them once the bindings of `source` differ from `seen` (I19).
    """

    def __init__(self, observer: RunObserver, limit: float | None, source: CompositeObserver | None) -> None:
        self.name = observer_name(observer)
        self._on_event = observer.on_event
        self._on_events = batches_of(observer)
        self.in_batches = self._on_events is not None
        self._limit = limit
        self._source = source

    def is_outdated(self, seen: Bindings | None) -> bool:
        """Whether observers have come or gone since `seen`; None says that it does not matter."""
        return seen is not None and self._source is not None and self._source.bindings is not seen

    async def take(
        self,
        events: Sequence[RunLifecycleEvent],
        seen: Bindings | None = None,
        *,
        singly: bool = False,
        left: list[RunLifecycleEvent] | None = None,
        patience: float = 1.0,
    ) -> tuple[int, BaseException | None]:
        """How many of the events the observer took from the front, and what it raised instead of taking the next.

        A failure that is not the observer's is raised; `left`, the same events, then has those that were not taken.
        `patience` is the part of the limit for which this waits for the call.
        """
        left = list(events) if left is None else left
        batch = self._on_events is not None and not singly
        try:
            taking = self._on_events if batch else None
            # A batch is the observer's own, to do with as it likes.
            call = self._one_by_one(left, seen) if taking is None else taking([*events])
            limit = None if self._limit is None else patience * self._limit
            await call_observer(call, observer=self.name, limit=limit, to_the_end=True)
        except BaseException as exc:  # the observer's failure; the caller decides what it means
            if not is_own_failure(exc):
                raise
            if isinstance(exc, PartlyTaken):
                if batch:
                    taken = exc.taken_of(len(events))
                    return taken, exc.cause if taken < len(events) else None
                exc = exc.cause  # from a batch of one, which the observer itself made of the event
            taken = 0 if batch else len(events) - len(left)
            left.clear()  # a call left behind that goes on must not deliver what others are given now (I12)
            return taken, exc
        return len(events) if batch else len(events) - len(left), None

    async def _one_by_one(self, left: list[RunLifecycleEvent], seen: Bindings | None) -> None:
        while left:
            await self._on_event(left[0])
            del left[:1]
            if left and self.is_outdated(seen):
                return


class OptionalObserver:
    """Bounds each call of an observer, and contains its failures: each is logged and costs the observer that one event.

    If the observer has held up a run until a call was left behind, each further call for that run is waited for only a
    short while, until one ends in that time.
    """

    def __init__(self, observer: RunObserver, policy: DispatchPolicy, source: CompositeObserver | None = None) -> None:
        self.observer = observer
        self._calls = _Calls(observer, policy.call_limit, source)
        self._held_up: set[str] = set()

    async def give(
        self, events: Sequence[RunLifecycleEvent], seen: Bindings | None = None
    ) -> Sequence[RunLifecycleEvent]:
        """Pass the events on, those of a failed batch one by one, so a bad one fails alone; returns those it had."""
        run_id, is_over = events[0].run_id, any(is_terminal(event.event_type) for event in events)
        had, raised = await self._take(run_id, events, seen)
        if raised is not None and self._calls.in_batches and len(events) > 1:
            taken, raised = await self._take(run_id, events[had:], seen, singly=True)
            had += taken
        while raised is not None:
            warn_of_failure(self.observer, events[had], raised)
            had += 1
            if self._calls.is_outdated(seen):
                break
            taken, raised = await self._take(run_id, events[had:], seen, singly=True)
            had += taken
        if is_over:
            self._held_up.discard(run_id)
        return events if had == len(events) else events[:had]

    def drop(self, run_id: str) -> None:
        """Nothing more of this run comes."""
        self._held_up.discard(run_id)

    async def _take(
        self, run_id: str, events: Sequence[RunLifecycleEvent], seen: Bindings | None, *, singly: bool = False
    ) -> tuple[int, BaseException | None]:
        patience = _OF_ONE_LEFT_BEHIND if run_id in self._held_up else 1.0
        taken, raised = await self._calls.take(events, seen, singly=singly, patience=patience)
        if isinstance(raised, ObserverTimeoutError):
            self._held_up.add(run_id)
        elif events:
            self._held_up.discard(run_id)
        return taken, raised


class RequiredObserver:
    """Gives events to an observer that a run cannot go on without.

    A call that fails is tried again inside the policy's deadline, unless its error says `retryable = False`. What was
    not taken even so is held, and offered once more before the next event of the same run: all of it in one batch, so
    that a store that recovers has the run without a gap; one by one to an observer without `on_events`, which misses what
    it refuses again. So nothing is overtaken by what came later (I12). What it has still not taken when the run is over
    goes to its `on_missed`, if it has one (`observer.MissedEventsObserver`).
    """

    def __init__(self, observer: RunObserver, policy: DispatchPolicy, source: CompositeObserver | None = None) -> None:
        self.observer = observer
        self._calls = _Calls(observer, policy.call_limit, source)
        self._policy = policy
        self._on_missed = getattr(observer, "on_missed", None)
        self._takes_late = self._on_missed is not None and takes(self._on_missed, "on_taken")
        self._held: dict[str, list[RunLifecycleEvent]] = {}
        self._missed: dict[str, tuple[list[RunLifecycleEvent], BaseException]] = {}

    async def give(
        self, events: Sequence[RunLifecycleEvent], seen: Bindings | None = None
    ) -> tuple[Sequence[RunLifecycleEvent], BaseException | None]:
        """What the observer took of the held events and these, all of one run; what it raised instead of the next."""
        run_id = events[0].run_id
        held = self._held.pop(run_id, None) if self._held else None
        taken_late: list[RunLifecycleEvent] = []
        if held and not self._calls.in_batches:
            taken_late, held = await self._offer_singly(run_id, held), None
        waiting = [*held, *events] if held else events
        left = list(waiting)
        try:
            taken, raised = await self._calls.take(waiting, seen, left=left)
            if raised is not None:
                left = list(waiting[taken:])  # not the list of the call that failed, which may be left behind
                raised = await self._try_again(left, raised, seen)
                taken = len(waiting) - len(left)
        except KeyboardInterrupt as exc:  # somebody at the keyboard: try nothing again now, and forget nothing
            taken, raised = len(waiting) - len(left), exc
        except BaseException:  # the dispatch is being torn down, and will be tried again with these events
            if held:
                self._held[run_id] = held
            raise
        if raised is not None:
            self._held[run_id] = list(waiting[taken:])
        if taken < len(waiting):
            waiting = waiting[:taken]
        return ([*taken_late, *waiting] if taken_late else waiting), raised

    async def give_rest(self, run_id: str) -> Sequence[RunLifecycleEvent]:
        """Offer what is held of an ended run for the last time; returns what the observer took of it."""
        held = self._held.pop(run_id, None)
        if not held:
            return ()
        if not self._calls.in_batches:
            return await self._offer_singly(run_id, held)
        taken, raised = await self._offer_last(held)
        if raised is not None:
            self._miss(run_id, held[taken:], raised)
        return held[:taken]

    def drop(self, run_id: str) -> None:
        """Forget this run: nothing of it counts any more."""
        self._held.pop(run_id, None)
        self._missed.pop(run_id, None)

    async def give_up(self, run_id: str, on_taken: HearTaken) -> MissedEvents | None:
        """The run is over: hand what the observer never took of it to its `on_missed`, and log what it was.

        `on_taken` hears of whatever the observer takes after all.
        """
        if run_id not in self._missed:
            return None
        events, failure = self._missed.pop(run_id)
        place, not_kept = await self._keep(events, failure, on_taken)
        missed = MissedEvents(self._calls.name, events, place, not_kept)
        fate = "" if place is None else f"; it keeps them in {place}"
        if not_kept is not None:
            fate = f"; they are lost: it failed ({line_of(failure)}), and could not keep them either ({not_kept})"
        logger.error(
            "run %s: the required observer %s never took: %s%s",
            run_id,
            missed.observer,
            ", ".join(f"{event.event_type.value} ({event.sequence})" for event in events),
            fate,
        )
        return missed

    async def _keep(
        self, events: Sequence[RunLifecycleEvent], failure: BaseException, on_taken: HearTaken
    ) -> tuple[str | None, str | None]:
        """Where the observer keeps what it could not take, if it does, or why it could not keep it."""
        if (on_missed := self._on_missed) is None:
            return None, None
        places: list[str | None] = []
        more = {"on_taken": on_taken} if self._takes_late else {}

        async def hand_over() -> None:
            places.append(await on_missed(events, failure, **more))

        for _ in range(1 + REDELIVERIES):
            try:
                limit = self._policy.call_limit
                await call_observer(hand_over(), observer=self._calls.name, limit=limit, to_the_end=True)
            except asyncio.CancelledError:  # of the call itself, as by a closing event loop
                continue
            except BaseException as exc:  # the observer's failure; its events are lost to it, which the log says
                if not is_own_failure(exc):
                    raise
                text = "required observer %s could not keep what it never took: %s"
                logger.error(text, self._calls.name, line_of(exc), exc_info=trace_of(exc))  # noqa: TRY400
                return None, line_of(exc)
            return (places[0] if places else None), None
        return None, "it was cancelled again and again"

    def _miss(self, run_id: str, events: Sequence[RunLifecycleEvent], failure: BaseException) -> None:
        before = self._missed[run_id][0] if run_id in self._missed else []
        self._missed[run_id] = [*before, *events], failure

    async def _try_again(
        self, waiting: list[RunLifecycleEvent], raised: BaseException, seen: Bindings | None
    ) -> BaseException | None:
        """Remove from the front of `waiting` what the observer takes; returns what it raised last, if any is left."""
        retries = Retries(self._policy, f"required observer {self._calls.name}")
        failure: BaseException | None = raised
        while failure is not None:
            if not getattr(failure, "retryable", True) or (pause := retries.pause_after(failure)) is None:
                return failure
            await settled(asyncio.create_task(asyncio.sleep(pause), name="trackside-retry-pause"))
            taken, failure = await self._calls.take(waiting, seen)
            del waiting[:taken]
        return None

    async def _offer_singly(self, run_id: str, held: Sequence[RunLifecycleEvent]) -> list[RunLifecycleEvent]:
        """Offer each event for the last time; returns those that were taken."""
        taken = []
        for event in held:
            _, raised = await self._offer_last([event], singly=True)
            if raised is None:
                taken.append(event)
            else:
                self._miss(run_id, [event], raised)
        return taken

    async def _offer_last(
        self, events: Sequence[RunLifecycleEvent], *, singly: bool = False
    ) -> tuple[int, BaseException | None]:
        """As `_Calls.take`. What a closing event loop cuts off is begun again: it comes no more, and nobody else has it."""
        failure: BaseException | None = None
        for _ in range(1 + REDELIVERIES):
            try:
                return await self._calls.take(events, singly=singly)
            except asyncio.CancelledError as exc:
                failure = exc  # the call's own: each wrapper holds off a cancel of its caller
        return 0, failure
