"""Many runs: who may start, how many at once, where they are, how it all stops; a facade over workers and ports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from trackside.harness.adapters import as_agent
from trackside.harness.addressing import addressed
from trackside.harness.admission import as_of, checked_limits, idempotency_of, member, record_of, with_attempts
from trackside.harness.amounts import seconds_of, timeout_of
from trackside.harness.budget import Budget
from trackside.harness.context import Agent, RunContext, current_run
from trackside.harness.dispatch import ObserverSet
from trackside.harness.errors import (
    ClosedError,
    DuplicateRunError,
    NoResultHereError,
    NoStreamHereError,
    NotASpecError,
    UnknownAgentError,
    UnknownRunError,
)
from trackside.harness.foreign.timelimit import cancel_held_off, outlived
from trackside.harness.items import ItemStore
from trackside.harness.lifecycle import is_final
from trackside.harness.managing import arguments
from trackside.harness.managing.closing import Closing
from trackside.harness.managing.execution import Execution, Executions
from trackside.harness.managing.handle import RunHandle
from trackside.harness.managing.hosting import Host, asked_for
from trackside.harness.managing.outcome import ELSEWHERE, outcome_elsewhere
from trackside.harness.managing.places import Places
from trackside.harness.managing.stats import ManagerStats
from trackside.harness.managing.watchdog import watchdog_of
from trackside.harness.memory import MemoryCoordinator, MemoryStream
from trackside.harness.observer import CompositeObserver, ObserverBinding, RunEventCallback, RunObserver, RunResult
from trackside.harness.observing.bounding import DispatchPolicy
from trackside.harness.ports import (
    Admission,
    Clock,
    PriceList,
    RunCoordinator,
    RunLog,
    RunStream,
    StreamGap,
    StreamPart,
    SystemClock,
    ThreadStates,
)
from trackside.harness.redaction import Redact, redacted
from trackside.harness.remembered import states_beside
from trackside.harness.running.ending import Stop, StopPolicy
from trackside.harness.running.lineage import starting_run
from trackside.harness.running.steady import steady
from trackside.harness.running.streaming import is_heard
from trackside.harness.services import Services
from trackside.harness.types import (
    AgentLimits,
    AgentStanding,
    CancelAction,
    CancelMode,
    LifecycleEventType,
    RunRecord,
    RunSpec,
    RunStatus,
)
from trackside.harness.worker import RunWorker

logger = logging.getLogger("trackside.manager")

_NO_LIMITS = AgentLimits()
_UNRECEIVED = Stop(RunStatus.cancelled, "the caller was cancelled while starting it", CancelMode.task_cancelled)


class RunManager:
    """Runs agents on threads: many runs at once, one active run per thread.

    Use it as an async context manager; leaving it waits `shutdown_grace` seconds for its runs and cancels the rest. It
    belongs to the event loop of its first run; on others, waiting for runs or changing them raises `ManagerLoopError`.

        >>> async def main() -> None:
        ...     async with RunManager({"echo": echo}) as manager:
        ...         handle = await manager.start(RunSpec("echo", "hello"))
        ...         print(await handle.result())

    Args:
        agents: agents by name; a `RunSpec` names one of them, or brings its own agent.
        observers: the observers to tell; bare ones are optional. Bind storage first, as required: with a durable
            coordinator, a manager without a required observer starts no run.
        coordinator: decides which run may start when; in this process if left out.
        stream: where live output goes; a ring in this process if left out.
        states: what threads remember for agents without a checkpointer; in this process if left out.
        checkpointer: for agents of frameworks that keep their own state and have none. Runs that cannot use it fail.
        items: where agents keep things beyond their threads, as `store.items`; without it they have no such place.
        max_running: how many runs execute at once; runs started by runs come on top.
        limits: what the runs of an agent may use, by the agent's name.
        default_timeout: seconds a run may take unless its spec or its agent's limits say otherwise; None: no limit.
        stopping: how agents are stopped, and when one that does not stop is reported.
        prices: a price list for model calls that report no cost; without it, only those that do have one.
        redact: takes out of each event's payload what nobody may see; the manager announces what it returns instead.
        shutdown_grace: how many seconds closing waits for runs, then for cancelled agents and for observers.
        block_warning_after: after how many seconds of a blocked event loop the log says what blocks it; None: never.
        policy: how much an observer may cost a run.
        log: what the first required observer writes, as `store.run_log()`: events of an optional observer that is behind
            wait there, and it misses none. Without it, what a full buffer cannot hold is dropped and counted.
        clock: the source of time; the event loop is watched for blocks only with the system's clock.

    Raises:
        NotAgentsError, NotAnAgentError, NotObserversError, NotAnObserverError: (each a `TypeError`) as the name says.
        InvalidSpecError: (a `ValueError`) another argument is not what it has to be; the message names it.
        UnknownAgentError: `limits` names an agent that does not exist.
    """

    def __init__(
        self,
        agents: Mapping[str, Any] | None = None,
        *,
        observers: CompositeObserver | Sequence[RunObserver | RunEventCallback | ObserverBinding] = (),
        coordinator: RunCoordinator | None = None,
        stream: RunStream | None = None,
        states: ThreadStates | None = None,
        checkpointer: Any = None,
        items: ItemStore | None = None,
        max_running: int = 256,
        limits: Mapping[str, AgentLimits] | None = None,
        default_timeout: float | None = None,
        stopping: StopPolicy | None = None,
        prices: PriceList | None = None,
        redact: Redact | None = None,
        shutdown_grace: float = 10.0,
        block_warning_after: float | None = 1.0,
        policy: DispatchPolicy | None = None,
        log: RunLog | None = None,
        clock: Clock | None = None,
    ) -> None:
        arguments.check_agents(agents)
        arguments.check_rules(max_running=max_running, stopping=stopping, policy=policy, redact=redact)
        arguments.check_ports(coordinator=coordinator, stream=stream, states=states, checkpointer=checkpointer)
        arguments.check_ports(items=items, prices=prices, log=log, clock=clock)
        clock = SystemClock() if clock is None else clock
        self._given = {} if agents is None else dict(agents)
        self._names = {id(agent): name for name, agent in self._given.items()}  # `_given` keeps the agents alive
        self._agents = {name: as_agent(agent, name=name) for name, agent in self._given.items()}
        self._services = Services(
            coordinator=steady(MemoryCoordinator(clock=clock) if coordinator is None else coordinator),
            stream=MemoryStream() if stream is None else stream,
            states=states_beside(coordinator) if states is None else states,
            clock=clock,
            checkpointer=checkpointer,
            items=items,
            agents=self._agents.keys(),
            prices=prices,
            redact=redact,
        )
        self._limits = checked_limits({} if limits is None else limits, durable=self._services.coordinator.durable)
        for name in self._limits:
            self._agent_named(name)
        self._stopping = StopPolicy() if stopping is None else stopping
        of_agents = {name: n for name, of_agent in self._limits.items() if (n := of_agent.max_running) is not None}
        watchdog = watchdog_of(block_warning_after, clock)
        self._runs = Executions(self._services, Places(max_running, of_agents), watchdog)
        self._default_timeout = timeout_of(default_timeout, "default_timeout")
        self.observers = ObserverSet(observers, policy=DispatchPolicy() if policy is None else policy, log=log)
        """Who is told; `add` and `remove` count from the next event on."""
        self._closing = Closing(self._runs, self.observers, clock, seconds_of(shutdown_grace, "shutdown_grace"))
        self._services.coordinator.attach(Host(self._runs, self._served, self._adopt))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose(grace=None if exc is None else 0.0)

    async def start(self, spec: RunSpec) -> RunHandle:
        """Let a run in; it executes as soon as it is due, its thread is free and there is a place for it.

        If this call is cancelled, so is the run, unless its `idempotency_key` gives it to another call, now or later.

        Raises:
            ClosedError: the manager is closing, and this is no run of its own that still has time to finish.
            ManagerLoopError: the manager is in use on another event loop.
            NotASpecError, UnknownAgentError, InvalidSpecError, NotAnAgentError: this does not make a run; or the
                coordinator is durable and no observer is required, so that it would find nothing to read.
            ThreadBusyError: the thread is busy, and the strategy is `reject`.
            UnknownThreadError: the spec requires a thread that exists, and this one does not.
            DuplicateRunError: the run's id is taken.
            RunDepthError: runs that start runs went too deep.
            PayloadError: (a `ValueError`) what was asked for cannot be read.
        """
        if not self._closing.lets_caller_start:
            raise ClosedError(what="run manager")
        if not isinstance(spec, RunSpec):
            raise NotASpecError(passed=f"{spec!r:.80}")
        if not self._is_recorded:
            raise arguments.unrecorded(self.observers.bindings)
        self._closing.watch_the_loop()
        name = self._name_of(spec.agent)
        idempotency = idempotency_of(spec, name)  # from the caller's request alone, whatever the limits are now
        limits = _NO_LIMITS if name is None else self._limits.get(name, _NO_LIMITS)
        spec = with_attempts(spec, limits, is_named=name is not None, durable=self._services.coordinator.durable)
        if (own := current_run()) is not None:
            spec = as_of(own.owner, spec)
        if spec.command is not None:
            agent = as_agent(spec.agent) if name is None else self._agent_named(name)
            limit = self.observers.policy.call_limit
            spec = await addressed(self._services, spec, agent, name or agent.name, limit=limit)
            if not self._closing.lets_caller_start:  # a close that has begun meanwhile does not know of this run
                raise ClosedError(what="run manager")
        execution = self._prepare(spec, name)
        record = execution.worker.record
        # Added before it is let in, because it can be given its thread, or be displaced, before its admission returns.
        # A start that is repeated under its idempotency key finds the run that is already here.
        if self._runs.add(execution) is not execution and spec.idempotency_key is None:
            raise DuplicateRunError(run_id=record.run_id)
        caller = asyncio.current_task()
        cancels = 0 if caller is None else caller.cancelling()
        try:
            # Finished once begun: a cancel of the caller is held off until it is known which run was let in.
            admission = await self._services.coordinator.admit(
                record, spec=None if name is None else spec, idempotency=idempotency
            )
        except BaseException as exc:
            self._runs.forget(execution)
            if isinstance(exc, Exception) and caller is not None and caller.cancelling() > cancels:
                raise cancel_held_off() from exc  # a caller that takes a refusal and goes on would never see it
            raise
        received = caller is None or caller.cancelling() == cancels
        self._let_in(execution, admission, wanted=received or idempotency is not None)
        if not received:
            raise cancel_held_off()
        started = RunHandle(self, self._runs, record, execution.outcome)
        return await self._handle_of(admission.record) if admission.existing else started

    @property
    def agents(self) -> Mapping[str, Agent]:
        """The agents that specs can name, by name."""
        return self._agents

    @property
    def closing(self) -> bool:
        """Whether the manager lets no more runs in, and is ending."""
        return self._closing.begun

    def has(self, run_id: str) -> bool:
        """Whether the run is one of this manager's and has not ended."""
        return self._runs.get(run_id) is not None

    def has_taken_over(self, run_id: str) -> bool:
        """Whether the manager `has` the run, and it was let in elsewhere, or before this manager existed."""
        return (execution := self._runs.get(run_id)) is not None and execution.taken_over

    def executed(self) -> dict[str, AgentStanding]:
        """The runs that execute here, and where the agent of each stands."""
        return self._runs.executed()

    async def result(self, run_id: str) -> RunResult:
        """Wait until a run of this manager's that has not ended yet ends, as `RunHandle.result`.

        Raises:
            NoResultHereError: the manager does not have (`has`) the run, or another process goes on with it.
            WaitsForItselfError: as `RunHandle.result`.
        """
        execution = self._runs.get(run_id)
        if execution is None:
            raise NoResultHereError(run_id=run_id, why="it is no run of this process, or has ended")
        return await self._runs.waits.result_of(execution.worker.record, execution.outcome)

    def check_turn(self, run_id: str) -> None:
        """Check that the calling code, which follows a run by other means than `stream`, may wait for it to begin.

        Raises:
            WaitsForItselfError: as `stream`, if the run is one of this manager's that has not begun.
        """
        if (execution := self._runs.get(run_id)) is not None and execution.waits:
            self._runs.waits.check(execution.worker.record)

    async def get(self, run_id: str) -> RunRecord:
        """What is known about a run.

        Raises:
            UnknownRunError: there is no such run, or it ended too long ago.
        """
        arguments.check_run_id(run_id)
        record = await self._services.coordinator.get(run_id)
        if record is None:
            raise UnknownRunError(run_id=run_id)
        return record

    async def cancel(
        self, run_id: str, *, action: CancelAction | str = CancelAction.interrupt, wait: bool = False
    ) -> RunRecord:
        """Ask a run to stop. Asking again, or asking a run that has ended, changes nothing and is no error.

        A run that has not started never will. With `wait`, this returns only once a run of this manager's has really
        ended; runs of other managers are asked to stop, and their managers see to it.

        Raises:
            UnknownRunError: there is no such run.
            InvalidSpecError: there is no such action.
            WaitsForItselfError: an observer would wait for a run that waits for it. The run stops, as it was asked to.
        """
        action = member(CancelAction, action, "action")
        arguments.check_run_id(run_id)
        self._closing.check_the_loop()
        execution = self._runs.get(run_id)
        # Finished once begun: a run that is marked as cancelled but not ended would hold its thread for ever.
        asking = self._runs.spawn(self._cancel(run_id, action), f"trackside-cancel-{run_id}")
        try:
            await outlived(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(_say_if_failed)  # nobody else is left to see it fail
            raise
        if wait and execution is not None:
            await self._runs.waits.end_of(execution.worker.record, execution.outcome)
        return await self.get(run_id)

    def abandon(self, run_id: str, reason: str) -> None:
        """End a run at once, as cancelled by a shutdown, although its agent does not stop.

        Only for a process that exits, agent and all, as soon as the end is told: nobody sees what the agent does until
        then, and the thread is the next run's. A run that is not here, or that ends by itself, is left alone.
        """
        if (execution := self._runs.get(run_id)) is not None:
            execution.worker.abandon(Stop(RunStatus.cancelled, reason, CancelMode.shutdown))

    async def stream(
        self, run_id: str, *, after: int | None = None, modes: Collection[str] | None = None
    ) -> AsyncGenerator[StreamPart | StreamGap]:
        """Follow a run's live output, from the part after `after` (None: from what is kept), to the run's end.

        Raises:
            UnknownRunError, InvalidSpecError: there is no such run, or there can be no such part or mode.
            NoStreamHereError: another process executes it, and its output does not come here.
            WaitsForItselfError: the caller is a run that has to end before this one can say more.
        """
        self._closing.check_the_loop()
        execution = self._runs.get(run_id)
        after, modes = arguments.followed(after, modes)
        stream = self._services.stream
        try:
            status = (await self.get(run_id)).status
        except UnknownRunError:  # also for a run that is not let in yet, and may never be
            raise
        except Exception:  # the coordinator's: a disk that is full, a database that is away
            if not self.has(run_id):
                raise
            status = RunStatus.running  # a run that goes on here is heard, whether its store can be read or not
        if not self.has(run_id) and not is_heard(stream, run_id):
            status = (await self.get(run_id)).status  # it may have ended here meanwhile
            if not is_final(status):
                raise NoStreamHereError(run_id=run_id, why=ELSEWHERE)
        if is_final(status):
            stream.close(run_id)  # so that a late follower gets to the end, even if nothing is kept
        parts = stream.follow(run_id, after=after, modes=modes)
        if execution is not None:
            parts = self._runs.waits.followed(parts, execution.worker.record, execution.outcome)
        async for part in parts:
            yield part

    async def aclose(self, *, grace: float | None = None) -> None:
        """Let no more runs in, give the present ones `grace` seconds to finish, cancel the rest, flush, close.

        In this order: `start` raises `ClosedError`, and runs that are not due yet are cancelled. The others get `grace`
        (`shutdown_grace` if left out); they may still start runs, even runs that are not due. Those left are cancelled
        (`cancel_mode="shutdown"`) and get `shutdown_grace`, at least one second, to stop. Saving what their threads are to
        remember, or undoing what they did, gets as long, at least half a minute. Observers get `shutdown_grace` for what
        waits for them. An end that a required observer is being told gets two minutes at most. With a durable coordinator,
        runs that have not started are left to it, not cancelled. A run that does not stop, or come to its end, is left
        behind, and the log says so; if it does later, while the event loop runs, required observers and its awaiters are
        told. Calling this again is fine, and quicker with a shorter `grace`: the second signal of an impatient user.
        Cancelling this call ends the grace, and is passed on when everything is closed; at once to what works for an agent
        here (a node, a tool).

        Raises:
            InvalidSpecError: (a `ValueError`) the grace is not a number of seconds.
            ClosesItselfError: an agent here, or an observer for which a run waits, awaits this, which waits for it.
        """
        await self._closing.close(None if grace is None else seconds_of(grace, "grace"))

    def stats(self) -> ManagerStats:
        """What the manager is doing and has done, in numbers; it takes a moment for each run that has not ended."""
        return self._runs.stats(self._services.clock.now(), self.observers.missed)

    def _prepare(self, spec: RunSpec, name: str | None) -> Execution:
        """Build a run as it is asked for, not let in yet. Which run starts it is fixed now, even if that one ends."""
        parent = starting_run()
        agent = as_agent(spec.agent) if name is None else self._agent_named(name)
        now, parent_run_id = self._services.clock.now(), None if parent is None else parent.run_id
        record = record_of(spec, agent=name or agent.name, now=now, parent_run_id=parent_run_id)
        record = self._as_seen(record)
        # A run that waits for runs it started must not keep the place that they need.
        worker = self._worker_of(spec, record, agent, parent)
        return Execution(record.run_id, record.agent, worker, copy_context(), needs_place=parent is None)

    def _as_seen(self, record: RunRecord) -> RunRecord:
        """The record without what nobody may see."""
        redact = self._services.redact
        if redact is None or not (record.metadata or record.trigger):
            return record
        says = {"agent": record.agent, "metadata": dict(record.metadata), "trigger": record.trigger}
        seen = redacted(redact, LifecycleEventType.RUN_STARTED, says)
        return replace(record, metadata=seen.get("metadata", {}), trigger=seen.get("trigger"))

    def _worker_of(
        self, spec: RunSpec, record: RunRecord, agent: Agent, starter: RunContext | None = None
    ) -> RunWorker:
        limits = self._limits.get(record.agent, _NO_LIMITS)
        return RunWorker(
            spec,
            record,
            agent,
            services=self._services,
            observers=self.observers,
            cancelled_as=self._closing.cancelled_as,
            timeout=self._timeout_of(spec, limits),
            budget=Budget.of(spec, limits),
            stopping=self._stopping,
            starter=starter,
            on_released=self._runs.schedule_next,
            on_stuck=self._note_stuck,
        )

    def _timeout_of(self, spec: RunSpec, limits: AgentLimits) -> float | None:
        if spec.timeout is not None:
            return timeout_of(spec.timeout)
        return self._default_timeout if limits.timeout is None else limits.timeout

    def _note_stuck(self, run_id: str) -> None:
        self._runs.note_stuck(run_id, self._services.clock.now())

    def _name_of(self, agent: Any) -> str | None:
        """The name under which other processes know an agent, too; None if it has none."""
        return agent if isinstance(agent, str) else self._names.get(id(agent))

    def _agent_named(self, name: str) -> Agent:
        known = self._agents.get(name)
        if known is None:
            raise UnknownAgentError(name=name, known=", ".join(sorted(self._agents)) or "none")
        return known

    def _let_in(self, execution: Execution, admission: Admission, *, wanted: bool) -> None:
        """Act on an admission. A run that is not `wanted`, as nobody can get it, must not hold its thread (PEERS 3)."""
        if admission.existing:
            self._runs.forget(execution)
            return
        is_left = execution.outcome.settled  # the manager has closed meanwhile, and the run waits in the store
        if not is_left:
            self._runs.let_in(execution)  # again: another run with its id and key may have been here, and been refused
        for displaced in admission.displaced:
            self._runs.displace(displaced, CancelMode(execution.worker.record.multitask.value))
        if is_left or admission.elsewhere:
            self._runs.leave_to_others(execution, revoked=not wanted)
        elif not wanted:
            self._runs.stop_soon(execution, _UNRECEIVED)
        elif admission.ready:
            self._runs.schedule(execution)

    async def _handle_of(self, known: RunRecord) -> RunHandle:
        """A handle of a run that was there before."""
        if (execution := self._runs.get(known.run_id)) is not None:
            return RunHandle(self, self._runs, known, execution.outcome, existing=True)
        # It may have ended since it was found.
        outcome = outcome_elsewhere(known.run_id, await self._services.coordinator.get(known.run_id))
        return RunHandle(self, self._runs, known, outcome, existing=True)

    def _served(self) -> Collection[str]:
        return () if self._closing.begun or not self._is_recorded else self._agents.keys()

    @property
    def _is_recorded(self) -> bool:
        """Whether what its runs say is written before anybody is told, if the coordinator reads what is written."""
        return not self._services.coordinator.durable or any(b.required for b in self.observers.bindings)

    def _adopt(self, record: RunRecord, spec: RunSpec) -> Execution | None:
        """Take over a run let in elsewhere, or here before the lease ended; None if it is not for this manager."""
        if record.agent not in self._served():
            logger.warning("run %s of agent %r cannot be taken over here", record.run_id, record.agent)
            return None
        self._closing.watch_the_loop()
        worker = self._worker_of(spec, record, self._agents[record.agent])
        return self._runs.take_over(Execution(record.run_id, record.agent, worker, Context(), taken_over=True))

    async def _cancel(self, run_id: str, action: CancelAction) -> None:
        await self._services.coordinator.request_cancel(run_id, action)
        if (execution := self._runs.get(run_id)) is not None:
            await self._runs.stop(execution, asked_for(action))


def _say_if_failed(asking: asyncio.Task[None]) -> None:
    if not asking.cancelled() and (failure := asking.exception()) is not None:
        logger.warning("a cancel whose caller has gone failed: %s", failure)
