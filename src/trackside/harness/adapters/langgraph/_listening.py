"""Has handlers hear all that is called within a graph, and knows where: also of a call with callbacks of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook
from langgraph.callbacks import GraphCallbackHandler, GraphInterruptEvent
from langgraph.types import Interrupt

from trackside.harness.context import keep_to_run

_recorder: ContextVar[BaseCallbackHandler | None] = ContextVar("trackside_graph_recorder", default=None)
_gate: ContextVar[BaseCallbackHandler | None] = ContextVar("trackside_graph_gate", default=None)
for _handler in (_recorder, _gate):
    register_configure_hook(_handler, inheritable=True)
    keep_to_run(_handler, None)


def listen(recorder: BaseCallbackHandler, gate: BaseCallbackHandler) -> None:
    """Have both hear what the calling task, and all that it starts, calls from now on, each call once.

    A graph's callbacks reach what is called within it, but a model or tool that is called with callbacks of its own has
    these in their place. What is found in such a variable LangChain adds to those of each call that do not have it.
    """
    _recorder.set(recorder)
    _gate.set(gate)


class QuestionRecorder(GraphCallbackHandler):
    """Hears what a graph has asked when it stops, also that of which it streams nothing; so of graphs that it calls."""

    run_inline = True  # it has heard when the graph has stopped

    def __init__(self) -> None:
        self._asked: dict[UUID | None, Sequence[Interrupt]] = {}

    def on_interrupt(self, event: GraphInterruptEvent) -> None:
        """A graph waits."""
        self._asked[event.run_id] = event.interrupts

    def asked_by(self, run_id: UUID | None) -> Sequence[Interrupt]:
        """What the graph has asked that was called as this run of LangChain's."""
        return self._asked.get(run_id, ())


class CallSite(NamedTuple):
    """Where something is called, as LangChain says: within what, and what it has inherited.

    What has callbacks of its own inherits nothing, so that what was around it `is_added`, as it is to all that it calls.
    """

    parent: UUID | None
    metadata: Mapping[str, Any]
    tags: Sequence[str]
    is_added: bool = False

    def within(self, around: CallSite) -> CallSite:
        """The site of what is called at another one."""
        return self._added(self.parent, around.metadata, around.tags) if around.is_added else self

    def within_context(self) -> CallSite:
        """The site of what is called by code that runs now, and of which LangChain does not say where."""
        around = (var_child_runnable_config.get() or {}).get("callbacks")
        if not isinstance(around, BaseCallbackManager):
            return self
        return self._added(around.parent_run_id, around.inheritable_metadata, around.inheritable_tags)

    def _added(self, parent: UUID | None, metadata: Mapping[str, Any], tags: Sequence[str]) -> CallSite:
        return CallSite(parent, {**metadata, **self.metadata}, (*tags, *self.tags), is_added=True)
