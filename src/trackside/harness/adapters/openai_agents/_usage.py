"""Listens to the SDK's models, tools and agents: when each was called, tokens of each model call, and by which agent."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Unpack

from agents import (
    Agent,
    AgentHookContext,
    InputGuardrailTripwireTriggered,
    ModelBehaviorError,
    ModelResponse,
    RunConfig,
    RunContextWrapper,
    RunHooks,
    RunResult,
    RunResultStreaming,
    RunState,
    ShellTool,
    Tool,
    TResponseInputItem,
    Usage,
)
from agents.models import get_default_model
from agents.run import AgentRunner, get_default_agent_runner, set_default_agent_runner
from agents.run_config import RunOptions
from agents.usage import RequestUsage

from trackside.harness.adapters.openai_agents._errors import StoppingError
from trackside.harness.calls import Call
from trackside.harness.context import RunContext, keep_to_run
from trackside.harness.journal import LEAD_AGENT, reported

_AT_THE_PROVIDER = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
    "mcp_call": None,
}
"""The kinds of tool calls that the provider itself makes and no hook reports; None: the call says its tool's name."""


@dataclass(slots=True, eq=False)
class _Count:
    """What the SDK has counted for the runs that share a count, and which answers in it are known."""

    used: Usage
    seen: int = 0
    """How many answers, from the beginning, are known."""
    told: set[int] = field(default_factory=set)
    """Which of the others are known, by their `id`."""
    under_way: int = 0
    """How many models are being asked."""

    def untold(self) -> Iterator[RequestUsage]:
        """The answers that are not known."""
        entries = self.used.request_usage_entries
        return (one for one in islice(entries, self.seen, None) if id(one) not in self.told)


type _Input = str | list[TResponseInputItem] | RunState[Any]

_listening: ContextVar[UsageRecorder | None] = ContextVar("trackside_openai_agents_usage", default=None)
_above: ContextVar[CallWatch | None] = ContextVar("trackside_openai_agents_watch", default=None)
keep_to_run(_listening, None)
keep_to_run(_above, None)


class UsageRecorder:
    """Records the usage of one of our runs, whatever becomes of it.

    It listens through the SDK's `RunHooks` to the run itself, and to each run that its tools start below it, as agents
    as tools do, which get no hooks from the run above. For these the SDK's default runner is wrapped in one that adds
    ours; outside our runs the wrapper does nothing.

    A call is credited to `lead_agent` if the agent that is run made it, else to its agent by name, under the model's
    name as agent or config have it. A call that fails or is cut off counts with what its stream has reported by then.
    An answer that the SDK refuses before it reports it, as for a tool call without an id, counts with the usage that
    the SDK has counted.

    Args:
        run: whose usage this is.
        lead: the agent that is run.
    """

    def __init__(self, run: RunContext, lead: Agent[Any]) -> None:
        self.run = run
        self.tools: dict[str, Tool] = {}
        """The tools that were called, by the id of the call."""
        self.tool_errors: dict[str, Exception] = {}
        """What tools raised and the SDK turned into a text for the model, by the id of the call."""
        self._lead = lead
        self._counts: dict[int, _Count] = {}  # by the `id` of what the SDK counts in

    @staticmethod
    def current() -> UsageRecorder | None:
        """The recorder of the run that the calling code belongs to."""
        return _listening.get()

    def listen(self, watch: CallWatch) -> None:
        """Listen to what the calling task starts from now on, the run that `watch` watches."""
        _listening.set(self)
        _above.set(watch)
        runner = get_default_agent_runner()
        if not isinstance(runner, _ListeningRunner):
            set_default_agent_runner(_ListeningRunner(runner))

    def owns(self, task: asyncio.Task[Any]) -> bool:
        """Whether a task began within this run."""
        return task.get_context().get(_listening) is self

    def asks(self, used: Usage) -> None:
        """A model is called: the SDK counts its answer in `used`, as it may those of other calls under way."""
        count = self._counts.setdefault(id(used), _Count(used))
        if not count.under_way:  # what is there now was there before, or is recorded
            count.seen, count.told = len(used.request_usage_entries), set()
        count.under_way += 1

    def asks_no_more(self, used: Usage, told: Usage | RequestUsage | None = None) -> None:
        """Such a call is over; `told` is the usage of its answer, which is recorded."""
        count = self._counts[id(used)]
        count.under_way -= 1
        answers = () if told is None else getattr(told, "request_usage_entries", None) or (told,)
        for answer in answers:
            same = (one for one in count.untold() if _tokens(one) == _tokens(answer))
            count.told.update(id(one) for one in islice(same, 1))

    def unseen(self, used: Usage, error: BaseException) -> RequestUsage | None:
        """The answer that the SDK has counted for a call that ended in this error; None if there is none.

        If other calls are under way, the answer may be theirs, unless the error is the SDK's word on an answer.
        """
        count = self._counts[id(used)]
        if count.under_way > 1 and not isinstance(error, ModelBehaviorError):
            return None
        return next(count.untold(), None)

    def caller(self, agent: Agent[Any]) -> str:
        """Who is credited with what an agent does."""
        return LEAD_AGENT if agent is self._lead else agent.name


