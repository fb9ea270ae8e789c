"""Wraps the model of a request, so that each call of it is counted: answered, failed, or cut off."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import CompletedStreamedResponse, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext as AgentContext
from pydantic_ai.usage import RequestUsage

from trackside.harness.calls import Call
from trackside.harness.context import RunContext, RunPaused
from trackside.harness.foreign.exits import carrying_exits
from trackside.harness.journal import reported


class Ledger:
    """Where one agent's calls of models are counted: in the journal of `run`, credited to `caller`.

    A provider may work on an answer in the background, and is asked for it again and again until it is there: that is
    one call, open all that time.
    """

    def __init__(self, run: RunContext, caller: str) -> None:
        self._run = run
        self._caller = caller
        self._awaited: dict[str, Call] = {}
        self.calls = 0
        """How many calls were counted so far, whatever became of them."""

    def stop_if_asked(self) -> None:
        """Go no further in a run that is to stop, whatever has swallowed its cancel.

        Raises:
            asyncio.CancelledError: it is.
        """
        if self._run.cancelled:
            raise asyncio.CancelledError

    def begun(self, model: str, messages: Sequence[ModelMessage]) -> Call:
        """A call that begins now, or the one whose answer `messages` ask for again; whoever asks for it ends it."""
        return self._awaited.pop(_job_of(messages), None) or self._run.begin_call("chat", model, caller=self._caller)

    def awaited(self, answer: ModelResponse, messages: Sequence[ModelMessage], call: Call) -> bool:
        """Keep a call open whose answer is still being worked on. False if nothing says which answer that is."""
        job = answer.provider_response_id or _job_of(messages)
        if job:
            self._awaited[job] = call
        return bool(job)

    def close(self) -> None:
        """End the calls whose answers are awaited: nobody asks for an answer any more, and these were given up."""
        for call in self._awaited.values():
            call.end(asyncio.CancelledError())
        self._awaited.clear()

    def answered(self, model: str, answer: ModelResponse | StreamedResponse, call: Call | None = None) -> None:
        """Count a call of a model.

        One that is not given as `call` was awaited, and its answer is left as it is; or nobody has measured it.
        """
        if call is None and (call := self._awaited.pop(answer.provider_response_id or "", None)) is not None:
            call.end()
        self.calls += 1
        self._record(model, answer, call, answered=True)

    def cut_off(self, model: str, answer: StreamedResponse, call: Call) -> None:
        """Count what a call that came to no end had used, if it had reported that."""
        self.calls += 1
        if answer.usage.input_tokens or answer.usage.output_tokens:
            self._record(model, answer, call, answered=False)

    def failed(self, error: Exception) -> None:
        """Count a call that gave no answer."""
        self.calls += 1
        self._run.record_model_failure(error)

    def _record(
        self, model: str, answer: ModelResponse | StreamedResponse, call: Call | None, *, answered: bool
    ) -> None:
        usage: RequestUsage = answer.usage
        self._run.record_usage(
            answer.model_name or model,
            input_tokens=reported(usage.input_tokens),
            output_tokens=reported(usage.output_tokens),
            cache_read_tokens=reported(usage.cache_read_tokens),
            cache_write_tokens=reported(usage.cache_write_tokens),
            reasoning_tokens=reported(usage.output_reasoning_tokens or usage.details.get("reasoning_tokens")),
            caller=self._caller,
            cost_usd=None if usage.cost is None else float(usage.cost),
            answered=answered,
            call=call,
            provider=answer.provider_name,
        )


def _job_of(messages: Sequence[ModelMessage]) -> str:
    """The provider's id of the answer that these messages ask for again; empty if they ask for another."""
    last = messages[-1] if messages else None
    return (last.provider_response_id or "") if isinstance(last, ModelResponse) and last.state == "suspended" else ""


def counted(model: Model, ledger: Ledger) -> Model:
    """The same model, with each of its calls counted; of a `FallbackModel`, those of each model that is tried."""
    if _chooses(model):
        return _RoutedModel(model, _with_counted_choices(model, ledger))
    return _CountedModel(model, ledger)


def _chooses(model: Model) -> bool:
    return isinstance(_innermost(model), FallbackModel)


def _with_counted_choices(model: Model, ledger: Ledger) -> Model:
    """A copy of a `FallbackModel`, or of a wrapper around one, that tries the counted models."""
    if isinstance(model, FallbackModel):
        twin = copy.copy(model)
        twin.models = [counted(choice, ledger) for choice in model.models]
        return twin
    assert isinstance(model, WrapperModel)
    wrapper = copy.copy(model)
    wrapper.wrapped = _with_counted_choices(model.wrapped, ledger)
    return wrapper


