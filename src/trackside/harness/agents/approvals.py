"""What a human's answer to "may this tool be called?" says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trackside.harness.errors import InvalidSpecError

_YES = frozenset({"yes", "y", "true", "ok", "approve", "approved", "accept", "allow"})
_NO = frozenset({"no", "n", "false", "reject", "rejected", "deny", "denied", "decline"})
_FIELDS = {"approved": bool, "message": str, "arguments": Mapping}
_ACCEPTED = (
    'it answers whether a tool may be called: true or false, a word for it ("yes", "approve", "no", "reject"), or '
    '{"approved": true or false} with an optional "message" (why not) or "arguments" (an object: what to call it with)'
)


@dataclass(frozen=True, slots=True)
class Approval:
    """Whether a tool may be called.

    `message` is what to tell the model if the tool may not be called; `arguments` is what to call it with, instead of
    what the model asked for, if it may.
    """

    approved: bool
    message: str | None = None
    arguments: Mapping[str, Any] | None = None


def approval_of(answer: Any) -> Approval:
    """The approval or rejection in an answer: `true`, `"no"`, `{"approved": false, "message": "too much"}` and the like.

    Raises:
        InvalidSpecError: (a `ValueError`) it is neither; the message says what is accepted.
    """
    if isinstance(answer, bool):
        return Approval(answer)
    if isinstance(answer, str) and (word := answer.strip().rstrip(".!").lower()) in _YES | _NO:
        return Approval(word in _YES)
    if isinstance(answer, Mapping) and _fits(answer):
        return Approval(answer["approved"], answer.get("message"), answer.get("arguments"))
    raise InvalidSpecError(field="command.resume", value=answer, why=_ACCEPTED)


def _fits(answer: Mapping[Any, Any]) -> bool:
    """Whether an object has the field it needs, only fields it may have, and nothing that would be ignored."""
    if not (isinstance(answer.get("approved"), bool) and answer.keys() <= _FIELDS.keys()):
        return False
    if not all(value is None or isinstance(value, _FIELDS[field]) for field, value in answer.items()):
        return False
    return answer.get("message" if answer["approved"] else "arguments") is None
