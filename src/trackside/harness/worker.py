"""Executes one run: announce it, call the agent, stop it if asked, announce how it ended.

The worker is a supervisor: the agent runs in a task of its own, which alone is ever cancelled, and every other step is
finished once begun (I17). Whatever the agent does or raises becomes an `End`, and every run takes the same way out:
settle, announce the end, give the thread back. There is no other place where a run ends, and nobody is told before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from trackside.harness.agents.leaving import leave
from trackside.harness.budget import Budget
from trackside.harness.context import Agent, AgentResult, RunContext, bind_run, run_of
from trackside.harness.dispatch import ObserverSet
from trackside.harness.emitter import Draft, RunEmitter
from trackside.harness.errors import EventOrderError, TakenOverError
from trackside.harness.foreign.failures import is_of, line_of, trace_of
from trackside.harness.foreign.timelimit import Raised, is_in_line, start_contained
from trackside.harness.journal import Journal
from trackside.harness.lifecycle import is_final, thread_status_after
from trackside.harness.observer import RunResult
from trackside.harness.payload import whole
from trackside.harness.ports import Claim, Settlement, ThreadState
from trackside.harness.powers import prepares_at_once, uses_thread_state
from trackside.harness.running.announcing import Announcements
from trackside.harness.running.ending import (
    End,
    Stop,
    StopPolicy,
    as_missed,
    failed,
    result_of,
    result_told,
    stopped,
    undelivered,
)
from trackside.harness.running.outbox import Outbox
from trackside.harness.running.parting import is_kept_nowhere, say_lost, say_taken_over, settle_with, unsettled
from trackside.harness.running.recall import ThreadMemory
from trackside.harness.running.spending import UNLIMITED, Deadline, Spending
from trackside.harness.running.steady import Begun, finish
from trackside.harness.running.stopping import Stopper
from trackside.harness.running.streaming import begin_stream, close_stream
from trackside.harness.running.verdict import end_by, left_by, may_leave_open, say_questions
from trackside.harness.services import Services
from trackside.harness.types import CancelMode, JsonObject, RunRecord, RunSpec, RunStatus, ThreadStatus

logger = logging.getLogger("trackside.worker")

_FORGOTTEN = "run %s came to no result, and its thread does not remember what was complete of it"
_LOST = Stop(RunStatus.cancelled, "somebody else has ended the run")  # nobody is told of it


class RunWorker:
    """One run, from its claim to the release of its thread.

    Call `run` or, for a run that was withdrawn, `decline`; one of them, once, but `run` again if it gave None; and then
    `see_off`. `stop` and `lose` may be called at any time, from the same event loop.
    """

    def __init__(
        self,
        spec: RunSpec,
        record: RunRecord,
        agent: Agent,
        *,
        services: Services,
        observers: ObserverSet,
        cancelled_as: Callable[[], Stop],
        timeout: float | None = None,
        budget: Budget | None = None,
        stopping: StopPolicy | None = None,
        starter: RunContext | None = None,
        on_released: Callable[[str], None] | None = None,
        on_stuck: Callable[[str], None] | None = None,
    ) -> None:
        self.record = record
        self.cancelled_as = cancelled_as
        """Why the run ends if somebody reaches past us for a task of it, and cancels that."""
        self.fatal: KeyboardInterrupt | None = None
        """Ctrl-C that hit the agent or an observer: for whoever awaits the run to raise again once it has ended."""
        self.delivery_error: BaseException | None = None
        """What a required observer raised, because of which the run could not go on or its end not be delivered."""
        self.result: RunResult | None = None
        """How the run ended, as soon as anybody may know."""
        self._spec = spec
        self._agent = agent
        self._services = services
        self._observers = observers
        self._deadline = UNLIMITED if timeout is None else Deadline(timeout)
        self._on_released = on_released
        check = None if budget is None else self._check_budget
        self._journal = Journal(services.prices, check, services.clock.monotonic, names_models=services.redact is None)
        self._spending = Spending(record, self._journal, budget)
        self._says = Announcements(record, self._journal, services.redact)
        self._emitter = RunEmitter(record.run_id, record.thread_id, deliver=observers.deliver, clock=services.clock)
        self._run = RunContext(
            spec,
            run_id=record.run_id,
            thread_id=record.thread_id,
            agent=record.agent,
            is_named=record.agent in services.agents,
            journal=self._journal,
            port=self,
            checkpointer=services.checkpointer,
            items=services.items,
            starter=starter,
        )
        self._memory = ThreadMemory(services.states, self._run, observers.policy, is_used=uses_thread_state(agent))
        self._stop: Stop | None = None
        self._claimed = self._holds_thread = self._lost = self._end_taken = self._is_over = False
        self._thread_before: ThreadStatus | None = None
        self._calling = self._ending = self._abandoned = False
        self._stopper = Stopper(self._run, record, stopping or StopPolicy(), on_stuck)
        self._outbox = Outbox()

    def stop(self, stop: Stop) -> bool:
        """Ask the run to end, also again: the first reason counts. False if it is ending by itself, and now hurries."""
        if self._ending or (self._calling and self._stopper.has_finished):
            self._run.cancelled = True  # so that a store waits no longer for a database that is away
            return False
        self._stop = self._stop or stop
        self._stopper.stop()  # also again, in case the agent swallowed the first cancel
        return True

    def abandon(self, stop: Stop) -> None:
        """Have the run end like this although its agent goes on: the process is about to go, and the agent with it."""
        first = self._stop or stop
        if self.stop(stop):
            # A run stopped by its timeout, or by its budget, ends as that; one that was cancelled is left behind now.
            self._stop = stop if first.status is RunStatus.cancelled else first
        self._abandoned = True
        self._outbox.rouse()

    def _stop_once(self, stop: Stop) -> None:
        """Stop the run, unless it is being stopped: an agent that cleans up is not cancelled of our own accord."""
        if self._stop is None and self.delivery_error is None:
            self.stop(stop)

    def hurry(self) -> None:
        """Leave its agent no more time to stop by itself, if it has to stop."""
        self._stopper.hurry()

    def lose(self) -> None:
        """Somebody else has the run, or has ended it: its agent has to stop, and nothing it says counts any more."""
        if not self._end_taken:
            self._lost = True
            self._memory.leave()
            self._run.mute()
            close_stream(self._services.stream, self.record)
            self.stop(_LOST)

    @property
    def started(self) -> bool:
        """Whether the run has been claimed."""
        return self._claimed

    @property
    def stopping(self) -> bool:
        """Whether it has to end before its agent does."""
        return self._stop is not None

    @property
    def under_way(self) -> bool:
        """Whether the run has been claimed, or is being declined: the worker itself sees to its result."""
        return self._claimed or self._ending

    @property
    def is_inside(self) -> bool:
        """Whether the caller is the run's agent, in the task in which that is called."""
        return self._stopper.is_inside

    @property
    def is_lost(self) -> bool:
        """Whether somebody else has the run, or ended it."""
        return self._lost

    @property
    def is_ending(self) -> bool:
        """Whether its agent has come to its end, and that is being told."""
        return self._ending

    def is_behind(self, call: asyncio.Task[Any] | None) -> bool:
        """Whether what its code waits for comes before its own end: code of its agent, or of this call of an observer,
        which the thread waits for, too. What an agent leaves behind may wait for whatever comes next.
        """
        if not self._ending:
            return True
        return call is not None and self._holds_thread and is_in_line(call) and run_of(call) is self._run

    def give_up_waiting(self, after: float) -> bool:
        """Have its end told without what it has waited for so long; False if it waits for what has to be done."""
        return self._stopper.give_up(after)

    async def ended_elsewhere(self) -> RunResult | None:
        """How the run has ended according to the coordinator; None if it has not, or the coordinator cannot say."""
        asking = finish(lambda: self._services.coordinator.get(self.record.run_id), name="get")
        record = await self._answer(asking, "how run %s has ended elsewhere could not be found out")
        return result_of(record) if record is not None and is_final(record.status) else None

    async def run(self) -> RunResult | None:
        """Execute the run; None if it could not be had, because it was withdrawn or claimed elsewhere, or if it is lost
        and nobody knows yet how it ends.
        """
        if self._stop is not None:
            withdrawn = await self._services.coordinator.withdraw(self.record.run_id)
            return await self.decline(self._stop) if withdrawn else None
        claim = await self._services.coordinator.claim(self.record.run_id)
        if claim is None:
            return None
        self._claimed = self._holds_thread = True
        bind_run(self._run)
        self._journal.start()
        self._deadline.go_on(self._stop_once)
        end = await self._execute(claim)
        self._ending = True
        self._deadline.hold()
        return await self._finish(end)

    async def see_off(self) -> None:
        """Wait for what a run that is over needs no place for: its agent closes what it has opened, observers catch up.

        Raises:
            asyncio.CancelledError: this task was cancelled, maybe while the run ended, which it has done properly.
        """
        if not self._is_over:
            return  # a task that declines it ends it, or has ended it
        self._is_over = False
        await leave(self._agent, self._run)
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError
        await self._observers.catch_up()

    async def decline(self, stop: Stop) -> RunResult | None:
        """End a run that was withdrawn before it started: its terminal event stands alone."""
        self._ending = True
        bind_run(self._run)
        begin_stream(self._services.stream, self.record, self._spec, started=False)
        return await self._finish(stopped(stop))

    def publish(self, mode: str, data: Any, namespace: tuple[str, ...]) -> None:
        """Pass live output on, from any thread (`context.RunPort`)."""
        if self._outbox.is_elsewhere:
            data = whole(data)  # as it is now: the thread goes on with it before the loop turns
        self._outbox.on_loop(self._services.stream.publish, self.record.run_id, mode, data, namespace)

    def human_message(self, message: JsonObject) -> None:
        """Announce a message that came while the agent runs, from any thread (`context.RunPort`)."""
        self._outbox.post(self._says.humans, message)

    def _check_budget(self) -> None:
        """Check whether the run has used too much, from whichever thread reports that it used something."""
        # Code that it left behind may report a use when the run, and the event loop, have ended.
        if not self._ending and (over := self._spending.excess()) is not None:
            self._run.cancelled = True  # at once, also for a thread that would use more before the loop turns
            self._outbox.on_loop(self._stop_once, over)

    async def _execute(self, claim: Claim) -> End:
        """Announce the start, call the agent; however that goes, the result is an `End`."""
        # Adapters that wait for nothing here but the thread's state say so.
        self._memory.recalled = claim.new_thread
        immediate = claim.new_thread or getattr(self._services.states, "immediate", False)
        at_once = immediate and prepares_at_once(self._agent)
        messages = await (self._caught if at_once else self._supervised)(self._prepare())
        opening, self._thread_before = self._says.opening(claim, asks=self._run.paused is not None)
        if not isinstance(messages, End):
            opening += self._says.humans(messages)
        self._deadline.hold()  # the time that observers take to hear of the start is not the agent's
        if not await self._announce(opening):  # I14: not stored, so the agent is never called
            return undelivered(self.delivery_error)
        self._deadline.go_on(self._stop_once)
        begin_stream(self._services.stream, self.record, self._spec)
        if isinstance(messages, End):
            return messages
        self._calling = True
        result = await self._supervised(self._stopper.see_through(self._agent.run, self._deadline.hold))
        return result if isinstance(result, End) else self._judge(result)

    async def _prepare(self) -> list[JsonObject]:
        """Load what the thread remembers; returns the human messages that the run brings."""
        self._stopper.enter()
        if self._memory.is_used:
            if not self._memory.recalled:
                await self._memory.recall()
            if self._run.resuming:
                self._memory.take_answers(self._services.agents)
        return [self._journal.record_message(message) for message in await self._agent.human_messages(self._run)]

    async def _caught[T](self, call: Coroutine[Any, Any, T]) -> T | End:
        """Await a call that never waits; what it raised is an `End`."""
        try:
            return await call
        except BaseException as exc:  # noqa: BLE001  # the input's own code may raise anything
            return self._failed(exc)

    async def _supervised[T](self, call: Coroutine[Any, Any, T]) -> T | End:
        """Await a call of the agent, which alone is cancelled when the run is stopped; what it raised is an `End`."""
        self._stop_if_cancelled()
        if self._stop is not None:
            call.close()
            return stopped(self._stop)
        task = start_contained(call, name=f"trackside-agent-{self.record.run_id}")
        self._stopper.take(task, looks=self._calling)
        while not (task.done() or self._abandoned):
            # What it says is announced once its start was (I1), if the run is not lost and all was delivered so far.
            if self._outbox.drafts and self._calling and self.delivery_error is None and not self._lost:
                if not await self._announce(self._outbox.take()) and not self._stopper.was_asked:
                    self._stopper.stop()
                self._stop_if_cancelled()
                continue
            try:
                await asyncio.wait((task, self._outbox.wake()), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                self.stop(self.cancelled_as())
        self._stopper.let_go()
        return self._outcome_of(task)

    def _outcome_of[T](self, task: asyncio.Task[T | Raised]) -> T | End:
        if self.delivery_error is not None:
            return undelivered(self.delivery_error)
        if (raised := self._stopper.raised) is not None:
            return self._failed(raised)
        if self._stop is not None:
            return stopped(self._stop)
        # Somebody reached past us for the agent's task. What it made of that counts, unless the event loop ends.
        if task.cancelled() or (task.cancelling() and self.cancelled_as().mode is CancelMode.shutdown):
            return stopped(self.cancelled_as())
        outcome = task.result()
        return self._failed(outcome.exception) if isinstance(outcome, Raised) else outcome

    def _stop_if_cancelled(self) -> None:
        """Notice a cancel of the supervising task that was held off while a dispatch was being finished (I17)."""
        if self._stop is None and (task := asyncio.current_task()) is not None and task.cancelling():
            self.stop(self.cancelled_as())

    async def _announce(self, drafts: Sequence[Draft]) -> bool:
        """Emit; False if the run is lost, or a required observer did not take it, which `delivery_error` remembers."""
        if self._lost:
            return False
        try:
            await self._emitter.emit(*drafts)
        except BaseException as exc:  # noqa: BLE001  # whatever an observer raises, the run still has to end (I18)
            self.delivery_error = self._noted(exc)
            if is_of(exc, TakenOverError) and not self._lost:
                say_taken_over(self._services.coordinator, self.record.run_id)
                self.lose()
            elif is_of(exc, EventOrderError) and not self._end_taken and await self.ended_elsewhere() is not None:
                self.lose()  # I5: the log refuses what comes after an end, and that end is not ours
            return False
        return True

    def _judge(self, result: AgentResult) -> End:
        if (over := self._spending.excess()) is not None:  # a thread of the agent's reported it too late to be stopped
            return stopped(over)
        try:
            return end_by(result, self._run, self._journal, remembers=self._memory.is_used)
        except BaseException as exc:  # noqa: BLE001  # what the agent gave may raise when it is read
            return self._failed(exc)

    def _failed(self, exc: BaseException) -> End:
        return failed(self._noted(exc))

    def _say_failed(self, failure: str, exc: BaseException) -> None:
        """Log that something of this run failed: an error of ours in its own words, any other with where it came from."""
        logger.error("%s: %s", failure % self.record.run_id, line_of(exc), exc_info=trace_of(self._noted(exc)))

    def _noted(self, exc: BaseException) -> BaseException:
        if is_of(exc, KeyboardInterrupt):
            self.fatal = exc
        return exc

    async def _answer[T](self, asking: Coroutine[Any, Any, T], failure: str) -> T | None:
        """Await an answer; None, and `failure` in the log, if that fails, which must not take the end along (I18)."""
        try:
            if not self._ending or getattr(self._services.coordinator, "immediate", False):
                return await asking
            with self._stopper.watching(asyncio.current_task()):
                return await asking
        except BaseException as exc:  # noqa: BLE001  # whatever it is: a library's own cancel, or Ctrl-C
            self._say_failed(failure, exc)
            return None

    async def _finish(self, end: End) -> RunResult | None:
        """The one way out of every run: end it, unless somebody else has, and only then tell; None if they have not."""
        result = None if self._lost else await self._end_here(end)
        if result is None:
            self._observers.drop(self.record.run_id)  # only the caller is told, and only what the coordinator knows
            result = await self.ended_elsewhere()
        self._run.close()
        self._journal.close()
        self.result, self._is_over = result, True
        return result

    async def _end_here(self, end: End) -> RunResult | None:
        """Settle, announce, give the thread back; None if it turns out that the run is lost."""
        end, saving = await self._put_thread_right(end)
        run_id = self.record.run_id
        terminal, settlement = await self._settle(end)  # a question, which can be asked while the thread is saved
        if saving is not None and (instead := await self._end_of_saving(saving, end)) is not end:
            end = instead
            terminal, settlement = await self._settle(end)
        says = terminal.payload
        if settlement.retried_as is not None:
            says["retried_as"] = settlement.retried_as
        closing = [*self._outbox.take(), terminal]
        if settlement.status is not settlement.previous:
            closing.append(self._says.thread(settlement.previous, settlement.status))
        told, result = dict(says), result_told(self.record, end, says)  # before observers get hold of what it says
        await self._announce(closing)
        if self._lost:
            return None
        self._end_taken = True
        is_lost = False
        try:
            missed = await self._observers.finish(run_id) if self.delivery_error is not None else ()
            result = as_missed(result, missed, self.delivery_error)
            is_lost = is_kept_nowhere(missed)
            close_stream(self._services.stream, self.record, None if is_lost else told)  # I14: nobody keeps it
        except BaseException as exc:  # noqa: BLE001  # whatever it is: the thread is given back, the end is announced and true
            self._say_failed("run %s has ended, but not everybody could be told", exc)
        await self._release(settlement.status)
        if self.delivery_error is not None:
            await self._observers.finish(run_id)  # what the release may have had to announce
        if is_lost:
            say_lost(self._services.coordinator, run_id)
        return result

    async def _settle(self, end: End) -> tuple[Draft, Settlement]:
        """What a run that ends like this says, and what that means for its thread."""
        terminal = self._says.end(end)
        says = terminal.payload
        at_rest = self._thread_before if end.untouched else None
        undone = says.get("cancel_mode") == CancelMode.rollback and self._thread_before is ThreadStatus.interrupted
        unclear = "run %s: whether its thread waits for an answer could not be found out"
        leaves_it = at_rest is None and may_leave_open(end, self._run)
        if leaves_it and (undone or (self._claimed and await self._answer(self._memory.asks(self._agent), unclear))):
            at_rest = thread_status_after(end.status, another_waits=False, asks=True)
        settling = settle_with(self._services.coordinator, self.record, end, says, at_rest=at_rest)
        settlement = await self._answer(settling, "run %s could not be settled; its thread may stay held")
        return terminal, settlement or unsettled(self.record, self._spec, end, at_rest=at_rest, claimed=self._claimed)

    async def _put_thread_right(self, end: End) -> tuple[End, Begun[None] | None]:
        """Roll the thread back, or begin to let it remember, before its end is announced; a failure of that is the run's.

        Also where the agent has finished: `success` promises that the thread's next run goes on from there.
        """
        saving: Begun[None] | None = None
        try:
            if end.remembers is not None:
                saving = self._memory.begin_to_save(end.remembers)
            elif self._claimed and self._stop is not None and self._stop.mode is CancelMode.rollback:
                if (checkpoint_id := await self._memory.roll_back(self._agent, self._stopper)) is not None:
                    end = end._replace(says={**end.says, "pre_run_checkpoint_id": checkpoint_id})
            elif self._calling and not end.untouched and (left := self._left()) is not None:
                saving = self._memory.begin_to_save(left, finished=False)
            if self._claimed and self._memory.is_used and not self._memory.recalled:  # stopped before that
                await self._memory.recall_late(self._stopper)
        except BaseException as exc:  # noqa: BLE001  # the store's or the checkpointer's failure; the run must end all the same
            return self._failed(exc), saving
        return end, saving

    def _left(self) -> ThreadState | None:
        """What is complete of a run that came to no result; None also if its agent cannot say: that hides no end (I18)."""
        try:
            return left_by(self._agent, self._run)
        except BaseException as exc:  # noqa: BLE001  # as below
            self._say_failed(_FORGOTTEN, exc)
            return None

    async def _end_of_saving(self, saving: Begun[None], end: End) -> End:
        """Wait until the thread remembers. If it does not, that is how the run ends, unless it failed before."""
        try:
            await self._memory.end_of_saving(saving, self._stopper)
            if end.status is RunStatus.interrupted:
                say_questions(end, self._run)
        except BaseException as exc:  # noqa: BLE001  # the store's or the checkpointer's failure; the run must end all the same
            if "error" not in end.says:
                return self._failed(exc)
            self._say_failed(_FORGOTTEN, exc)
        return end

    async def _release(self, announced: ThreadStatus) -> None:
        """Give the thread back, once its status is announced as it really is."""
        failure = "run %s has ended, but its thread could not be given back"  # how it ended is announced and true
        while True:
            release = await self._answer(self._services.coordinator.release(self.record.run_id, announced), failure)
            if release is None or (settlement := release.settlement) is None:
                break
            await self._announce([self._says.thread(settlement.previous, settlement.status)])
            announced = settlement.status
        self._holds_thread = False
        if release is not None and release.next_run_id is not None and self._on_released is not None:
            self._on_released(release.next_run_id)
