"""What a run's command brings to its thread: once, however many attempts there are.

LangGraph saves an update, and where to go, beside the checkpoint at which it finds the thread, and makes no other
checkpoint until the step is over. Given once more, they would be saved and done twice; so they are saved with the id of
the run that brings them. So are answers, some of which may be used up there: they are saved with the id of a run which
has brought them, not of one that was refused.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from langgraph.types import Command, Send

from trackside.harness.adapters.langgraph._graph import Graph, checkpointer_of
from trackside.harness.adapters.langgraph._places import Origin, place_of
from trackside.harness.adapters.langgraph._threads import BROUGHT_BY
from trackside.harness.context import RunContext


def command_of(run: RunContext, *, update: Any, goto: list[str | Send], resume: Any = None) -> Command[Any]:
    """A run's command as its graph gets it; what it brings is signed with the run's id."""
    command = Command[Any](update=update, goto=goto, resume=resume)
    if not (goto or update or run.resuming):
        return command
    changes = command._update_as_tuples()  # noqa: SLF001  # what LangGraph itself makes of any update
    return Command(update=[*changes, (BROUGHT_BY, run.run_id)], goto=goto, resume=resume)


async def has_brought(run: RunContext, graph: Graph, origin: Origin, used_up_by: Collection[str]) -> bool:
    """Whether the attempt before has brought this run's command to where the run begins; if so, notes it for the next.

    `used_up_by` are the runs that brought graphs inside their answers: with durability "exit" these save theirs first.
    """
    saver = checkpointer_of(graph)
    if saver is None or run.retry_of is None or not run.command:
        return False
    saved = await saver.aget_tuple(place_of(run, origin))
    if saved is None:
        return False
    is_inside = {*run.command} == {"resume"} and run.retry_of in used_up_by
    if not is_inside and (BROUGHT_BY, run.retry_of) not in [write[1:] for write in saved.pending_writes or ()]:
        return False
    await saver.aput_writes(saved.config, [(BROUGHT_BY, run.run_id)], run.run_id)
    return True
