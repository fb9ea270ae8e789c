"""The part of its state that a graph gives back: the channels of its output schema, as `ainvoke` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trackside.harness.adapters.langgraph._graph import Graph
from trackside.harness.adapters.langgraph._threads import INTERRUPT


def outputs_of(graph: Graph) -> Sequence[str] | str | None:
    """The channels a graph gives back, or the one whose value alone it gives back; None if that is all of its state."""
    given, kept = graph.output_channels, graph.stream_channels_asis
    if isinstance(kept, str):
        return None
    return given if isinstance(given, str) or not {*kept} <= {*given} else None


class Outlet:
    """Lets through, of what a graph streams, what the graph gives back.

    The graph itself must stream all of its state: what is new in it is found by the state that a run begins with.
    """

    def __init__(self, graph: Graph) -> None:
        outputs = outputs_of(graph)
        self.hides = outputs is not None
        """Whether there is anything that does not go out."""
        self._only = outputs if isinstance(outputs, str) else None
        shown = {self._only} if self._only is not None else {*(outputs or ())}
        self._hidden = {*graph.stream_channels_asis} - shown if self.hides else set()

    def values(self, state: Any) -> Any:
        """What goes out of a state; the questions beside it do, too."""
        if not self.hides or not isinstance(state, Mapping):
            return state
        if self._only is None:
            return {key: value for key, value in state.items() if key not in self._hidden}
        return {INTERRUPT: state[INTERRUPT]} if INTERRUPT in state else state.get(self._only)

    def updates(self, updates: Mapping[str, Any]) -> Mapping[str, Any]:
        """What goes out of what nodes have written; None for a node that has written nothing of that."""
        if not self.hides:
            return updates
        return {node: said if node.startswith("__") else self._update(said) for node, said in updates.items()}

    def _update(self, update: Any) -> Any:
        if isinstance(update, list):  # a node that has written one channel more than once
            shown = [one for one in map(self._update, update) if one is not None]
            return shown if len(shown) > 1 else shown[0] if shown else None
        if not isinstance(update, Mapping):  # what a task of the node has returned
            return update
        if self._hidden.isdisjoint(update):
            return update if self._only is None else update.get(self._only, update)
        return self.values(update) if self._only is not None else self.values(update) or None
