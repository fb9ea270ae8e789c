"""Runs LangGraph graphs: any compiled `StateGraph`, `Pregel` or functional-API entrypoint, as they are.

`_agent` is the adapter; `_input` makes the graph's input of what was asked for, `_stream` reads what it streams,
`_usage` listens to its models and tools (as `_listening` has it), `_stopping` sees it to its end, `_threads` takes its
checkpoints back. `_states` shows what its checkpointer has kept, `_describing` what it is made of; `_factory` is for graphs
that are made for each run.
"""

from trackside.harness.adapters.langgraph._agent import LangGraphAgent, adapt
from trackside.harness.adapters.langgraph._errors import GraphPauseError, NoCheckpointerError, NoParentGraphError
from trackside.harness.adapters.langgraph._factory import GraphFactory, adapt_factory

__all__ = [
    "GraphFactory",
    "GraphPauseError",
    "LangGraphAgent",
    "NoCheckpointerError",
    "NoParentGraphError",
    "adapt",
    "adapt_factory",
]
