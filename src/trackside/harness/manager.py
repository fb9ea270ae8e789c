"""Many runs: who may start, how many at once, where they are, how it all stops; a facade over workers and ports."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from trackside.harness.adapters import as_agent
from trackside.harness.admission import idempotency_of, member, record_of, seconds_of, timeout_of
from trackside.harness.context import Agent, current_run, depth_below
from trackside.harness.dispatch import DispatchPolicy, ObserverSet
from trackside.harness.errors import (
    ClosedError,
    DuplicateRunError,
    InvalidSpecError,
    NotAgentsError,
    NotASpecError,
    UnknownAgentError,
    UnknownRunError,
)
from trackside.harness.lifecycle import is_final
from trackside.harness.memory import MemoryCoordinator, MemoryStream, MemoryThreadStates
from trackside.harness.observer import CompositeObserver, ObserverBinding, RunObserver, RunResult
from trackside.harness.ports import (
    Admission,
    Clock,
    RunCoordinator,
    RunStream,
    StreamGap,
    StreamPart,
    SystemClock,
    ThreadStates,
)
from trackside.harness.steady import steady
from trackside.harness.timelimit import settled
from trackside.harness.types import CancelAction, CancelMode, RunRecord, RunSpec, RunStatus
from trackside.harness.worker import RunWorker, Services, Stop

logger = logging.getLogger("trackside.manager")

_LEAST_GRACE = 1.0  # seconds that a cancelled agent has to stop, also where nobody wanted to wait

_UNRECEIVED = Stop(RunStatus.cancelled, "the caller was cancelled while starting it", CancelMode.task_cancelled)
_SHUTDOWN = Stop(RunStatus.cancelled, "the manager was closed", CancelMode.shutdown)


class _Outcome:
    """A result that many may wait for; who stops waiting stops nobody else. What `shield` does, at a fifth of its price."""

    __slots__ = ("_abandoned", "_waiters", "result")

    def __init__(self, result: RunResult | None = None) -> None:
        self.result = result
        self._abandoned: Callable[[], Exception] | None = None
        self._waiters: list[asyncio.Future[RunResult]] = []

    async def wait(self) -> RunResult:
        """The result, as soon as there is one."""
        if (result := self.result) is not None:
            return result
        if self._abandoned is not None:
            raise self._abandoned()
        waiter: asyncio.Future[RunResult] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._waiters.remove(waiter)
            raise

    def resolve(self, result: RunResult) -> None:
        """Tell everybody; the first result counts."""
        if self.result is None:
            self.result = result
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(result)

    def abandon(self, error: Callable[[], Exception]) -> None:
        """Tell everybody, also those who come later, that there will be no result here."""
        if self.result is None:
            self._abandoned = error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error())


@dataclass(slots=True, eq=False)
class _Active:
    """A run from its admission to its end: who executes it, and who waits for its result."""

    worker: RunWorker
    outcome: _Outcome
    holds_slot: bool
    context: Context
    """The starter's, whoever it is that makes room for the run later (I21)."""
    task: asyncio.Task[None] | None = None


class RunHandle:
    """A run that was started: wait for it, watch it, cancel it."""

    __slots__ = ("_manager", "_outcome", "run_id", "thread_id")

    def __init__(self, manager: RunManager, run_id: str, thread_id: str, outcome: _Outcome) -> None:
        self.run_id = run_id
        self.thread_id = thread_id
        self._manager = manager
        self._outcome = outcome

    async def result(self) -> RunResult:
        """How the run ended, once its end is durable and its thread free. Cancelling the wait leaves the run alone."""
        return await self._outcome.wait()

    def stream(
        self, *, after: int | None = None, modes: Collection[str] | None = None
    ) -> AsyncIterator[StreamPart | StreamGap]:
        """The run's live output, from the part after `after`, to the end."""
        return self._manager.stream(self.run_id, after=after, modes=modes)

    async def cancel(self, *, action: CancelAction | str = CancelAction.interrupt, wait: bool = False) -> RunRecord:
        """Ask the run to stop; see `RunManager.cancel`."""
        return await self._manager.cancel(self.run_id, action=action, wait=wait)


