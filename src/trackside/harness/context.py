"""What an agent sees of its run (`RunContext`), and what the harness asks of an agent (`Agent`)."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType
from typing import Any, Protocol

from trackside.harness.calls import Call, CallKind
from trackside.harness.errors import InvalidReportError
from trackside.harness.ids import new_id
from trackside.harness.items import ItemStore
from trackside.harness.journal import LEAD_AGENT, Journal
from trackside.harness.ports import PausedRun
from trackside.harness.questions import mark_of
from trackside.harness.types import ON_BEHALF_OF, JsonObject, RunSpec

_VALUES = frozenset({"values"})  # what nearly every run asks for: one set serves them all

_current: ContextVar[RunContext | None] = ContextVar("trackside_run", default=None)
_callers: ContextVar[Mapping[str, RunContext]] = ContextVar("trackside_callers", default=MappingProxyType({}))
"""By the ids of runs that were called in place: the runs whose code has called them, and waits for them. A run that has
ended waits for none, and is dropped."""
_of_one_run: list[tuple[ContextVar[Any], Any]] = []
"""The variables that hold for one run alone, and what each run that it starts begins with instead."""


def current_run() -> RunContext | None:
    """The run that the calling code belongs to: code of an agent, its tools, its observers, and whatever these have
    started. None elsewhere.

    A task, a timer or a scheduler's job belongs to the run in which it was started, even after that run has ended
    (`is_closed`): what it asks for, it asks for on behalf of that run's owner. Runs that it starts then are no longer
    children of that run. Start what should belong to no run in a context of its own, `contextvars.Context()`.
    """
    return _current.get()


def run_of(task: asyncio.Task[Any]) -> RunContext | None:
    """The run that a task belongs to, which may be asked from any thread."""
    return task.get_context().get(_current)


def caller_of(run: RunContext) -> RunContext | None:
    """For code of this run: the run that has called it in place and waits for it; None if none has, or it has ended."""
    return None if run.is_closed else _callers.get().get(run.run_id)


def call_in_place(run_id: str, caller: RunContext) -> None:
    """Record which run waits for this one, in the context of its own in which this one's code begins."""
    callers = {**_callers.get(), run_id: caller}
    _callers.set({called: by for called, by in callers.items() if not by.is_closed})


class RunPaused(BaseException):
    """An agent waits for a human. Not an `Exception`, so that an agent's own `except Exception` cannot swallow it.

    Whichever call of a run raises it, `interrupt` is the question that the run asked first.
    """

    def __init__(self, interrupt: Mapping[str, Any]) -> None:
        super().__init__("the run waits for an answer")
        self.interrupt = interrupt


class RunPort(Protocol):
    """What a run's context needs from whoever executes the run. All methods may be called from any thread."""

    def publish(self, mode: str, data: Any, namespace: tuple[str, ...]) -> None:
        """Pass a piece of live output on."""
        ...

    def human_message(self, message: JsonObject) -> None:
        """Announce a human message that reached the run after its start."""
        ...


