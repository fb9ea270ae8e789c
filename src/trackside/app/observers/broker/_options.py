"""Checks of where events go, before anything is connected."""

from __future__ import annotations

from typing import Any, Final

from trackside.app.delivery import ObserverOptionError
from trackside.app.options import checked_text

__all__ = ["topic_for", "topic_template"]

_PLACE: Final = "{event_type}"


def topic_template(topic: Any, *, nats: bool) -> str:
    """Where events go, with a place for their type.

    Raises:
        ObserverOptionError: nothing can be published there.
    """
    if topic is None:
        return "trackside.events.{event_type}" if nats else "trackside:{event_type}"
    template = checked_text("topic", topic)
    filled = template.replace(_PLACE, "x")
    if "{" in filled or "}" in filled:
        raise ObserverOptionError(option="topic", why=f"the only thing in braces that it may have is {_PLACE}")
    if nats:
        tokens = filled.split(".")
        if not all(tokens) or any(char.isspace() or char in "*>" for char in filled) or filled.startswith("$"):
            why = "a NATS subject is words with dots between them, without blanks, * and >, and without $ in front"
            raise ObserverOptionError(option="topic", why=why)
    return template


def topic_for(template: str, event_type: str) -> str:
    """The topic for events of a type."""
    return template.replace(_PLACE, event_type)
