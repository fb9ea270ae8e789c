"""What holds for every observer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from copy import deepcopy
from typing import Any, ClassVar, cast, override

import pytest

from trackside.harness.observer import PartlyTaken, RunLifecycleEvent, RunObserver, batches_of, ensure_observer
from trackside.harness.types import LifecycleEventType
from trackside.testing.contracts import _events
from trackside.testing.contracts._cutting import cancelled
from trackside.testing.contracts._patience import words_of
from trackside.testing.contracts._promise import Contract, promise

_TURNS_TO_CANCEL_AFTER = (1, 2, 3, 5, 8)  # of the event loop: before, during and after what the observer waits for


class ObserverContract(Contract):
    """The contract of an observer; subclass it and define the fixture `observer`, which returns a fresh one.

    The fixture may be async, and may return an async context manager, which is entered for the test.

        class TestTotals(ObserverContract):
            complete = True

            @pytest.fixture
            def observer(self) -> Totals:
                return Totals()

            async def effects(self, observer: Totals) -> list[str]:
                return observer.counted
    """

    contract_fixture = "observer"

    complete: ClassVar[bool] = False
    """Every event that the observer took has an effect, in sequence order within each run, and `effects` can tell.

    This holds however the event comes: alone, in a batch, or again after a call that was cancelled or raised; and
    whatever it says or leaves out: a question, a time that is up, no status, a run of a thread that had others before.
    An observer whose class says in `events` which types it wants has to do nothing about others.
    """

    idempotent: ClassVar[bool] = False
    """An event that comes again has no second effect, and `effects` can tell."""

    accounts: ClassVar[bool] = False
    """It has `stats()` that tell what became of each event: `accepted`, `delivered`, `failed`, `dropped`, `pending`."""

    async def effects(self, observer: Any) -> Sequence[str]:
        """The event ids of what the observer did so far, in order of the effects, one id per effect.

        Wait here for what the observer does later by itself. Needed for the claims `complete` and `idempotent`.
        """
        raise NotImplementedError(f"{type(self).__name__} makes a claim that needs the method `effects`")

    @override
    def check_fixture(self, given: Any) -> None:
        ensure_observer(given)
        assert hasattr(given, "on_event"), f"the fixture `observer` gave {given!r}, which has no method on_event"

    @pytest.mark.parametrize("kind", list(LifecycleEventType), ids=str)
    @promise("events")
    async def test_takes_each_kind_of_event_in_all_its_forms(
        self, observer: RunObserver, kind: LifecycleEventType
    ) -> None:
        for run in _events.each_kind(kind):
            await _give(observer, run)

    @promise("events")
    async def test_takes_the_end_of_a_run_that_never_started(self, observer: RunObserver) -> None:
        for kind in (LifecycleEventType.RUN_CANCELLED, LifecycleEventType.RUN_FAILED):
            await _give(observer, _events.never_started(kind))

    @promise("payloads")
    async def test_takes_payloads_with_unknown_keys_without_status_or_with_nothing(self, observer: RunObserver) -> None:
        for run in _events.with_strange_payloads():
            await _give(observer, run)

    @promise("events")
    async def test_takes_runs_that_go_on_side_by_side(self, observer: RunObserver) -> None:
        runs = [_events.run_of(number) for number in range(8)]
        await asyncio.gather(*(_give(observer, run) for run in runs))
        await _give(observer, _events.round_robin([_events.run_of(number) for number in range(8)]))

    @promise("duplicates")
    async def test_takes_an_event_that_comes_again(self, observer: RunObserver) -> None:
        run = _events.run_of(1)
        for event in run:
            await _give(observer, [event, event, *_events.copies([event])])
        await _give(observer, _events.copies(run))

    @promise("read-only")
    async def test_leaves_events_as_they_are(self, observer: RunObserver) -> None:
        forms = [run for kind in LifecycleEventType for run in _events.each_kind(kind)]
        before = [_events.run_of(1), *_events.with_strange_payloads(), *forms]
        singly, batches = deepcopy(before), deepcopy(before)  # nothing of these is shared with other tests
        for run in singly:
            await _give(observer, run)
        if (on_events := batches_of(observer)) is not None:
            for run in batches:
                await on_events([*run])
        await self._settle(observer)
        for runs in (singly, batches):
            for given, was in zip(runs, before, strict=True):
                for one, as_it_was in zip(given, was, strict=True):
                    assert one == as_it_was, f"{_name(one)} had {vars(as_it_was)} and has {vars(one)}"

    @promise("cancellation")
    async def test_a_cancel_of_on_event_is_not_swallowed(self, observer: RunObserver) -> None:
        for turns in _TURNS_TO_CANCEL_AFTER:
            before, rest = _run_for(observer, turns)
            await _give(observer, before)
            await _check_cancel("on_event", observer.on_event(rest[0]), turns)
            await _give(observer, rest)

    @promise("cancellation")
    async def test_a_cancel_of_on_events_is_not_swallowed(self, observer: RunObserver) -> None:
        on_events = _on_events(observer)
        for turns in _TURNS_TO_CANCEL_AFTER:
            before, rest = _run_for(observer, turns)
            await _check_cancel("on_events", on_events([*before, *rest]), turns)
            await on_events([*before, *rest])

    @promise("failures")
    async def test_goes_on_after_events_that_are_out_of_order(self, observer: RunObserver) -> None:
        for events in _events.out_of_order():
            await _give(observer, events[:-1])
            await _refuse_or_take(observer, events[-1])
            await _give(observer, _events.run_of(2))

    @promise("batches")
    async def test_takes_batches_of_one_run_of_many_runs_and_of_nothing(self, observer: RunObserver) -> None:
        on_events = _on_events(observer)
        await on_events([])
        await on_events(_events.run_of(1))
        await on_events(_events.round_robin([_events.run_of(number) for number in range(4)]))
        for run in _events.with_strange_payloads():
            await on_events(run)

    @promise("batches")
    async def test_takes_a_batch_that_comes_again_in_parts(self, observer: RunObserver) -> None:
        on_events = _on_events(observer)
        run = _events.run_of(1)
        await on_events(run[:2])
        await on_events(_events.copies(run))
        await _give(observer, run)

    @promise("effects", claim="complete")
    async def test_every_event_has_its_effect(self, observer: RunObserver) -> None:
        runs = _events.runs_of_each_end(8)
        await asyncio.gather(*(_give(observer, run) for run in runs))
        await self._has_had(observer, [event for run in runs for event in run])

    @promise("effects", claim="complete")
    async def test_every_form_of_an_event_has_its_effect(self, observer: RunObserver) -> None:
        runs = _events.in_all_forms()
        for run in runs:
            await _give(observer, run)
        await self._has_had(observer, [event for run in runs for event in run])

    @promise("effects", claim="complete")
    async def test_an_event_whose_call_was_cancelled_has_its_effect_when_it_comes_again(
        self, observer: RunObserver
    ) -> None:
        for turns in _TURNS_TO_CANCEL_AFTER:
            before, rest = _run_for(observer, turns)
            await _give(observer, before)
            await cancelled(observer.on_event(rest[0]), turns, "on_event")
            await _give(observer, rest)
            await self._has_had(observer, rest)

    @promise("effects", claim="complete")
    async def test_an_event_that_was_refused_has_its_effect_when_it_comes_again_and_is_taken(
        self, observer: RunObserver
    ) -> None:
        for *good, bad in _events.out_of_order():
            await _give(observer, good)
            for _ in range(2):
                if await _refuse_or_take(observer, bad):
                    await self._has_had(observer, [bad])

    @promise("I12", claim="complete")
    async def test_effects_come_in_the_order_of_the_run(self, observer: RunObserver) -> None:
        runs = _events.runs_of_each_end(8)
        await _give(observer, _events.round_robin(runs))
        await self._has_had_in_order(observer, runs)

    @promise("I12", claim="complete")
    async def test_effects_of_batches_come_in_the_order_of_the_run(self, observer: RunObserver) -> None:
        on_events = _on_events(observer)
        runs = _events.runs_of_each_end(8)
        events = _events.round_robin(runs)
        await on_events(events[:12])
        await on_events(events[12:])
        await self._has_had_in_order(observer, runs)

    @promise("batches", claim="complete")
    async def test_a_batch_has_the_effects_of_its_events(self, observer: RunObserver) -> None:
        on_events = _on_events(observer)
        runs = _events.runs_of_each_end(3)
        batch = _events.round_robin(runs)
        await on_events(batch[:1])
        await on_events(batch[1:])
        await self._has_had(observer, batch)

    @promise("batches", claim="complete")
    async def test_a_batch_has_the_effects_of_every_form_of_an_event(self, observer: RunObserver) -> None:
        on_events = _on_events(observer)
        batch = [event for run in _events.in_all_forms() for event in run]
        await on_events(batch)
        await self._has_had(observer, batch)

    @promise("batches", claim="complete")
    async def test_a_batch_that_is_refused_has_no_effect(self, observer: RunObserver) -> None:
        on_events = _on_events(observer)
        for *good, bad in _events.out_of_order():
            taken = await _taken(on_events, [*good, bad])
            effects = set(await self.effects(observer))
            seen = [event for event in good[taken:] if event.event_id in effects]
            assert not seen, f"of {len(good) - taken} events that counted as refused {len(seen)} took effect"

    @promise("batches", claim="complete")
    async def test_a_batch_whose_call_was_cancelled_has_its_effects_when_it_comes_again(
        self, observer: RunObserver
    ) -> None:
        on_events = _on_events(observer)
        for turns in _TURNS_TO_CANCEL_AFTER:
            before, rest = _run_for(observer, turns)
            await cancelled(on_events([*before, *rest]), turns, "on_events")
            await on_events([*before, *rest])
            await self._has_had(observer, rest)

    @promise("batches", claim="complete")
    async def test_a_batch_that_was_refused_has_its_effects_when_it_comes_again(self, observer: RunObserver) -> None:
        on_events = _on_events(observer)
        for *good, bad in _events.out_of_order():
            taken = await _taken(on_events, [*good, bad])
            await on_events(good[taken:])
            await self._has_had(observer, good)

    @promise("batches", claim="complete")
    async def test_a_batch_that_overlaps_what_was_taken_has_the_effects_of_the_rest(
        self, observer: RunObserver
    ) -> None:
        on_events = _on_events(observer)
        run = _events.run_of(1)
        await on_events(run[:2])
        await on_events(_events.copies(run))  # as what may not have been taken is offered again, with what came since
        await self._has_had(observer, run)

    @promise("idempotent", claim="idempotent")
    async def test_an_event_that_comes_again_has_one_effect(self, observer: RunObserver) -> None:
        events = [event for run in _events.runs_of_each_end(3) for event in run]
        for event in events:
            await _give(observer, [event, *_events.copies([event])])
        await asyncio.gather(*(_give(observer, _events.copies(events)) for _ in range(3)))
        other = _events.run_of(3)
        if (on_events := batches_of(observer)) is not None:
            await on_events(_events.copies(events))
            await on_events(other[:2])
            await on_events(_events.copies(other))
        await self._has_had_once(observer, [*events, *other])

    @promise("idempotent", claim="idempotent")
    async def test_what_comes_again_after_a_cancel_has_one_effect(self, observer: RunObserver) -> None:
        for turns in _TURNS_TO_CANCEL_AFTER:
            before, rest = _run_for(observer, turns)
            await _give(observer, before)
            await cancelled(observer.on_event(rest[0]), turns, "on_event")
            if (on_events := batches_of(observer)) is not None:
                await cancelled(on_events(rest), turns, "on_events")
            await _give(observer, rest)
            await self._has_had_once(observer, rest)

    @promise("I22", claim="accounts")
    async def test_accounts_for_every_event_at_any_moment(self, observer: RunObserver) -> None:
        stats = cast("Any", observer).stats
        events = _events.round_robin([_events.run_of(number) for number in range(8)])
        for accepted, event in enumerate(events, 1):
            await observer.on_event(event)
            _check_accounts(stats(), accepted)
            await asyncio.sleep(0)
            _check_accounts(stats(), accepted)
        await self._settle(observer)
        _check_accounts(stats(), len(events))

    @promise("I22", claim="accounts")
    async def test_accounts_for_every_event_of_a_batch_at_any_moment(self, observer: RunObserver) -> None:
        on_events, stats = _on_events(observer), cast("Any", observer).stats
        events = _events.round_robin([_events.run_of(number) for number in range(8)])
        accepted = 0
        while accepted < len(events):
            batch = events[accepted : accepted + 3]
            await on_events(batch)
            accepted += len(batch)
            _check_accounts(stats(), accepted)
            await asyncio.sleep(0)
            _check_accounts(stats(), accepted)
        await self._settle(observer)
        _check_accounts(stats(), len(events))

    @promise("I23")
    async def test_flush_reports_and_may_be_repeated(self, observer: RunObserver) -> None:
        flush = getattr(observer, "flush", None)
        if flush is None:
            pytest.skip("it has no flush")
        await _give(observer, _events.run_of(1))
        loop, leeway = asyncio.get_running_loop(), self.patience / 6
        for timeout in (0.0, self.patience / 2, self.patience / 2):
            began = loop.time()
            try:
                report = await flush(timeout)
            except Exception as exc:
                raise AssertionError(f"flush({timeout:g}) raised {words_of(exc)} instead of reporting") from exc
            took = loop.time() - began
            assert took <= timeout + leeway, f"flush({timeout:g}) took {took:g} s"
            assert report is not None, "flush returned None instead of a report"
            assert not isinstance(report, bool), f"flush returned {report} instead of a report"

    @promise("I23")
    async def test_closes_as_often_as_asked_and_loses_nothing_silently_after_it(self, observer: RunObserver) -> None:
        close = getattr(observer, "aclose", None)
        if close is None:
            pytest.skip("it has no aclose")
        before, rest = _run_for(observer, 1)
        await _give(observer, [*before, *rest])
        await _end(close)
        if self.complete:
            await self._has_had(observer, rest)
        await _end(close)
        calls: dict[str, Callable[[RunLifecycleEvent], Any]] = {"on_event": observer.on_event}
        if (on_events := batches_of(observer)) is not None:
            calls["on_events"] = lambda event: on_events([event])
        for number, (name, call) in enumerate(calls.items(), 2):
            _, (late, *_) = _run_for(observer, number)
            try:
                await call(late)
            except Exception:  # noqa: BLE001, S112  # which one it is, is the observer's to choose
                continue
            known = (self.complete or self.idempotent) and late.event_id in await self.effects(observer)
            assert known, f"an event that came to {name} after aclose was not refused, and nobody knows its fate"

    async def _settle(self, observer: RunObserver) -> None:
        """Let an observer that works on its own finish, as far as this is known to work."""
        if self.complete or self.idempotent:
            await self.effects(observer)
        elif (flush := getattr(observer, "flush", None)) is not None:
            await flush(self.patience / 2)

    async def _has_had(self, observer: RunObserver, events: Sequence[RunLifecycleEvent]) -> None:
        effects, types = set(await self.effects(observer)), _types_for(observer)
        wanted = [event for event in events if event.event_type in types]
        missing = [event for event in wanted if event.event_id not in effects]
        assert not missing, (
            f"{len(missing)} of {len(wanted)} events had no effect, the first {_name(missing[0])} with "
            f"{dict(missing[0].payload)}"
        )

    async def _has_had_in_order(self, observer: RunObserver, runs: Sequence[Sequence[RunLifecycleEvent]]) -> None:
        effects = await self.effects(observer)
        for run in runs:
            ids = {event.event_id: event.sequence for event in run}
            seen = [ids[event_id] for event_id in effects if event_id in ids]
            assert seen == sorted(seen), f"sequences of {run[0].run_id} took effect as {seen}"

    async def _has_had_once(self, observer: RunObserver, events: Sequence[RunLifecycleEvent]) -> None:
        times = Counter(await self.effects(observer))
        twice = [event for event in events if times[event.event_id] > 1]
        assert not twice, f"{_name(twice[0])} took effect {times[twice[0].event_id]} times"


def _types_for(observer: RunObserver) -> Collection[LifecycleEventType]:
    """Which types of events Trackside gives it: those that its class names, or all."""
    said: Any = getattr(type(observer), "events", None)
    try:
        return {*map(LifecycleEventType, said)} or {*LifecycleEventType}
    except (TypeError, ValueError):  # something else has that name
        return {*LifecycleEventType}


def _run_for(observer: RunObserver, number: int) -> tuple[list[RunLifecycleEvent], list[RunLifecycleEvent]]:
    """A run in two parts, the second of which begins with an event that the observer wants."""
    types = _types_for(observer)
    runs = (_events.run_of(number, status=status) for status in _events.ENDS)
    return next(
        (run[:place], run[place:]) for run in runs for place, event in enumerate(run) if event.event_type in types
    )


async def _give(observer: RunObserver, events: Sequence[RunLifecycleEvent]) -> None:
    for event in events:
        try:
            await observer.on_event(event)
        except Exception as exc:
            raise AssertionError(f"{type(exc).__name__}: {exc} on {_name(event)} with {dict(event.payload)}") from exc


async def _end(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await close()
    except Exception as exc:
        raise AssertionError(f"aclose raised {words_of(exc)}") from exc


async def _check_cancel(name: str, call: Coroutine[Any, Any, None], turns: int) -> None:
    task, pending = await cancelled(call, turns, name)
    assert task.cancelled() or not pending, (
        f"{name} was cancelled after {turns} turns of the loop and {_ending(task)} instead of being cancelled"
    )


async def _refuse_or_take(observer: RunObserver, event: RunLifecycleEvent) -> bool:
    """Whether it took the event."""
    try:
        await observer.on_event(event)
        return True
    except Exception:  # noqa: BLE001  # which one it is, is the observer's to choose
        return False
    except BaseException as exc:
        raise AssertionError(f"{type(exc).__name__} on {_name(event)}, which is no Exception") from exc


async def _taken(on_events: Any, events: Sequence[RunLifecycleEvent]) -> int:
    try:
        await on_events(events)
    except PartlyTaken as part:
        return part.taken
    except Exception:  # noqa: BLE001  # which one it is, is the observer's to choose
        return 0
    return len(events)


def _on_events(observer: RunObserver) -> Any:
    on_events = batches_of(observer)
    if on_events is None:
        pytest.skip("it has no on_events that is called")
    return on_events


def _check_accounts(stats: Any, accepted: int) -> None:
    dropped = stats.dropped
    lost = sum(dropped.values()) if isinstance(dropped, Mapping) else dropped
    total = stats.delivered + stats.failed + lost + stats.pending
    assert stats.accepted == total == accepted, f"of {accepted} events {stats}"


def _name(event: RunLifecycleEvent) -> str:
    return f"{event.event_type} {event.sequence} of {event.run_id}"


def _ending(call: asyncio.Task[None]) -> str:
    if call.cancelled():
        return "was cancelled"
    exc = call.exception()
    return "returned" if exc is None else f"raised {type(exc).__name__}: {exc}"
