"""What a notification says: texts with fields of an event, safe to put into mails and chats whatever an agent wrote."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from string import Template
from typing import Any, Final

from trackside.app.delivery import ObserverOptionError
from trackside.harness.journal import excerpt
from trackside.harness.lifecycle import run_status_of
from trackside.harness.observer import RunLifecycleEvent
from trackside.harness.types import LifecycleEventType, RunStatus

TITLE_CHARS: Final = 200
BODY_CHARS: Final = 4_000
_FIELD_CHARS: Final = 1_000

FIELDS: Final = (
    "agent",
    "cost",
    "duration",
    "error",
    "error_type",
    "event_id",
    "event_type",
    "first_human_message",
    "input_tokens",
    "last_ai_message",
    "llm_calls",
    "message",
    "output_tokens",
    "reason",
    "run_id",
    "sequence",
    "status",
    "thread_id",
    "time",
    "title",
    "tokens",
    "tool_calls",
)
"""What a template may name, each as `$name` or `${name}`. What an event does not say is an empty text, or – for a number."""

_UNKNOWN: Final = "–"

_DATA_FIELDS: Final = {
    "input_tokens": "total_input_tokens",
    "llm_calls": "llm_call_count",
    "output_tokens": "total_output_tokens",
    "tokens": "total_tokens",
    "tool_calls": "tool_call_count",
}

_END_BODY = """\
Run $run_id
Thread $thread_id
Time $time
Took $duration
Tokens $tokens
Cost $cost"""

_DEFAULTS: Final = {
    LifecycleEventType.RUN_STARTED: ("$agent started", "Run $run_id\nThread $thread_id\nTime $time"),
    LifecycleEventType.RUN_COMPLETED: ("$agent: $status", _END_BODY),
    LifecycleEventType.RUN_FAILED: ("$agent: $status ($error_type)", "$error\n\n" + _END_BODY),
    LifecycleEventType.RUN_CANCELLED: ("$agent: cancelled", "$reason\n\n" + _END_BODY),
    LifecycleEventType.HUMAN_MESSAGE: ("A message in thread $thread_id", "$message\n\nRun $run_id"),
    LifecycleEventType.THREAD_STATUS_UPDATED: ("Thread $thread_id: $status", "Run $run_id\nTime $time"),
}

# Characters that end a header, command a terminal, turn the direction of writing, or cannot be encoded.
_UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What chats take for a mention of everybody or somebody, for a link that hides where it leads, or for a link's target.
_MEANT = re.compile(r"@(?=everyone\b|here\b|channel\b|all\b|room\b|_?\*)|<(?=[@!#/a-z])|\](?=[(:])", re.IGNORECASE)
_WORD_JOINER = "\u2060"  # has no width, and no chat looks for it
_LIKE_A_BAR = "\u01c0"  # a letter. After a "<", a bar separates an address from its link's name, whatever else is there


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A notification, before it is sent."""

    title: str
    body: str
    kind: str
    """How serious it is, in Apprise's words: "info", "success", "warning" or "failure"."""

    @classmethod
    def of(cls, *, title: str, body: str, kind: str) -> Message:
        """A message from texts that may be too long; the title is put on one line."""
        return cls(title=cut(" ".join(title.split()), TITLE_CHARS), body=cut(body.strip(), BODY_CHARS), kind=kind)

    def with_note(self, note: str) -> Message:
        """The same message, with a note below."""
        return replace(self, body=f"{self.body}\n\n{note}")


