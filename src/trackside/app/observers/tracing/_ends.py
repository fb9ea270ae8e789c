"""What a run's span says about its end: how it ended, what it used, what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from trackside.app.observers.tracing import _conventions as names
from trackside.app.observers.tracing._messages import messages_of
from trackside.app.observers.tracing._reading import (
    clean,
    counts_of,
    is_mapping,
    known,
    mapping_of,
    nanoseconds,
    text_of,
)
from trackside.harness.lifecycle import has_failed
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import RunStatus

__all__ = ["tell_end"]


_COUNTS: Final = {
    "total_input_tokens": names.INPUT_TOKENS,
    "total_output_tokens": names.OUTPUT_TOKENS,
    "llm_call_count": names.RUN_LLM_CALLS,
    "tool_call_count": names.RUN_TOOL_CALLS,
    "calls_omitted": names.RUN_CALLS_OMITTED,
}


def tell_end(span: Span, event: RunLifecycleEvent, status: RunStatus, *, captures: bool) -> None:
    """Say how a run has ended. Only a run that failed or timed out counts as an error."""
    says = event.payload
    data = mapping_of(says, "completion_data")
    interrupts = says.get("interrupts")
    failed = has_failed(status)
    attributes: dict[str, AttributeValue | None] = {
        names.RUN_STATUS: status.value,
        **_models(data),
        **counts_of(data, _COUNTS),
        names.RUN_COST: _cost(data.get("cost_usd")),
        names.CANCEL_MODE: text_of(says, "cancel_mode"),
        names.CANCEL_REASON: text_of(says, "reason"),
        names.INTERRUPTS: len(interrupts) if isinstance(interrupts, list) else None,
    }
    span.set_attributes(known(attributes))
    if captures:
        said = {names.INPUT_MESSAGES: "first_human_message", names.OUTPUT_MESSAGES: "last_ai_message"}
        span.set_attributes(known({name: messages_of(name, text_of(data, key)) for name, key in said.items()}))
    if failed:
        _tell_failure(span, event, status)


def _tell_failure(span: Span, event: RunLifecycleEvent, status: RunStatus) -> None:
    says = event.payload
    error, error_type = text_of(says, "error"), text_of(says, "error_type") or status.value
    span.set_attribute(names.ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR, error))
    if (trace := text_of(says, "traceback")) is not None:
        raised = {
            names.EXCEPTION_TYPE: error_type,
            names.EXCEPTION_MESSAGE: error,
            names.EXCEPTION_STACKTRACE: trace,
        }
        span.add_event(names.EXCEPTION, known(raised), nanoseconds(event.occurred_at))


def _models(data: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """The model that a run asked for, if it was only one; and the model that answered, if its name differs."""
    usage: Mapping[Any, Any] = mapping_of(data, "token_usage_by_model")
    models = [clean(model) for model in usage if isinstance(model, str)]
    if len(models) != 1:
        return {}
    calls = data.get("calls")
    listed = calls if isinstance(calls, list) else []
    chats = [call for call in listed if is_mapping(call) and call.get("kind") == names.CHAT]
    asked = {text_of(call, "request_model") or text_of(call, "name") for call in chats if "input_tokens" in call}
    if asked <= {None, models[0]}:
        return {names.REQUEST_MODEL: models[0]}
    return known({names.REQUEST_MODEL: asked.pop() if len(asked) == 1 else None, names.RESPONSE_MODEL: models[0]})


def _cost(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
