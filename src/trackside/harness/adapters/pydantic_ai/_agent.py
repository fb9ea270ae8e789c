"""The adapter: an agent of Pydantic AI as an `Agent`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from pydantic_ai import capture_run_messages
from pydantic_ai.agent import AbstractAgent, WrapperAgent
from pydantic_ai.messages import ModelMessage, ModelRequest
from pydantic_ai.tools import DeferredToolRequests

from trackside.harness.adapters.pydantic_ai._delegates import delegates_watched
from trackside.harness.adapters.pydantic_ai._errors import AgentPauseError
from trackside.harness.adapters.pydantic_ai._input import Prompt
from trackside.harness.adapters.pydantic_ai._messages import complete_steps, kept, recalled
from trackside.harness.adapters.pydantic_ai._options import (
    OWNERS_OPTIONS,
    STREAM_MODES,
    check_spec,
    deps_of,
    options_of,
)
from trackside.harness.adapters.pydantic_ai._questions import Waiting, calls_in
from trackside.harness.adapters.pydantic_ai._threads import threads_waited_for
from trackside.harness.adapters.pydantic_ai._watch import watch_of
from trackside.harness.agents.conversation import conversation_before, unfinished_values
from trackside.harness.agents.kept_context import recall_context
from trackside.harness.context import AgentResult, RunContext, RunPaused
from trackside.harness.errors import ErrorOutputError
from trackside.harness.foreign.exits import CarriedExit
from trackside.harness.journal import LEAD_AGENT, answer_message
from trackside.harness.payload import whole
from trackside.harness.types import JsonObject

_HISTORY = "message_history"


def adapt(agent: Any, *, name: str | None = None) -> PydanticAIAgent | None:
    """An agent made of an `Agent` or another `AbstractAgent`; None for others."""
    return PydanticAIAgent(agent, name=name) if isinstance(agent, AbstractAgent) else None


class PydanticAIAgent:
    """Runs an agent of Pydantic AI.

    A text, a message or a list of messages is what the agent is to answer; what comes before the last human messages is
    history. Every other JSON value reaches the agent as its JSON text. Images in messages have addresses of `https`,
    `http` or `data`. A thread begins with the agent's system prompt, whatever its first run brings; a message of the
    role `system` comes after that. `context` becomes the agent's dependencies. `config` has the options of `agent.run`
    that say how: `model`, `model_settings`, `usage_limits`, `instructions`, `retries`, `metadata`. A thread remembers
    `message_history`, as Pydantic AI dumps it, and the last `output`. Of a run that fails or is stopped it remembers
    what the agent was asked, and each answer of a model with the results of all tools that it calls.

    Tool calls that wait for an approval, or that somebody else executes, pause the run; only an agent with output
    validators needs `DeferredToolRequests` in its output type for that. Each call is a question, and each may be
    answered by itself.

    These are failures:

    * whatever `agent.run` raises, as it is (a tool's or model's exception, retries or limits that are used up);
    * a run that called models and got an answer from none of them, even if a capability made an answer of that;
    * an output that is itself an exception;
    * a last response that the provider ended with `error`.

    What the agent's model sees and answers is no failure: a `ModelRetry`, a `ToolFailed`, arguments that are not valid,
    a call that was denied, the failures of a `FallbackModel` before another one answers.

    Args:
        agent: the agent to run. It is never changed.
        name: what to call it; the agent's own name if left out.
    """

    uses_thread_state = True
    """The harness remembers the threads' message histories and questions for this agent."""
    prepares_at_once = True
    """Its `human_messages` waits for nothing, so that needs no task of its own."""
    stream_modes = STREAM_MODES
    owners_config = OWNERS_OPTIONS
    """The part of a run's config that only those with the permission `admin` may set on a server."""

    def __init__(self, agent: AbstractAgent[Any, Any], *, name: str | None = None) -> None:
        self.name = name or agent.name or "agent"
        self._agent = agent
        self._messages: WeakKeyDictionary[RunContext, list[ModelMessage]] = WeakKeyDictionary()

    async def human_messages(self, run: RunContext) -> Sequence[JsonObject]:
        """The human messages in the input; one for each answer, if the run resumes one.

        Raises:
            InvalidSpecError: the run asks for something that the agent does not have, an answer does not fit, or it lacks
                the context of the run that asked.
        """
        if run.resuming:
            recall_context(run)
        check_spec(run)
        options_of(run)
        deps_of(self._agent, run.context)
        if not run.resuming:
            return Prompt.of(run.input).humans
        Waiting.answered(run)
        return [answer_message(answer) for answer in run.answers_by_id.values()]

    async def run(self, run: RunContext) -> AgentResult:
        """Run the agent to its end or to where it waits. What it raises comes out as it is.

        When cancelled, this waits until tools and models have stopped. A tool that is a plain function runs in a thread,
        and is waited for: it should look at `run.cancelled`. An agent that swallows a cancel is stopped before its next
        call of a model or tool.

        Raises:
            ThreadHistoryError: what the thread remembers is not what Pydantic AI has kept.
            AgentPauseError: a tool called `run.interrupt`.
            ErrorOutputError: the agent finished, and its last word is an error.
        """
        if not run.resuming:
            prompt = Prompt.of(run.input)
            history = _history_of(run)
            for message in prompt.others:
                run.record_message(message)
            return await self._run(run, history, prompt.before, user_prompt=prompt.content)
        waiting = Waiting.answered(run)
        if waiting.open:
            return waiting.result(run)
        messages = waiting.messages(run.thread_id)
        return await self._run(run, messages, [], deferred_tool_results=waiting.results())

    def calls_in(self, paused: Any) -> frozenset[str]:
        """The ids of all calls so far, as `Agent` says."""
        return calls_in(paused)

    async def rollback(self, run: RunContext) -> None:
        """Nothing to do: a thread's messages are kept only at a run's end, and not for a run that is rolled back."""

    def partial(self, run: RunContext) -> JsonObject | None:
        """What the thread remembers of a run that did not finish: the steps that are complete."""
        messages = self._messages.get(run)
        if not messages or not _are_of(messages, run):
            return None
        return unfinished_values(run, _HISTORY, complete_steps(messages))

    async def _run(
        self, run: RunContext, history: list[ModelMessage], before: list[ModelMessage], **given: Any
    ) -> AgentResult:
        on_request = functools.partial(self._messages.__setitem__, run)
        watch = watch_of(run, caller=LEAD_AGENT, speaker=self.name, on_request=on_request)
        try:
            async with threads_waited_for(run), delegates_watched(run):
                if before and not history:
                    history = await self._system_prompt(run, before, given["user_prompt"])
                with capture_run_messages() as self._messages[run]:
                    result = await self._agent.run(
                        message_history=[*history, *before],
                        deps=deps_of(self._agent, run.context),
                        output_type=_output_type(self._agent),
                        capabilities=watch.capabilities,
                        conversation_id=run.thread_id,
                        run_id=run.run_id,
                        infer_name=False,
                        **given,
                        **options_of(run),
                    )
        except CarriedExit as exc:
            raise exc.error from None
        except RunPaused as exc:
            raise AgentPauseError(agent=self.name) from exc
        messages = result.all_messages()
        watch.note(messages)
        if isinstance(result.output, DeferredToolRequests):
            return Waiting.asked(result.output, messages).result(run)
        if isinstance(result.output, BaseException):
            raise ErrorOutputError(agent=self.name, why=repr(result.output)) from result.output
        if result.response.finish_reason == "error":
            raise ErrorOutputError(
                agent=self.name, why=result.response.text or "its model's answer ended with an error"
            )
        values: Mapping[str, Any] = {_HISTORY: kept(messages), "output": whole(result.output, path="output")}
        watch.send(values, "values")
        return AgentResult(output=values["output"], values=values)

    async def _system_prompt(self, run: RunContext, before: list[ModelMessage], prompt: Any) -> list[ModelMessage]:
        """What a thread begins with; the framework does not add it to messages: it takes them for an agent's own."""
        options = options_of(run)
        parts = await self._agent.system_prompt_parts(
            deps=deps_of(self._agent, run.context),
            model=options.get("model"),
            message_history=before,
            prompt=prompt,
            model_settings=options.get("model_settings"),
        )
        return [ModelRequest(parts)] if parts else []


def _history_of(run: RunContext) -> list[ModelMessage]:
    """The messages of the thread so far; without those of the run that this one tries again."""
    return recalled(conversation_before(run, _HISTORY), thread_id=run.thread_id)


def _are_of(messages: list[ModelMessage], run: RunContext) -> bool:
    """Whether these are the messages of the run itself.

    Until the run asks a model, the framework may show those of another: of an agent that a capability has asked before.
    """
    ids = {message.run_id for message in messages} - {None}
    return run.run_id in ids or ids <= {message.run_id for message in _history_of(run)}


def _output_type(agent: AbstractAgent[Any, Any]) -> Any:
    """The agent's output type, and `DeferredToolRequests`, without which a tool that waits would be an error.

    None, which stands for the agent's own type, if it has output validators: then the framework lets a run add nothing.
    """
    innermost = agent
    while isinstance(innermost, WrapperAgent):
        innermost = innermost.wrapped
    if getattr(innermost, "_output_validators", ()):
        return None
    own = agent.output_type
    kinds = list(own) if isinstance(own, list | tuple) else [own]
    return own if DeferredToolRequests in kinds else [*kinds, DeferredToolRequests]
