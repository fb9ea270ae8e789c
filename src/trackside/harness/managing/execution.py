"""The runs of one manager, from their admission to their end: who has a place, and who waits for one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from trackside.harness.context import caller_of, current_run
from trackside.harness.errors import ClosesItselfError, NoResultHereError
from trackside.harness.foreign.exits import interrupt_loop
from trackside.harness.foreign.failures import text_of
from trackside.harness.foreign.timelimit import call_in_line
from trackside.harness.managing.outcome import ELSEWHERE, Outcome, all_done_or
from trackside.harness.managing.places import Places
from trackside.harness.managing.stats import ManagerStats, Tally
from trackside.harness.managing.waiting import Waits
from trackside.harness.managing.watchdog import LoopWatchdog
from trackside.harness.observer import RunResult
from trackside.harness.observing.bounding import MissedStats
from trackside.harness.running.ending import Stop
from trackside.harness.running.logs import fields_of
from trackside.harness.running.streaming import close_stream
from trackside.harness.services import Services
from trackside.harness.types import AgentStanding, CancelAction, CancelMode, RunRecord, RunStatus
from trackside.harness.worker import RunWorker

logger = logging.getLogger("trackside.manager")

_LEFT = "the manager was closed before the run started; it waits in the store for another process or the next start"
_LEFT_BEHIND = "the manager was closed, and could not take it out of the queue"
_TAKEN_OVER = "another process has taken it over"
_NOT_LET_IN = "the run was not let in"


@dataclass(slots=True, eq=False)
class Execution:
    """A run as its manager has it: who executes it, and who waits for its result."""

    run_id: str
    agent: str
    worker: RunWorker
    context: Context
    """The starter's, no matter who makes room for the run later (I21)."""
    needs_place: bool = True
    outcome: Outcome = field(default_factory=Outcome)
    scheduled: bool = False
    """It may be claimed, and executes as soon as there is a place."""
    stuck: bool = False
    """Its agent was cancelled, or its end waits for something, and that was not done when it should have been."""
    stranded: bool = False
    """It could not be taken out of the queue, as the coordinator failed."""
    task: asyncio.Task[None] | None = None
    executes: bool = False
    """It is under way here, in its place if it needs one; telling what is left of a run that is over needs none."""
    claims: bool = False
    """It may be claimed already: until then it waits, though it may have a place and a task."""
    left: bool = False
    """It stays where it waits, and is not claimed here any more."""
    taken_over: bool = False
    """It was let in by another process, or by this one while another manager was here."""
    let_in: bool = False
    """It is a run; otherwise it is only asked for, and there may be a run that has its id."""

    @property
    def waits(self) -> bool:
        """Whether it has not begun here."""
        return not (self.claims or self.worker.under_way)

    @property
    def standing(self) -> AgentStanding:
        """Where its agent stands."""
        if not self.worker.is_ending:
            return AgentStanding.goes_on
        return AgentStanding.stopped if self.worker.stopping else AgentStanding.finished

    def wait_again(self) -> None:
        """It has come to nothing here, and may begin anew."""
        self.task, self.scheduled, self.claims = None, False, False

    def waits_for(self, now: datetime) -> bool:
        """Whether it has not begun because it is not due yet."""
        due_at = self.worker.record.due_at
        return due_at is not None and now < due_at and self.waits


