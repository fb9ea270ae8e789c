"""What spans say about messages: that there were some, and their content only if that was asked for."""

from __future__ import annotations

import json
from typing import Final

from opentelemetry.trace import Span

from trackside.app.observers.tracing import _conventions as names
from trackside.app.observers.tracing._reading import clean, known, mapping_of, nanoseconds, text_of
from trackside.harness.journal import excerpt
from trackside.harness.observer import RunLifecycleEvent

__all__ = ["messages_of", "tell_message"]

_ROLES: Final = {names.INPUT_MESSAGES: "user", names.OUTPUT_MESSAGES: "assistant"}


def tell_message(span: Span, event: RunLifecycleEvent, *, captures: bool) -> None:
    """Note on a run's span that a human said something."""
    message = mapping_of(event.payload, "message")
    said = clean(excerpt(message.get("content"))) if captures else None
    attributes = {names.MESSAGE_ID: text_of(message, "id"), names.MESSAGE_CONTENT: said}
    span.add_event(names.HUMAN_MESSAGE, known(attributes), nanoseconds(event.occurred_at))


def messages_of(name: str, text: str | None) -> str | None:
    """A text in the form that messages have in the attribute `name`: JSON, by the conventions' schema."""
    if text is None:
        return None
    message = {"role": _ROLES[name], "parts": [{"type": "text", "content": text}]}
    return json.dumps([message], ensure_ascii=False)
