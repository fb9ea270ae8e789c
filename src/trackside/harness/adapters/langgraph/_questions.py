"""What a graph asks, and which of its questions are open where a run begins that answers some."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph import errors as langgraph_errors
from langgraph.types import Interrupt, PregelTask, StateSnapshot

from trackside.harness.adapters.langgraph._graph import Graph, checkpointer_of
from trackside.harness.adapters.langgraph._looking import address_of, look
from trackside.harness.adapters.langgraph._places import Origin
from trackside.harness.adapters.langgraph._threads import asked_questions, renamed_questions
from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError
from trackside.harness.failures import line_of
from trackside.harness.payload import whole
from trackside.harness.questions import answers_by_id, is_question_id, not_paused
from trackside.harness.states import ThreadPlace
from trackside.harness.types import JsonObject


@dataclass(frozen=True, slots=True)
class OpenQuestions:
    """The questions that a thread waits for: each id that one goes by, and its id. Where there are none, `stops` has the
    same of the stop at which the thread stands.

    They `are_stale` if the graph inside that asked them was changed since: it asks again, by another id. `answered` are the
    ids of those beside them that have got their answers, and of the stop past which the graph has gone to ask them.
    """

    ids: Mapping[str, str] = field(default_factory=dict)
    are_stale: bool = False
    answered: frozenset[str] = frozenset()
    stops: Mapping[str, str] = field(default_factory=dict)


async def open_questions(run: RunContext, graph: Graph, place: RunnableConfig, origin: Origin) -> OpenQuestions:
    """Those that are open where a run begins; none if it answers none.

    Raises:
        NotPausedError: the thread does not wait there.
        UnknownInterruptError: nor for what a strict answer names.
        InvalidSpecError: it did, and has got its answers since.
    """
    if not run.resuming:
        return OpenQuestions()
    thread = await look(graph, place)
    if not thread.next:
        raise not_paused(run.resume, thread_id=run.thread_id, strict=run.strict_resume, is_id=is_question_id)
    waiting = _waiting(thread)
    ids = _ids_of(waiting)
    if thread.interrupts and not ids:
        why = "what was asked there is answered; a run from the checkpoint without a command asks it again"
        raise InvalidSpecError(field="command.resume", value=run.resume, why=why)
    saver = checkpointer_of(graph)
    saved = await saver.aget_tuple(place) if saver is not None else None
    pending = saved.pending_writes if saved is not None else ()
    renamed = renamed_questions(pending)
    is_stale = bool(origin.get("checkpoint_map"))
    if ids and not is_stale and any(task.state is not None for task in waiting):
        inside = await look(graph, place, subgraphs=True)
        is_stale = any(_was_changed(task) for task in inside.tasks if task.result is None)
    stop = _stop_in(thread)
    waits_at = ids or stop
    waits_at = {**waits_at, **{old: new for old, new in renamed.items() if new in waits_at}}
    answered = (asked_questions(pending) | stop.keys()) - waits_at.keys()
    return OpenQuestions(waits_at, is_stale, answered) if ids else OpenQuestions(answered=answered, stops=waits_at)


async def answers_at(graph: Graph, place: ThreadPlace, resume: Any, *, is_free: bool) -> dict[str, Any]:
    """As `AddressesAnswers`."""
    if checkpointer_of(graph) is None:
        return {}
    thread = await look(graph, address_of(place))
    ids = _ids_of(_waiting(thread))
    answers = answers_by_id(resume, ids, thread_id=place.thread_id, is_id=is_question_id)
    return dict.fromkeys(_stop_in(thread), resume) if is_free and not ids else answers


def _stop_in(thread: StateSnapshot) -> dict[str, str]:
    """The stop at which a thread stands that asks nothing, by the id of its checkpoint; empty: it has nothing to do."""
    checkpoint_id = thread.config.get("configurable", {}).get("checkpoint_id")
    return {str(checkpoint_id): str(checkpoint_id)} if thread.next and checkpoint_id is not None else {}


def _waiting(thread: StateSnapshot) -> list[PregelTask]:
    """A task with a result has finished, though an old checkpoint still says what it has asked."""
    return [task for task in thread.tasks if task.result is None]


def _ids_of(waiting: list[PregelTask]) -> dict[str, str]:
    return {question.id: question.id for task in waiting for question in task.interrupts}


def refused_answer(run: RunContext, exc: Exception) -> InvalidSpecError | None:
    """What to raise where an answer does not fit its question's `response_schema`, which leaves the question open.

    None of all else that a graph raises, and of LangGraph's versions that do not say so.
    """
    is_refusal = getattr(langgraph_errors, "is_invalid_resume", None)
    if not run.resuming or is_refusal is None or not is_refusal(exc):
        return None
    why = f"the question, which is still open, has a `response_schema` ({line_of(exc)})"
    return InvalidSpecError(field="command.resume", value=run.resume, why=why)


def _was_changed(task: PregelTask) -> bool:
    """Whether the graph inside a task does not wait any more where it has asked what the task asks."""
    inside = task.state
    if not isinstance(inside, StateSnapshot) or inside.created_at is None or not task.interrupts:
        return False
    open_inside = {question.id for question in inside.interrupts}
    own = not inside.tasks  # it has ended: the question is the task's own
    return not own and (
        any(question.id not in open_inside for question in task.interrupts) or any(map(_was_changed, inside.tasks))
    )


def question_of(interrupt: Interrupt) -> JsonObject:
    """What a graph asks, as plain JSON."""
    question: JsonObject = {"id": interrupt.id, "value": whole(interrupt.value)}
    if interrupt.response_schema is not None:
        question["response_schema"] = whole(interrupt.response_schema)
    return question
