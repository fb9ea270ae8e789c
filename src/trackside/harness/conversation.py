"""A thread's conversation, where a framework keeps it as a list: what a run goes on with, what one without an end leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trackside.harness.context import RunContext
from trackside.harness.types import Json, JsonObject

_UNFINISHED = "unfinished"


def conversation_before(run: RunContext, name: str) -> Any:
    """What the run's thread keeps as its value `name`: a list, if it is what an agent has left there, or None.

    A run that tries another again begins where that one began, for it brings the same once more.
    """
    said, left = run.values.get(name), run.values.get(_UNFINISHED)
    if run.retry_of is not None and left == run.retry_of and isinstance(said, list):
        # As earlier versions left it with agents of Pydantic AI, whose messages name their run.
        return [one for one in said if not (isinstance(one, Mapping) and one.get("run_id") == left)]
    if run.retry_of is None or not isinstance(left, Mapping) or left.get("run_id") != run.retry_of:
        return said
    if "history" in left:
        return left["history"]
    return said[: left["before"]] if isinstance(said, list) else said


def unfinished_values(run: RunContext, name: str, said: list[Json]) -> JsonObject:
    """What the run's thread remembers if the run came to no end: what was said with it, and what had been before.

    How long that is will do where it is how the conversation begins. A framework may make something else of it: leave
    messages out, merge them, or sum them up.
    """
    history = conversation_before(run, name) or []
    before: JsonObject = {"history": history}
    if isinstance(history, list) and said[: len(history)] == history:
        before = {"before": len(history)}
    return {**run.values, name: said, _UNFINISHED: {"run_id": run.run_id, **before}}
