"""What the handlers of nodes' errors ask (`error_handler`).

LangGraph makes a handler's task while it executes the step whose node has failed, and again where it goes on with that step.
Who looks at a thread is shown the node that has failed, and no handler: what that asks is only in what the step has written.
"""

from __future__ import annotations

from collections.abc import Sequence

from langgraph.types import Interrupt, PregelTask, StateSnapshot

from trackside.harness.adapters.langgraph._graph import Graph, checkpointer_of
from trackside.harness.adapters.langgraph._kept_answers import ids_asked_at, kept_by, open_questions_of


async def with_handlers(graph: Graph, state: StateSnapshot) -> StateSnapshot:
    """A graph's state with the handlers among its tasks that wait for answers. Each has as its name where it runs, of which
    the ids of its questions are made.
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
        and shown.isdisjoint(question.id for question in questions)  # else a `@task`, which its node asks
    ]
    asked = tuple(question for task in handlers for question in task.interrupts)
    return state._replace(tasks=(*state.tasks, *handlers), interrupts=(*state.interrupts, *asked))


def _place_of(task_id: str, questions: Sequence[Interrupt], places: Sequence[str], answered: int) -> str:
    """Which handler has asked this: that of the first node that has failed, if none of them has itself."""
    asked = {question.id for question in questions}
    its = (place for place in places if not asked.isdisjoint(ids_asked_at(f"{place}:{task_id}", answered)))
    return next(its, places[0])


def name_of(task: PregelTask) -> str:
    """The node that a task is of."""
    return task.name.rpartition("|")[2]
