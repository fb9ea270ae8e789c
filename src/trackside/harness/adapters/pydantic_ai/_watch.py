"""Sees what one run of an agent does: its models' calls, its tools, its messages."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from typing import Any

from pydantic_ai.capabilities import (
    AbstractCapability,
    CapabilityOrdering,
    ValidatedToolArgs,
    WrapModelRequestHandler,
    WrapRunHandler,
    WrapToolExecuteHandler,
)
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ToolFailedError, ToolRetryError
from pydantic_ai.messages import AgentStreamEvent, ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models import Model, ModelRequestContext
from pydantic_ai.run import AgentRunResult
from pydantic_ai.tools import RunContext as AgentContext
from pydantic_ai.tools import ToolDefinition

from trackside.harness.adapters.pydantic_ai._messages import ai_message, chunk, chunk_of, is_compaction, tool_messages
from trackside.harness.adapters.pydantic_ai._models import Ledger, counted
from trackside.harness.context import RunContext, RunPaused, keep_to_run
from trackside.harness.foreign.exits import carrying_exits
from trackside.harness.ids import new_id
from trackside.harness.journal import LEAD_AGENT
from trackside.harness.payload import whole
from trackside.harness.types import JsonObject

MESSAGES = frozenset({"messages", "messages-tuple"})
"""Two names of one thing: what a client asks for is what it gets."""

EVENTS = "events"
UPDATES = "updates"

_tool: ContextVar[tuple[str | None, str]] = ContextVar("trackside_pydantic_ai_tool", default=(None, LEAD_AGENT))
keep_to_run(_tool, (None, LEAD_AGENT))


def tool_under_way() -> tuple[str | None, str]:
    """The tool that the calling code belongs to, if it belongs to one, and the agent that has called it."""
    return _tool.get()


class AnswersTold(AbstractCapability[Any]):
    """Hears of a model's answer after the agent's own capabilities: each may change it, or reject it for another.

    Args:
        tell: called with each answer.
        note: called with the messages so far if no model was asked: what answers in its place is added to them.
    """

    def __init__(self, tell: Callable[[ModelResponse], None], note: Callable[[Sequence[ModelMessage]], None]) -> None:
        super().__init__()
        self._tell = tell
        self._note = note
        self._answered = False

    def get_ordering(self) -> CapabilityOrdering:
        """Around all others, so that it is the last to be told of what comes back."""
        return CapabilityOrdering(position="outermost")

    async def wrap_model_request(
        self, ctx: AgentContext[Any], *, request_context: ModelRequestContext, handler: WrapModelRequestHandler
    ) -> ModelResponse:
        """Tell of what the model is taken to have answered."""
        self._answered = False
        try:
            response = await handler(request_context)
        finally:
            if not self._answered:
                self._note(ctx.messages)
        if self._answered:
            self._tell(response)
        return response

    async def after_model_request(
        self, ctx: AgentContext[Any], *, request_context: ModelRequestContext, response: ModelResponse
    ) -> ModelResponse:
        """A model has answered, and whatever is wrapped around the request may still change that."""
        self._answered = True
        return response


class Watch(AbstractCapability[Any]):
    """Belongs to one run of one agent, and tells the harness's run of what it does. The agent is given its `capabilities`.

    Each request to a model counts when it is answered, has failed, or is cut off; each tool when it is called, before it
    runs. Both go no further in a run that is to stop. Messages count for the lead agent alone.

    Args:
        run: the harness's run.
        caller: who is credited with the models' calls.
        speaker: what the agent is called in the stream.
        namespace: where its parts belong in the stream; none for the lead agent.
        invoked_by: who has called the agent; None for the lead agent.
        on_request: called with the run's messages before each request to a model: the list that the framework adds to.
    """

    def __init__(
        self,
        run: RunContext,
        *,
        caller: str,
        speaker: str,
        namespace: Sequence[str] = (),
        invoked_by: str | None = None,
        on_request: Callable[[list[ModelMessage]], None] | None = None,
    ) -> None:
        super().__init__()
        self.run = run
        self._caller = caller
        self._invoked_by = invoked_by
        self._on_request = on_request
        self._ledger = Ledger(run, caller)
        self._speaker = speaker
        self._namespace = tuple(namespace)
        self._seen = 0
        self._newest: ModelMessage | None = None
        self._streams = not namespace or run.stream_subgraphs
        self._message_id = new_id()
        self._told = False
        self._calls_before = 0
        self._output_tools: frozenset[str] = frozenset()
        self._output_calls: set[int] = set()
        self._compactions: list[Sequence[Any]] = []

    @property
    def capabilities(self) -> list[AbstractCapability[Any]]:
        """This watch, as near to model and tools as it can be, and what hears of answers."""
        return [self, AnswersTold(self._note_answer, self.note)]

    def get_wrapper_model(self, model: Model) -> Model:
        """Count the model's calls."""
        return counted(model, self._ledger)

    async def wrap_run(self, ctx: AgentContext[Any], *, handler: WrapRunHandler) -> AgentRunResult[Any]:
        """Measure the run of an agent that another called. The end of any run ends what its models still worked on."""
        if self._invoked_by is None:
            with closing(self._ledger):
                return await handler()
        with self.run.call("invoke_agent", self._speaker, caller=self._invoked_by), closing(self._ledger):
            return await handler()

    async def before_run(self, ctx: AgentContext[Any]) -> None:
        """Remember what was said before."""
        self._remember(ctx.messages)
        self._compactions = [message.parts for message in ctx.messages if is_compaction(message)]

    async def before_model_request(
        self, ctx: AgentContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Tell of what the tools have brought, which goes to the model now."""
        if self._on_request is not None:
            self._on_request(ctx.messages)
        self.note(ctx.messages)
        self._count_compactions(request_context)
        self._calls_before = self._ledger.calls
        self._output_calls.clear()
        self._output_tools = frozenset(tool.name for tool in request_context.model_request_parameters.output_tools)
        return request_context

    async def after_model_request(
        self, ctx: AgentContext[Any], *, request_context: ModelRequestContext, response: ModelResponse
    ) -> ModelResponse:
        """Count a call that a wrapper around the model has sent in another way, as in batches."""
        if self._ledger.calls == self._calls_before:
            self._ledger.answered(request_context.model.model_name, response)
        return response

    async def wrap_tool_execute(
        self,
        ctx: AgentContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: ValidatedToolArgs,
        handler: WrapToolExecuteHandler,
    ) -> Any:
        """Count the call before it is made, so that a budget stops it."""
        self._ledger.stop_if_asked()
        told = self.run.begin_call("execute_tool", call.tool_name, caller=self._caller)
        try:
            self._ledger.stop_if_asked()
            with carrying_exits(), _under_way(call.tool_name, self._caller):
                result = await handler(args)
        except (ApprovalRequired, CallDeferred, RunPaused):  # a question is no failure
            told.end()
            raise
        except (ToolRetryError, ToolFailedError) as exc:
            told.end(exc.__cause__ or exc)
            raise
        except BaseException as exc:
            told.end(exc)
            raise
        told.end()
        return result

    def note(self, messages: Sequence[ModelMessage]) -> None:
        """Tell of what has been added to the run's messages: tools' results, and an answer that came from no model."""
        for message in self._unseen(messages):
            if isinstance(message, ModelResponse):
                self._note_answer(message)
                continue
            for result in tool_messages(message, self._output_tools):
                self._tell(result, "tools")
                self._send_message(result)
        self._told = False
        self._remember(messages)

    def _count_compactions(self, request: ModelRequestContext) -> None:
        """Count a call by which a capability had the conversation compacted: it is no request, and its answer is here."""
        for message in request.messages:
            if isinstance(message, ModelResponse) and is_compaction(message) and message.parts not in self._compactions:
                self._compactions.append(message.parts)
                self._ledger.answered(request.model.model_name, message)

    def _unseen(self, messages: Sequence[ModelMessage]) -> Sequence[ModelMessage]:
        """What has come since, wherever it stands: capabilities that process the history change all that is before it."""
        for nth, message in reversed([*enumerate(messages, 1)]):
            if message is self._newest or (self._told and isinstance(message, ModelResponse)):
                return messages[nth:]
        return messages[self._seen :]

    def _remember(self, messages: Sequence[ModelMessage]) -> None:
        self._seen = len(messages)
        self._newest = messages[-1] if messages else None

    def _note_answer(self, response: ModelResponse) -> None:
        message = ai_message(response, self._message_id, self._output_tools)
        self._tell(message, "model")
        self._send_message(chunk(self._message_id, chunk_position="last", usage_metadata=message["usage_metadata"]))
        self._message_id = new_id()
        self._told = True

    def _tell(self, message: JsonObject, node: str) -> None:
        if not self._namespace:
            self.run.record_message(message)
        self.send({node: {"messages": [message]}}, UPDATES)

    def _send_message(self, message: JsonObject) -> None:
        for mode in MESSAGES:
            self.send([message, {"agent": self._speaker}], mode)

    def send(self, data: Any, mode: str) -> None:
        """Stream a part, if it was asked for."""
        if self._streams and mode in self.run.stream_modes:
            self.run.send(data, mode, namespace=self._namespace)


class LiveWatch(Watch):
    """Also passes on what comes while the agent runs. `on_event` makes the framework stream: hence its own class."""

    async def on_event(self, ctx: AgentContext[Any], *, event: AgentStreamEvent) -> None:
        """Stream what an event brings."""
        if EVENTS in self.run.stream_modes:
            self.send(whole(event), EVENTS)
        if (piece := chunk_of(event, self._message_id, self._output_calls, self._output_tools)) is not None:
            self._send_message(piece)


def watch_of(run: RunContext, **options: Any) -> Watch:
    """A watch that streams as much as the run's followers have asked for."""
    live = run.stream_modes & {*MESSAGES, EVENTS} and (not options.get("namespace") or run.stream_subgraphs)
    return (LiveWatch if live else Watch)(run, **options)


@contextmanager
def _under_way(tool: str, caller: str) -> Generator[None]:
    token = _tool.set((tool, caller))
    try:
        yield
    finally:
        _tool.reset(token)
