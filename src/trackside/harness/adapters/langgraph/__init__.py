"""Runs LangGraph graphs as they are: any compiled `StateGraph`, `Pregel` or functional-API entrypoint.

`_agent` is the adapter; `_input` makes the graph's input from the request, `_stream` reads what the graph streams,
`_usage` listens to its models and tools (through `_listening`), `_stopping` sees it to its end, and `_threads` rolls
its checkpoints back. `_states` shows what its checkpointer has kept, `_describing` what the graph consists of.
`_factory` is for graphs that are made for each run.
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
