"""One run in a script: no manager, no server, nothing to install."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import replace
from typing import Any, NamedTuple, override
from weakref import WeakKeyDictionary

from trackside.harness.adapters import as_agent
from trackside.harness.addressing import addressed
from trackside.harness.admission import as_of, record_of
from trackside.harness.amounts import timeout_of
from trackside.harness.budget import Budget
from trackside.harness.context import call_in_place, current_run
from trackside.harness.dispatch import ObserverSet
from trackside.harness.errors import HeldByCallerError
from trackside.harness.managing.arguments import check_ports
from trackside.harness.memory import MemoryCoordinator, MemoryStream
from trackside.harness.observer import CompositeObserver, ObserverLike, RunResult, ensure_observer
from trackside.harness.observing.bounding import IN_LINE
from trackside.harness.payload import whole
from trackside.harness.ports import PriceList, SystemClock
from trackside.harness.remembered import MemoryThreadStates
from trackside.harness.running.ending import TASK_CANCELLED
from trackside.harness.running.lineage import line_of, starting_run
from trackside.harness.services import Services
from trackside.harness.types import AgentLimits, RunRecord, RunSpec
from trackside.harness.worker import RunWorker


class _UnheardStream(MemoryStream):
    """Keeps nothing, as nobody can follow what is published; what cannot be published fails as it does elsewhere."""

    @override
    def publish(self, run_id: str, mode: str, data: Any, namespace: tuple[str, ...] = ()) -> None:
        whole(data)

    @override
    def close(self, run_id: str, *, end: Mapping[str, Any] | None = None) -> None:
        pass


class _Turn(NamedTuple):
    comes: asyncio.Future[None]
    above: frozenset[str]
    """The runs that wait for the one whose turn it is."""


class _Embedded:
    """What the runs of one event loop share: who is on which thread, and what wakes those that wait their turn."""

    def __init__(self) -> None:
        clock = SystemClock()
        coordinator = MemoryCoordinator(clock=clock)
        self.services = Services(coordinator=coordinator, stream=_UnheardStream(), states=_states, clock=clock)
        self._holder = coordinator.holder
        self._turns: dict[str, _Turn] = {}
        self._awaited: dict[str, dict[str, str]] = {}
        """By the run above: the runs whose turn has to come before it can end, and the thread of each."""

    async def check_turn(self, thread_id: str, above: frozenset[str]) -> None:
        """Check that a run, for which those `above` it wait, would not itself wait on this thread for one of them.

        Raises:
            HeldByCallerError: one of them has the thread, or has to end before the run that has it can.
        """
        holder = await self._holder(thread_id)
        seen, needed = set[str](), [holder]
        while needed:
            if (run_id := needed.pop()) is None or run_id in seen:
                continue
            if run_id in above:
                raise HeldByCallerError(thread_id=thread_id, run_id=holder)
            seen.add(run_id)
            needed += [await self._holder(thread) for thread in {*self._awaited.get(run_id, {}).values()}]

    def turn_of(self, run: RunRecord, above: frozenset[str]) -> asyncio.Future[None]:
        """A future that is done as soon as the run, for which those `above` it wait, may be claimed."""
        turn = self._turns[run.run_id] = _Turn(asyncio.get_running_loop().create_future(), above)
        for waits in above:
            self._awaited.setdefault(waits, {})[run.run_id] = run.thread_id
        return turn.comes

    def on_released(self, run_id: str) -> None:
        """A thread was given back; this run is next."""
        if (turn := self._turns.pop(run_id, None)) is None:
            return
        for waits in turn.above:
            del self._awaited[waits][run_id]
            if not self._awaited[waits]:
                del self._awaited[waits]
        if not turn.comes.done():
            turn.comes.set_result(None)


_states = MemoryThreadStates()
_embedded: WeakKeyDictionary[asyncio.AbstractEventLoop, _Embedded] = WeakKeyDictionary()


def _share(loop: asyncio.AbstractEventLoop) -> _Embedded:
    """What the runs of this event loop share from now on. Loops that have ended are dropped, whoever still has them."""
    for known in _embedded.keyrefs():  # a list: other threads have loops of their own, and do the same
        if (other := known()) is not None and other.is_closed():
            _embedded.pop(other, None)
    embedded = _embedded[loop] = _Embedded()
    return embedded


async def run_agent(
    agent: Any,
    input: Any = None,
    *,
    observer: ObserverLike = None,
    run_id: str | None = None,
    thread_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    max_tokens: int | None = None,
    max_cost_usd: float | None = None,
    max_llm_calls: int | None = None,
    max_tool_calls: int | None = None,
    prices: PriceList | None = None,
    config: Mapping[str, Any] | None = None,
    context: Any = None,
    command: Mapping[str, Any] | None = None,
) -> RunResult:
    """Run an agent once, and tell an observer what happens.

    The observer is called in line, event by event, and has seen every event when this returns. The run waits up to 30
    seconds for an optional observer that hangs, then up to 3 seconds for each further event, until the observer takes
    one in time. Runs of one event loop that name the same thread take turns, and the process remembers what their
    threads need to go on, while there is room (`MemoryThreadStates`).

    Args:
        agent: an async function, a function, an async generator function, or an object of a framework with an adapter.
        input: the agent's input; a text is a human message.
        observer: an observer, or an async function that takes one event. For several observers, or a required one, pass
            a `CompositeObserver`.
        run_id: the run's id; made if left out.
        thread_id: the thread's id; made if left out.
        metadata: what `run_started` says about the run.
        timeout: how many seconds the run may take before it is stopped as timed out. The time that observers take to
            hear of its start does not count.
        max_tokens: how many tokens the run may use; it is stopped once it has used more.
        max_cost_usd: how much its model calls may cost, in US dollars.
        max_llm_calls: how many model calls it may make.
        max_tool_calls: how many tool calls it may make.
        prices: a price list for model calls that do not report their cost.
        config: configuration for the agent's framework.
        context: the context for the agent.
        command: `{"resume": answer}` in place of an input, to continue where a run of the thread was interrupted.

    Returns:
        How the run ended. An agent that fails gives `status=error`, not an exception.

    Raises:
        TypeError: the agent is not an agent, or the observer not an observer.
        InvalidSpecError: (a `ValueError`) an argument does not fit a run.
        PayloadError: (a `ValueError`) the metadata cannot be read.
        DuplicateRunError: another run of this event loop has this id, and either has not ended or is among the 256 that
            ended last.
        RunDepthError: runs that start runs went too deep.
        HeldByCallerError: (a `ThreadBusyError`) the caller is a run of the same thread, or a run that such a run waits
            for, perhaps through others that wait their turn; this run could not start before that one ends. If a run
            makes a call that waits its turn, that run counts as waiting for it, whoever awaits the call, unless the
            call is made in a context of its own.
        asyncio.CancelledError: the awaiting task was cancelled; the run has stopped, and `run_cancelled` was announced.
        BaseException: whatever a required observer raised; the terminal event was tried first.
    """
    if prices is not None:
        check_ports(prices=prices)
    observers = ObserverSet(
        observer if isinstance(observer, CompositeObserver) else [ensure_observer(observer)], policy=IN_LINE
    )
    spec = RunSpec(
        agent,
        input,
        run_id=run_id,
        thread_id=thread_id,
        metadata=metadata,
        timeout=timeout,
        max_tokens=max_tokens,
        max_cost_usd=max_cost_usd,
        max_llm_calls=max_llm_calls,
        max_tool_calls=max_tool_calls,
        config=config,
        context=context,
        command=command,
    )
    loop = asyncio.get_running_loop()
    embedded = _embedded.get(loop) or _share(loop)
    return await _run(spec, embedded, observers, prices)


async def _run(spec: RunSpec, embedded: _Embedded, observers: ObserverSet, prices: PriceList | None) -> RunResult:
    caller = current_run()
    if caller is not None:
        spec = as_of(caller.owner, spec)
    services = embedded.services if prices is None else replace(embedded.services, prices=prices)
    agent = as_agent(spec.agent)
    if spec.command is not None:
        spec = await addressed(services, spec, agent, agent.name, limit=observers.policy.call_limit)
    parent = starting_run()
    record = record_of(
        spec,
        agent=agent.name,
        now=services.clock.now(),
        parent_run_id=None if parent is None else parent.run_id,
    )
    worker = RunWorker(
        spec,
        record,
        agent,
        services=services,
        observers=observers,
        cancelled_as=lambda: TASK_CANCELLED,
        timeout=timeout_of(spec.timeout),
        budget=Budget.of(spec, AgentLimits()),
        starter=parent,
        on_released=embedded.on_released,
    )
    if caller is not None and not caller.is_closed and caller.thread_id == record.thread_id:
        raise HeldByCallerError(thread_id=record.thread_id, run_id=caller.run_id)  # it would wait for itself
    above = frozenset(run.run_id for run in line_of(caller) if not run.is_closed)
    if above:
        await embedded.check_turn(record.thread_id, above)
    admission = await services.coordinator.admit(record)
    turn = None if admission.ready else embedded.turn_of(record, above)
    context = copy_context()
    if caller is not None:
        context.run(call_in_place, record.run_id, caller)
    name, loop = f"trackside-run-{record.run_id}", asyncio.get_running_loop()
    task = asyncio.Task(_take_turn(worker, turn), loop=loop, name=name, context=context, eager_start=True)
    cancelled: tuple[Any, ...] | None = None  # the cancel's message, by which its sender knows it
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            if not exc.args or exc.args != cancelled:  # anyio sends the same one over and over
                worker.stop(TASK_CANCELLED)
            cancelled = exc.args
            embedded.on_released(record.run_id)  # it has waited long enough
    embedded.on_released(record.run_id)  # also if somebody else cancelled its task while it waited
    return _told(worker, task, cancelled)


async def _take_turn(worker: RunWorker, turn: asyncio.Future[None] | None) -> None:
    try:
        if turn is not None:
            await asyncio.wait({turn})
    except asyncio.CancelledError:  # by a closing event loop: the run never starts, but it ends
        worker.stop(TASK_CANCELLED)
    await worker.run()
    await worker.see_off()


def _told(worker: RunWorker, task: asyncio.Task[None], cancelled: tuple[Any, ...] | None) -> RunResult:
    """Return what the caller of an ended run gets, or raise what it gets instead."""
    if worker.fatal is not None:
        raise worker.fatal
    if cancelled is not None or task.cancelled():
        raise asyncio.CancelledError(*(cancelled or ()))
    task.result()
    if worker.delivery_error is not None:
        raise worker.delivery_error
    assert worker.result is not None, "a run that was admitted here is claimed here"
    return worker.result
