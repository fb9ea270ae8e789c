"""The context of a run that asks a human, kept for the run that brings the answer: whoever answers need not know it."""

from __future__ import annotations

from collections.abc import Mapping

from trackside.harness.context import RunContext
from trackside.harness.errors import InvalidSpecError, PayloadError
from trackside.harness.payload import canonical
from trackside.harness.types import JsonObject

CONTEXT_AGAIN = "the run that asked had a context which cannot be kept as JSON; give the answering run its context, too"
"""Why an answer without a context is refused."""


def kept_context(run: RunContext) -> JsonObject:
    """What is remembered of a run's context until its questions are answered, as a part of `AgentResult.paused`."""
    try:
        plain, changed = canonical(run.context)
    except PayloadError:
        return {"needs_context": True}
    return {"needs_context": True} if changed else {"context": plain}


def recall_context(run: RunContext) -> None:
    """Give a run that brings an answer the context of the run that asked, unless it has one of its own.

    Raises:
        InvalidSpecError: it has none, and that of the run that asked could not be kept.
    """
    kept = run.paused.state if run.paused is not None else None
    if run.context is not None or not isinstance(kept, Mapping):
        return
    if kept.get("needs_context"):
        raise InvalidSpecError(field="context", value=None, why=CONTEXT_AGAIN)
    run.context = kept.get("context")
