"""Has handlers hear every call within a graph, and where it is made: even of a call with callbacks of its own."""

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
    """Have both handlers hear every call that this task, and all that it starts, makes from now on, each once.

    A graph's callbacks reach what is called within it, but callbacks that a model or tool is called with take their
    place. LangChain adds the handler in such a variable to every call whose callbacks do not have it.
    """
    _recorder.set(recorder)
    _gate.set(gate)


class QuestionRecorder(GraphCallbackHandler):
    """Hears what a graph has asked when it stops, even what it does not stream; likewise of graphs that it calls."""

    run_inline = True  # so that it has heard by the time the graph has stopped

    def __init__(self) -> None:
        self._asked: dict[UUID | None, Sequence[Interrupt]] = {}

    def on_interrupt(self, event: GraphInterruptEvent) -> None:
        """A graph waits."""
        self._asked[event.run_id] = event.interrupts

    def asked_by(self, run_id: UUID | None) -> Sequence[Interrupt]:
        """What the graph that was called as this LangChain run has asked."""
        return self._asked.get(run_id, ())


class CallSite(NamedTuple):
    """Where something is called, as LangChain says: within what, and what it has inherited.

    A call with callbacks of its own inherits nothing, so what is around it `is_added`, also to all that it calls.
    """

    parent: UUID | None
    metadata: Mapping[str, Any]
    tags: Sequence[str]
    is_added: bool = False

    def within(self, around: CallSite) -> CallSite:
        """This site, with what the site `around` it adds."""
        return self._added(self.parent, around.metadata, around.tags) if around.is_added else self

    def within_context(self) -> CallSite:
        """This site, of a call by the code that runs now, if LangChain does not say where that is."""
        around = (var_child_runnable_config.get() or {}).get("callbacks")
        if not isinstance(around, BaseCallbackManager):
            return self
        return self._added(around.parent_run_id, around.inheritable_metadata, around.inheritable_tags)

    def _added(self, parent: UUID | None, metadata: Mapping[str, Any], tags: Sequence[str]) -> CallSite:
        return CallSite(parent, {**metadata, **self.metadata}, (*tags, *self.tags), is_added=True)
