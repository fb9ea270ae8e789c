"""Agents that are plain Python: async functions, functions, async generator functions."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Self, get_type_hints

import msgspec

from trackside.harness.agents.asked import check_no_graph_options
from trackside.harness.agents.kept_context import kept_context, recall_context
from trackside.harness.context import AgentResult, RunContext, RunPaused
from trackside.harness.errors import AgentOutputError, InvalidSpecError, NotAnAgentError
from trackside.harness.foreign.signatures import name_of, signature_of
from trackside.harness.journal import answer_message, as_message, human_messages, listed_messages, message_id
from trackside.harness.payload import copied, whole
from trackside.harness.questions import ANSWERED
from trackside.harness.states import Caller
from trackside.harness.threads import AGENT_THREADS, Threads, in_own_thread
from trackside.harness.types import Json, JsonObject, RunSpec

logger = logging.getLogger("trackside.worker")
_NO_PARAMETERS = "it is a function without parameters: if it makes an agent, point at what it returns"
_SCHEMAS = ("input_schema", "output_schema", "state_schema", "config_schema", "context_schema")
_SAY_NOTHING = (None, type(None), Any, object)
_NOT_SAID = (None, "human", "user")
_FOR_GRAPHS = "that is for graphs; a function that needs it takes the run, too"
_MODES = frozenset({"values", "updates", "custom", "messages", "messages-tuple"})


class CallableAgent:
    """Runs a function of the input, or of the input and the run.

    An async function is awaited. A plain function runs in a thread; it cannot be stopped from outside, so a cancelled
    run of it ends when it returns (`run.cancelled` tells it to). Each item of an async generator is streamed as a
    `custom` part, and the last one is the output. A function that takes no run does not see what is asked of a graph,
    so that is refused.

    Args:
        function: what to run.
        name: what to call it; the function's own name if left out.

    Raises:
        NotAnAgentError: (a `TypeError`) it takes neither one nor two positional arguments, or is a generator function.
    """

    uses_thread_state = True
    """It has no checkpointer of its own: the harness remembers its threads' values and interrupts for it."""
    says_values = True
    """It has sent what it returns as `values` before, if it was asked for these."""
    prepares_at_once = True
    """Its `human_messages` waits for nothing, so that needs no task of its own."""

    def __init__(self, function: Callable[..., Any], *, name: str | None = None) -> None:
        self.name = name or name_of(function)
        self._function = function
        self._takes_run = _takes_run(function)
        called = function if _is_function(function) else function.__call__  # type: ignore[operator]  # an instance
        if inspect.isgeneratorfunction(called):
            raise NotAnAgentError(passed=self.name, why="it is a generator function; make it `async def`")
        self._streams = inspect.isasyncgenfunction(called)
        self._is_async = inspect.iscoroutinefunction(called)
        self._called = called

    def of(self, function: Any) -> Self:
        """The same agent for `function`, which is not inspected again; for None, an agent that cannot be run."""
        agent = object.__new__(type(self))
        vars(agent).update(vars(self))
        agent._function = agent._called = function
        return agent

    @property
    def stream_modes(self) -> AbstractSet[str] | None:
        """What it can stream; None: whatever the function says to its run.

        A function that takes no run sends no updates and no messages, but clients that know nothing of agents ask for
        them, as LangGraph's `RemoteGraph` always does.
        """
        return None if self._takes_run else _MODES

    def check(self, spec: RunSpec) -> None:
        """Check that a function which takes no run is not asked for what it cannot know of.

        Raises:
            InvalidSpecError: it is.
        """
        if not self._takes_run:
            _check(spec)

    async def drawing(self, *, xray: int | bool = False, caller: Caller | None = None) -> JsonObject:
        """One box: nobody sees from outside what a function does."""
        return {"nodes": [{"id": self.name, "type": "runnable", "data": {"name": self.name}}], "edges": []}

    async def schemas(self, *, caller: Caller | None = None) -> JsonObject:
        """The types of the function's input and output, where it declares them and JSON Schema can express them."""
        return {**dict.fromkeys(_SCHEMAS), **await in_own_thread(_schemas_of, self._called)}

    async def subgraphs(
        self, *, namespace: str | None = None, recurse: bool = False, caller: Caller | None = None
    ) -> Mapping[str, JsonObject]:
        """None."""
        return {}

    async def human_messages(self, run: RunContext) -> Sequence[JsonObject]:
        """The human messages in the input that the thread does not have yet; the answer, if the run resumes one.

        Raises:
            InvalidSpecError: it resumes a run whose context could not be kept, and has none.
        """
        if run.resuming:
            recall_context(run)
            return [answer_message(run.resume)]
        if run.input is None:
            return []
        known_ids = {message_id(as_message(message)) for message in listed_messages(run.values.get("messages"))}
        return [message for message in human_messages(run.input) if message["id"] not in known_ids]

    async def run(self, run: RunContext) -> AgentResult:
        """Call the function; a pause becomes an interrupted result.

        Whatever the function does to its arguments, the run keeps them as they were, so that it can begin again.
        """
        if not self._takes_run:
            _check(run)
        arguments = (run.input, run) if self._takes_run else (run.input,)
        given = (
            None if run.input is None else copied(run.input),
            None if run.context is None else copied(run.context),
            copied(run.values),
            run.answers and copied(run.answers),
        )
        try:
            try:
                if self._streams:
                    output = await _last_of(self._function(*arguments), run)
                elif self._is_async:
                    output = await self._function(*arguments)
                else:
                    output = await _in_thread(self._function, arguments, run)
                    if isinstance(output, Awaitable):
                        output = await output  # from a function that returns a coroutine, as a partial or decorator
            finally:
                run.input, run.context, run.values, run.answers = given
        except RunPaused as pause:
            return _asking(pause, run)
        except BaseExceptionGroup as group:  # from a task group, some of whose tasks asked
            asked, others = group.split(RunPaused)
            if asked is None or others is not None:
                raise
            return _asking(_one_of(asked), run)
        return self._result(output, run)

    async def rollback(self, run: RunContext) -> None:
        """Nothing to do: a thread keeps only the values of runs that came to an end."""

    def _result(self, output: Any, run: RunContext) -> AgentResult:
        if inspect.isgenerator(output) or inspect.isasyncgen(output):
            raise AgentOutputError(
                agent=self.name, why="a generator; write `async def` with `yield` and pass the function"
            )
        if inspect.isawaitable(output):
            if inspect.iscoroutine(output):
                output.close()  # else Python would complain about it, too
            raise AgentOutputError(
                agent=self.name, why=f"a {type(output).__name__}; `await` it and return what it gives"
            )
        if run.is_asking:
            if (pause := _pause_in(output)) is not None:
                return _asking(pause, run)
            logger.warning("run %s asked something, but ended without an answer: nobody is asked", run.run_id)
        if output is None:
            return AgentResult()
        plain = whole(output, path="output")
        _note_messages(plain, run)
        values = plain if isinstance(plain, dict) else {"output": plain}
        if "values" in run.stream_modes:
            run.send(values, "values")
        return AgentResult(output=plain, values=values)


