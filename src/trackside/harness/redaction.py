"""Takes out of events what nobody may see, before anybody does.

What is redacted is nowhere: the events, the run's record, what its caller is told of its end and what a database keeps
all come from the redacted payload. What is *asked for* (a run's input), what threads remember, live output and what an
agent returns to the caller are not events, and stay whole: agents, and those who talk with them, need them.
"""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from trackside.harness.errors import InvalidSpecError
from trackside.harness.foreign.signatures import signature_of
from trackside.harness.payload import MAX_CHARS, WHOLE_CHARS, canonical_payload
from trackside.harness.types import JsonObject, LifecycleEventType

logger = logging.getLogger("trackside.worker")

type Redact = Callable[[LifecycleEventType, JsonObject], Mapping[str, Any]]
"""Called with each event's type and a copy of its payload, which it may change; what it returns is announced instead.

Metadata also goes through it when a run is let in, as it stands in `run_started`, and comes again with that event. What
a hook makes of its own earlier result therefore has to be the same.
"""

_FIXED = (
    "status",
    "previous",
    "cancel_mode",
    "agent",
    "parent_run_id",
    "attempt",
    "retry_of",
    "retried_as",
    "pre_run_checkpoint_id",
)
"""What makes an event what it is, and holds no text of users."""

_LINES = ("error", "reason", "traceback", "title", "trigger")
_NAMES_OF_CALLS = ("name", "caller", "request_model", "error_type")
_WITHHELD = "(withheld)"
_TEXTS = ("first_human_message", "last_ai_message")
_MOST_CHARS = 2 * MAX_CHARS  # an end has its totals besides questions that may take up all that an event has room for


def check_hook(redact: Any) -> None:
    """Check that a hook can be called as one.

    Raises:
        InvalidSpecError: (a `ValueError`) it cannot, as `fault_of` says.
    """
    if fault_of(redact) is not None:
        why = "it has to be a plain function of an event's type and its payload"
        raise InvalidSpecError(field="redact", value=redact, why=why)


def fault_of(hook: Any) -> str | None:
    """Why something cannot be called as a hook: it would fail on every event, which would be announced without its texts."""
    if not callable(hook):
        return f"is no function but {hook!r:.80}"
    if inspect.iscoroutinefunction(hook):
        return "is asynchronous"
    try:
        signature_of(hook).bind("run_started", {})
    except TypeError:
        return "cannot be called with two arguments"
    except ValueError:  # it is not written in Python, and does not say what it takes
        return None
    return None


def redacted(redact: Redact, kind: LifecycleEventType, payload: JsonObject) -> JsonObject:
    """The payload as it may be seen.

    It stays a payload of its kind, whatever the hook makes of it: a hook changes texts, metadata, what is in messages and
    questions, the names of errors, models, tools and callers, and neither statuses, agents, ids nor numbers. If it fails,
    leaves a part out, or makes something of another shape of it, nothing of that is left in which there may be texts.
    """
    try:
        shown = redact(kind, canonical_payload(payload, max_chars=WHOLE_CHARS))
        return _put_right(payload, canonical_payload(shown, max_chars=_MOST_CHARS))
    except BaseException as exc:  # noqa: BLE001  # the hook's failure: what should have been taken out must not get out because of it
        _say_that_it_failed(kind, exc)
    seen: JsonObject = {"redaction_failed": True}
    if "error" in payload:
        seen["error"] = "not shown: the redaction hook failed"
    return _put_right(payload, seen)


def _put_right(payload: JsonObject, seen: JsonObject) -> JsonObject:
    """What a hook has left, `seen`, as a payload of its kind again."""
    for name in _LINES:
        if not isinstance(seen.get(name), str | None):
            seen[name] = None
    left = {name: value for name, value in seen.items() if name not in _FIXED and name not in _PARTS}
    left |= {name: payload[name] for name in _FIXED if name in payload}
    return left | {name: right(payload[name], seen.get(name)) for name, right in _PARTS.items() if name in payload}


def _say_that_it_failed(kind: LifecycleEventType, exc: BaseException) -> None:
    """Say where a hook failed, and with what; not what the exception says, which may quote what it was to take out."""
    logger.error(
        "the redaction hook failed on %s; the event is announced without its texts. It raised %s at\n%s",
        kind.value,
        type(exc).__qualname__,
        "".join(traceback.format_tb(exc.__traceback__)).rstrip(),
    )


def _metadata(was: JsonObject, seen: Any) -> JsonObject:
    return seen if isinstance(seen, dict) else {}


def _message(was: JsonObject, seen: Any) -> JsonObject:
    """What a message says may change; that it is there, and whose it is, does not."""
    left: JsonObject = seen if isinstance(seen, dict) else {"content": ""}
    return left | {"id": was.get("id"), "type": was.get("type")}


def _interrupts(was: list[JsonObject], seen: Any) -> list[JsonObject]:
    """Questions are answered by their ids: they stay, in their order."""
    ids = [_part(question, "id") for question in was]
    if isinstance(seen, list) and [_part(question, "id") for question in seen] == ids:
        return seen
    return [{"id": question} for question in ids]


def _part(one: Any, name: str) -> Any:
    return one.get(name) if isinstance(one, dict) else None


def _completion_data(was: JsonObject, seen: Any) -> JsonObject:
    left = seen if isinstance(seen, dict) else {}
    texts = {name: left.get(name) for name in _TEXTS if name in was}
    named = {name: right(was[name], left.get(name)) for name, right in _NAMED.items() if name in was}
    return was | named | {name: text if isinstance(text, str) else None for name, text in texts.items()}


def _calls(was: list[JsonObject], seen: Any) -> list[JsonObject]:
    """What was called may be renamed; that it was, when, and what came of it stays."""
    places = [call["at"] for call in was]
    if isinstance(seen, list) and [_part(call, "at") for call in seen] == places:
        return [call | _names_in(call, renamed) for call, renamed in zip(was, seen, strict=True)]
    return [call | _names_in(call, {}) for call in was]


def _names_in(call: JsonObject, renamed: JsonObject) -> JsonObject:
    return {name: _name(renamed.get(name)) for name in _NAMES_OF_CALLS if name in call}


def _usage(was: JsonObject, seen: Any) -> JsonObject:
    """The names of models or callers may change, as long as it is clear which is which."""
    if isinstance(seen, dict) and [*seen.values()] == [*was.values()]:
        return seen
    return {f"{_WITHHELD} {number}": used for number, used in enumerate(was.values(), 1)}


def _name(seen: Any) -> str:
    return seen if isinstance(seen, str) else _WITHHELD


def _error_type(was: str, seen: Any) -> str:
    return _name(seen)


_NAMED: Mapping[str, Callable[[Any, Any], Any]] = {
    "calls": _calls,
    "token_usage_by_model": _usage,
    "token_usage_by_caller": _usage,
}
"""What becomes of the parts of `completion_data` that contain names."""


_PARTS: Mapping[str, Callable[[Any, Any], Any]] = {
    "metadata": _metadata,
    "message": _message,
    "interrupts": _interrupts,
    "completion_data": _completion_data,
    "error_type": _error_type,
}
"""What becomes of a part, from what it was and what the hook left of it."""
