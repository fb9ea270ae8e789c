"""What a run does with what its thread remembers: load it, save it, roll it back; with patience where the store has none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from typing import Any

from trackside.harness.context import Agent, RunContext
from trackside.harness.errors import (
    NotWaitedForError,
    OtherAgentAsksError,
    ThreadMemoryError,
    ThreadNotLoadedError,
    ThreadNotRolledBackError,
    ThreadNotSavedError,
)
from trackside.harness.foreign.failures import line_of, trace_of
from trackside.harness.foreign.timelimit import leave_behind
from trackside.harness.observing.bounding import DispatchPolicy, Retries
from trackside.harness.ports import ThreadState, ThreadStates
from trackside.harness.powers import asks_of
from trackside.harness.questions import answers_of, marks_of, not_paused
from trackside.harness.running.steady import Begun
from trackside.harness.running.stopping import Stopper

logger = logging.getLogger("trackside.worker")


class ThreadMemory:
    """One run's way to what its thread remembers.

    A step whose failure says `retryable = True` is taken again inside the policy's deadline, as a required observer's is.
    """

    def __init__(self, states: ThreadStates, run: RunContext, policy: DispatchPolicy, *, is_used: bool) -> None:
        self.is_used = is_used
        """Whether the run's agent wants the harness to remember its thread."""
        self._states = states
        self._run = run
        self._policy = policy
        self._left = False
        self._did = ""  # what the agent did, for the error if saving fails
        self.recalled = False
        """Whether the run has what its thread remembers, if that is anything."""

    def leave(self) -> None:
        """The thread is somebody else's: try nothing again."""
        self._left = True

    async def recall(self) -> None:
        """Give the run what its thread remembers.

        Raises:
            ThreadNotLoadedError: the store does not say.
        """
        run = self._run
        state = await self._patiently(partial(self._states.load, run.thread_id), ThreadNotLoadedError) or ThreadState()
        run.values, run.paused = state.values, state.paused
        self.recalled = True

    async def end_of_saving(self, saving: Begun[None], stopper: Stopper) -> None:
        """Wait until the thread remembers.

        Raises:
            ThreadNotSavedError: the store did not take it, or nobody waits for that any more: it is not tried again.
        """
        try:
            with stopper.watching(saving.task):
                await saving.end()
        except NotWaitedForError as exc:
            self.leave()
            leave_behind(saving.task)
            raise ThreadNotSavedError(thread_id=self._run.thread_id, why=line_of(exc), did=self._did) from exc

    async def recall_late(self, stopper: Stopper) -> None:
        """Do `recall` for a run that is over; finished once begun (I17), and stuck if it takes too long."""
        await stopper.watched(Begun(self.recall, name="load"))

    def begin_to_save(self, state: ThreadState, *, finished: bool = True) -> Begun[None]:
        """Begin to have the thread remember this, of an agent that has `finished` or not; finished once begun (I17).

        Await `end_of_saving` with it.
        """
        step = partial(self._states.save, self._run.thread_id, state, run_id=self._run.run_id)
        did = "waits for an answer" if state.paused is not None else "has finished" if finished else "has not finished"
        self._did = did
        return Begun(lambda: self._patiently(step, ThreadNotSavedError, waits=True, did=did), name="save")

    def take_answers(self, agents: Collection[str]) -> None:
        """Give the run what it goes on with, as its thread remembers it: the input, and all answers, this one too.

        Args:
            agents: the names of the agents that there are. A question of an agent that is not among them is anybody's:
                that agent may have got another name.

        Raises:
            NotPausedError: the thread waits for nothing; `OtherAgentAsksError`: it waits for an answer to another agent.
            UnknownQuestionError, UnansweredError: (a `ValueError`) as `answers_of`.
        """
        run, paused = self._run, self._run.paused
        if paused is None:
            raise not_paused(run.resume, thread_id=run.thread_id, strict=run.strict_resume)
        if paused.agent != run.agent and paused.agent in agents:
            raise OtherAgentAsksError(thread_id=run.thread_id, asks=paused.agent, agent=run.agent)
        answers = answers_of(paused, run.resume, thread_id=run.thread_id, strict=run.strict_resume)
        run.input = paused.input
        run.answers_by_id = answers
        run.answers = (*paused.answers, *answers.values())
        run.answered = marks_of(paused, answers)
        run.resume = run.answers[-1] if len(paused.interrupts) == 1 else answers

    async def roll_back(self, agent: Agent, stopper: Stopper) -> str | None:
        """Have the agent undo what its run left in the thread; finished once begun (I17), and stuck if it takes too long.

        Raises:
            ThreadNotRolledBackError: it could not.
        """
        step = partial(agent.rollback, self._run)
        return await stopper.watched(Begun(lambda: self._patiently(step, ThreadNotRolledBackError), name="rollback"))

    async def asks(self, agent: Agent) -> bool:
        """Whether the thread waits for an answer, also after this run.

        Raises:
            TimeoutError: the agent, which may know, does not say so in time.
            BaseException: an agent that knows cannot say.
        """
        agent_asks = asks_of(agent)
        if self._run.paused is not None or agent_asks is None:
            return self._run.paused is not None
        return bool(await Begun(lambda: agent_asks(self._run), name="asks").end(self._policy.call_limit))

    async def _patiently[T](
        self,
        step: Callable[[], Coroutine[Any, Any, T]],
        failure: type[ThreadMemoryError],
        *,
        waits: bool = False,
        **says: str,
    ) -> T:
        """Take a step, again if need be; if the store itself `waits` for its database, the time it waited counts."""
        run = self._run
        what = f"what thread {run.thread_id} remembers"
        retries = Retries(self._policy, what) if waits else None
        while True:
            try:
                return await step()
            except Exception as exc:  # the store's or the checkpointer's failure
                retries = retries or Retries(self._policy, what)
                may_pass = getattr(exc, "retryable", False) and not self._left
                if not may_pass or (pause := retries.pause_after(exc)) is None:
                    for_good = failure(thread_id=run.thread_id, why=line_of(exc), **says)
                    logger.error("run %s: %s", run.run_id, for_good, exc_info=trace_of(exc))  # noqa: TRY400
                    raise for_good from exc
            await asyncio.sleep(pause)