def _check(run: RunContext | RunSpec) -> None:
    check_no_graph_options(run, _FOR_GRAPHS)
    for name, value in (run.command or {}).items():
        if name != "resume" and value is not None:
            raise InvalidSpecError(field=f"command.{name}", value=value, why=_FOR_GRAPHS)


def _asking(pause: RunPaused, run: RunContext) -> AgentResult:
    if run.answers_left:
        logger.warning(
            "run %s asks something else than what was answered (%d of %d answers have found no question): leave what changes"
            " each time, such as the time of day, out of questions",
            run.run_id,
            run.answers_left,
            len(run.answers),
        )
    return AgentResult(interrupts=[pause.interrupt], paused={**kept_context(run), ANSWERED: list(run.answered)})


def _one_of(group: BaseExceptionGroup[RunPaused]) -> RunPaused:
    """Any of them: they all have the question that was asked first."""
    one = group.exceptions[0]
    return _one_of(one) if isinstance(one, BaseExceptionGroup) else one


def _pause_in(output: Any) -> RunPaused | None:
    """Any pause that a function returned, as `asyncio.gather(…, return_exceptions=True)` hands it over."""
    left, seen = [output], set[int]()
    while left:
        value = left.pop()
        if isinstance(value, RunPaused):
            return value
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, BaseExceptionGroup):
            left += value.exceptions
        elif isinstance(value, list | tuple | AbstractSet):
            left += value
    return None