class Executions:
    """Executes the runs of a manager.

    Args:
        services: the coordinator, `steady`, says who may run when; live output goes to the stream.
        places: for the runs that need one.
        watchdog: sees to it that they do not block the event loop unnoticed.
    """

    def __init__(self, services: Services, places: Places[Execution], watchdog: LoopWatchdog | None = None) -> None:
        self._coordinator = services.coordinator
        self._stream = services.stream
        self._places = places
        self._watchdog = watchdog
        self._tally = Tally()
        self._by_id: dict[str, Execution] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.waits = Waits(self._caller)
        """Which of them waits for which."""

    def get(self, run_id: str) -> Execution | None:
        """A run that has not ended."""
        return self._by_id.get(run_id)

    def all(self) -> list[Execution]:
        """The runs that have not ended."""
        return list(self._by_id.values())

    def executed(self) -> dict[str, AgentStanding]:
        """The runs that are executed, claimed by now, and where the agent of each stands."""
        return {run.run_id: run.standing for run in self.all() if run.executes and run.worker.started}

    def add(self, execution: Execution) -> Execution:
        """Know a run from now on; returns the one with its id that was known before, or else this one."""
        return self._by_id.setdefault(execution.run_id, execution)

    def let_in(self, execution: Execution) -> None:
        """Know from now on that what was asked for is a run."""
        self.add(execution).let_in = True

    def check_close(self) -> None:
        """Check that no agent of a run here, and no observer that a run waits for, waits for a close that waits for it.

        Raises:
            ClosesItselfError: one does, in its own task; it need not wait for what others do in its name.
        """
        run = current_run()
        own = None if run is None else self._by_id.get(run.run_id)
        if own is not None and own.worker.is_inside:
            raise ClosesItselfError(run_id=own.run_id)
        if call_in_line() is not None and (worker := self._caller()) is not None:
            raise ClosesItselfError(run_id=worker.record.run_id)

    def waits_for_caller(self) -> bool:
        """Whether all is over only after the run that the calling code works for, as its agent or in a task below."""
        own = self._caller()
        return own is not None and not own.is_ending

    def _caller(self) -> RunWorker | None:
        """The run that the calling code belongs to, or the run that called it in place, if it waits for that code."""
        run = current_run()
        while run is not None and run.run_id not in self._by_id:
            run = caller_of(run)
        own = None if run is None else self._by_id.get(run.run_id)
        return own.worker if own is not None and own.worker.is_behind(call_in_line()) else None

    def take_over(self, execution: Execution) -> Execution:
        """As `let_in`, for a run from elsewhere, or one given up here that has come back: its waiters wait on."""
        known = self.add(execution)
        execution.let_in = True
        if known.worker.is_lost:
            self._places.leave(known, known.agent)
            known.outcome, execution.outcome = execution.outcome, known.outcome
        elif known.let_in or known.scheduled:
            return known
        self._by_id[execution.run_id] = execution
        return execution

    def schedule(self, execution: Execution) -> None:
        """Execute a run that may be claimed, now or when there is a place; may be called again."""
        if execution.scheduled or execution.outcome.settled:
            return
        execution.scheduled = True
        if not execution.needs_place or self._places.take(execution, execution.agent):
            self._begin(execution)

    def schedule_next(self, run_id: str) -> None:
        """A run may be claimed, because a thread was given back; if another process has it, that one sees to it."""
        if (execution := self._by_id.get(run_id)) is not None:
            self.schedule(execution)

    def displace(self, run: RunRecord, mode: CancelMode) -> None:
        """A run has to make room; if it is another process's, that process hears of it from the coordinator."""
        if (execution := self._by_id.get(run.run_id)) is None:
            return
        stop = Stop(RunStatus.cancelled, "another run took its place on the thread", mode)
        if run.status is RunStatus.pending:
            self.spawn(self._decline(execution, stop), f"trackside-decline-{run.run_id}")
        else:
            execution.worker.stop(stop)

    async def stop(self, execution: Execution, stop: Stop) -> None:
        """Stop a run: one that has not started is ended here, one that has is asked to stop.

        Raises:
            Exception: the coordinator failed. A run that has started is asked anyway, any other ends at its turn.
        """
        try:
            withdrawn = await self._coordinator.withdraw(execution.run_id)
        except Exception:
            execution.worker.stop(stop)
            raise
        if withdrawn:
            await self._decline(execution, stop)
        else:
            execution.worker.stop(stop)

    def stop_soon(self, execution: Execution, stop: Stop) -> None:
        """As `stop`, in a task of its own, which logs what fails."""
        self.spawn(self._stop_alone(execution, stop), f"trackside-stop-{execution.run_id}")

    def lose(self, execution: Execution) -> None:
        """A run is no longer this manager's: stop it, and tell those who wait how it has ended, or that it goes on."""
        execution.worker.lose()
        if not execution.worker.under_way:
            self.spawn(self._tell_as_lost(execution), f"trackside-lost-{execution.run_id}")

    def part_with(self, executions: Iterable[Execution], stop: Stop) -> None:
        """Stop runs because their manager closes; what has not begun stays in a store that outlives the process (I7)."""
        for execution in executions:
            if self._coordinator.durable and execution.waits:
                self._leave(execution, why=_LEFT)
            else:
                self.stop_soon(execution, stop)

    def hurry(self) -> None:
        """Cancel now all agents that were asked to stop and have not been cancelled: their time to stop is over."""
        for execution in self.all():
            execution.worker.hurry()

    def forget(self, execution: Execution, *, why: str = _NOT_LET_IN) -> None:
        """Forget a run; whoever waits for a result that is not there is told why."""
        execution.outcome.abandon(partial(NoResultHereError, run_id=execution.run_id, why=why))
        self._remove(execution)

    def leave_to_others(self, execution: Execution, *, revoked: bool) -> None:
        """A run was let in for another process to execute; one that is `revoked` is cancelled, as nobody gets its handle."""
        if not execution.outcome.settled:  # else it was left in the store, as the manager closed
            self.forget(execution, why=ELSEWHERE)
        if revoked:
            self.spawn(self._revoke(execution.run_id), f"trackside-revoke-{execution.run_id}")

    @property
    def remain(self) -> bool:
        """Whether there are runs that have not ended, or something is being done about one."""
        return bool(self._by_id or self._tasks)

    def not_due(self, now: datetime) -> list[Execution]:
        """The runs whose time nobody waits for: those that are not due, unless a run at work has started them."""
        return [run for run in self.all() if run.waits_for(now) and not self._may_be_awaited(run)]

    def _may_be_awaited(self, run: Execution) -> bool:
        parent = self._by_id.get(run.worker.record.parent_run_id or "")
        return parent is not None and parent.worker.started and not parent.worker.is_ending

    async def drain(self, enough: asyncio.Event, *, due: datetime | None = None) -> None:
        """Wait until every run that is here has ended, or until somebody says that this is enough.

        With `due`, this does not wait for a run that begins after that: the run at work that started it ends first, and
        then nobody waits for its time.
        """
        if not self.remain or enough.is_set():
            return
        outcomes = [run.outcome for run in self.all() if not (due and run.waits_for(due) and self._may_be_awaited(run))]
        await all_done_or(enough, outcomes, list(self._tasks))

    def ending(self, *, held_up: float | None = None) -> list[Outcome]:
        """The outcomes of the runs whose agents have stopped. With `held_up`, what has held up an end for that many
        seconds is given up, and runs that have to undo something before their end are left out.
        """
        ending = (execution for execution in self._by_id.values() if execution.worker.is_ending)
        return [each.outcome for each in ending if held_up is None or each.worker.give_up_waiting(held_up)]

    def leave_behind(self) -> None:
        """Log which runs have not ended. Those who wait for one that has not begun and never will here are told so."""
        for execution in self.all():
            is_lost = execution.waits and execution.stranded
            what = "was cancelled, has not stopped" if execution.worker.stopping else "could not be cancelled"
            if is_lost:
                what = "could not be taken out of the queue"
            elif execution.worker.is_ending:
                what = "has stopped, does not come to its end"
            extra = fields_of(execution.worker.record)
            logger.error("run %s %s, and is left behind", execution.run_id, what, extra=extra)
            if is_lost:
                self._leave(execution, why=_LEFT_BEHIND)

    def close(self) -> None:
        """Watch nothing more; what still executes is left behind."""
        if self._watchdog is not None:
            self._watchdog.close()

    def close_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """As `close`, from a finalizer, which may run in any thread and amid any step: so it takes no lock."""
        if self._watchdog is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._watchdog.close)

    def note_stuck(self, run_id: str, since: datetime) -> None:
        """Count a run whose agent was cancelled and does not stop, or whose end does not come.

        Those who look from outside are told if somebody wanted the run to stop: they may end the process for it.
        """
        self._tally.stuck += 1
        if (execution := self._by_id.get(run_id)) is not None:
            execution.stuck = True
            if execution.standing is AgentStanding.finished:
                return
        self.spawn(_noted(self._coordinator.note_stuck(run_id, since), run_id), f"trackside-stuck-{run_id}")

    def stats(self, now: datetime, missed: MissedStats) -> ManagerStats:
        """What the runs do, and what became of those that have ended."""
        running: Counter[str] = Counter()
        present: Counter[str] = Counter()
        for run in [*self._by_id.values()]:  # a copy: other threads may ask, too, while runs come and go
            present["started"] += run.worker.started
            present["stuck"] += run.stuck
            if run.executes:
                running[run.agent] += 1
            elif run.waits:
                present["delayed" if run.waits_for(now) else "ready" if run.scheduled else "behind"] += 1
        return ManagerStats(
            running=running.total(),
            waiting_for_place=present["ready"],
            waiting_for_thread=present["behind"],
            delayed=present["delayed"],
            stuck=present["stuck"],
            running_by_agent=running,
            started_total=self._tally.started + present["started"],
            ended_by_status={status: count for status, count in self._tally.ended.items() if count},
            stuck_total=self._tally.stuck,
            loop_blocks_total=0 if self._watchdog is None else self._watchdog.blocks,
            missed_kept_total=missed.kept,
            missed_lost_total=missed.lost,
        )

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Do something about a run in a task of its own."""
        # Started at once, as runs are; the context is the worker's to choose, so that nobody sees another's run (I21).
        task = asyncio.Task(work, loop=asyncio.get_running_loop(), name=name, eager_start=True)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _begin(self, execution: Execution) -> None:
        if self._watchdog is not None:
            self._watchdog.enter()
        execution.executes = True
        name, loop = f"trackside-run-{execution.run_id}", asyncio.get_running_loop()
        # Started at once up to its first pause, so that a cancel before the first tick still finds somebody to end it.
        execution.task = asyncio.Task(
            self._execute(execution), loop=loop, name=name, context=execution.context, eager_start=True
        )

    async def _execute(self, execution: Execution) -> None:
        worker = execution.worker
        try:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self._stop_before_it_begins(worker)
            if execution.left:
                return
            execution.claims = True
            ended = await worker.run()
            _pass_interrupt_on(worker)
            is_over = ended is not None or worker.under_way
            if is_over:
                self._give_place_back(execution)  # I13: nobody's run waits for the observers of this one
                await worker.see_off()
        except BaseException as exc:  # the coordinator failed; the run's own failures are outcomes, not exceptions
            has_ended = worker.result is not None or (worker.is_lost and worker.under_way)
            if has_ended or isinstance(exc, GeneratorExit):  # it was cancelled after its end; or nobody runs the loop
                raise
            if isinstance(exc, KeyboardInterrupt):
                worker.fatal = exc
                _pass_interrupt_on(worker)
            logger.exception("run %s could not be executed", execution.run_id, extra=fields_of(worker.record))
            if worker.stopping and not worker.under_way:  # it is still in the queue, and holds its thread
                execution.wait_again()
            else:
                close_stream(self._stream, worker.record)
                why = f"it could not be executed: {text_of(exc)}"
                self._resolve(execution, RunResult(execution.run_id, worker.record.thread_id, RunStatus.error, why))
            return
        finally:
            self._tell_result(execution)
            self._give_place_back(execution)
            if self._watchdog is not None:
                self._watchdog.leave()
        if not is_over:  # and may begin anew from here on, in a place and a task of its own
            await self._await_others(execution)

    def _stop_before_it_begins(self, worker: RunWorker) -> None:
        """A run's task was cancelled. If the event loop ends, those that wait for its place must not get it, either."""
        stop = worker.cancelled_as()
        if stop.mode is CancelMode.shutdown:
            self.part_with([each for each in self.all() if each.waits], stop)
        else:
            worker.stop(stop)

    def _give_place_back(self, execution: Execution) -> None:
        if not execution.executes:
            return
        execution.executes = False
        if execution.needs_place and (follows := self._places.give_back(execution.agent)) is not None:
            self._begin(follows)

    async def _revoke(self, run_id: str) -> None:
        try:
            await self._coordinator.request_cancel(run_id, CancelAction.interrupt)
        except Exception:  # the coordinator's failure, with nobody to hear of it
            logger.exception("run %s, whose starter was cancelled meanwhile, could not be cancelled", run_id)

    async def _await_others(self, execution: Execution) -> None:
        """A claim came to nothing: either the run has ended, or the coordinator will say what becomes of it."""
        execution.wait_again()
        # If the end of this very task began it anew, it would enter its own context again.
        execution.context = execution.context.copy()
        result = await execution.worker.ended_elsewhere()
        _pass_interrupt_on(execution.worker)
        if result is not None and not execution.worker.under_way:  # else that end may be ours, and is being announced
            execution.worker.lose()
            self._resolve(execution, result)

    async def _tell_as_lost(self, execution: Execution) -> None:
        result = await execution.worker.ended_elsewhere()
        _pass_interrupt_on(execution.worker)
        if result is not None:
            self._resolve(execution, result)
        else:
            self.forget(execution, why=_TAKEN_OVER)

    async def _stop_alone(self, execution: Execution, stop: Stop) -> None:
        try:
            await self.stop(execution, stop)
        except Exception:  # the coordinator's failure, with nobody to hear of it
            execution.stranded = True
            logger.exception(
                "run %s could not be taken out of the queue: it ends when its agent stops, or at its turn",
                execution.run_id,
                extra=fields_of(execution.worker.record),
            )

    async def _decline(self, execution: Execution, stop: Stop) -> None:
        self._places.leave(execution, execution.agent)
        try:
            await execution.worker.decline(stop)
            _pass_interrupt_on(execution.worker)
            await execution.worker.see_off()
        finally:
            self._tell_result(execution)  # even if this was cancelled: the run ends before

    def _tell_result(self, execution: Execution) -> None:
        """A worker is done: tell those who wait how the run has ended, or that another process knows how it ends."""
        worker = execution.worker
        if worker.result is not None:
            self._resolve(execution, worker.result)
        elif worker.is_lost and worker.under_way:
            self.forget(execution, why=_TAKEN_OVER)

    def _leave(self, execution: Execution, *, why: str) -> None:
        """Forget a run that has not begun here, and says nothing here: whoever follows it gets to the end, too."""
        execution.left = True
        if execution.task is not None:  # the task finds that the run is left
            self._tasks.add(execution.task)
            execution.task.add_done_callback(self._tasks.discard)
        self.forget(execution, why=why)
        close_stream(self._stream, execution.worker.record)

    def _resolve(self, execution: Execution, result: RunResult) -> None:
        if execution.outcome.resolve(result):
            self._tally.ended[result.status] += 1
        self._remove(execution)

    def _remove(self, execution: Execution) -> None:
        if self._by_id.get(execution.run_id) is execution:
            del self._by_id[execution.run_id]
            if execution.worker.started:
                self._tally.started += 1
            else:
                self._places.leave(execution, execution.agent)


def _pass_interrupt_on(worker: RunWorker) -> None:
    """Pass a run's Ctrl-C on before the news of its end: a caller that waits for that may end, with the event loop."""
    interrupt, worker.fatal = worker.fatal, None
    if interrupt is not None:
        interrupt_loop(interrupt)


async def _noted(noted: Coroutine[Any, Any, None], run_id: str) -> None:
    try:
        await noted
    except Exception:  # the coordinator's failure; the log says already that the run is stuck
        logger.exception("that run %s is stuck could not be recorded", run_id)
