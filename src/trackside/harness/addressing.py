"""Which question a human's answer is for: one that was open when it came, never one asked while its run waits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from msgspec.structs import replace

from trackside.harness.admission import check_command, is_id, member
from trackside.harness.context import Agent
from trackside.harness.errors import TracksideError, UnansweredError, UnknownQuestionError
from trackside.harness.foreign.timelimit import within
from trackside.harness.ports import PausedRun
from trackside.harness.powers import calls_in_of, uses_thread_state
from trackside.harness.questions import (
    NO_QUESTION,
    answers_by_id,
    answers_of,
    answers_said,
    by_their_ids,
    is_own_id,
    is_question_id,
)
from trackside.harness.services import Services
from trackside.harness.states import AddressesAnswers, Caller, ThreadPlace, asked_of
from trackside.harness.types import MultitaskStrategy, RunSpec

logger = logging.getLogger("trackside.manager")


async def addressed(services: Services, spec: RunSpec, agent: Agent, name: str, *, limit: float | None) -> RunSpec:
    """The spec with its answer addressed to the question that is open now.

    Without this, an answer that names no question would go to whatever is open at its run's turn: if two people say yes
    to one question, the second yes would go to the next question, which nobody has read yet; and so would the answer of
    another attempt at a run that has brought one.

    An answer that does not say which of several questions it is for goes to none that is open at its run's turn: the
    first run that it waits behind may leave one open that nobody has read.

    An answer that says where it goes on is for what is open at that checkpoint, which may be the newest one.

    An answer that comes when nothing is open is for nothing, unless it displaces a run: then it is for whatever that
    run leaves open. An answer that lets an agent go on after a stop without a question is for that stop, and for no
    other.

    A spec is left as it is if it answers nothing, names its questions, goes on inside a graph, or if its question
    cannot be told, as with an agent that does not say what it has asked. It is then up to its run. If an agent fails to
    say it, or takes too long, nothing is taken to be open if a run has the thread.

    Args:
        services: what says which run has the thread, and what the thread remembers.
        spec: what is asked for.
        agent: the agent whose run it will be.
        name: the name of the agent in its runs.
        limit: how many seconds the agent has to say what it has asked; None: as many as it takes.

    Raises:
        InvalidSpecError: there is no such command or strategy; for a command, before anybody is asked about it.
        Exception: the store's, if it does not say what the thread remembers.
    """
    command = spec.command
    if command is not None:
        check_command(spec)
    if command is None or "resume" not in command or not is_id(spec.thread_id):
        return spec
    thread_id, resume = str(spec.thread_id), command["resume"]
    holder_of = getattr(services.coordinator, "holder", None)
    holder = None if holder_of is None else await holder_of(thread_id)
    to_none = {NO_QUESTION: answers_said(resume)}
    is_its_id = is_own_id if uses_thread_state(agent) else is_question_id
    answers: Mapping[str, Any] | None
    try:
        answers = await _answers(services, spec, agent, name, limit, is_free=holder is None)
    except UnansweredError:
        answers = to_none
    except UnknownQuestionError:  # its run will be told the same, whatever is open by then
        answers = by_their_ids(resume, is_its_id)
    else:
        if answers:
            answers = by_their_ids(answers, is_its_id)
        elif answers is not None:  # nobody has read what is asked from now on
            waits = member(MultitaskStrategy, spec.multitask, "multitask").displaces is None
            answers = to_none if waits else None
    return replace(spec, command={**command, "resume": answers}) if answers else spec


def _called(agent: Agent, paused: PausedRun) -> AbstractSet[str]:
    """The ids of the tool calls by which a thread has been asked so far, if its agent knows of them."""
    calls_in = calls_in_of(agent)
    return frozenset() if calls_in is None else calls_in(paused.state)


async def _answers(
    services: Services, spec: RunSpec, agent: Agent, name: str, limit: float | None, *, is_free: bool
) -> Mapping[str, Any] | None:
    """The answers that a spec brings, by the ids of questions that are open; None if that cannot be told.

    `is_free` says that no run has the thread, as in `AddressesAnswers`.
    """
    thread_id, resume = str(spec.thread_id), (spec.command or {})["resume"]
    if uses_thread_state(agent):
        state = await services.states.load(thread_id)
        paused = None if state is None else state.paused
        # A question of an agent that is no longer there is anybody's: the agent may have been renamed.
        if paused is None or (paused.agent != name and paused.agent in services.agents):
            return answers_by_id(resume, {}, thread_id=thread_id, is_id=is_own_id)
        if isinstance(resume, Mapping) and resume and resume.keys() <= _called(agent, paused):
            resume = {**resume, NO_QUESTION: None}
        return answers_of(paused, resume, thread_id=thread_id)
    config = spec.config if isinstance(spec.config, Mapping) else {}
    configurable = config.get("configurable")
    named: Mapping[str, Any] = configurable if isinstance(configurable, Mapping) else {}
    if named.get("checkpoint_ns") or not isinstance(agent, AddressesAnswers):
        return None
    place = ThreadPlace(
        thread_id=thread_id,
        checkpoint_id=str(checkpoint_id) if (checkpoint_id := named.get("checkpoint_id")) else None,
        checkpointer=services.checkpointer,
        caller=Caller(items=services.items, config=config),
    )
    looking = agent.answers_at(place, resume, is_free=is_free)
    try:
        return await asked_of(agent, within(limit, looking, name=f"trackside-asked-on-{thread_id}"))
    except (UnansweredError, UnknownQuestionError):
        raise
    except TracksideError as exc:  # its run meets the same error, and says so
        logger.warning("thread %s: it could not be told to which question an answer is: %s", thread_id, exc)
        return None if is_free else {}
