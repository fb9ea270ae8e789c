"""Takes out of events what nobody may see, before anybody does.

What is redacted is nowhere: the events, the run's record, what its caller gets and what a database keeps all come from
the redacted payload. What is *asked for* (a run's input) and what threads remember are not events, and stay whole: the
agent needs them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from trackside.harness.payload import canonical_payload
from trackside.harness.types import JsonObject, LifecycleEventType

logger = logging.getLogger("trackside.worker")

type Redact = Callable[[LifecycleEventType, JsonObject], Mapping[str, Any]]
"""Called with each event's type and a copy of its payload, which it may change; what it returns is announced instead."""

_STRUCTURE = (
    "status",
    "previous",
    "cancel_mode",
    "agent",
    "parent_run_id",
    "attempt",
    "retry_of",
    "error_type",
    "interrupts",
)
"""What makes an event what it is, and holds no text of users: a hook cannot change the first three."""

_FIXED = _STRUCTURE[:3]
_TEXTS = ("first_human_message", "last_ai_message")


def redacted(redact: Redact, kind: LifecycleEventType, payload: JsonObject) -> JsonObject:
    """The payload as it may be seen. If the hook fails, only what has no text of users in it is left."""
    try:
        seen = canonical_payload(redact(kind, canonical_payload(payload)))
    except BaseException:  # the hook's failure: what should have been taken out must not get out because of it
        logger.exception("the redaction hook failed on %s; the event is announced without its texts", kind.value)
        return _without_texts(payload)
    for name in _FIXED:
        if name in payload:
            seen[name] = payload[name]
    if "completion_data" in payload and not isinstance(seen.get("completion_data"), dict):
        seen["completion_data"] = _numbers_of(payload["completion_data"])
    return seen


def _without_texts(payload: JsonObject) -> JsonObject:
    left: JsonObject = {name: payload[name] for name in _STRUCTURE if name in payload}
    if "interrupts" in left:
        left["interrupts"] = [{"id": question.get("id")} for question in left["interrupts"]]
    if "completion_data" in payload:
        left["completion_data"] = _numbers_of(payload["completion_data"])
    if "message" in payload:
        message = payload["message"]
        left["message"] = {"id": message.get("id"), "type": message.get("type"), "content": ""}
    if "metadata" in payload:
        left["metadata"] = {}
    if "error" in payload:
        left["error"] = "not shown: the redaction hook failed"
    left["redaction_failed"] = True
    return left


def _numbers_of(completion_data: JsonObject) -> JsonObject:
    return {**completion_data, **{name: None for name in _TEXTS if name in completion_data}}