class RunContext:
    """One run, as its agent, its tools and its observers see it.

    An agent gets it as its second parameter; other code calls `current_run()`. Everything here may be called from any
    thread and returns at once.

    * `run_id`, `thread_id`, `agent` (its name), `metadata`, `config`, `context`, `input`, `command` and `stream_modes`
      are what was asked for.
    * `values` is what the thread remembers.
    * `resume` is the human's answer if this run resumes an interrupt; where several questions were open, all answers by
      the ids of their questions.
    * `checkpointer` is what the manager was given for frameworks that keep their own state.
    * `items` is where things are kept beyond threads, None if the manager has no such place. Unlike everything else
      here, it belongs to the manager's event loop.
    * `attempt` counts the tries of a run that was started anew, 1 for the first; `retry_of` is the run that was tried
      before.
    * `owner` is on whose behalf the run was asked for. If another run started this one, and this one names no owner, it
      is on whose behalf that run was.

    For adapters: `answers` are all answers to the run's questions so far, `answered` by what these questions are known
    again (`questions.mark_of`; None: that was not kept), `answers_by_id` the answers that the run brings, by the ids of
    the questions, and `paused` is what was remembered when they were asked. `is_named` says that the manager knows the
    agent by its name, as do those who look at its runs.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        run_id: str,
        thread_id: str,
        agent: str,
        is_named: bool = False,
        journal: Journal,
        port: RunPort,
        checkpointer: Any = None,
        items: ItemStore | None = None,
        starter: RunContext | None = None,
    ) -> None:
        command = spec.command or {}
        self.run_id = run_id
        self.thread_id = thread_id
        self.agent = agent
        self.is_named = is_named
        self.metadata: Mapping[str, Any] = spec.metadata or {}
        self.config: Mapping[str, Any] = spec.config or {}
        self.context: Any = spec.context
        self.command: Mapping[str, Any] = command
        self.input: Any = spec.input
        self.values: Mapping[str, Any] = {}
        self.resume: Any = command.get("resume")
        self.resuming: bool = "resume" in command
        self.attempt = spec.attempt
        self.retry_of = spec.retry_of
        self.stream_modes: frozenset[str] = _modes(spec.stream_mode)
        self.stream_subgraphs = spec.stream_subgraphs
        self.interrupt_before = spec.interrupt_before
        self.interrupt_after = spec.interrupt_after
        self.durability = spec.durability
        self.strict_resume = spec.strict_resume
        self.checkpointer = checkpointer
        self.items = items
        self.starter = starter
        """The run that has started this one, or called it in place, in this process."""
        self.depth: int = 0 if starter is None else starter.depth + 1
        self.owner: str | None = spec.owner
        if self.owner is None and spec.options is not None:
            self.owner = spec.options.get(ON_BEHALF_OF)
        self.cancelled = False
        """Whether the run has been asked to stop. Code that cannot be cancelled, as a thread, looks at this."""
        self.paused: PausedRun | None = None
        self.answers: Sequence[Any] = ()
        self.answered: Sequence[str | None] = ()
        self.answers_by_id: Mapping[str, Any] = {}
        self._asking = Lock()
        self._given: set[int] = set()  # the places of answers that were given out
        self._open: JsonObject | None = None
        self._journal = journal
        self._port = port

    def send(self, data: Any, mode: str = "custom", *, namespace: Sequence[str] = ()) -> None:
        """Stream a piece of output, as plain JSON and as it is now, to whoever follows the run.

        Raises:
            InvalidReportError: (a `ValueError`) `mode` is not a text, or `namespace` not a sequence of names of
                sub-graphs.
        """
        if not isinstance(mode, str):
            raise InvalidReportError(field="mode", value=mode, why='a mode is a text, as "custom"')
        self._port.publish(mode, data, _names_in(namespace) if namespace != () else ())

    def message(self, message: Mapping[str, Any]) -> None:
        """Report a message: `{"type": "human" | "ai" | "tool" | "system", "content": …, "id"?: …}`.

        It is counted, streamed as a part of mode `messages` and, if a human said it, announced as `human_message`. A
        message whose id was counted, or announced, before is not counted, or announced, again.
        """
        plain = self._journal.record_message(message)
        self._port.publish("messages", plain, ())
        if plain["type"] == "human":
            self._port.human_message(plain)

    def record_message(self, message: Mapping[str, Any]) -> None:
        """Count a message without streaming or announcing it. A message whose id was counted before is not counted
        again.
        """
        self._journal.record_message(message)

    def record_usage(
        self,
        model: str,
        *,
        input_tokens: int,
        output_tokens: int,
        cache_read_tokens: int = 0,
        cache_write_tokens: int = 0,
        reasoning_tokens: int = 0,
        caller: str = LEAD_AGENT,
        cost_usd: float | None = None,
        answered: bool = True,
        seconds: float | None = None,
        call: Call | None = None,
        provider: str | None = None,
    ) -> None:
        """Report a model call, so that its usage counts, also against the run's budget.

        Tokens read from a prompt cache, or written to one, are part of the input; reasoning tokens are part of the
        output. `caller` is who called the model: the lead agent, a sub-agent, a middleware. `cost_usd` is what the call
        cost; if left out, the manager's price list is asked. `answered=False` says that the call failed after it had
        used these tokens. `seconds` is how long the call took, which has only just returned. With `call`, this is a
        call begun by `run.call`, whose own start, end and caller count. `provider` is who bills for the model, as its
        framework knows it; the price list may ask for it.

        Raises:
            InvalidUsageError: (a `ValueError`) a number of tokens is not a whole number from 0 up, or brings the run's
                tokens above 10**12; the cost is negative; or `answered` is neither True nor False.
            InvalidCallError: (a `ValueError`) `seconds` is not a number of seconds, or `call` is not a call of a run.
        """
        self._journal.record_usage(
            model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=cache_read_tokens,
            cache_write_tokens=cache_write_tokens,
            reasoning_tokens=reasoning_tokens,
            caller=caller,
            cost_usd=cost_usd,
            answered=answered,
            seconds=seconds,
            call=call,
            provider=provider,
        )

    def record_model_failure(self, error: BaseException) -> None:
        """Report a model call that failed. A run that called models and got an answer from none of them is an error,
        whatever its agent returns.

        Raises:
            InvalidReportError: (a `ValueError`) `error` is not an exception.
        """
        if not isinstance(error, BaseException):
            raise InvalidReportError(field="error", value=error, why="it is the exception that the call failed with")
        self._journal.record_model_failure(error)

    def record_answer(self) -> None:
        """Report that a model's answer came from a cache: no call is counted, but a model has answered in this run."""
        self._journal.record_answer()

    def record_tool_call(self, name: str, *, caller: str = LEAD_AGENT, seconds: float | None = None) -> None:
        """Report a tool call: who called the tool and how many seconds it took, if that was measured."""
        self._journal.record_tool_call(name, caller=caller, seconds=seconds)

    @contextmanager
    def call(self, kind: CallKind, name: str, *, caller: str = LEAD_AGENT) -> Generator[Call]:
        """Measure a call by its name: of a model (`chat`), a tool (`execute_tool`) or another agent (`invoke_agent`).

            with run.call("execute_tool", "search"):
                found = await search(question)
            with run.call("chat", "gpt-5-mini") as call:
                answer = await ask(found)
                run.record_usage("gpt-5-mini", input_tokens=12, output_tokens=40, call=call)

        This counts a tool, as `record_tool_call` does; a model counts when its usage is recorded. An exception raised
        inside is reported as the call's `error_type`, and passed on.

        Raises:
            InvalidCallError: (a `ValueError`) the call is of another kind.
        """
        call = self.begin_call(kind, name, caller=caller)
        try:
            yield call
        except RunPaused:
            call.end()
            raise
        except BaseException as exc:
            call.end(exc)
            raise
        call.end()

    def begin_call(self, kind: CallKind, name: str, *, caller: str = LEAD_AGENT, at: float | None = None) -> Call:
        """As `call`, for an adapter that learns of a call's start and end separately: it calls `end` on what this
        returns.

        `at` is what `elapsed` was when the call began, if that was earlier. A call that nobody ends lasts as long as
        the run.

        Raises:
            InvalidCallError: (a `ValueError`) there is no such kind, or `at` is not a number of seconds.
        """
        return self._journal.begin_call(kind, name, caller, at=at)

    @property
    def elapsed(self) -> float:
        """Seconds since the run started."""
        return self._journal.elapsed()

    def set_title(self, title: str) -> None:
        """Give the thread a title.

        Raises:
            InvalidReportError: (a `ValueError`) the title is not a text.
        """
        if not isinstance(title, str):
            raise InvalidReportError(field="title", value=title, why="a title is a text")
        self._journal.set_title(title)

    def interrupt(self, value: Any) -> Any:
        """Pause the run until a human has answered; returns the answer.

        The run ends as `interrupted`, with `value` as its question. The answer starts a new run of the agent with the
        same input, in which this call returns the answer. Code before this call therefore runs again: keep it free of
        side effects, or put them after the call. Dicts and lists of the input, the context, an answer or `values` come
        back as they were given, without what the agent changed in them before it asked; other objects are not copied.
        An answer goes only to its own question: if the new run asks something else, that is asked.

        If tasks or threads ask several questions at once, the run ends with the first; the others are asked once that
        one has been answered.

        Raises:
            PayloadError: reading the question, to find its answer, failed.
        """
        mark = mark_of(value) if self.answers else None
        with self._asking:
            if (place := self._place_of_answer(mark)) is not None:
                self._given.add(place)
                return self.answers[place]
            if self._open is None:
                self._open = {"id": new_id(), "value": value}
        raise RunPaused(self._open)

    @property
    def is_asking(self) -> bool:
        """For adapters: whether a question was asked that has no answer yet."""
        return self._open is not None

    @property
    def answers_left(self) -> int:
        """For adapters: how many answers no call of `interrupt` has taken yet."""
        return len(self.answers) - len(self._given)

    def _place_of_answer(self, mark: str | None) -> int | None:
        """The place of the answer to a question with this mark: the first one left to it, or to a question not kept."""
        for place in range(len(self.answers)):
            known = self.answered[place] if place < len(self.answered) else None
            if place not in self._given and known in (None, mark):
                return place
        return None

    @property
    def is_closed(self) -> bool:
        """Whether the run has ended, so that any of its code that still runs is on its own."""
        return self._port is _ENDED

    def close(self) -> None:
        """Note that the run has ended: what leftover code still sends or reports through this goes nowhere."""
        self._port = _ENDED

    def mute(self) -> None:
        """Note that the run is now somebody else's: what its code still sends or reports through this goes nowhere, while
        the run goes on.
        """
        if not self.is_closed:
            self._port = _UNHEARD


