"""What a graph asks, and which of its questions are open where a run that answers some begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph import errors as langgraph_errors
from langgraph.checkpoint.base import PendingWrite
from langgraph.types import Interrupt, PregelTask, StateSnapshot

from trackside.harness.adapters.langgraph._error_handlers import with_handlers
from trackside.harness.adapters.langgraph._graph import Graph, checkpointer_of
from trackside.harness.adapters.langgraph._kept_answers import KeptAnswers, Progress
from trackside.harness.adapters.langgraph._looking import address_of, look
from trackside.harness.adapters.langgraph._places import Origin
from trackside.harness.adapters.langgraph._threads import renamed_questions
from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError
from trackside.harness.foreign.failures import line_of
from trackside.harness.payload import whole
from trackside.harness.questions import answers_by_id, is_question_id, not_paused
from trackside.harness.states import ThreadPlace
from trackside.harness.types import JsonObject


@dataclass(frozen=True, slots=True)
class OpenQuestions:
    """The questions that a thread waits for: each id that a question goes by, with its present id. If there are none,
    `stops` has the same for the stop at which the thread stands.

    They `are_stale` if the graph inside that asked them was changed since: it asks again, by another id. `kept` are the
    answers of nodes that have not finished; `used_up_by` are the runs that brought answers to graphs inside which these
    graphs have used up.
    """

    ids: Mapping[str, str] = field(default_factory=dict)
    are_stale: bool = False
    stops: Mapping[str, str] = field(default_factory=dict)
    kept: Sequence[KeptAnswers] = ()
    used_up_by: AbstractSet[str] = frozenset()

    def overtaken(self, answered: AbstractSet[str]) -> list[tuple[KeptAnswers, KeptAnswers]]:
        """For the nodes that now get answers to these questions: what they keep, and what they are to keep instead."""
        now = [
            replace(each, ids=(), answers=()) if self.are_stale and not each.asks else each.without(answered)
            for each in self.kept
        ]
        return [(before, after) for before, after in zip(self.kept, now, strict=True) if after != before]


async def open_questions(run: RunContext, graph: Graph, place: RunnableConfig, origin: Origin) -> OpenQuestions:
    """The questions that are open where a run begins; none if it answers none.

    Raises:
        NotPausedError: the thread does not wait there.
        UnknownInterruptError: nor for what a strict answer names.
        InvalidSpecError: it did wait, and has got its answers since.
    """
    if not run.resuming:
        return OpenQuestions()
    thread, pending, progress = await _look(graph, place)
    if not thread.next:
        raise not_paused(run.resume, thread_id=run.thread_id, strict=run.strict_resume, is_id=is_question_id)
    if thread.interrupts and not any(task.interrupts for task in _waiting(thread)):
        why = "what was asked there is answered; a run from the checkpoint without a command asks it again"
        raise InvalidSpecError(field="command.resume", value=run.resume, why=why)
    if begins_inside := bool(origin.get("checkpoint_map")):
        progress = Progress()
    ids = _ids_of(thread, progress)
    renamed = renamed_questions(pending)
    stop = _stop_in(thread)
    waits_at = ids or stop
    waits_at = {**waits_at, **{old: new for old, new in renamed.items() if new in waits_at}}
    if not ids:
        return OpenQuestions(stops=waits_at, used_up_by=progress.used_up_by)
    is_stale = begins_inside or progress.was_changed
    return OpenQuestions(waits_at, is_stale, kept=progress.kept, used_up_by=progress.used_up_by)


async def is_asking(graph: Graph, place: RunnableConfig) -> bool:
    """Whether a thread waits for an answer there."""
    thread, _, progress = await _look(graph, place)
    return bool(_ids_of(thread, progress))


async def answers_at(graph: Graph, place: ThreadPlace, resume: Any, *, is_free: bool) -> dict[str, Any]:
    """As `AddressesAnswers`."""
    if checkpointer_of(graph) is None:
        return {}
    thread, _, progress = await _look(graph, address_of(place))
    ids = _ids_of(thread, progress)
    answers = answers_by_id(resume, ids, thread_id=place.thread_id, is_id=is_question_id)
    return dict.fromkeys(_stop_in(thread), resume) if is_free and not ids else answers


async def _look(graph: Graph, place: RunnableConfig) -> tuple[StateSnapshot, Sequence[PendingWrite], Progress]:
    """A thread, with the states of graphs inside if one asks; the writes at its checkpoint; and how far its nodes are."""
    thread, saver, progress = await with_handlers(graph, await look(graph, place)), checkpointer_of(graph), Progress()
    saved = await saver.aget_tuple(place) if saver is not None else None
    pending = (saved.pending_writes if saved is not None else None) or ()
    if saver is not None and thread.interrupts:
        if any(task.state is not None for task in _waiting(thread)):
            thread = await with_handlers(graph, await look(graph, place, subgraphs=True))
        await progress.add(saver, thread, pending)
    return thread, pending, progress


def _stop_in(thread: StateSnapshot) -> dict[str, str]:
    """The stop at which a thread that asks nothing stands, by its checkpoint's id; empty if it has nothing to do."""
    checkpoint_id = thread.config.get("configurable", {}).get("checkpoint_id")
    return {str(checkpoint_id): str(checkpoint_id)} if thread.next and checkpoint_id is not None else {}


def _waiting(thread: StateSnapshot) -> list[PregelTask]:
    """The unfinished tasks: one with a result has finished, though an old checkpoint still says what it has asked."""
    return [task for task in thread.tasks if task.result is None]


def _ids_of(thread: StateSnapshot, progress: Progress) -> dict[str, str]:
    asked = (question.id for task in _waiting(thread) for question in task.interrupts)
    return {question: question for question in asked if question not in progress.used_up}


def refused_answer(run: RunContext, exc: Exception) -> InvalidSpecError | None:
    """What to raise where an answer does not fit its question's `response_schema`, which leaves the question open.

    None for anything else that a graph raises, and for versions of LangGraph that do not say so.
    """
    is_refusal = getattr(langgraph_errors, "is_invalid_resume", None)
    if not run.resuming or is_refusal is None or not is_refusal(exc):
        return None
    why = f"the question, which is still open, has a `response_schema` ({line_of(exc)})"
    return InvalidSpecError(field="command.resume", value=run.resume, why=why)


def question_of(interrupt: Interrupt) -> JsonObject:
    """What a graph asks, as plain JSON."""
    question: JsonObject = {"id": interrupt.id, "value": whole(interrupt.value)}
    if interrupt.response_schema is not None:
        question["response_schema"] = whole(interrupt.response_schema)
    return question
