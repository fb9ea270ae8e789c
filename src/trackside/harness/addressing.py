"""Which question a human's answer is to: one that was open when it came, and none that is asked while its run waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from trackside.harness.admission import is_id, member
from trackside.harness.context import Agent
from trackside.harness.errors import TracksideError, UnansweredError, UnknownQuestionError
from trackside.harness.questions import NO_QUESTION, answers_of
from trackside.harness.services import Services
from trackside.harness.states import AddressesAnswers, Caller, ThreadPlace, asked_of
from trackside.harness.types import MultitaskStrategy, RunSpec


async def addressed(services: Services, spec: RunSpec, agent: Agent, name: str) -> RunSpec:
    """The spec with its answer addressed to the question that is open now.

    Without this an answer that names no question would be to whatever is open at its run's turn: of two people who say yes
    to one question, the second would say it to the next one, which nobody has read yet; and so would another attempt at a
    run that has brought an answer.

    One that does not say which of several it answers is to none of what is open at its run's turn: the first run behind
    which it waits may leave one open that nobody has read.

    One that says where it goes on is to what is open at that checkpoint, which may be the newest one.

    Left as it is: what answers nothing, names its questions, goes on inside a graph, or cannot be told, as of an agent that
    does not say what it has asked. It is for its run, then.

    Args:
        services: what says which run has the thread, and what that remembers.
        spec: what is asked for.
        agent: whose run it is to be.
        name: the name of the agent in its runs.

    Raises:
        InvalidSpecError: there is no such strategy.
        Exception: the store's, if it does not say what the thread remembers.
    """
    command = spec.command
    if not isinstance(command, Mapping) or "resume" not in command or not is_id(spec.thread_id):
        return spec
    thread_id = str(spec.thread_id)
    holder_of = getattr(services.coordinator, "holder", None)
    holder = None if holder_of is None else await holder_of(thread_id)
    try:
        answers = await _answers(services, spec, agent, name)
    except UnansweredError:
        answers = {NO_QUESTION: command["resume"]}
        return replace(spec, command={**command, "resume": answers})
    except UnknownQuestionError:  # as its run will be told
        return spec
    if answers is None:
        return spec
    if holder is not None and (answers or member(MultitaskStrategy, spec.multitask, "multitask").displaces is None):
        # What that run asks in the end, nobody has read.
        answers = {**answers, NO_QUESTION: None if answers else command["resume"]}
    return replace(spec, command={**command, "resume": answers}) if answers else spec


async def _answers(services: Services, spec: RunSpec, agent: Agent, name: str) -> Mapping[str, Any] | None:
    """The answers that a spec brings, by the ids of questions that are open; None if that cannot be told."""
    thread_id, resume = str(spec.thread_id), (spec.command or {})["resume"]
    if getattr(agent, "uses_thread_state", False):
        state = await services.states.load(thread_id)
        if state is None or state.paused is None:
            return {}
        return answers_of(state.paused, resume, thread_id=thread_id) if state.paused.agent == name else None
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
    try:
        return await asked_of(agent, agent.answers_at(place, resume))
    except (UnansweredError, UnknownQuestionError):
        raise
    except TracksideError:  # its run meets that, too, and says so
        return None
