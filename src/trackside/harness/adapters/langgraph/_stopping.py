"""Runs a graph in a task of its own to its real end, however often it is cancelled; begins nothing after that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage

from trackside.harness.adapters.langgraph._graph import Saver
from trackside.harness.context import RunContext, keep_to_run
from trackside.harness.foreign.timelimit import Raised, start_contained
from trackside.harness.running.logs import fields_of
from trackside.harness.running.settling import Settling

logger = logging.getLogger("trackside.worker")

# What LangGraph's tasks do.
_NODE = "arun_with_retry"
_TIMED = "_arun_with_timeout.<locals>.run"  # a node with a `timeout`, which LangGraph cancels and does not wait for
_GATED = "gated"  # a node or a write, under a limit of concurrency
_CHECKPOINT = "AsyncPregelLoop._checkpointer_put_after_previous"
_GRAPH_OF_EVENTS = "_astream_events_implementation_v2.<locals>.consume_astream"


class StopGate(BaseCallbackHandler):
    """Lets no model and no tool begin any more once the run was asked to stop, as when its budget is used up.

    The cancel comes at the next `await`, which is too late for what a tool does first, and for a plain function.
    """

    run_inline = True  # so that it runs before what it stops

    def __init__(self, run: RunContext) -> None:
        self._run = run

    def on_tool_start(self, serialized: dict[str, Any], input_str: str, **kwargs: Any) -> None:
        """A tool is called now.

        Raises:
            asyncio.CancelledError: the run is to stop.
        """
        self._go_on()

    def on_chat_model_start(self, serialized: dict[str, Any], messages: list[list[BaseMessage]], **kwargs: Any) -> None:
        """A model is called now.

        Raises:
            asyncio.CancelledError: the run is to stop.
        """
        self._go_on()

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any) -> None:
        """A model is called now.

        Raises:
            asyncio.CancelledError: the run is to stop.
        """
        self._go_on()

    def _go_on(self) -> None:
        if self._run.cancelled:
            raise asyncio.CancelledError  # an error LangChain would log, and fallbacks and tool nodes would catch


_run_of_task: ContextVar[RunContext | None] = ContextVar("trackside_graph_run", default=None)
keep_to_run(_run_of_task, None)


async def see_through[T](
    call: Coroutine[Any, Any, T],
    run: RunContext,
    saver: Saver | None,
    *,
    has_timed_nodes: bool,
    on_written: Callable[[], None],
) -> T:
    """Await a graph until nothing of it runs any more and its checkpoints are written.

    Then `on_written` is called, if there is a checkpointer and this was not cancelled. After a success, this looks only
    for nodes that took longer than their `timeout`, and only if there are such nodes: the more tasks there are, the
    longer a look takes.

    Raises:
        asyncio.CancelledError: this was cancelled, and the graph has stopped.
        BaseException: what the graph raised.
    """
    task = asyncio.current_task()
    cancels = 0 if task is None else task.cancelling()
    settling = Settling(run.run_id)
    graph_task = start_contained(_marked(call, run, settling), name=f"trackside-graph-{run.run_id}")
    cancel: asyncio.CancelledError | None = None
    while unfinished := _unfinished(graph_task, run, saver, has_timed_nodes=has_timed_nodes):
        try:
            await asyncio.wait(unfinished)
        except asyncio.CancelledError as exc:
            graph_task.cancel()
            if cancel is not None:
                _cancel_nodes(run)
            cancel = exc
    outcome = Raised(cancel) if cancel is not None else graph_task.result()
    is_written = saver is not None
    try:
        await settling.settle(hurried=isinstance(outcome, Raised))
    except Exception as exc:  # the store's failure
        if not isinstance(outcome, Raised):  # I18: the thread's next run would go on without what this one has done
            raise
        logger.warning("run %s: checkpoints could not be written: %s", run.run_id, exc, extra=fields_of(run))
        is_written = False
    has_to_stop = task is not None and task.cancelling() > cancels  # maybe since the checkpoints were written
    if is_written and not has_to_stop:
        on_written()
    if isinstance(outcome, Raised):
        raise outcome.exception
    if has_to_stop:
        raise asyncio.CancelledError
    return outcome


async def _marked[T](call: Coroutine[Any, Any, T], run: RunContext, settling: Settling) -> T:
    _run_of_task.set(run)
    if run.durability != "sync":  # else each step waits until its checkpoint is written
        settling.begin()
    return await call


def _unfinished(
    graph_task: asyncio.Task[Any], run: RunContext, saver: Saver | None, *, has_timed_nodes: bool
) -> set[asyncio.Task[Any]]:
    """What there is to wait for: the graph; once it has failed or was cancelled, what LangGraph has left behind.

    LangGraph notes that it cancelled a node in a write that begins when it no longer waits for anything; and a second
    cancel breaks off its wait for nodes and writes. After a success, too, a node that took too long may still be
    cleaning up.
    """
    if not graph_task.done():
        return {graph_task}
    if not (graph_task.cancelled() or isinstance(graph_task.result(), Raised)):
        if not has_timed_nodes:
            return set()
        own = {_TIMED}
    else:
        own = {_NODE, _TIMED, _GRAPH_OF_EVENTS, _GATED, _CHECKPOINT}
        if saver is not None:
            own.add(saver.aput_writes.__qualname__)
    return {task for task, what in _tasks_of(run).items() if what in own}


def _cancel_nodes(run: RunContext) -> None:
    """Cancel the nodes that ignored an earlier cancel; never a write."""
    for task, what in _tasks_of(run).items():
        is_node = what == _NODE or (what == _GATED and not task.get_name().startswith("Task-"))  # it names only nodes
        if is_node or what in {_TIMED, _GRAPH_OF_EVENTS}:
            task.cancel()


def _tasks_of(run: RunContext) -> dict[asyncio.Task[Any], str]:
    """The tasks that began within a run's graph, with what each does."""
    tasks = [task for task in asyncio.all_tasks() if task.get_context().get(_run_of_task) is run]
    return {task: getattr(task.get_coro(), "__qualname__", "") for task in tasks}
