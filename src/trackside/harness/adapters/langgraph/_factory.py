"""Graphs that a function makes for each call: for the caller, with what is configured and what it opens for it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any
from weakref import WeakKeyDictionary

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.pregel import Pregel

from trackside.harness.adapters.langgraph._agent import LangGraphAgent, adapt
from trackside.harness.adapters.langgraph._context import completed, fitting, is_of
from trackside.harness.adapters.langgraph._factory_arguments import Access, Arguments, Call, annotation_text
from trackside.harness.adapters.langgraph._places import configurable_of, metadata_of, section
from trackside.harness.agents.asked import configured
from trackside.harness.context import AgentResult, RunContext
from trackside.harness.errors import NotAnAgentError
from trackside.harness.foreign.signatures import annotations_of, name_of
from trackside.harness.foreign.timelimit import Raised, start_contained
from trackside.harness.running.logs import fields_of
from trackside.harness.states import Caller, StateSnapshot, StateUpdate, ThreadPlace
from trackside.harness.types import USER, JsonObject

logger = logging.getLogger("trackside.worker")

_GRAPH = re.compile(r"\b(CompiledStateGraph|CompiledGraph|StateGraph|Pregel)\b")


def adapt_factory(
    function: Callable[..., Any], *, name: str | None = None, loosely: bool = False
) -> GraphFactory | None:
    """An agent made of a function that makes graphs; None for any other function.

    A function makes graphs if it takes nothing but what `Arguments` knows, and is a context manager, or has an
    annotation that says so: a graph that it returns, LangGraph's config or runtime that it takes. With `loosely` it
    need not say so.
    """
    arguments = Arguments.taken_by(function, loosely=loosely)
    if arguments is None:
        return None
    returned = annotation_text(annotations_of(function).get("return"))
    if not (loosely or arguments.are_annotated or is_context_manager(function) or _GRAPH.search(returned)):
        return None
    plain: Any = function
    if inspect.isasyncgenfunction(function):  # somebody forgot to decorate it
        plain = asynccontextmanager(function)
    elif inspect.isgeneratorfunction(function):
        plain = contextmanager(function)
    return GraphFactory(plain, arguments, name=name)


def is_context_manager(function: Callable[..., Any]) -> bool:
    """Whether a function is decorated as one."""
    inner = inspect.unwrap(function)
    yields = inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner)
    return inner is not function and yields and getattr(function, "__code__", None) in _DECORATED


def _codes() -> frozenset[Any]:
    """The code of functions that are decorated as context managers."""

    def plain() -> Generator[None]:
        yield

    async def asynchronous() -> AsyncGenerator[None]:
        yield

    return frozenset({contextmanager(plain).__code__, asynccontextmanager(asynchronous).__code__})


_DECORATED = _codes()


class GraphFactory:
    """Runs the graph that a function makes: once for each run, and for each look at a thread or at the graph itself.

    The function may be `async`, or a context manager, sync or async, that gives the graph. A context manager is left
    when the run is over, however it ended, and hears of a run's failure. The function is called on the event loop.
    Context variables that it sets are set for the graph's run. `Arguments` says what it takes.

    Args:
        function: the function that makes the graph.
        arguments: what it takes.
        name: what to call the agent; the function's name if left out.
    """

    stream_modes = LangGraphAgent.stream_modes
    lacks_checkpointer = True
    """Whether it needs the manager's checkpointer; nobody knows yet whether its graph will have one of its own."""

    def __init__(self, function: Callable[..., Any], arguments: Arguments, *, name: str | None = None) -> None:
        self.name = name or name_of(function)
        self._function = function
        self._arguments = arguments
        self._uses: WeakKeyDictionary[RunContext, _Use] = WeakKeyDictionary()
        self._latest: LangGraphAgent | None = None
        self._forgets = False
        """Whether the graph that it made last keeps its threads only in memory."""
        self._is_warned_of = False

    def completed(self, config: Mapping[str, Any] | None, context: Any) -> tuple[Mapping[str, Any] | None, Any]:
        """As `LangGraphAgent`, as far as that can be told before there is a graph."""
        kind = self._arguments.context_type
        config, context = completed(config, context, kind)
        return config, {} if context is None and kind is None else context

    async def human_messages(self, run: RunContext) -> Sequence[JsonObject]:
        """As `LangGraphAgent`; makes the run's graph."""
        return await (await self._use_of(run)).agent.human_messages(run)

    async def run(self, run: RunContext) -> AgentResult:
        """As `LangGraphAgent`. What was opened for the graph is closed when this returns or raises. If the run is
        stopped, it is closed when the run is left: its thread may have to be rolled back first.

        Raises:
            Exception: what the graph raised, else what closing raised.
        """
        use = await self._use_of(run)
        for variable, value in use.variables.items():  # they were set in another task
            variable.set(value)
        try:
            result = await use.agent.run(run)
        except Exception as exc:
            use.failure = exc
            if not run.cancelled:
                await self._close_after(use, run)
            raise
        if not run.cancelled:
            await use.close()
        return result

    async def leave(self, run: RunContext) -> None:
        """Close what was opened for a run that is over, perhaps before its graph was called."""
        if (use := self._uses.get(run)) is not None:
            await self._close_after(use, run)

    async def rollback(self, run: RunContext) -> str | None:
        """As `LangGraphAgent`."""
        async with self._of_stopped(run, "threads.update") as agent:
            return await agent.rollback(run)

    async def asks(self, run: RunContext) -> bool:
        """As `LangGraphAgent`."""
        async with self._of_stopped(run, "threads.read") as agent:
            return await agent.asks(run)

    async def answers_at(self, place: ThreadPlace, resume: Any, *, is_free: bool) -> Mapping[str, Any]:
        """As `AddressesAnswers`."""
        async with self._made(_look_of(place, "threads.read")) as agent:
            return await agent.answers_at(place, resume, is_free=is_free)

    async def state(self, place: ThreadPlace, *, subgraphs: bool = False) -> StateSnapshot | None:
        """As `KeepsThreads`."""
        async with self._made(_look_of(place, "threads.read")) as agent:
            return await agent.state(place, subgraphs=subgraphs)

    async def last_state(self, place: ThreadPlace) -> StateSnapshot | None:
        """As `ShowsLastStates`."""
        async with self._made(_look_of(place, "threads.read")) as agent:
            return await agent.last_state(place)

    async def history(
        self,
        place: ThreadPlace,
        *,
        limit: int,
        before: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[StateSnapshot]:
        """As `KeepsThreads`."""
        async with self._made(_look_of(place, "threads.read")) as agent:
            return await agent.history(place, limit=limit, before=before, metadata=metadata)

    async def update_state(self, place: ThreadPlace, values: Any, *, as_node: str | None = None) -> JsonObject:
        """As `KeepsThreads`."""
        async with self._made(_look_of(place, "threads.update")) as agent:
            return await agent.update_state(place, values, as_node=as_node)

    async def replay(self, place: ThreadPlace, steps: Sequence[Sequence[StateUpdate]]) -> JsonObject:
        """As `KeepsThreads`."""
        async with self._made(_look_of(place, "threads.update")) as agent:
            return await agent.replay(place, steps)

    async def drawing(self, *, xray: int | bool = False, caller: Caller | None = None) -> JsonObject:
        """As `Describes`."""
        async with self._made(_read_by(caller)) as agent:
            return await agent.drawing(xray=xray)

    async def schemas(self, *, caller: Caller | None = None) -> JsonObject:
        """As `Describes`."""
        async with self._made(_read_by(caller)) as agent:
            return await agent.schemas()

    async def subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False, caller: Caller | None = None
    ) -> Mapping[str, JsonObject]:
        """As `Describes`."""
        async with self._made(_read_by(caller)) as agent:
            return await agent.subgraphs(namespace=namespace, recurse=recurse)

    async def _use_of(self, run: RunContext) -> _Use:
        """The graph of a run, made when it is first asked for."""
        use = self._uses.get(run)
        if use is None:
            use = self._uses[run] = await self._make(_call_of(run, "threads.create_run"))
            self._warn_of_forgetting(run)
            if is_of(run.context, configured(section(run, "configurable"))):
                run.context = fitting(run.context, use.agent.context_schema)
        return use

    @asynccontextmanager
    async def _of_stopped(self, run: RunContext, access: Access) -> AsyncGenerator[LangGraphAgent]:
        """The graph of a run that was stopped; another if it had none, or was stopped while its own was closed."""
        use = self._uses.get(run)
        if use is not None and not use.is_closed:
            yield use.agent
            return
        async with self._made(_call_of(run, access)) as agent:
            if use is not None:
                agent.take_over(run, use.agent)
            yield agent

    @asynccontextmanager
    async def _made(self, call: Call) -> AsyncGenerator[LangGraphAgent]:
        """A graph for one call."""
        use = await self._make(call)
        try:
            yield use.agent
        except Exception as exc:
            await use.close(exc)
            raise
        finally:
            await use.close()

    async def _make(self, call: Call) -> _Use:
        before = copy_context()
        made = self._function(**self._arguments.of(call))
        if isinstance(made, Awaitable):
            made = await made
        keeper, variables = None, _set_since(before)
        if not isinstance(made, Pregel) and isinstance(made, AbstractAsyncContextManager | AbstractContextManager):
            keeper = _Keeper(made, name=self.name)
            made = await keeper.enter()
            variables |= keeper.variables
        try:
            return _Use(self._agent_of(made, stays=keeper is None), keeper, variables)
        except NotAnAgentError as exc:
            if keeper is not None:
                await keeper.leave(exc)
            raise

    def _agent_of(self, made: Any, *, stays: bool) -> LangGraphAgent:
        if self._latest is not None and self._latest.is_of(made):
            return self._latest  # the function gives the same graph each time: what was bound to it is bound already
        agent = adapt(made, name=self.name)
        if agent is None:
            raise NotAnAgentError(passed=f"what {self.name} makes", why=f"it is a {type(made).__name__}, not a graph")
        self._forgets = isinstance(getattr(made, "checkpointer", None), InMemorySaver)  # a builder has none
        if stays:
            self._latest = agent
        return agent

    def _warn_of_forgetting(self, run: RunContext) -> None:
        """Warn once that threads are forgotten, where the manager's checkpointer would not forget them."""
        if self._forgets and run.checkpointer is not None and not self._is_warned_of:
            self._is_warned_of = True
            logger.warning(
                "the agent %r makes graphs whose own checkpointer forgets when the program ends, or after each run if it is "
                "made with the graph; compile them without one",
                self.name,
                extra=fields_of(run),
            )

    async def _close_after(self, use: _Use, run: RunContext) -> None:
        """Close what was opened for a run that ended some other way: its caller hears of that, not of the closing."""
        try:
            await use.close(use.failure)
        except Exception as failure:  # from the factory's own code, after its run is over
            logger.warning(
                "run %s: what the agent %r had opened could not be closed: %r",
                run.run_id,
                self.name,
                failure,
                exc_info=failure,
                extra=fields_of(run),
            )


