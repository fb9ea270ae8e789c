"""A world of runs for generated schedules: a manager, its runs, and everybody who watches.

Everything happens on one `VirtualTimeLoop`, so a schedule is a seed and a list of steps. Each mistake is noted in
`World.wrong` at the moment it happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from tests.contract.slow_ports import SlowCoordinator, SlowStates
from tests.property.other_processes import OtherProcesses
from tests.property.run_agents import MOST_TOKENS, Working, agents_of
from tests.property.run_checks import STUCK_AFTER, WAIT, check_quiet, check_step
from tests.property.run_watchers import (
    SECRET,
    Guest,
    LosableStore,
    Moody,
    MoodyBatches,
    Redaction,
    Thread,
    Watcher,
    Witness,
)

from trackside.harness import (
    AgentLimits,
    ClosedError,
    CompositeObserver,
    DispatchPolicy,
    DuplicateRunError,
    NoResultHereError,
    ObserverBinding,
    RunContext,
    RunLifecycleEvent,
    RunManager,
    RunResult,
    RunSpec,
    StopPolicy,
    ThreadBusyError,
    UnknownRunError,
    current_run,
    run_agent,
)
from trackside.harness.ids import new_id
from trackside.harness.observing.buffered import BufferedObserver
from trackside.testing import VirtualClock, VirtualTimeLoop, make_run

POLICY = {"call_limit": 5.0, "retry_for": 1.0, "first_pause": 0.1, "longest_pause": 0.5}
SHUTDOWN_GRACE = 30.0
LEAST_PATIENCE = 1.0
"""Seconds that a closing manager leaves to agents and observers in any case."""

LIMITS = {"spends": AgentLimits(max_tokens=MOST_TOKENS), "slow to stop": AgentLimits(max_running=1)}

PATIENCE = 2_000.0
"""Seconds after which anything still waiting counts as waiting for ever; far more than all limits and agents need."""


class World:
    """A manager, its runs and everybody who watches; and runs of `run_agent` beside them."""

    def __init__(
        self,
        seed: int,
        *,
        max_running: int = 2,
        buffer: bool = True,
        slow: bool = False,
        durable: bool = False,
        cancel_after: float = 0.0,
    ) -> None:
        self.loop = VirtualTimeLoop(seed=seed)
        self.id = new_id()
        self.wrong: list[str] = []
        self.loop.set_exception_handler(partial(_note_unseen, self.wrong))
        self.cancel_after = cancel_after
        self.stoppable: set[str] = set()
        """Runs that somebody asked to stop, in whatever way: no other run may be cancelled (I16)."""
        self.closed = False
        self.closed_by = math.inf
        """When a closing manager has to be closed, whatever anybody does."""
        self.interrupted = False
        """Whether somebody has pressed Ctrl-C."""
        self.callers: list[asyncio.Task[Any]] = []
        self.results: dict[str, RunResult] = {}
        self.working: dict[str, Working] = {}
        self.worked: dict[str, Working] = {}
        self.redaction = Redaction()
        self.agents = agents_of(self)
        self.witness = Witness(self, "the witness")
        self.embedded_witness = Witness(self, "the witness of run_agent")
        self.store = LosableStore(self)
        self.moody = [
            Moody(self, "required"),
            MoodyBatches(self, "required, batches"),
            Moody(self, "optional"),
            MoodyBatches(self, "optional, batches"),
        ]
        self.required: list[Watcher] = [self.store, *self.moody[:2]]
        self.last = Watcher(self, "the last")
        self.guest: Guest | None = None
        self.own_buffer = BufferedObserver(Moody(self, "own buffer"), capacity=7, terminal_reserve=2, batch_size=3)
        self.release = asyncio.Event()
        self.others = OtherProcesses(self, durable=durable)
        self.slow = slow
        self.coordinator = (
            SlowCoordinator(WAIT, durable=durable, inner=self.others.coordinator) if slow else self.others.coordinator
        )
        self.max_running = max_running
        self.run(self._open(DispatchPolicy(buffer=buffer, **POLICY)))  # type: ignore[arg-type]

    async def _open(self, policy: DispatchPolicy) -> None:
        self.manager = RunManager(
            self.agents,
            observers=[
                ObserverBinding(self.witness, required=True),
                *(ObserverBinding(observer, required=True) for observer in self.required),
                *self.moody[2:],
                self.own_buffer,
                ObserverBinding(self.last, required=True),
            ],
            coordinator=self.coordinator,  # type: ignore[arg-type]
            states=SlowStates(WAIT) if self.slow else None,
            policy=policy,
            max_running=self.max_running,
            limits=LIMITS,
            stopping=StopPolicy(cancel_after=self.cancel_after, stuck_after=STUCK_AFTER),
            redact=self.redaction,
            shutdown_grace=SHUTDOWN_GRACE,
            clock=VirtualClock(),
        )

    @property
    def run_ids(self) -> list[str]:
        """The manager's runs that have not ended."""
        return [run.run_id for run in self.manager._runs.all()]

    def run(self, step: Any) -> Any:
        """Run the loop until this has happened; it goes on after somebody has pressed Ctrl-C."""
        done = asyncio.ensure_future(step, loop=self.loop)
        while not done.done():
            try:
                self.loop.run_until_complete(done)
            except KeyboardInterrupt:
                if not self.interrupted:
                    raise
            except RuntimeError:  # Ctrl-C may leave a pending request for the loop to stop
                if done.done() or not self.interrupted:
                    raise
        return done.result()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.run(asyncio.sleep(seconds))

    def turn(self, times: int) -> None:
        """Let the loop take this many turns; no time passes."""
        for _ in range(times):
            self._run_until(self.loop.call_soon)

    def step(self, times: int) -> None:
        """Let this many turns that do something happen, each at its time."""
        for _ in range(times):
            timers = [timer.when() for timer in self.loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            if timers and not self.loop._ready:
                self._run_until(partial(self.loop.call_at, min(timers)))
            else:
                self.turn(1)

    def _run_until(self, call: Callable[[Callable[[], object]], object]) -> None:
        reached = self.loop.create_future()
        call(partial(reached.set_result, None))
        self.run(reached)

    def start(self, temper: str, thread_id: str | None, **asked: Any) -> asyncio.Task[Any]:
        """Somebody starts a run of the manager and awaits its result."""
        spec = RunSpec(self.agents[temper], **self._given(temper, asked), thread_id=thread_id, **asked)
        return self._call(partial(self._start, spec), "starts")

    def start_embedded(self, temper: str, thread_id: str | None, **asked: Any) -> None:
        """Somebody calls `run_agent`."""
        observer = CompositeObserver(
            [ObserverBinding(self.embedded_witness, required=True), self.moody[2], self.moody[3]]
        )
        # What a `run_agent` thread needs to go on outlives its event loop, so no other world may know the thread.
        thread_id = thread_id and f"{thread_id} of {self.id}"
        given = self._given(temper, asked)
        call = partial(run_agent, self.agents[temper], **given, thread_id=thread_id, observer=observer, **asked)
        self._call(partial(self._keep, call), "run_agent")

    def _given(self, temper: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = {"metadata": {"card": SECRET, "max_tokens": asked.get("max_tokens")}}
        return given if "command" in asked else given | {"input": f"be {temper} with {SECRET}"}

    def resume(self, temper: str, thread_id: str, how: str) -> asyncio.Task[Any]:
        """Somebody answers the questions that are open on a thread, rightly or wrongly."""
        thread = self.witness.threads.get(thread_id)
        open_questions = thread.open if thread is not None else ()
        answers: Any = f"the one with {SECRET}"
        if how == "to another":
            answers = {new_id(): answers}
        elif how == "one" and open_questions:
            answers = {open_questions[-1]: answers}
        elif how == "all" and open_questions:
            answers = dict.fromkeys(open_questions, answers)
        return self.start(temper, thread_id, command={"resume": answers})

    async def start_from_an_observer(self) -> None:
        """I20: an observer starts a run and waits for it."""
        await (await self.manager.start(RunSpec(self.agents["quick"], f"from an observer: {SECRET}"))).result()

    def cancel(self, run_id: str, action: str) -> asyncio.Task[Any]:
        """Somebody cancels a run of the manager."""
        self.stoppable.add(run_id)
        return self._call(partial(self._cancel, run_id, action), "cancels")

    async def _cancel(self, run_id: str, action: str) -> None:
        try:
            await self.manager.cancel(run_id, action=action, wait=True)
        except NoResultHereError as exc:
            self.wrong.append(f"whoever cancels is to wait, if anything, and got {exc!r}")

    def cancel_caller(self, index: int, *names: str) -> None:
        """Somebody who starts, awaits, cancels or closes is cancelled."""
        waiting = [task for task in self.callers if not task.done() and (not names or task.get_name() in names)]
        if waiting:
            waiting[index % len(waiting)].cancel()

    def cancel_run_task(self, index: int) -> None:
        """Somebody reaches past the manager for a run's task."""
        tasks = [(run.run_id, run.task) for run in self.manager._runs.all() if run.task]
        if tasks:
            run_id, task = tasks[index % len(tasks)]
            self.stoppable.add(run_id)
            task.cancel()

    def receive_guest(self, *, required: bool) -> None:
        """An observer comes, or the one that came before leaves."""
        if self.guest is not None:
            self.guest.leave()
            self.manager.observers.remove(self.guest)
            self.guest = None
        elif not self.closed:
            self.guest = Guest(self)
            self.manager.observers.add(self.guest, required=required)

    def flush(self, timeout: float) -> None:
        """Somebody flushes the observers: that ends in time, and reports what is done and what is not (I23)."""
        began = self.loop.time()
        for report in self.run(self.manager.observers.flush(timeout)):
            self.check(report.complete == (report.pending == 0), f"I23: {report}")
        self.check(
            self.loop.time() <= began + timeout, f"I23: a flush of {timeout} s took {self.loop.time() - began} s"
        )

    def close(self, grace: float) -> asyncio.Task[Any]:
        """Somebody closes the manager; closing it again has to be quicker, if the grace is shorter."""
        patience = max(grace, LEAST_PATIENCE) if self.closed else SHUTDOWN_GRACE
        now = self.loop.time()
        self.closed_by = max(now, min(self.closed_by, now + grace + 2 * patience + 1))
        self.closed = True
        return self._call(partial(self.manager.aclose, grace=grace), "closes")

    def settle_down(self) -> None:
        """Everybody is in a good mood again; every run that does not end by itself is stopped; then all is quiet."""
        self.release.set()
        self.store.away = False
        for observer in self.moody:
            observer.moods.clear()
        self.advance(5)  # until every start has been answered
        self.run(self.others.tell())
        self._stop_all()
        self.run(self._quiet())

    def _stop_all(self) -> None:
        for run_id in self.run_ids:
            self.stoppable.add(run_id)
            self._call(partial(self.manager.cancel, run_id), "cancels")
        for task in self.callers:
            if task.get_name() == "run_agent":
                task.cancel()

    async def _quiet(self) -> None:
        patience = PATIENCE
        while patience > 0 and (self.run_ids or self.working or not all(task.done() for task in self.callers)):
            await asyncio.sleep(10)
            check_step(self)
            self._stop_all()
            patience -= 10
        self.check(not self.run_ids, f"runs never end: {self.run_ids}")
        waiting = [task for task in self.callers if not task.done()]
        self.check(not waiting, f"callers wait for ever: {waiting}")
        await self.manager.observers.flush(1_000)
        check_quiet(self)
        self.closed = True
        await self.manager.aclose()
        await self.manager.aclose()
        with contextlib.suppress(ClosedError):
            await self.manager.start(RunSpec("quick"))
            self.wrong.append("a closed manager starts a run")
        with contextlib.suppress(ClosedError):
            await self.own_buffer.on_event(make_run()[0])
            self.wrong.append("I23: a closed buffer takes an event")

    def end(self) -> None:
        """Close the loop; none of our tasks may be left on it."""
        self.run(asyncio.sleep(100))
        left = sorted(task.get_name() for task in asyncio.all_tasks(self.loop))
        self.loop.close()
        assert not left, f"tasks are left: {left}"
        self.__dict__.clear()  # thousands of worlds follow; `all_tasks` looks through whatever remains of them

    def _call(self, work: Callable[[], Awaitable[object]], name: str) -> asyncio.Task[Any]:
        caller = self.loop.create_task(self._caller(work), name=name)
        self.callers.append(caller)
        return caller

    async def _caller(self, work: Callable[[], Awaitable[object]]) -> None:
        before = current_run()
        try:
            await work()
        except (ClosedError, ThreadBusyError, DuplicateRunError, UnknownRunError):
            pass  # closing, busy; a key whose run is being let in; a cancel before its run is let in
        except NoResultHereError as exc:  # a durable run that has not begun waits for another process
            self.check(self.closed and self.others.coordinator.durable, f"a caller got {exc!r}")
        except KeyboardInterrupt:
            self.check(self.interrupted, "nobody has pressed Ctrl-C")
        except BaseException as exc:
            if not isinstance(exc, asyncio.CancelledError) and type(exc).__name__ != "ObserverCancelledError":
                self.wrong.append(f"a caller got {exc!r}")
        finally:
            self.check(current_run() is before is None, "I21: a caller sees a run")

    async def _start(self, spec: RunSpec) -> None:
        handle = await self.manager.start(spec)
        await self._keep(handle.result)
        if spec.idempotency_key is None:
            record = await self.manager.get(handle.run_id)
            self.check_hidden(repr(record), "a record")
            self.witness.check_record(record)

    async def _keep(self, result: Callable[[], Awaitable[RunResult]]) -> None:
        got = await result()
        self.results[got.run_id] = got
        if got.run_id in self.witness.runs:
            self.check_hidden(replace(got, output=None), "a result")  # the output is for the caller alone

    @contextlib.contextmanager
    def at_work(self, run: RunContext, temper: str) -> Iterator[Working]:
        """An agent is at work inside this context, and sees its own run."""
        task = asyncio.current_task()
        assert task is not None
        working = Working(run, temper, run.run_id in self.witness.runs, task)
        self.working[run.run_id] = self.worked[run.run_id] = working
        self._enter(working)
        try:
            yield working
        except asyncio.CancelledError:
            if task.cancelling() > 0:
                self.note_cancel(working)
            raise
        finally:
            self.check(current_run() is run, "I21: an agent lost its run")
            self._of(run).agents.discard(run.run_id)
            del self.working[run.run_id]

    def note_cancel(self, working: Working) -> None:
        """An agent has been cancelled."""
        working.cancels.append(self.loop.time())
        self.check(working.run.cancelled, f"{working.temper} is cancelled, and is not told that it shall stop")

    def _of(self, run: RunContext) -> Thread:
        witness = self.witness if run.run_id in self.witness.runs else self.embedded_witness
        return witness.threads[run.thread_id]

    def _enter(self, working: Working) -> None:
        run = working.run
        self.check(current_run() is run, "I21: an agent does not see its run")
        known = working.managed or run.run_id in self.embedded_witness.runs
        self.check(known, "I14: an agent is called whose start nobody has taken")
        if not known or run.run_id in self.others.ended:
            return
        thread = self._of(run)
        thread.agents -= self.others.ended  # those may take their time to notice
        self.check(not thread.agents, f"two agents on thread {run.thread_id}: {thread.agents}, {run.run_id}")
        self.check(thread.status == "busy", f"an agent runs on a thread that is {thread.status}")
        told = not working.managed or all(run.run_id in m.started for m in self.required)
        self.check(told, "I14: an agent is called whose start a required observer has not taken")
        thread.agents.add(run.run_id)
        at_once = [w for w in self.working.values() if w.managed and not w.run.depth]
        self.check(len(at_once) <= self.max_running, f"{len(at_once)} agents at once, but {self.max_running} places")
        alone = [w for w in at_once if w.temper == "slow to stop"]
        self.check(len(alone) <= 1, f"{len(alone)} agents at once that may run alone")
        if run.resuming and run.thread_id not in self.others.threads:
            asked = {question["id"] for question in run.paused.interrupts} if run.paused else set()
            self.check(asked == set(thread.open), f"{asked} are answered, {thread.open} were asked")
            self.check(run.answers_by_id.keys() <= asked, f"{run.answers_by_id} answer more than {asked}")

    def check(self, holds: object, otherwise: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.wrong.append(otherwise)

    def check_hidden(self, said: Any, where: str) -> None:
        """What was redacted appears nowhere."""
        self.check(SECRET not in repr(said), f"{where} shows what nobody may see: {said}")

    def check_end(self, event: RunLifecycleEvent) -> None:
        """However a run ends, it reports what it used; a run that used more than it may is no success."""
        if event.run_id in self.others.ended:
            return
        worked, says = self.worked.get(event.run_id), event.payload
        tokens = 0 if worked is None else worked.tokens
        told = says["completion_data"]["total_tokens"]
        self.check(told == tokens, f"{event.run_id} has used {tokens} tokens, and ends with {told}")
        over = worked is not None and worked.limit is not None and tokens > worked.limit
        exceeded = says.get("error_type") == "budget_exceeded"
        self.check(over or not exceeded, f"{tokens} tokens were not too many: {says}")
        self.check(not over or event.event_type != "run_completed", f"{tokens} tokens were too many: {says}")


def _note_unseen(wrong: list[str], loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """No failure may be lost, but Ctrl-C's, which went through the loop, and that of a cancel whose caller is gone."""
    if not isinstance(context.get("exception"), KeyboardInterrupt | UnknownRunError):
        wrong.append(f"{context['message']}: {context}")