def _names_in(namespace: Any) -> tuple[str, ...]:
    names = not isinstance(namespace, str) and isinstance(namespace, Sequence)
    if not names or not all(isinstance(name, str) for name in namespace):
        why = "it is a sequence of the names of sub-graphs, outermost first"
        raise InvalidReportError(field="namespace", value=namespace, why=why)
    return tuple(namespace)


def _modes(asked: Sequence[str] | str) -> frozenset[str]:
    if asked == ("values",):
        return _VALUES
    return frozenset((asked,) if isinstance(asked, str) else asked)


class _Nowhere:
    """The port of a run that nobody listens to any more; with it, the run no longer holds on to whoever executed it."""

    def publish(self, mode: str, data: Any, namespace: tuple[str, ...]) -> None:
        """Drop it: every follower has got to the end."""

    def human_message(self, message: JsonObject) -> None:
        """Drop it: the terminal event is the last word."""


_ENDED = _Nowhere()
_UNHEARD = _Nowhere()


@dataclass(frozen=True, slots=True)
class AgentResult:
    """What an agent returns: its output, or the questions it waits on.

    `interrupts` are `{"id": …, "value": …}`. Each has a text of its own as its id, by which its answer comes. With any
    of them the run ends as interrupted. `values` is what the thread is to remember (None: what it remembered before).
    For an interrupted run it remembers `paused`, JSON that the run which brings the answers finds in
    `run.paused.state`.
    """

    output: Any = None
    interrupts: Sequence[Mapping[str, Any]] = ()
    values: Mapping[str, Any] | None = None
    paused: Any = None


