"""What the result of an agent makes of its run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from trackside.harness.context import Agent, AgentResult, RunContext, flaw_of
from trackside.harness.errors import AgentOutputError, PayloadError
from trackside.harness.journal import Journal
from trackside.harness.lifecycle import CLOSE_QUESTIONS
from trackside.harness.payload import MAX_CHARS, WHOLE_CHARS, canonical_payload, shortened
from trackside.harness.ports import PausedRun, ThreadState
from trackside.harness.powers import partial_of, uses_thread_state
from trackside.harness.questions import INTERRUPTS
from trackside.harness.running.ending import End, failed, unanswered
from trackside.harness.running.logs import fields_of
from trackside.harness.types import JsonObject, RunStatus

logger = logging.getLogger("trackside.worker")


def end_by(result: AgentResult, run: RunContext, journal: Journal, *, remembers: bool) -> End:
    """How a run ends whose agent gave this result; `remembers` says that the harness keeps what its thread remembers.

    Success, or interrupted if there are questions. An error if it is no result, or if models were called and none ever
    answered: whatever an agent makes of that, it has nothing to say.
    """
    if (flaw := flaw_of(result)) is not None:
        return failed(AgentOutputError(agent=run.agent, why=flaw))
    if (failure := journal.lost_model) is not None and not result.interrupts:
        return unanswered(run.agent, failure)
    if journal.title is None and isinstance(title := (result.values or {}).get("title"), str):
        run.set_title(title)
    end = _interrupted if result.interrupts else _success
    return end(result, run, remembers=remembers)


def left_by(agent: Agent, run: RunContext) -> ThreadState | None:
    """What the thread has to remember of a run that came to no result: what its agent's `partial` says is complete.

    Nothing if a question was open: that stays open as it was asked.
    """
    partial = partial_of(agent)
    if partial is None or run.paused is not None or not uses_thread_state(agent):
        return None
    values = partial(run)
    return None if values is None else ThreadState(dict(values))


def may_leave_open(end: End, run: RunContext) -> bool:
    """Whether a question from before a run may be open after it: the run came to nothing, and its thread had a question
    of a function, or it was stopped, or asked for wrongly. Looking after every failed run would cost each of them that
    look. What a graph shows as open after a failed node may have been used up, in what it does not know as a graph
    inside it.
    """
    came_to_nothing = end.status not in CLOSE_QUESTIONS
    return came_to_nothing and (run.paused is not None or end.untouched or end.status is RunStatus.cancelled)


def say_questions(end: End, run: RunContext) -> None:
    """Show those who follow a run what it has asked, once its thread remembers that: whoever answers may do so at once.

    A graph, whose thread the harness does not keep, streams its questions itself.
    """
    state = end.remembers
    if state is None or state.paused is None:
        return
    asks: JsonObject = {INTERRUPTS: state.paused.interrupts}
    for mode, said in (("updates", asks), ("values", {**state.values, **asks})):
        if mode in run.stream_modes:
            try:
                run.send(said, mode)
            except Exception:  # the stream's failure: the question is open, and its run's end says so, too
                logger.exception("what run %s asks could not be streamed", run.run_id, extra=fields_of(run))


def _success(result: AgentResult, run: RunContext, *, remembers: bool) -> End:
    values = result.values
    if values is None and run.paused is not None:  # the question has been answered or overtaken
        values = run.values
    remembered = ThreadState(dict(values)) if remembers and values is not None else None
    return End(RunStatus.success, {}, remembered, output=result.output)


def _interrupted(result: AgentResult, run: RunContext, *, remembers: bool) -> End:
    try:
        asks = canonical_payload({"interrupts": list(result.interrupts)}, max_chars=WHOLE_CHARS)
    except PayloadError as exc:
        return failed(exc)
    paused = PausedRun(
        input=run.input,
        answers=tuple(run.answers),
        interrupts=asks["interrupts"],
        state=result.paused,
        agent=run.agent,
    )
    return End(RunStatus.interrupted, _announced(asks), ThreadState(dict(run.values), paused) if remembers else None)


def _announced(asks: JsonObject) -> JsonObject:
    """The questions as far as an event has room for them: as they are, or the beginning of each, and its id."""
    says = canonical_payload(asks)
    if says == asks:
        return says
    questions: Sequence[JsonObject] = asks["interrupts"]
    share = MAX_CHARS // len(questions)
    short = [{**shortened(question, share), "id": question["id"]} for question in questions]
    return {"interrupts": short, "sanitized": True}
