"""What a run's command changes on its thread beside the answers that it brings: once, in however many attempts.

LangGraph saves an update, and where to go, beside the checkpoint at which it finds the thread, and makes no other until the
step is over. Given once more, they would be saved and done twice; so they are saved with the id of the run that brings them.
"""

from __future__ import annotations

from typing import Any, Final

from langgraph.types import Command, Send

from trackside.harness.adapters.langgraph._graph import Graph, checkpointer_of
from trackside.harness.adapters.langgraph._places import Origin, place_of
from trackside.harness.context import RunContext

_BROUGHT_BY: Final = "__no_writes__"
"""A channel of LangGraph's that it knows, and applies nothing of: that of a node which has written nothing."""


def command_of(run: RunContext, *, update: Any, goto: list[str | Send], resume: Any = None) -> Command[Any]:
    """A run's command as its graph gets it; what that changes is signed."""
    command = Command[Any](update=update, goto=goto, resume=resume)
    if not (goto or update):
        return command
    changes = command._update_as_tuples()  # noqa: SLF001  # what LangGraph itself makes of any update
    return Command(update=[*changes, (_BROUGHT_BY, run.run_id)], goto=goto, resume=resume)


async def has_changed(run: RunContext, graph: Graph, origin: Origin) -> bool:
    """Whether the thread has what this run's command changes, where it begins, by the attempt before; noted for the next."""
    saver = checkpointer_of(graph)
    if saver is None or run.retry_of is None or not run.command:
        return False
    saved = await saver.aget_tuple(place_of(run, origin))
    if saved is None or (_BROUGHT_BY, run.retry_of) not in [write[1:] for write in saved.pending_writes or ()]:
        return False
    await saver.aput_writes(saved.config, [(_BROUGHT_BY, run.run_id)], run.run_id)
    return True
