"""What the handlers of nodes' errors ask (`error_handler`).

LangGraph makes a handler's task while it executes the step whose node has failed, and again when it goes on with that
step. A look at the thread shows the node that has failed, and no handler: what the handler asks is only among the
step's writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from langgraph.types import Interrupt, PregelTask, StateSnapshot

from trackside.harness.adapters.langgraph._graph import Graph, checkpointer_of
from trackside.harness.adapters.langgraph._kept_answers import ids_asked_at, kept_by, open_questions_of


async def with_handlers(graph: Graph, state: StateSnapshot) -> StateSnapshot:
    """A graph's state with the handlers that wait for answers among its tasks.

    Each is named after the place where it runs, from which the ids of its questions are made.
    """
    places = [
        f"{task.name}:{task.id}|{handler}"
        for task in state.tasks
        if task.error is not None and (handler := getattr(graph.nodes.get(task.name), "error_handler_node", None))
    ]
    saver = checkpointer_of(graph)
    saved = await saver.aget_tuple(state.config) if places and saver is not None else None
    if saved is None:
        return state
    shown, known = {question.id for question in state.interrupts}, {task.id for task in state.tasks}
    handlers = [
        PregelTask(of, _place_of(of, questions, places, len(kept_by(of, saved.pending_writes))), (), None, questions)
        for of, questions in open_questions_of(saved.pending_writes).items()
        if of not in known
        and shown.isdisjoint(question.id for question in questions)  # else a `@task`, whose question its node asks
    ]
    asked = tuple(question for task in handlers for question in task.interrupts)
    return state._replace(tasks=(*state.tasks, *handlers), interrupts=(*state.interrupts, *asked))


def _place_of(task_id: str, questions: Sequence[Interrupt], places: Sequence[str], answered: int) -> str:
    """The place of the handler that asked these questions; of the first failed node's, if none matches their ids."""
    asked = {question.id for question in questions}
    its = (place for place in places if not asked.isdisjoint(ids_asked_at(f"{place}:{task_id}", answered)))
    return next(its, places[0])


def name_of(task: PregelTask) -> str:
    """The node that a task belongs to."""
    return task.name.rpartition("|")[2]
