"""A thread's conversation, where a framework keeps it as a list: what a run goes on with or, unfinished, leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackside.harness.context import RunContext
from trackside.harness.types import Json, JsonObject

_UNFINISHED = "unfinished"


def conversation_before(run: RunContext, name: str) -> Any:
    """What the run's thread keeps as its value `name`: a list, if an agent has left it there, or None.

    A run that tries another again begins where that one began, because it brings the same input once more.
    """
    said, left = run.values.get(name), run.values.get(_UNFINISHED)
    if run.retry_of is not None and left == run.retry_of and isinstance(said, list):
        # As earlier versions left it for Pydantic AI agents, whose messages name their run.
        return [one for one in said if not (isinstance(one, Mapping) and one.get("run_id") == left)]
    if run.retry_of is None or not isinstance(left, Mapping) or left.get("run_id") != run.retry_of:
        return said
    if "history" in left:
        return left["history"]
    return said[: left["before"]] if isinstance(said, list) else said


def unfinished_values(run: RunContext, name: str, said: list[Json]) -> JsonObject:
    """What the run's thread remembers if the run did not finish: what was said by then, and what had been before it.

    If the conversation still begins with what was before, its length is enough. A framework may have changed that: it
    may leave messages out, merge them, or sum them up.
    """
    history = conversation_before(run, name) or []
    before: JsonObject = {"history": history}
    if isinstance(history, list) and said[: len(history)] == history:
        before = {"before": len(history)}
    return {**run.values, name: said, _UNFINISHED: {"run_id": run.run_id, **before}}