class _Use:
    """A graph, and what has to be closed when it is not needed any more."""

    def __init__(self, agent: LangGraphAgent, keeper: _Keeper | None, variables: Mapping[ContextVar[Any], Any]) -> None:
        self.agent = agent
        self.variables = variables
        """The context variables that making it has set."""
        self.failure: Exception | None = None
        """What its run failed with."""
        self.is_closed = False
        """Whether it was closed, or is about to be; a graph that needs no closing never is."""
        self._keeper = keeper

    async def close(self, failure: Exception | None = None) -> None:
        """Close it, once, and tell it what its use failed with."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            self.is_closed = True
            await keeper.leave(failure)


class _Keeper:
    """Holds a context open in a task of its own: the task that entered a context has to leave it."""

    def __init__(self, context: AbstractAsyncContextManager[Any] | AbstractContextManager[Any], *, name: str) -> None:
        self._context = context
        loop = asyncio.get_running_loop()
        self._entered: asyncio.Future[Any] = loop.create_future()
        self._leaving: asyncio.Future[Exception | None] = loop.create_future()
        self.variables: dict[ContextVar[Any], Any] = {}
        """What entering the context has set."""
        self._task = start_contained(self._hold(), name=f"trackside-graph-of-{name}")

    async def enter(self) -> Any:
        """What the context gives. A cancelled caller cancels the task and awaits it; cancelled again, it does so again.

        Raises:
            Exception: what it raised instead.
        """
        try:
            await asyncio.wait({self._entered, self._task}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as exc:
            self._leaving.set_result(None)  # a context that opens all the same is closed at once
            self._task.cancel()  # only now: in a context that has just opened, this cancels the wait for `_leaving`
            await self._over(exc)
        if not self._entered.done():
            self._raise()
        return self._entered.result()

    async def leave(self, failure: Exception | None) -> None:
        """Leave the context to the end, even if the caller is cancelled; one cancelled again cancels the leaving, too.

        Raises:
            Exception: what the context raised, unless that is the failure that it was told of.
        """
        if not self._leaving.done():
            self._leaving.set_result(failure)
        await self._over()
        self._raise(but=failure)

    async def _over(self, cancel: asyncio.CancelledError | None = None) -> None:
        """Wait until the context is left, even if cancelled; a second cancel, counting `cancel`, cancels the leaving.

        Raises the last cancel.
        """
        while not self._task.done():
            try:
                await asyncio.wait({self._task})
            except asyncio.CancelledError as exc:
                if cancel is not None:
                    self._task.cancel()
                cancel = exc
        if cancel is not None:
            raise cancel

    async def _hold(self) -> None:
        before = copy_context()
        if isinstance(self._context, AbstractAsyncContextManager):
            async with self._context as made:
                await self._keep(made, before)
        else:
            with self._context as made:
                await self._keep(made, before)

    async def _keep(self, made: Any, before: Context) -> None:
        self.variables = _set_since(before)
        self._entered.set_result(made)
        if (failure := await self._leaving) is not None:
            raise failure

    def _raise(self, *, but: Exception | None = None) -> None:
        if self._task.cancelled():
            raise asyncio.CancelledError
        outcome = self._task.result()
        if isinstance(outcome, Raised) and outcome.exception is not but:
            raise outcome.exception


def _set_since(before: Context) -> dict[ContextVar[Any], Any]:
    return {variable: value for variable, value in copy_context().items() if before.get(variable, before) is not value}


def _call_of(run: RunContext, access: Access) -> Call:
    """The call for a run's graph."""
    configurable = configurable_of(run, {})
    config = {**run.config, "configurable": configurable, "metadata": metadata_of(run)}
    user = configurable.get(USER)
    return Call(access=access, config=config, user=user, items=run.items, context=run.context)


def _look_of(place: ThreadPlace, access: Access) -> Call:
    """The call for a graph that shows or changes a thread."""
    configurable: dict[str, Any] = {"checkpoint_ns": place.namespace, "thread_id": place.thread_id}
    return _with_user(place.caller, access, configurable)


def _read_by(caller: Caller | None) -> Call:
    """The call for a graph that is to be described."""
    return _with_user(caller or Caller(), "assistants.read", {})


def _with_user(caller: Caller, access: Access, configurable: dict[str, Any]) -> Call:
    own = caller.config.get("configurable", {})
    user = own.get(USER) if caller.user is None else caller.user  # as a run's config has the user
    config = {**caller.config, "configurable": {**own, **configurable, **({} if user is None else {USER: user})}}
    return Call(access=access, config=config, user=user, items=caller.items)