def flaw_of(result: object) -> str | None:
    """What is wrong with the result of an agent that was written without a type checker; None if nothing is."""
    if not isinstance(result, AgentResult):
        return f"it is a {type(result).__name__}, not an AgentResult"
    values: object = result.values
    interrupts: object = result.interrupts
    if not (values is None or type(values) is dict or isinstance(values, Mapping)):
        return f"its values are a {type(values).__name__}, not a mapping"
    if interrupts == ():
        return None
    if not isinstance(interrupts, Sequence) or not all(isinstance(interrupt, Mapping) for interrupt in interrupts):
        return "its interrupts are not a list of mappings with an id and a value"
    ids = [interrupt.get("id") for interrupt in interrupts]
    if not all(isinstance(named, str) for named in ids):
        return "one of its interrupts has no id that is a text"
    if len(set(ids)) < len(ids):
        return "two of its interrupts have the same id, so that one answer would be taken for both"
    return None


class Agent(Protocol):
    """Something that can be run; `as_agent` makes one of a function or of a framework's object.

    Every agent has the property and the methods below. Optional ones are asked for by name in `powers`, which says what
    it means to be without them:

    * `uses_thread_state = True`: the harness keeps what the agent's threads remember. Such an agent may have a method
      `partial(run)`: the values that a thread is to keep of a run that failed or was stopped, but not rolled back;
      None: the values it had before. If that raises, the log says so, and the run still ends with its own failure or
      stop.
    * `prepares_at_once = True`: `human_messages` waits for nothing, so that it is called without a task of its own.
    * `stream_modes`: the modes that the agent streams, if only some, so that others can be refused before a run starts.
    * `says_values = True`: the agent streams all that it gives back as `values`, where it is asked for these. If there
      were none, whoever waits for a run whose thread went with it is told that it gave nothing back.
    * `check(spec)`: raises `InvalidSpecError` if the agent can tell from the request alone that it would refuse the
      run; it looks nowhere else.
    * `completed(config, context)`: for an agent whose context is what clients configure; returns both as the server
      hands them on, where a client has sent only one.
    * `owners_config`: what of a run's config may make another agent of this one; on a server only those with the
      permission `admin` may set it.
    * `calls_in(paused)`: for an agent that asks by the ids of tool calls; the ids of all calls so far, from what it has
      kept as `AgentResult.paused`. Answers by the ids of such calls are never taken for the answer to another one.
    * `async leave(run)`: closes what the agent opened for a run; called when the run is over, however it ended.
    * `async asks(run)`: for an agent that keeps its threads itself; whether the thread waits for an answer. Such an
      agent may also let others look at its threads and change them (`states.KeepsThreads`).
    * `lacks_checkpointer = True`: the manager's checkpointer keeps the agent's threads.

    An agent may also describe itself (`states.Describes`).
    """

    @property
    def name(self) -> str:
        """What to call the agent where no name was configured."""
        ...

    async def human_messages(self, run: RunContext) -> Sequence[Mapping[str, Any]]:
        """The human messages that this run brings and its thread does not have yet, as JSON objects.

        Called before the run is announced, so that the messages can be announced with it.
        """
        ...

    async def run(self, run: RunContext) -> AgentResult:
        """Do the work. Raise what goes wrong; when cancelled, stop and let the `CancelledError` through."""
        ...

    async def rollback(self, run: RunContext) -> str | None:
        """Restore the thread's state to what it was before this run; returns that checkpoint's id if it has one."""
        ...


def keep_to_run[T](variable: ContextVar[T], outside: T) -> None:
    """Keep what a variable says within a run from the runs that it starts: they find `outside` (I21)."""
    _of_one_run.append((variable, outside))


def bind_run(run: RunContext | None) -> None:
    """Make `run`, or none, the current run of the calling task and all that it starts."""
    _current.set(run)
    for variable, outside in _of_one_run:
        variable.set(outside)
