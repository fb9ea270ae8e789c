"""Turns functions and frameworks' objects into an `Agent`: one module for each framework; none imports another.

A framework's module is imported only when one of its objects is passed; the object is recognised without importing it.
Third-party adapters find `human_messages` here, which picks the human messages out of an input.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from trackside.harness.adapters.callables import CallableAgent
from trackside.harness.context import Agent
from trackside.harness.errors import NotAnAgentError
from trackside.harness.foreign.signatures import annotations_of
from trackside.harness.journal import human_messages

__all__ = ["as_agent", "human_messages"]

_FRAMEWORKS = {
    "agents": "trackside.harness.adapters.openai_agents",
    "langgraph": "trackside.harness.adapters.langgraph",
    "pydantic_ai": "trackside.harness.adapters.pydantic_ai",
}
"""The adapter of objects whose class, or a base of it, comes from the package on the left."""

_MARKS = {"agents": "set_default_openai_client"}
"""An attribute of a framework's package whose name other people may give to a module of theirs, such as `agents.py`."""

_OF_GRAPHS = re.compile(r"\b(RunnableConfig|ServerRuntime|CompiledStateGraph|CompiledGraph|StateGraph|Pregel)\b")
"""The types that functions which make graphs name in their annotations."""

_functions: WeakKeyDictionary[FunctionType, CallableAgent] = WeakKeyDictionary()
"""What is known of functions, for scripts that run one over and over. An agent that held its function here would keep
it alive for ever.
"""

_AGENT_METHODS = ("human_messages", "run", "rollback")
_NOBODYS = "what_no_agent_has"


def as_agent(agent: Any, *, name: str | None = None, makes_graphs: bool = False) -> Agent:
    """Make an agent of a function or a framework's object; return an `Agent` as it is.

    A function that makes a graph for each run is an agent, too: a function that is a context manager, or whose
    annotations say so by LangGraph's types (of what it returns, or takes).

    Args:
        agent: the function or object.
        name: what to call the agent; if left out, it keeps its own name.
        makes_graphs: whether a function that takes nothing, or only a config and a runtime, makes a graph without
            saying so, as in LangGraph's own settings.

    Raises:
        NotAnAgentError: (a `TypeError`) it is none of these; the message says what was passed and what is accepted.
    """
    if name is None and not makes_graphs and isinstance(agent, FunctionType):
        known = _functions.get(agent)
        return _inspect(agent) if known is None else known.of(agent)
    if isinstance(agent, type):
        raise NotAnAgentError(passed=agent.__qualname__, why="it is a class; pass an instance of it")
    missing = [method for method in _AGENT_METHODS if not callable(getattr(agent, method, None))]
    if not missing and hasattr(agent, _NOBODYS):
        # A test double answers to every name: it has only what it was given.
        missing = [method for method in _AGENT_METHODS if not callable(inspect.getattr_static(agent, method, None))]
    if not missing:
        return agent  # type: ignore[no-any-return]  # it has what an Agent has
    for base in type(agent).__mro__:
        module = _adapter_of(base.__module__.partition(".")[0])
        if module is not None and (adapted := importlib.import_module(module).adapt(agent, name=name)) is not None:
            return adapted  # type: ignore[no-any-return]  # every adapter module's `adapt` gives an Agent
    if callable(agent):
        return _of_function(agent, name, makes_graphs=makes_graphs)
    why = f"a {type(agent).__name__} cannot be called"
    if len(missing) < len(_AGENT_METHODS):
        why += f", and to be an `Agent` it lacks {' and '.join(missing)}"
    raise NotAnAgentError(passed=f"{agent!r:.80}", why=why)


def _inspect(function: FunctionType) -> Agent:
    """The agent made of a function; what was found out about the function is kept for as long as the function lives."""
    agent = _of_function(function, None, makes_graphs=False)
    if isinstance(agent, CallableAgent):
        _functions[function] = agent.of(None)
    return agent


def _of_function(function: Any, name: str | None, *, makes_graphs: bool) -> Agent:
    if makes_graphs or _seems_to_make_graphs(function):
        factory = importlib.import_module(_FRAMEWORKS["langgraph"]).adapt_factory(
            function, name=name, loosely=makes_graphs
        )
        if factory is not None:
            return factory  # type: ignore[no-any-return]  # it has what an Agent has
    return CallableAgent(function, name=name)


def _seems_to_make_graphs(function: Any) -> bool:
    """Whether the function is worth a closer look, for which LangGraph has to be installed."""
    if getattr(function, "__globals__", None) is contextlib.__dict__:
        return True  # a context manager
    annotations = annotations_of(function).values()
    return any(_OF_GRAPHS.search(said if isinstance(said, str) else repr(said)) for said in annotations)


def _adapter_of(package: str) -> str | None:
    """The module that adapts objects of an imported package; None if there is none."""
    mark = _MARKS.get(package)
    return _FRAMEWORKS.get(package) if mark is None or hasattr(sys.modules.get(package), mark) else None