class CallWatch(RunHooks[Any]):
    """Records the calls of one of the SDK's runs, which makes one model call at a time.

    Args:
        recorder: the recorder of the run of ours that it is a part of.
        run_config: the SDK run's config, which may name the model.
        then: hooks that the SDK's user wants called, too.
        invoked: the call that the SDK's run is, if it is one below ours.
    """

    def __init__(
        self,
        recorder: UsageRecorder,
        run_config: RunConfig | Mapping[str, Any] | None,
        then: RunHooks[Any] | None,
        invoked: Call | None = None,
    ) -> None:
        self._recorder = recorder
        self._run = recorder.run
        self._model = run_config.get("model") if isinstance(run_config, Mapping) else getattr(run_config, "model", None)
        self._then = then or RunHooks()
        self._caller: Agent[Any] | None = None  # of the call of a model that is under way
        self._asked: Call | None = None  # that call
        self._used = Usage()  # what the SDK has counted
        self._reported: Any = None
        self._speaker: Agent[Any] | None = None
        self._invoked = invoked
        self._handed: Call | None = None  # the part of the run since the last handoff
        self._tools: dict[str, Call] = {}  # that are under way

    @property
    def speaker(self) -> str:
        """The agent that works now, as it is credited."""
        return LEAD_AGENT if self._speaker is None else self._recorder.caller(self._speaker)

    def reported(self, usage: Any) -> None:
        """What the stream says on the way about the call that is under way: an OpenAI `ResponseUsage`, or None."""
        if usage is not None and self._caller is not None:
            self._reported = usage

    def fail(self, error: BaseException) -> None:
        """The SDK's run has failed; if it was waiting for the model, it is the model's failure.

        A model that had answered has not failed: the SDK looks whether it takes an answer before it reports it.
        """
        if self._caller is not None and (refused := self._recorder.unseen(self._used, error)) is not None:
            self._answered(self._caller, refused)
        # A guardrail beside the model breaks the call off, as a cancel does.
        broken_off = isinstance(error, InputGuardrailTripwireTriggered | asyncio.CancelledError)
        if self._caller is not None and not broken_off:
            self._run.record_model_failure(error)
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """The SDK's run is over: count what was reported of a call that was cut off; tools that wait have come back."""
        agent, asked, reported = self._caller, self._asked, self._reported
        self._caller = self._asked = self._reported = None
        if asked is not None:
            self._recorder.asks_no_more(self._used)
            asked.end(error)
        if agent is not None and reported is not None:
            self._record(agent, reported, asked, answered=False)
        if error is None or len(self._tools) == 1:  # of several nothing says which one failed
            for tool in self._tools.values():
                tool.end(error)
        self._tools.clear()
        for call in (self._handed, self._invoked):
            if call is not None:
                call.end(error)

    def close_with(self, task: asyncio.Task[Any]) -> None:
        """The task that is the SDK's run has ended."""
        if task.cancelled():
            self.fail(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self.fail(error)
        else:
            self.close()

    async def on_llm_start(
        self,
        context: RunContextWrapper[Any],
        agent: Agent[Any],
        system_prompt: str | None,
        input_items: list[TResponseInputItem],
    ) -> None:
        """A model is called now."""
        self._go_on(agent, "model")
        self._speaker = agent
        await self._then.on_llm_start(context, agent, system_prompt, input_items)
        self._used = context.usage
        self._recorder.asks(self._used)
        self._asked = self._run.begin_call("chat", self._model_of(agent), caller=self.speaker)
        self._caller = agent

    async def on_llm_end(self, context: RunContextWrapper[Any], agent: Agent[Any], response: ModelResponse) -> None:
        """The model has answered."""
        self._answered(agent, response.usage)
        for item in response.output:
            if (name := _tool_at_the_provider(item, agent)) is not None:
                self._run.record_tool_call(name, caller=self._recorder.caller(agent))
        await self._then.on_llm_end(context, agent, response)

    async def on_tool_start(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool) -> None:
        """A tool is called now, unless that is one too many."""
        call_id = _call_id(context, tool)
        self._recorder.tools[call_id] = tool
        call = self._run.begin_call("execute_tool", tool.name, caller=self._recorder.caller(agent))
        try:
            self._go_on(agent, f"tool {tool.name}")
        except StoppingError:
            call.end(asyncio.CancelledError())
            raise
        self._tools[call_id] = call
        await self._then.on_tool_start(context, agent, tool)

    async def on_tool_end(self, context: RunContextWrapper[Any], agent: Agent[Any], tool: Tool, result: object) -> None:
        """The tool has come back, or the SDK has made a text of what it raised."""
        call_id = _call_id(context, tool)
        if (call := self._tools.pop(call_id, None)) is not None:
            call.end(self._recorder.tool_errors.get(call_id))
        await self._then.on_tool_end(context, agent, tool, result)

    async def on_agent_start(self, context: AgentHookContext[Any], agent: Agent[Any]) -> None:
        """Pass it on."""
        await self._then.on_agent_start(context, agent)

    async def on_agent_end(self, context: AgentHookContext[Any], agent: Agent[Any], output: Any) -> None:
        """Pass it on."""
        await self._then.on_agent_end(context, agent, output)

    async def on_handoff(self, context: RunContextWrapper[Any], from_agent: Agent[Any], to_agent: Agent[Any]) -> None:
        """Another agent goes on, until the SDK's run is over or it hands over itself."""
        if self._handed is not None:
            self._handed.end()
        name, caller = to_agent.name, self._recorder.caller(from_agent)
        back = self._recorder.caller(to_agent) == LEAD_AGENT
        self._handed = None if back else self._run.begin_call("invoke_agent", name, caller=caller)
        await self._then.on_handoff(context, from_agent, to_agent)

    def _go_on(self, agent: Agent[Any], what: str) -> None:
        """Begin nothing more that costs anything once the run was asked to stop, as when its budget is used up."""
        if self._run.cancelled:
            raise StoppingError(agent=agent.name, what=what)

    def _answered(self, agent: Agent[Any], usage: Usage | RequestUsage) -> None:
        asked, self._caller, self._asked, self._reported = self._asked, None, None, None
        if asked is not None:
            self._recorder.asks_no_more(self._used, usage)
            asked.end()
        self._record(agent, usage, asked)

    def _model_of(self, agent: Agent[Any]) -> str:
        return _name_of(self._model or agent.model)

    def _record(self, agent: Agent[Any], usage: Any, call: Call | None, *, answered: bool = True) -> None:
        self._run.record_usage(
            self._model_of(agent),
            input_tokens=reported(usage.input_tokens),
            output_tokens=reported(usage.output_tokens),
            cache_read_tokens=reported(getattr(usage.input_tokens_details, "cached_tokens", None)),
            cache_write_tokens=reported(getattr(usage.input_tokens_details, "cache_write_tokens", None)),
            reasoning_tokens=reported(getattr(usage.output_tokens_details, "reasoning_tokens", None)),
            caller=self._recorder.caller(agent),
            answered=answered,
            call=call,
        )


class _ListeningRunner(AgentRunner):
    """Adds hooks to the runs that tools of our runs start; otherwise it is the runner that it wraps."""

    def __init__(self, runner: AgentRunner) -> None:
        self._runner = runner

    async def run(self, starting_agent: Agent[Any], input: _Input, **options: Unpack[RunOptions[Any]]) -> RunResult:
        with _watched(starting_agent, options):
            return await self._runner.run(starting_agent, input, **options)

    def run_sync(self, starting_agent: Agent[Any], input: _Input, **options: Unpack[RunOptions[Any]]) -> RunResult:
        with _watched(starting_agent, options):
            return self._runner.run_sync(starting_agent, input, **options)

    def run_streamed(
        self, starting_agent: Agent[Any], input: _Input, **options: Unpack[RunOptions[Any]]
    ) -> RunResultStreaming:
        watch = _watch(starting_agent, options)
        with _below(watch):
            result = self._runner.run_streamed(starting_agent, input, **options)
        if watch is not None and result.run_loop_task is not None:
            result.run_loop_task.add_done_callback(watch.close_with)
        return result


@contextmanager
def _watched(agent: Agent[Any], options: RunOptions[Any]) -> Generator[None]:
    """Watch one of the SDK's runs, from here to its end."""
    watch = _watch(agent, options)
    try:
        with _below(watch):
            yield
    except BaseException as exc:
        if watch is not None:
            watch.fail(exc)
        raise
    if watch is not None:
        watch.close()


def _watch(agent: Agent[Any], options: RunOptions[Any]) -> CallWatch | None:
    """Add hooks of ours to the options of a run, unless it has them or is none of our business."""
    recorder, hooks, above = UsageRecorder.current(), options.get("hooks"), _above.get()
    if recorder is None or isinstance(hooks, CallWatch):
        return None
    caller = LEAD_AGENT if above is None else above.speaker
    invoked = recorder.run.begin_call("invoke_agent", agent.name, caller=caller)
    watch = options["hooks"] = CallWatch(recorder, options.get("run_config"), hooks, invoked)
    return watch


@contextmanager
def _below(watch: CallWatch | None) -> Generator[None]:
    """Have runs that begin in here count as started by the run that this watches; without one, by the run around."""
    token = None if watch is None else _above.set(watch)
    try:
        yield
    finally:
        if token is not None:
            _above.reset(token)


def _tokens(usage: Usage | RequestUsage) -> tuple[int, int]:
    return usage.input_tokens, usage.output_tokens


def _call_id(context: RunContextWrapper[Any], tool: Tool) -> str:
    call_id = getattr(context, "tool_call_id", None)
    return call_id if isinstance(call_id, str) else tool.name


def _tool_at_the_provider(item: Any, agent: Agent[Any]) -> str | None:
    """The tool that the provider itself has run for this item of an answer; None if it has run none."""
    if item.type == "shell_call":  # so is a call of a shell of the program's own, which hooks report
        shell = next((tool for tool in agent.tools if isinstance(tool, ShellTool)), None)
        if shell is None or (shell.environment is not None and shell.environment["type"] == "local"):
            return None
        return shell.name
    if item.type not in _AT_THE_PROVIDER:
        return None
    return str(_AT_THE_PROVIDER[item.type] or getattr(item, "name", item.type))


def _name_of(model: Any) -> str:
    """What a model is called: its name, else its class."""
    if model is None:
        return get_default_model()
    name = model if isinstance(model, str) else getattr(model, "model", None)
    return name if isinstance(name, str) and name else type(model).__name__