def _innermost(model: Model) -> Model:
    while isinstance(model, WrapperModel):
        model = model.wrapped
    return model


def _streams(model: Model) -> bool:
    innermost = _innermost(model)
    if isinstance(innermost, FunctionModel):
        return innermost.stream_function is not None
    return type(innermost).request_stream is not Model.request_stream


def _only_streams(model: Model) -> bool:
    innermost = _innermost(model)
    return isinstance(innermost, FunctionModel) and innermost.function is None


def _replayed(answer: ModelResponse, parameters: ModelRequestParameters) -> StreamedResponse:
    return CompletedStreamedResponse(answer, model_request_parameters=parameters, replay_events=True)


class _RoutedModel(WrapperModel):
    """Answers for `wrapped` in everything, and has its requests sent by `sender`, a copy of it."""

    def __init__(self, wrapped: Model, sender: Model) -> None:
        super().__init__(wrapped)
        self._sender = sender

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        return await self._sender.request(messages, model_settings, model_request_parameters)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: AgentContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        sender = self._sender.request_stream(messages, model_settings, model_request_parameters, run_context)
        async with sender as stream:
            yield stream


class _CountedModel(WrapperModel):
    """Counts each call.

    Whether a request streams depends on what the run's followers want to see, not on what the model can do: one that
    cannot stream gives its answer in one piece, and one that only streams is read to its end.
    """

    def __init__(self, wrapped: Model, ledger: Ledger) -> None:
        super().__init__(wrapped)
        self._ledger = ledger

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        if _only_streams(self.wrapped):
            async with self.request_stream(messages, model_settings, model_request_parameters) as stream:
                async for _ in stream:
                    pass
                return stream.get()
        self._ledger.stop_if_asked()
        call = self._ledger.begun(self.model_name, messages)
        return await self._asked(call, messages, model_settings, model_request_parameters)

    async def _asked(
        self,
        call: Call,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """The answer in one piece to a request that counts as `call`."""
        try:
            with carrying_exits():
                response = await self.wrapped.request(messages, model_settings, model_request_parameters)
        except BaseException as exc:
            call.end(None if isinstance(exc, RunPaused) else exc)
            if isinstance(exc, Exception):  # the model's failure
                self._ledger.failed(exc)
            raise
        if not self._is_awaited(response, messages, call):
            call.end()
            self._ledger.answered(self.model_name, response, call)
        return response

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: AgentContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:
        if not _streams(self.wrapped):
            response = await self.request(messages, model_settings, model_request_parameters)
            yield _replayed(response, model_request_parameters)
            return
        self._ledger.stop_if_asked()
        stream: StreamedResponse | None = None
        call = self._ledger.begun(self.model_name, messages)
        try:
            with carrying_exits():
                async with self.wrapped.request_stream(
                    messages, model_settings, model_request_parameters, run_context
                ) as stream:
                    yield stream
        except BaseException as exc:
            if stream is not None or not isinstance(exc, NotImplementedError) or _only_streams(self.wrapped):
                self._end(call, stream, exc)
                raise
        if stream is None:  # it has a method for streams, which refuses to stream
            response = await self._asked(call, messages, model_settings, model_request_parameters)
            yield _replayed(response, model_request_parameters)
        elif not self._is_awaited(stream.get(), messages, call):
            self._end(call, stream, None)

    def _is_awaited(self, answer: ModelResponse, messages: Sequence[ModelMessage], call: Call) -> bool:
        """Whether the provider still works on the answer, and is asked for it again later.

        A turn that it has only paused is an answer: what goes on with it is another call.
        """
        if answer.state != "suspended" or self.continuation_delay(answer) is None:
            return False
        return self._ledger.awaited(answer, messages, call)

    def _end(self, call: Call, stream: StreamedResponse | None, error: BaseException | None) -> None:
        """Count a stream by how far it came. Its reader may raise, too: if the answer is whole, it has not failed."""
        if stream is not None and (error is None or stream.get().state == "complete"):
            call.end()
            self._ledger.answered(self.model_name, stream, call)
            return
        call.end(error)
        if stream is not None:
            self._ledger.cut_off(self.model_name, stream, call)
        if isinstance(error, Exception):
            self._ledger.failed(error)