async def _last_of(items: AsyncIterator[Any], run: RunContext) -> Any:
    last = None
    try:
        async for item in items:
            run.send(item)
            last = item
    except BaseException:  # it lets go of what it holds before the run has ended, and not when it is collected
        if (close := getattr(items, "aclose", None)) is not None:
            await close()
        raise
    return last


@functools.cache
def _threads(depth: int) -> Threads:
    """Each depth has its own: a function that waits for a run it started must not hold the thread that run needs."""
    return Threads(AGENT_THREADS, thread_name_prefix=f"trackside-agent-{depth}")


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_threads.cache_clear)


async def _in_thread(function: Callable[..., Any], arguments: Sequence[Any], run: RunContext) -> Any:
    """Run a function in a thread and wait until it has really ended, even if cancelled meanwhile.

    A function whose run is to stop while it waits for a thread is not called.
    """
    turn = threading.Lock()  # taken once, for good: by the thread, which then calls the function, or by a cancel
    context = contextvars.copy_context()
    work = asyncio.get_running_loop().run_in_executor(
        _threads(run.depth), lambda: context.run(_contained, function, arguments, run, turn)
    )
    cancel: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as exc:
            if turn.acquire(blocking=False):
                raise
            cancel = exc
    if cancel is not None:
        raise cancel
    output, raised = work.result()
    if raised is not None:
        raise raised
    return output


def _contained(
    function: Callable[..., Any], arguments: Sequence[Any], run: RunContext, turn: threading.Lock
) -> tuple[Any, BaseException | None]:
    """What a function returned or raised. A future cannot carry every exception: a `StopIteration` hangs it."""
    if run.cancelled or not turn.acquire(blocking=False):
        return None, asyncio.CancelledError()
    try:
        return function(*arguments), None
    except BaseException as exc:  # noqa: BLE001  # raised again, where the agent's other exceptions are
        return None, exc


def _note_messages(output: Any, run: RunContext) -> None:
    """Count what the agent says in its output: a text, or the messages in a `messages` list that its thread did not have."""
    if isinstance(output, str):
        run.record_message({"type": "ai", "content": output})
    elif isinstance(output, Mapping) and isinstance(messages := output.get("messages"), list):
        for message in messages[_said_before(messages, run) :]:
            # The human messages are those that it was given; they are counted already.
            if isinstance(message, Mapping) and (message.get("type") or message.get("role")) not in _NOT_SAID:
                run.record_message(message)


def _said_before(messages: Sequence[Json], run: RunContext) -> int:
    """How many of these messages the thread already has, if they continue it; an answer may equal the last one."""
    before = run.values.get("messages")
    if not isinstance(before, list) or len(messages) <= len(before) or messages[: len(before)] != before:
        return 0
    return len(before)


def _schemas_of(function: Callable[..., Any]) -> JsonObject:
    try:
        hints = get_type_hints(inspect.unwrap(function))
        first = next(name for name in inspect.signature(function).parameters if name != "self")
    except Exception:  # noqa: BLE001  # names that only a type checker can resolve, or no parameters at all
        return {}
    said = {"input_schema": hints.get(first), "output_schema": hints.get("return")}
    return {name: _schema_of(kind) for name, kind in said.items()}


def _schema_of(kind: Any) -> JsonObject | None:
    if kind in _SAY_NOTHING:
        return None
    try:
        return msgspec.json.schema(kind)
    except (TypeError, ValueError, RuntimeError):  # a type of its own kind, such as a model or an iterator
        return None


def _takes_run(function: Callable[..., Any]) -> bool:
    """Whether the function has a place for the run: a second parameter that has no default, or that is called `run`."""
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):
        return False  # a builtin without a signature: it takes the input
    if not signature.parameters:
        raise NotAnAgentError(passed=name_of(function), why=_NO_PARAMETERS)
    places = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_run = len(places) > 1 and (places[1].default is inspect.Parameter.empty or places[1].name == "run")
    try:
        signature.bind(*range(1 + takes_run))
    except TypeError as exc:
        raise NotAnAgentError(passed=name_of(function), why=f"with the signature {signature}, {exc}") from None
    return takes_run


def _is_function(function: object) -> bool:
    return inspect.isroutine(function) or isinstance(function, functools.partial)
