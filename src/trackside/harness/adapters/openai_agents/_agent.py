"""The adapter: an agent of the OpenAI Agents SDK as an `Agent`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from agents import (
    Agent,
    OutputGuardrailTripwireTriggered,
    Runner,
    RunResultStreaming,
    RunState,
    TResponseInputItem,
)

from trackside.harness.adapters.openai_agents._approvals import (
    answered_state,
    approvals_of,
    paused_state,
    questions_in,
    waiting_tools,
)
from trackside.harness.adapters.openai_agents._config import (
    NOT_HERE,
    OWNERS_CONFIG,
    RunnerOptions,
    asking_for_usage,
    prepare_tracing,
)
from trackside.harness.adapters.openai_agents._ending import FailedTools, as_raised, see_through
from trackside.harness.adapters.openai_agents._errors import ToolPauseError
from trackside.harness.adapters.openai_agents._exits import carry_exits_of_tools
from trackside.harness.adapters.openai_agents._input import (
    ITEMS,
    history_of,
    humans_of,
    items_of,
    others_in,
    without_answer,
)
from trackside.harness.adapters.openai_agents._stream import STREAM_MODES, AgentStream
from trackside.harness.adapters.openai_agents._usage import CallWatch, UsageRecorder
from trackside.harness.agents.asked import check_no_graph_options
from trackside.harness.agents.conversation import unfinished_values
from trackside.harness.context import AgentResult, RunContext, RunPaused
from trackside.harness.errors import ErrorOutputError, InvalidSpecError
from trackside.harness.foreign.exits import CarriedExit
from trackside.harness.journal import answer_message
from trackside.harness.payload import whole
from trackside.harness.types import Json, JsonObject


def adapt(agent: Any, *, name: str | None = None) -> OpenAIAgent | None:
    """An agent made of an agent of the SDK; None for anything else."""
    return OpenAIAgent(agent, name=name) if isinstance(agent, Agent) else None


class OpenAIAgent:
    """Runs an agent of the OpenAI Agents SDK.

    The conversation is the thread: its items are in the thread's values as `items`, next to the last `output`. Each run
    adds to them and begins with this agent, whichever agent the conversation was handed to before. A run that fails or
    is stopped adds its input and each answer of a model whose calls all have answers, but none that an output guardrail
    blocks, as in the SDK's sessions. A run's `config` has the options of `RunnerOptions`; its `context` is the SDK's.

    A tool that needs an approval pauses the run, with one question `{"tool", "arguments", "agent"}` for each call,
    which is answered as `approval_of` says. The arguments of a shell are its action, those of a patch its operation.
    Usage is credited as `UsageRecorder` says; `AgentStream` says what is streamed.

    A run is an error when the SDK raises, and what was raised comes out as it is: its model fails, it takes too many
    turns, a guardrail trips (the error then has the guardrail's name and what it found). The SDK itself turns errors of
    tools into texts for the model, and leaves them to the model. But if such a text is the run's output, because of
    `tool_use_behavior`, the run fails with `ErrorOutputError`. What the user's own code makes of an error is trusted,
    and is an output: a tool's `failure_error_function`, the config's `error_handlers`.

    Args:
        agent: the agent to run. It is never changed.
        name: what to call it; the agent's own name if left out.
    """

    uses_thread_state = True
    """The harness remembers the threads' conversations and questions for this agent."""
    prepares_at_once = True
    """Its `human_messages` waits for nothing, so that needs no task of its own."""
    stream_modes = STREAM_MODES
    owners_config = OWNERS_CONFIG
    """The part of a run's config that only those with the permission `admin` may set on a server."""

    def __init__(self, agent: Agent[Any], *, name: str | None = None) -> None:
        self.name = name or agent.name
        self._agent = agent
        self._items: WeakKeyDictionary[RunContext, Json] = WeakKeyDictionary()

    async def human_messages(self, run: RunContext) -> Sequence[JsonObject]:
        """The human messages in the input, or the answers that the run brings.

        Raises:
            InvalidSpecError: the SDK cannot use the input, answer, command or config.
        """
        _check(run)
        if run.resuming:
            approvals_of(run)
            return [answer_message(answer) for answer in run.answers_by_id.values()]
        return humans_of(run)

    async def run(self, run: RunContext) -> AgentResult:
        """Run the agent to its end, or to where it waits for an approval. What the SDK raises comes out.

        When cancelled, this waits until the SDK's tasks have stopped. Only a tool that is a plain function runs in a
        thread that the SDK leaves behind, and that the worker waits for: it should look at `run.cancelled`.

        Raises:
            InvalidSpecError: the run asks for something that the SDK does not do.
            ErrorOutputError: the output is what a failed tool left.
            ToolPauseError: a tool called `run.interrupt`.
        """
        options = RunnerOptions.of(run)
        recorder = UsageRecorder(run, self._agent)
        failed = FailedTools(options.run_config.tool_error_formatter, recorder.tool_errors)
        run_config = asking_for_usage(replace(options.run_config, tool_error_formatter=failed), self._agent)
        options = replace(options, run_config=run_config)
        watch = CallWatch(recorder, options.run_config, options.hooks)
        given = await self._given(run, options)
        waiting = waiting_tools(given) if isinstance(given, RunState) else {}
        stream = AgentStream(run, self._agent.name, watch, waiting)
        await prepare_tracing()
        recorder.listen(watch)
        carry_exits_of_tools()
        try:
            result = self._begin(run, given, options, watch)
            await self._follow(run, result, stream, recorder)
        except CarriedExit as exc:
            raise exc.error from None
        except RunPaused as exc:
            raise ToolPauseError(agent=self.name) from exc
        except BaseException as exc:
            raised = as_raised(exc)
            watch.fail(raised)
            if raised is exc:
                raise
            raise raised from raised.__cause__
        watch.close()
        if result.interruptions:
            return AgentResult(interrupts=questions_in(result), paused=paused_state(result))
        if (why := failed.behind(result, recorder.tools)) is not None:
            raise ErrorOutputError(agent=self.name, why=why)
        output = whole(result.final_output, path="output")
        values = {ITEMS: self._items[run], "output": output}
        stream.show(values)
        return AgentResult(output=output, values=values)

    async def rollback(self, run: RunContext) -> None:
        """Nothing to do: a conversation is kept only at a run's end, and not for a run that is rolled back."""

    def partial(self, run: RunContext) -> JsonObject | None:
        """What the thread remembers of a run that did not finish: the steps that are complete."""
        return unfinished_values(run, ITEMS, self._items[run]) if run in self._items else None

    async def _follow(
        self, run: RunContext, result: RunResultStreaming, stream: AgentStream, recorder: UsageRecorder
    ) -> None:
        blocked = False
        try:
            await see_through(result, stream.take, recorder)
        except OutputGuardrailTripwireTriggered:
            blocked = True
            raise
        finally:
            stream.settle(blocked=blocked)
            items = result.to_input_list()  # the SDK adds an answer when its calls have theirs
            self._items[run] = whole(without_answer(items, result.input) if blocked else items)

    async def _given(self, run: RunContext, options: RunnerOptions) -> list[TResponseInputItem] | RunState[Any]:
        """The conversation up to here, or the state in which it waits."""
        if run.resuming:
            return await answered_state(run, self._agent, options)
        brought = items_of(run)
        conversation = [*history_of(run), *brought]
        if not conversation:
            raise InvalidSpecError(
                field="input", value=run.input, why="the thread is empty, so there is nothing to answer"
            )
        for message in others_in(brought):
            run.record_message(message)
        return conversation

    def _begin(
        self,
        run: RunContext,
        given: list[TResponseInputItem] | RunState[Any],
        options: RunnerOptions,
        watch: CallWatch,
    ) -> RunResultStreaming:
        return Runner.run_streamed(
            self._agent,
            given,
            context=run.context,
            max_turns=options.max_turns,
            hooks=watch,
            run_config=options.run_config,
            error_handlers=options.error_handlers,
        )


def _check(run: RunContext) -> None:
    """Refuse what would be ignored, or fail in the middle of the run."""
    RunnerOptions.of(run)
    check_no_graph_options(run, NOT_HERE)
    for name in ("update", "goto"):
        if (value := run.command.get(name)) is not None:
            raise InvalidSpecError(field=f"command.{name}", value=value, why=NOT_HERE)