class RunManager:
    """Runs agents on threads, many at once, one active run for each thread.

    Use it as an async context manager; leaving it waits `shutdown_grace` seconds for the runs that are there and
    cancels the rest.

        >>> async def main() -> None:
        ...     async with RunManager({"echo": echo}) as manager:
        ...         handle = await manager.start(RunSpec("echo", "hello"))
        ...         print(await handle.result())

    Args:
        agents: agents by name; a `RunSpec` names one of them, or brings its own agent.
        observers: who is told; bare ones are optional. Bind storage first, as required.
        coordinator: who may run when; in this process if left out.
        stream: where live output goes; a ring in this process if left out.
        states: what threads remember for agents without a checkpointer; in this process if left out.
        checkpointer: for agents of frameworks that keep their own state and have none.
        max_running: how many runs execute at once; runs that were started by runs come on top.
        default_timeout: seconds that a run may take unless its spec says otherwise; None: for ever.
        shutdown_grace: seconds that closing waits for runs, then for cancelled agents and for observers.
        policy: how much an observer may cost a run.
        clock: where the time comes from.
    """

    def __init__(
        self,
        agents: Mapping[str, Any] | None = None,
        *,
        observers: CompositeObserver | Sequence[RunObserver | ObserverBinding] = (),
        coordinator: RunCoordinator | None = None,
        stream: RunStream | None = None,
        states: ThreadStates | None = None,
        checkpointer: Any = None,
        max_running: int = 256,
        default_timeout: float | None = None,
        shutdown_grace: float = 10.0,
        policy: DispatchPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        if type(max_running) is not int or max_running < 1:
            raise InvalidSpecError(field="max_running", value=max_running, why="at least one run has to be able to run")
        if agents is not None and not isinstance(agents, Mapping):
            raise NotAgentsError(passed=f"{agents!r:.80}")
        clock = clock or SystemClock()
        self._given = dict(agents or {})
        self._agents = {name: as_agent(agent, name=name) for name, agent in self._given.items()}
        self._services = Services(
            coordinator=steady(coordinator or MemoryCoordinator(clock=clock)),
            stream=stream or MemoryStream(),
            states=states or MemoryThreadStates(),
            clock=clock,
            checkpointer=checkpointer,
        )
        self._max_running = max_running
        self._default_timeout = timeout_of(default_timeout, "default_timeout")
        self._grace = seconds_of(shutdown_grace, "shutdown_grace")
        self._active: dict[str, _Active] = {}
        self._ready: deque[_Active] = deque()
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._guard: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self.observers = ObserverSet(observers, policy=policy or DispatchPolicy())
        """Who is told; `add` and `remove` count from the next event on."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose(grace=self._grace if exc is None else 0.0)

    async def start(self, spec: RunSpec) -> RunHandle:
        """Let a run in; it executes as soon as its thread and a place are free.

        Raises:
            ClosedError: the manager is closing.
            NotASpecError, UnknownAgentError, InvalidSpecError, NotAnAgentError: this does not make a run.
            ThreadBusyError: its thread is busy and its strategy is `reject`.
            DuplicateRunError: its id is taken.
            RunDepthError: runs that start runs went too deep.
        """
        if self._closing is not None:
            raise _closed()
        if not isinstance(spec, RunSpec):
            raise NotASpecError(passed=f"{spec!r:.80}")
        if self._guard is None:
            self._guard = asyncio.create_task(self._close_with_the_loop(), name="trackside-guard", context=Context())
        name = self._name_of(spec.agent)
        active = self._prepare(spec, name)
        record = active.worker.record
        # There before it is let in, because it can be given its thread, or be displaced, before its admission returns.
        # A start that is repeated under its idempotency key finds the run that is there.
        if self._active.setdefault(record.run_id, active) is not active and spec.idempotency_key is None:
            raise DuplicateRunError(run_id=record.run_id)
        caller = asyncio.current_task()
        cancels = 0 if caller is None else caller.cancelling()
        try:
            # Finished once begun: a cancel of the caller is held off until it is known who was let in.
            admission = await self._services.coordinator.admit(
                record, spec=None if name is None else spec, idempotency=idempotency_of(spec)
            )
        except BaseException:
            self._forget(active)
            raise
        received = caller is None or caller.cancelling() == cancels
        self._let_in(active, admission, received=received)
        if not received:
            raise asyncio.CancelledError
        if admission.existing:
            return self._handle_of(admission.record)
        return RunHandle(self, record.run_id, record.thread_id, active.outcome)

    async def get(self, run_id: str) -> RunRecord:
        """What is known about a run.

        Raises:
            UnknownRunError: there is no such run, or it ended too long ago.
        """
        record = await self._services.coordinator.get(run_id)
        if record is None:
            raise UnknownRunError(run_id=run_id)
        return record

    async def cancel(
        self, run_id: str, *, action: CancelAction | str = CancelAction.interrupt, wait: bool = False
    ) -> RunRecord:
        """Ask a run to stop. Asking again, or asking an ended run, changes nothing and is no error.

        A run that has not started never will. With `wait` this returns when the run has really ended.

        Raises:
            UnknownRunError: there is no such run.
            InvalidSpecError: there is no such action.
        """
        action = member(CancelAction, action, "action")
        active = self._active.get(run_id)
        # Finished once begun: a run that is marked as cancelled but not ended would hold its thread for ever.
        await asyncio.shield(self._spawn(self._cancel(run_id, action), f"trackside-cancel-{run_id}"))
        if wait and active is not None:
            await active.outcome.wait()
        return await self.get(run_id)

    async def stream(
        self, run_id: str, *, after: int | None = None, modes: Collection[str] | None = None
    ) -> AsyncIterator[StreamPart | StreamGap]:
        """The live output of a run, from the part after `after` (None: from what is kept), to the run's end.

        Raises:
            UnknownRunError: there is no such run.
        """
        record = await self.get(run_id)
        stream = self._services.stream
        if is_final(record.status):
            stream.close(run_id)  # so that whoever joins late gets to the end, also if nothing is kept
        async for part in stream.follow(run_id, after=after, modes=modes):
            yield part

    async def aclose(self, *, grace: float | None = None) -> None:
        """Stop letting runs in, let those that are there finish for `grace` seconds, cancel the rest, flush, close.

        Again is fine. Cancelling this cuts the grace short, and is passed on when everything is closed.
        """
        if self._closing is None:
            grace = self._grace if grace is None else grace
            self._closing = asyncio.create_task(self._close(grace), name="trackside-close")
        closing = self._closing
        cancelled = False
        while not closing.done():
            try:
                await asyncio.wait({closing})
            except asyncio.CancelledError:
                cancelled = True
                self._hurry.set()
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.wait({self._guard})
        if cancelled:
            raise asyncio.CancelledError
        closing.result()

    async def _close_with_the_loop(self) -> None:
        """Wait to be cancelled. Who does that without `aclose` is an event loop that ends: close while it still runs."""
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            closing = self._closing
            if closing is None or not closing.done() or closing.cancelled():
                self._closing = asyncio.create_task(self._close(0.0), name="trackside-close")
                await settled(self._closing)
            raise

    async def _close(self, grace: float) -> None:
        await self._drain(grace, cut_short=True)
        for run_id, active in list(self._active.items()):
            if active.task is None and self._services.coordinator.durable:
                self._forget(active)  # it waits in the store, and starts elsewhere or after the restart (I7)
            else:
                self._spawn(self._stop(active, _SHUTDOWN), f"trackside-stop-{run_id}")
        await self._drain(max(self._grace, _LEAST_GRACE))
        for run_id in self._active:
            logger.error("run %s was cancelled, has not stopped, and is left behind", run_id)
        await self.observers.aclose(self._grace)

    async def _drain(self, seconds: float, *, cut_short: bool = False) -> None:
        """Wait until every run has ended, for at most `seconds`."""
        if not self._active or seconds <= 0:
            return
        ended = asyncio.create_task(_all_done([a.outcome for a in self._active.values()]), name="trackside-drain")
        hurry = asyncio.create_task(self._hurry.wait(), name="trackside-hurry")
        waited_for = {ended, hurry} if cut_short else {ended}
        await asyncio.wait(waited_for, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        hurry.cancel()

    def _prepare(self, spec: RunSpec, name: str | None) -> _Active:
        """A run as it is asked for, not let in yet."""
        parent = current_run()
        depth = depth_below(parent)
        agent = as_agent(spec.agent) if name is None else self._agent_named(name)
        worker = RunWorker(
            spec,
            record_of(
                spec,
                agent=name or agent.name,
                now=self._services.clock.now(),
                parent_run_id=None if parent is None else parent.run_id,
            ),
            agent,
            services=self._services,
            observers=self.observers,
            timeout=self._default_timeout if spec.timeout is None else timeout_of(spec.timeout),
            depth=depth,
            on_released=self._on_released,
        )
        # A run that waits for runs it started must not keep the place that they need.
        return _Active(worker, _Outcome(), holds_slot=depth == 0, context=copy_context())

    def _name_of(self, agent: Any) -> str | None:
        """The name under which other processes know an agent, too; None if it has none."""
        if isinstance(agent, str):
            return agent
        return next((name for name, given in self._given.items() if given is agent), None)

    def _agent_named(self, name: str) -> Agent:
        known = self._agents.get(name)
        if known is None:
            raise UnknownAgentError(name=name, known=", ".join(sorted(self._agents)) or "none")
        return known

    def _let_in(self, active: _Active, admission: Admission, *, received: bool) -> None:
        """Act on an admission. A run whose handle nobody will receive must not hold its thread (PEERS 3)."""
        if admission.existing:
            self._forget(active)
            return
        record = active.worker.record
        for displaced in admission.displaced:
            self._displace(displaced, CancelMode(record.multitask.value))
        if not received:
            self._spawn(self._stop(active, _UNRECEIVED), f"trackside-stop-{record.run_id}")
        elif admission.ready:
            self._schedule(active)

    def _handle_of(self, record: RunRecord) -> RunHandle:
        """A handle of a run that was there before."""
        active = self._active.get(record.run_id)
        if active is not None:
            return RunHandle(self, record.run_id, record.thread_id, active.outcome)
        run_id, thread_id = record.run_id, record.thread_id
        known = RunResult(run_id, thread_id, record.status, record.error, dict(record.completion_data), record.title)
        return RunHandle(self, run_id, thread_id, _Outcome(known))

    def _displace(self, displaced: RunRecord, mode: CancelMode) -> None:
        active = self._active.get(displaced.run_id)
        if active is None:
            return  # another process has it, and hears of it from the coordinator
        stop = Stop(RunStatus.cancelled, "another run took its place on the thread", mode)
        if displaced.status is RunStatus.pending:
            self._spawn(self._decline(active, stop), f"trackside-decline-{displaced.run_id}")
        else:
            active.worker.stop(stop)

    async def _cancel(self, run_id: str, action: CancelAction) -> None:
        await self._services.coordinator.request_cancel(run_id, action)
        if (active := self._active.get(run_id)) is not None:
            await self._stop(active, Stop(RunStatus.cancelled, mode=CancelMode(action.value)))

    async def _stop(self, active: _Active, stop: Stop) -> None:
        """Stop a run: one that has not started is ended here, one that has is asked to."""
        if await self._services.coordinator.withdraw(active.worker.record.run_id):
            await self._decline(active, stop)
        else:
            active.worker.stop(stop)

    def _on_released(self, run_id: str) -> None:
        active = self._active.get(run_id)
        if active is not None:
            self._schedule(active)

    def _schedule(self, active: _Active) -> None:
        """Execute a run that may be claimed, now or when there is a place."""
        if active.outcome.result is not None:
            return  # it was cancelled while it waited
        if active.holds_slot and self._running >= self._max_running:
            self._ready.append(active)
            return
        self._running += active.holds_slot
        name = f"trackside-run-{active.worker.record.run_id}"
        # Started at once up to its first pause, so that a cancel before the first tick still finds somebody to end it.
        loop = asyncio.get_running_loop()
        active.task = asyncio.Task(
            self._execute(active), loop=loop, name=name, context=active.context, eager_start=True
        )

    async def _execute(self, active: _Active) -> None:
        worker = active.worker
        try:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                worker.stop(Stop(RunStatus.cancelled, mode=CancelMode.task_cancelled))
            await worker.run()
        except Exception as exc:  # the coordinator failed; the run's own failures are outcomes, not exceptions
            logger.exception("run %s could not be executed", worker.record.run_id)
            self._resolve(active, _broken(worker.record, exc))
        finally:
            if worker.result is not None:
                self._resolve(active, worker.result)
            self._running -= active.holds_slot
            while self._ready and self._running < self._max_running:
                self._schedule(self._ready.popleft())
        if worker.fatal is not None:
            raise worker.fatal

    async def _decline(self, active: _Active, stop: Stop) -> None:
        self._resolve(active, await active.worker.decline(stop))

    def _resolve(self, active: _Active, result: RunResult) -> None:
        active.outcome.resolve(result)
        self._forget(active)

    def _forget(self, active: _Active) -> None:
        active.outcome.abandon(_closed)  # unless there is a result
        run_id = active.worker.record.run_id
        if self._active.get(run_id) is active:
            del self._active[run_id]

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        # Started at once, as runs are; the context is the worker's to choose, so that nobody sees another's run (I21).
        task = asyncio.Task(work, loop=asyncio.get_running_loop(), name=name, eager_start=True)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _broken(record: RunRecord, exc: Exception) -> RunResult:
    return RunResult(record.run_id, record.thread_id, RunStatus.error, f"it could not be executed: {exc}")


def _closed() -> ClosedError:
    return ClosedError(what="run manager")


async def _all_done(outcomes: Sequence[_Outcome]) -> None:
    for outcome in outcomes:
        with contextlib.suppress(ClosedError):
            await outcome.wait()