def cut(text: str, limit: int) -> str:
    """A text that is no longer than the limit, marked if something is missing."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def harmless(text: str) -> str:
    """A text that means no more in a mail or chat than what it says."""
    lines = _UNFIT.sub(" ", text.replace("\r\n", "\n"))
    before, bracket, behind = lines.partition("<")
    lines = f"{before}{bracket}{behind.replace('|', _LIKE_A_BAR)}"
    return _MEANT.sub(lambda found: found[0] + _WORD_JOINER, cut(lines, _FIELD_CHARS))


class Templates:
    """The texts for each type of event.

    Args:
        own: title and body by type, as in the settings; ours apply where they say nothing.

    Raises:
        ObserverOptionError: a type or field is unknown, or a text is not a template.
    """

    def __init__(self, own: Mapping[str, Any]) -> None:
        if not isinstance(own, Mapping):
            raise ObserverOptionError(
                option="templates", why='it is a table, as {run_failed = {title = "…", body = "…"}}'
            )
        self._texts = {kind: tuple(map(Template, texts)) for kind, texts in _DEFAULTS.items()}
        for name, texts in own.items():
            option = f"templates.{name}"
            if name not in LifecycleEventType:
                why = f"there is no such event; there are {', '.join(LifecycleEventType)}"
                raise ObserverOptionError(option=option, why=why)
            if not isinstance(texts, Mapping) or not texts.keys() <= {"title", "body"}:
                raise ObserverOptionError(
                    option=option, why="it is a table with a title, a body, or both, and nothing else"
                )
            kind = LifecycleEventType(name)
            title, body = self._texts[kind]
            self._texts[kind] = (
                template(f"{option}.title", texts["title"]) if "title" in texts else title,
                template(f"{option}.body", texts["body"]) if "body" in texts else body,
            )

    def message(
        self, event: RunLifecycleEvent, *, title: Template | None = None, body: Template | None = None
    ) -> Message:
        """The message about an event, made from these texts, if any, instead of those for its type."""
        fields = fields_of(event)
        titles, bodies = self._texts[event.event_type]
        return Message.of(
            title=(title or titles).substitute(fields), body=(body or bodies).substitute(fields), kind=_kind(event)
        )


def template(option: str, text: Any) -> Template:
    """A text with fields.

    Raises:
        ObserverOptionError: it has an unknown field, or a `$` that stands for nothing.
    """
    if not isinstance(text, str) or not text.strip():
        raise ObserverOptionError(option=option, why=f"it is a text, not {text!r}")
    parsed = Template(text)
    if not parsed.is_valid():
        raise ObserverOptionError(option=option, why='a "$" begins the name of a field; for the sign itself write "$$"')
    for name in parsed.get_identifiers():
        if name not in FIELDS:
            raise ObserverOptionError(option=option, why=f"there is no field ${name}; there are {', '.join(FIELDS)}")
    return parsed


def fields_of(event: RunLifecycleEvent) -> dict[str, str]:
    """The fields of an event for templates."""
    payload, data = event.payload, completion_data(event)
    message = payload.get("message")
    said = {
        **{name: payload.get(name) for name in ("agent", "error", "error_type", "reason", "title")},
        **{name: data.get(name) for name in ("first_human_message", "last_ai_message")},
        "message": excerpt(message.get("content")) if isinstance(message, Mapping) else None,
        "event_id": event.event_id,
        "event_type": event.event_type.value,
        "run_id": event.run_id,
        "thread_id": event.thread_id,
        "sequence": str(event.sequence),
        "status": status_of(event),
        "time": f"{event.occurred_at:%Y-%m-%d %H:%M:%S} UTC",
    }
    fields = {name: harmless(text) if isinstance(text, str) else "" for name, text in said.items()}
    fields["agent"] = fields["agent"] or "agent"
    for name, key in _DATA_FIELDS.items():
        number = number_of(data, key)
        fields[name] = _UNKNOWN if number is None else f"{number:.0f}"
    seconds, cost = number_of(data, "duration_seconds"), number_of(data, "cost_usd")
    fields["duration"] = _UNKNOWN if seconds is None else f"{seconds:.1f} s"
    fields["cost"] = _UNKNOWN if cost is None else f"{cost:.4f} USD"
    return fields


def status_of(event: RunLifecycleEvent) -> str | None:
    """The status that an event gives its run or its thread."""
    status = run_status_of(event.event_type, event.payload) or event.payload.get("status")
    return str(status) if isinstance(status, str) else None


def completion_data(event: RunLifecycleEvent) -> Mapping[str, Any]:
    """What a run used, according to its terminal event."""
    data = event.payload.get("completion_data")
    return data if isinstance(data, Mapping) else {}


def number_of(data: Mapping[str, Any], key: str) -> float | None:
    """A finite number, if there is one."""
    value = data.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _kind(event: RunLifecycleEvent) -> str:
    match run_status_of(event.event_type, event.payload):
        case RunStatus.error | RunStatus.timeout:
            return "failure"
        case RunStatus.cancelled | RunStatus.interrupted:
            return "warning"
        case RunStatus.success:
            return "success"
        case _:
            return "info"
